/**
 * Host and message framing as the client sent them. Bun's parser refuses most malformed framing by itself
 * (and closes); what it lets through, and what Deno's laxer parser lets through, is refused here.
 */
import { ProxyError } from '../errors.ts';
import { charTable, consistsOf } from './char-table.ts';
import { isDigits, parseContentLength } from './decimal.ts';

function refuse(reason: string): never {
  throw new ProxyError('bad_request', reason);
}

/** What of a request's framing later stages need. */
export interface Framing {
  /** Declared Content-Length, bytes; undefined for a chunked body or none. */
  readonly declaredLength: number | undefined;
  readonly hasBody: boolean;
}

/**
 * Checks Host (RFC 9112 3.2: exactly one, well-formed) and framing (RFC 9112 6).
 * @throws ProxyError bad_request
 */
export function checkFraming(method: string, headers: Headers): Framing {
  checkHostSyntax(headers.get('host'));
  const expect = headers.get('expect');
  if (expect !== null && expect.toLowerCase() !== '100-continue') refuse('unknown expectation');
  // RFC 9110 7.6.2 wants it counted down on the way, and answered here at zero: a probe of the route, not of the API.
  if (method === 'OPTIONS' && headers.has('max-forwards')) refuse('Max-Forwards on OPTIONS');
  const transferEncoding = headers.get('transfer-encoding');
  const length = parseLength(headers.get('content-length'));
  if (transferEncoding !== null) {
    if (transferEncoding.toLowerCase() !== 'chunked') refuse('transfer coding other than chunked');
    if (length !== undefined) refuse('both Content-Length and Transfer-Encoding');
  }
  const hasBody = transferEncoding !== null || (length ?? 0) > 0;
  // RFC 9110 9.3.1: content in GET has no defined semantics and has been used for smuggling.
  if (hasBody && (method === 'GET' || method === 'HEAD')) refuse('body on GET or HEAD');
  return { declaredLength: length, hasBody };
}

function parseLength(text: string | null): number | undefined {
  if (text === null) return undefined;
  return parseContentLength(text) ?? refuse('malformed or repeated Content-Length');
}

function checkHostSyntax(host: string | null): void {
  if (host === null) refuse('no Host');
  if (host.includes(',')) refuse('more than one Host');
  if (!isHost(host)) refuse('malformed Host');
}

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const DIGITS = '0123456789';
const NAME_CHARS = charTable(`${LETTERS}${DIGITS}._-`);
const IPV6_CHARS = charTable(`${DIGITS}ABCDEFabcdef:.`);
/** Characters: of a name, of an address between its brackets, of a port. */
const MAX_NAME = 254;
const MAX_IPV6 = 45;
const MAX_PORT_DIGITS = 5;

/** host[":" port] or "[" IPv6 "]" [":" port]; an IP literal or reg-name of plain characters (RFC 3986 3.2.2). */
function isHost(text: string): boolean {
  const end = hostEnd(text);
  if (!(text.startsWith('[') ? isLiteral(text, end) : isName(text, end))) return false;
  return end === text.length || (text.charAt(end) === ':' && isDigits(text, end + 1, MAX_PORT_DIGITS));
}

function isLiteral(text: string, end: number): boolean {
  const length = end - 2;
  if (length < 2 || length > MAX_IPV6 || text.charAt(end - 1) !== ']') return false;
  return consistsOf(IPV6_CHARS, text, 1, end - 1);
}

function isName(text: string, end: number): boolean {
  if (end < 1 || end > MAX_NAME || '._-'.includes(text.charAt(0))) return false;
  return consistsOf(NAME_CHARS, text, 0, end);
}

/** Where the host ends, and a port may begin. */
function hostEnd(text: string): number {
  const end = text.startsWith('[') ? text.indexOf(']') + 1 : text.indexOf(':');
  return end <= 0 ? text.length : end;
}

/** The host part of a well-formed Host header as a configuration names it: lower case, without brackets and port. */
export function hostName(host: string): string {
  const end = hostEnd(host);
  return (host.startsWith('[') ? host.slice(1, end - 1) : host.slice(0, end)).toLowerCase();
}
