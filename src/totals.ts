/** What was done since the start, by listener and provider: for `status`. */
import { pairKey } from './guards/keys.ts';
import type { AccessRecord } from './proxy/exchange.ts';

export interface Total {
  /** Requests that were forwarded. */
  allowed: number;
  /** Requests that were refused, by error code. */
  readonly denied: Map<string, number>;
  /** Body bytes from and to the client. */
  bytesIn: number;
  bytesOut: number;
}

export interface Totals {
  readonly observe: (record: AccessRecord) => void;
  /** The provider is '' for requests that named none that the listener has. */
  readonly of: (listener: string, provider: string) => Total;
}

export function createTotals(): Totals {
  const totals = new Map<string, Total>();

  // Both names come from the configuration, so that the table is bounded.
  function of(listener: string, provider: string): Total {
    const key = pairKey(listener, provider);
    const total = totals.get(key) ?? { allowed: 0, denied: new Map(), bytesIn: 0, bytesOut: 0 };
    totals.set(key, total);
    return total;
  }

  function observe({ listener, provider, decision, reason, bytes_in, bytes_out }: AccessRecord): void {
    const total = of(listener, provider);
    if (decision === 'allow') total.allowed++;
    if (decision === 'deny') total.denied.set(reason, (total.denied.get(reason) ?? 0) + 1);
    total.bytesIn += bytes_in;
    total.bytesOut += bytes_out;
  }

  return { observe, of };
}
