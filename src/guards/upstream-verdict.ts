/** What the end of a request says about its upstream, for the circuit breaker. */
import { ProxyError } from '../errors.ts';
import type { Verdict } from './circuit-breaker.ts';

/** Error codes of connections that were never made; one that broke later, a client may have provoked. */
const NOT_CONNECTED = /REFUSED|UNREACH|NOTFOUND|EAI_|DNS|FAILEDTOOPENSOCKET|CONNECTTIMEOUT|ETIMEDOUT/i;

/**
 * What a failed request says about the upstream.
 * @param isExhausted are descriptors, or were they a moment ago, all taken?
 */
export function verdictOf(error: unknown, isExhausted: () => boolean): Verdict {
  if (!(error instanceof ProxyError)) return 'cancelled';
  // Out of descriptors is our own trouble, and one that a client may have caused.
  if (/^E[MN]FILE$/.test(error.reason)) return 'cancelled';
  switch (error.code) {
    case 'upstream_tls':
      return 'unreachable';
    case 'upstream_unreachable':
      if (!NOT_CONNECTED.test(error.reason)) return 'failure';
      // Bun calls it a refusal when it has no descriptor for the connection.
      return isExhausted() ? 'cancelled' : 'unreachable';
    case 'upstream_timeout':
      return 'timeout';
    case 'upstream_invalid':
      return 'failure';
    default:
      return 'cancelled';
  }
}
