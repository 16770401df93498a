/** Header policy: what goes up to the upstream and what comes down to the client. */
import { ProxyError } from '../errors.ts';
import {
  CREDENTIAL_NAMES,
  foldName,
  HOP_BY_HOP,
  REGENERATED,
  REMOVED_PREFIXES,
  RESPONSE_REMOVED,
  ROUTING_NAMES,
} from './header-names.ts';

/** The compiled policy of one provider. Names are folded. */
export interface HeaderPolicy {
  /** Does a client's field of this name never go up? */
  readonly isRemoved: (name: string) => boolean;
  /** Does an upstream's field of this name never come down? */
  readonly isRemovedFromAnswer: (name: string) => boolean;
  /** Always set, after removal. */
  readonly set: ReadonlyMap<string, string>;
  /** Set when the client sent none. */
  readonly defaults: ReadonlyMap<string, string>;
}

export interface HeaderPolicyOptions {
  /** Names that this provider's credentials occupy. */
  readonly injected: readonly string[];
  readonly stripHeaders: readonly string[];
  readonly headers: ReadonlyMap<string, string>;
  readonly defaultHeaders: ReadonlyMap<string, string>;
  readonly allowSetCookie: boolean;
}

export function compileHeaderPolicy(options: HeaderPolicyOptions): HeaderPolicy {
  const always = [...HOP_BY_HOP, ...REGENERATED, ...CREDENTIAL_NAMES, ...ROUTING_NAMES];
  const removed = new Set(
    [...always, ...options.injected, ...options.stripHeaders, ...options.headers.keys()].map(foldName),
  );
  const fromAnswer = new Set(RESPONSE_REMOVED);
  if (!options.allowSetCookie) fromAnswer.add('set-cookie');
  return {
    isRemoved: (name) => removed.has(name) || REMOVED_PREFIXES.some((start) => name.startsWith(start)),
    isRemovedFromAnswer: (name) => fromAnswer.has(name) || name.startsWith('x-isoproxy-'),
    set: options.headers,
    defaults: options.defaultHeaders,
  };
}

/** Field names that a Connection header nominates (RFC 9110 7.6.1), folded. */
function nominated(headers: Headers): ReadonlySet<string> | undefined {
  const connection = headers.get('connection');
  if (connection === null) return undefined;
  // The everyday values name no field of their own.
  if (connection === 'keep-alive' || connection === 'close') return undefined;
  return new Set(connection.split(',').map((name) => foldName(name.trim())));
}

/**
 * The client's end-to-end headers, filtered, with the operator's own set. The credential is not in here
 * yet: it is injected last, so nothing that a client nominates or spells can remove or double it
 * (CVE-2026-105299, CVE-2021-33197).
 * @throws ProxyError bad_request for a DEL byte in a value, which the runtime's parser lets through.
 */
export function upstreamHeaders(client: Headers, policy: HeaderPolicy): Headers {
  const nominatedNames = nominated(client);
  const headers = new Headers();
  for (const [name, value] of client) {
    const folded = foldName(name);
    if (policy.isRemoved(folded) || nominatedNames?.has(folded)) continue;
    if (value.includes('\x7f')) throw new ProxyError('bad_request', 'control byte in a header value');
    headers.append(name, value);
  }
  for (const [name, value] of policy.set) headers.set(name, value);
  for (const [name, value] of policy.defaults) if (!headers.has(name)) headers.set(name, value);
  // Bytes must pass as they are and be readable for the reflection guard: no coding is accepted.
  headers.set('accept-encoding', 'identity');
  return headers;
}

/**
 * The upstream's end-to-end headers for the client. `carriesSecret` tells whether text holds the
 * credential; a header that does is dropped, whatever its name.
 */
export function clientHeaders(
  upstream: Headers,
  policy: HeaderPolicy,
  carriesSecret: (text: string) => boolean,
): { headers: Headers; dropped: number } {
  const nominatedNames = nominated(upstream);
  const chunked = upstream.has('transfer-encoding');
  const headers = new Headers();
  let dropped = 0;
  for (const [name, value] of upstream) {
    const folded = foldName(name);
    if (policy.isRemovedFromAnswer(folded) || nominatedNames?.has(folded)) continue;
    // RFC 9112 6.3: with both framings, Transfer-Encoding wins and Content-Length must go.
    if (chunked && folded === 'content-length') continue;
    if (carriesSecret(value) || carriesSecret(name)) dropped++;
    else headers.append(name, value);
  }
  return { headers, dropped };
}
