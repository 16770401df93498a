/**
 * Rate limits: token buckets on the monotonic clock. A bucket begins full, with `burst` tokens, and gains
 * `requests` per `per`; a request costs one. So of a steady flood, the first window of `per` admits exactly
 * burst + requests, and each later one `requests`.
 */
import { ProxyError } from '../errors.ts';

export interface RateLimit {
  /** Tokens gained per `perMs`. */
  readonly requests: number;
  readonly perMs: number;
  /** Tokens that a full bucket holds. */
  readonly burst: number;
}

/** A bucket by its name, with the limit that is configured now. */
export interface Bucket {
  readonly key: string;
  readonly limit: RateLimit;
}

/** Tokens that a request has taken, until it is known whether they are spent. The first call decides. */
export interface Charge {
  /** The request is sent. */
  readonly spend: () => void;
  /** The request is refused after all, and costs nothing. */
  readonly giveBack: () => void;
}

export interface RateLimiter {
  /**
   * Takes one token from each bucket, or from none.
   * @throws ProxyError rate_limited, with the whole seconds until all of them have one
   */
  readonly take: (buckets: readonly Bucket[]) => Charge;
  /** Tokens in a bucket at the moment; undefined for one that was never used. */
  readonly level: (bucket: Bucket) => number | undefined;
}

interface State {
  tokens: number;
  /**
   * Tokens that may still be given back. What was taken and what came in since are never more than a full bucket
   * together: else a client that holds requests back, and gives them up when it is full again, gets more than `burst`
   * through at once.
   */
  lent: number;
  at: number;
}

/** Sums of thirds are a hair below one; nobody shall wait for that. */
const HAIR = 1e-9;

/** @param now monotonic clock, ms */
export function createRateLimiter(now: () => number): RateLimiter {
  const states = new Map<string, State>();

  function refill({ key, limit }: Bucket): State {
    const at = now();
    const state = states.get(key) ?? { tokens: limit.burst, lent: 0, at };
    states.set(key, state);
    const gained = ((at - state.at) * limit.requests) / limit.perMs;
    // A reload may have made the bucket smaller.
    state.tokens = Math.min(limit.burst, state.tokens + gained);
    state.lent = Math.min(state.lent, limit.burst - state.tokens);
    state.at = at;
    return state;
  }

  function take(buckets: readonly Bucket[]): Charge {
    const held = buckets.map((bucket) => ({ state: refill(bucket), limit: bucket.limit }));
    let waitMs = 0;
    for (const { state, limit } of held) {
      const missing = 1 - HAIR - state.tokens;
      if (missing > 0) waitMs = Math.max(waitMs, (missing * limit.perMs) / limit.requests);
    }
    if (waitMs > 0) throw new ProxyError('rate_limited', 'rate', Math.max(1, Math.ceil(waitMs / 1000)));
    for (const { state } of held) {
      state.tokens -= 1;
      state.lent += 1;
    }
    let open = true;
    function settle(back: 0 | 1): void {
      if (!open) return;
      open = false;
      for (const { state } of held) {
        const token = Math.min(1, state.lent);
        state.lent -= token;
        state.tokens += back * token;
      }
    }
    return { spend: () => settle(0), giveBack: () => settle(1) };
  }

  return {
    take,
    level: (bucket) => (states.has(bucket.key) ? refill(bucket).tokens : undefined),
  };
}
