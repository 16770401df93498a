/** `base_url`: the one place that an upstream's scheme, host and port come from. */
import { isAddress, isLoopbackAddress, isPrivateAddress } from '../proxy/private-address.ts';
import { ValueError } from './config-error.ts';
import { parseHostName } from './names.ts';

export interface BaseUrl {
  readonly scheme: 'https' | 'http';
  /** `https://host[:port]` without a trailing slash. */
  readonly origin: string;
  /** Lower case, no port, no brackets. */
  readonly hostname: string;
  /** '' or `/base`. */
  readonly basePath: string;
}

/**
 * Reads a base URL. What the URL parser would have to repair or normalise is refused, so that the host
 * that the operator reads is the host that is dialled ("https://2130706433" is 127.0.0.1).
 */
export function parseBaseUrl(text: string): BaseUrl {
  if (!/^https?:\/\//.test(text)) throw new ValueError('must begin with "https://"');
  if (!/^[\x21-\x7e]+$/.test(text) || text.includes('\\'))
    throw new ValueError(
      'only printable ASCII without spaces and "\\"; international names in their "xn--" form',
    );
  const rest = text.slice(text.indexOf('//') + 2);
  const slash = rest.indexOf('/');
  const authority = slash === -1 ? rest : rest.slice(0, slash);
  const path = slash === -1 ? '' : rest.slice(slash);
  if (authority.includes('@')) throw new ValueError('no user or password in a URL; use credential');
  if (rest.includes('?')) throw new ValueError('no query in a base URL');
  if (rest.includes('#')) throw new ValueError('no fragment in a base URL');
  const { hostname, port } = readAuthority(authority);
  const scheme = text.startsWith('https') ? 'https' : 'http';
  const bracketed = hostname.includes(':') ? `[${hostname}]` : hostname;
  const normal = URL.parse(`${scheme}://${bracketed}${port === '' ? '' : `:${port}`}`);
  if (normal === null || normal.hostname !== bracketed)
    throw new ValueError(
      'the host is not in its usual form; write the name, or the address in its usual notation',
    );
  return { scheme, origin: normal.origin, hostname, basePath: readBasePath(path) };
}

function readAuthority(authority: string): { hostname: string; port: string } {
  const parts = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]+)(?::([0-9]{1,5}))?$/.exec(authority);
  if (parts === null) throw new ValueError('needs a host, and a port only as ":PORT"');
  const port = parts[2] ?? '';
  if (port !== '' && (Number(port) < 1 || Number(port) > 65_535))
    throw new ValueError('a port is 1 to 65535');
  return { hostname: parseHostName((parts[1] as string).replace(/^\[|\]$/g, '')), port };
}

function readBasePath(path: string): string {
  const base = path.endsWith('/') ? path.slice(0, -1) : path;
  const plain = /^(?:\/[A-Za-z0-9\-._~!$&'()*+,;=:@]+)*$/.test(base);
  if (!plain || base.split('/').some((part) => part === '.' || part === '..'))
    throw new ValueError('the base path is plain segments: no "//", no dot segments, no percent-escapes');
  return base;
}

export interface BaseUrlFlags {
  readonly allowHttp: boolean;
  readonly allowPrivate: boolean;
  /** True with `upstream_socket`: nothing is dialled by name then. */
  readonly viaSocket: boolean;
}

/** Why this upstream may not be used under these flags; undefined = it may. Names are resolved at start, not here. */
export function refuseUpstream(url: BaseUrl, flags: BaseUrlFlags): string | undefined {
  const loopback = isLoopbackAddress(url.hostname);
  if (url.scheme === 'http') {
    if (!flags.allowHttp)
      return 'http would carry the credential in the clear; use https (unsafe_allow_http = true serves literal loopback and upstream_socket only)';
    if (flags.viaSocket || loopback) return undefined;
    return 'unsafe_allow_http serves literal loopback (127.0.0.1, [::1]) and upstream_socket only; use https';
  }
  if (flags.viaSocket || flags.allowPrivate) return undefined;
  const internal = isAddress(url.hostname) ? isPrivateAddress(url.hostname) : isInternalName(url.hostname);
  return internal
    ? 'a loopback, private, link-local or metadata address; unsafe_allow_private = true if that is meant'
    : undefined;
}

/** Names that mean this host or a metadata service wherever they are looked up (RFC 6761 6.3). */
function isInternalName(hostname: string): boolean {
  return (
    hostname === 'localhost' || hostname.endsWith('.localhost') || hostname === 'metadata.google.internal'
  );
}
