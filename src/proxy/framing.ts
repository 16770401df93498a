/**
 * Host and message framing as the client sent them. Bun's parser refuses most malformed framing by itself
 * (and closes); what it lets through, and what Deno's laxer parser lets through, is refused here.
 */
import { ProxyError } from '../errors.ts';

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

/** Content-Length is digits only, once: the runtime joins equal repeats as "3, 3". */
function parseLength(text: string | null): number | undefined {
  if (text === null) return undefined;
  if (!/^[0-9]{1,15}$/.test(text)) refuse('malformed or repeated Content-Length');
  return Number(text);
}

/** host[":" port] or "[" IPv6 "]" [":" port]; an IP literal or reg-name of plain characters (RFC 3986 3.2.2). */
const HOST = /^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$/;

function checkHostSyntax(host: string | null): void {
  if (host === null) refuse('no Host');
  if (host.includes(',')) refuse('more than one Host');
  if (!HOST.test(host)) refuse('malformed Host');
}

/** The host part of a Host header, lower case, without the port. */
export function hostName(host: string): string {
  const end = host.startsWith('[') ? host.indexOf(']') + 1 : host.indexOf(':');
  return (end <= 0 ? host : host.slice(0, end)).toLowerCase();
}
