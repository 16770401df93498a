/** Header names and values that an operator may configure. */
import { CREDENTIAL_NAMES, foldName, HOP_BY_HOP, REGENERATED } from '../proxy/header-names.ts';
import { ValueError } from './config-error.ts';

/** RFC 9110 5.1: a field name is a token; returned in lower case. */
export function parseHeaderName(text: string): string {
  if (/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/.test(text)) return text.toLowerCase();
  throw new ValueError('not a header name (letters, digits and "-")');
}

/** A header that is set on the way up; framing, routing and hop-by-hop fields are the proxy's own. */
export function parseSettableHeader(text: string): string {
  const name = parseHeaderName(text);
  const folded = foldName(name);
  const own = HOP_BY_HOP.includes(folded) || REGENERATED.includes(folded);
  if (own || folded.startsWith('proxy-') || folded.startsWith('x-isoproxy-'))
    throw new ValueError(
      "this header is the proxy's own business (hop-by-hop, framing, Host or X-Isoproxy-*)",
    );
  return name;
}

/** Of CREDENTIAL_NAMES, the one that is no secret: Cloudflare's account name beside its key. */
const NOT_SECRET: readonly string[] = ['x-auth-email'];

/** A header for `headers` and `default_headers`, which hold no secrets. */
export function parseConstantHeader(text: string): string {
  const name = parseSettableHeader(text);
  const folded = foldName(name);
  if (CREDENTIAL_NAMES.includes(folded) && !NOT_SECRET.includes(folded))
    throw new ValueError(
      'a credential is never written into this file; use credential = { header = "…", file = "…" }',
    );
  return name;
}

/** RFC 9110 5.5: printable ASCII, with spaces and tabs inside only. */
export function parseHeaderValue(text: string): string {
  if (/^(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?$/.test(text)) return text;
  throw new ValueError('a header value is printable ASCII without spaces at its ends');
}

/** `format` of a header credential: `{secret}` exactly once. */
export function parseFormat(text: string): string {
  const count = text.split('{secret}').length - 1;
  if (count !== 1) throw new ValueError('must hold {secret} exactly once, like "Bearer {secret}"');
  parseHeaderValue(text);
  return text;
}
