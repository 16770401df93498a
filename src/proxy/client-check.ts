/**
 * Who may speak on a listener. On a unix socket the file's permissions decide; on TCP every local process
 * and every web page can connect, so Origin, Host and a token decide (CVE-2025-64443: a loopback gateway
 * without Host and Origin checks was reachable by DNS rebinding).
 */
import type { Secret } from '../credentials/secret.ts';
import { ProxyError } from '../errors.ts';
import { hostName } from './framing.ts';
import { isLoopbackAddress } from './private-address.ts';

/** @throws ProxyError browser_origin for an Origin that is not listed. */
export function checkOrigin(headers: Headers, allowOrigins: readonly string[]): void {
  const origin = headers.get('origin');
  if (origin !== null && !allowOrigins.includes(origin))
    throw new ProxyError('browser_origin', 'Origin not in allow_origins');
}

/** @throws ProxyError host_not_allowed for a Host that is neither loopback nor listed. */
export function checkHostName(headers: Headers, hosts: readonly string[]): void {
  const host = hostName(headers.get('host') ?? '');
  if (host === 'localhost' || hosts.includes(host) || isLoopbackAddress(host)) return;
  throw new ProxyError('host_not_allowed', 'Host is neither loopback nor in hosts');
}

/**
 * Compares the presented token with the listener's, in constant time (Secret.isValue).
 * @throws ProxyError client_unauthorized
 */
export function checkToken(headers: Headers, token: Secret): void {
  const presented = [bearer(headers.get('authorization')), headers.get('x-api-key')];
  if (presented.some((value) => value !== null && token.isValue(value))) return;
  const isAbsent = presented.every((value) => value === null);
  throw new ProxyError('client_unauthorized', isAbsent ? 'no token presented' : 'wrong token');
}

const SCHEME = 'bearer ';

function bearer(authorization: string | null): string | null {
  if (authorization === null || authorization.slice(0, SCHEME.length).toLowerCase() !== SCHEME) return null;
  let start = SCHEME.length;
  while (authorization.charAt(start) === ' ') start++;
  return authorization.slice(start);
}
