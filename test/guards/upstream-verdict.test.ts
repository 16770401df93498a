import { expect, test } from 'bun:test';
import { ProxyError } from '../../src/errors.ts';
import { verdictOf } from '../../src/guards/upstream-verdict.ts';

test.each([
  ['upstream_unreachable', 'ECONNREFUSED', 'unreachable', 'cancelled'],
  ['upstream_unreachable', 'ENOTFOUND', 'unreachable', 'cancelled'],
  ['upstream_unreachable', 'EMFILE', 'cancelled', 'cancelled'],
  ['upstream_unreachable', 'ECONNRESET', 'failure', 'failure'],
  ['upstream_tls', 'CERT_HAS_EXPIRED', 'unreachable', 'unreachable'],
  ['upstream_timeout', 'no head', 'timeout', 'timeout'],
  ['upstream_invalid', 'status', 'failure', 'failure'],
  ['request_timeout', 'slow', 'cancelled', 'cancelled'],
] as const)('%s (%s) says %s, and without descriptors %s', (code, reason, verdict, without) => {
  const error = new ProxyError(code, reason);
  expect(verdictOf(error, () => false)).toBe(verdict);
  expect(verdictOf(error, () => true)).toBe(without);
});
