/** The names that a configuration holds, each with its one reader. No message repeats the text. */
import { isAddress } from '../proxy/private-address.ts';
import { ValueError } from './config-error.ts';

/** Names of listeners, providers and profiles. */
export function parseName(text: string): string {
  if (/^[a-z][a-z0-9-]{0,31}$/.test(text)) return text;
  throw new ValueError('a name is a lower-case letter and up to 31 more letters, digits or "-"');
}

const LABELS =
  /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/;

/** A host name without port, or a literal address without brackets; returned in lower case. */
export function parseHostName(text: string): string {
  const host = text.toLowerCase();
  if (LABELS.test(host) || isAddress(host)) return host;
  throw new ValueError('a host is a bare name or address: no scheme, no port, no path, no final dot');
}

/** A host name, or `*.` and a host name. */
export function parseHostPattern(text: string): string {
  if (text === '*')
    throw new ValueError(
      '"*" alone is no pattern; leave network_profile out to allow every provider of the listener',
    );
  if (text.startsWith('*.')) return `*.${parseHostName(text.slice(2))}`;
  if (text.includes('*')) throw new ValueError('"*" stands only at the start, as "*.example.com"');
  return parseHostName(text);
}

/** An `Origin` as browsers send it: scheme, host, port where it is not the default. */
export function parseOrigin(text: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\/[a-z0-9._~:[\]-]+$/.test(text)) return text;
  throw new ValueError(
    'an origin is "scheme://host" or "scheme://host:port" in lower case; "*" and "null" are refused',
  );
}

/** The name of an environment variable. */
export function parseVariable(text: string): string {
  if (/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(text)) return text;
  throw new ValueError('a variable name is letters, digits and "_", and starts with no digit');
}

/** The name of a systemd credential: a file name below $CREDENTIALS_DIRECTORY. */
export function parseCredentialName(text: string): string {
  if (/^[A-Za-z0-9_.@-]{1,255}$/.test(text) && text !== '.' && text !== '..') return text;
  throw new ValueError('a systemd credential is a plain file name, without "/"');
}

/** A query parameter that carries a credential. */
export function parseParameter(text: string): string {
  if (/^[A-Za-z0-9._~-]{1,64}$/.test(text)) return text;
  throw new ValueError('a parameter name is letters, digits, ".", "_", "~" and "-"');
}

/** The user of HTTP Basic (RFC 7617 2: no colon, no control bytes); may be empty. */
export function parseBasicUser(text: string): string {
  if (/^[\x20-\x39\x3b-\x7e]{0,128}$/.test(text)) return text;
  throw new ValueError('a user name is printable ASCII without ":"');
}

/** A system group. */
export function parseGroup(text: string): string {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$/.test(text)) return text;
  throw new ValueError('a group is the name or number of a system group');
}

/** `"127.0.0.1:8787"` or `"[::1]:8787"`. A name would be whatever /etc/hosts says, so it is refused. */
export function parseLoopback(text: string): { readonly hostname: string; readonly port: number } {
  const parts = /^(127\.0\.0\.1|\[::1\]):([0-9]{1,5})$/.exec(text);
  const port = Number(parts?.[2]);
  if (parts === null || port < 1 || port > 65_535)
    throw new ValueError(
      'only literal loopback with a port: "127.0.0.1:PORT" or "[::1]:PORT", PORT from 1 to 65535',
    );
  return { hostname: (parts[1] as string).replace(/^\[|\]$/g, ''), port };
}

/** `http://host:port` of a CONNECT proxy. */
export function parseProxyUrl(text: string): string {
  const parts = /^http:\/\/([^/?#@:[\]]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})\/?$/.exec(text);
  if (text.includes('@')) throw new ValueError('no user or password in this URL');
  const port = Number(parts?.[2]);
  if (parts === null || port < 1 || port > 65_535)
    throw new ValueError('must be "http://HOST:PORT" and nothing after it');
  const host = parseHostName((parts[1] as string).replace(/^\[|\]$/g, ''));
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
