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

/** What is left of one request's token that may still be given back, 0 to 1; in a list by age. */
interface Loan {
  readonly state: State;
  amount: number;
  older: Loan | undefined;
  newer: Loan | undefined;
}

interface State {
  tokens: number;
  /**
   * Tokens that may still be given back. With what is in the bucket they are never more than it holds: else a client
   * that holds requests back, and gives them up when it is full again, gets more than `burst` through at once. What
   * comes in makes the oldest loans void. A list, because a `Set` keeps the collector busy (docs/performance.md).
   */
  oldest: Loan | undefined;
  newest: Loan | undefined;
  /** Sum of the loans. */
  lent: number;
  at: number;
}

/** Sums of thirds are a hair below one; nobody shall wait for that. */
const HAIR = 1e-9;

/** Of a request that no bucket is for. */
const FREE: Charge = { spend() {}, giveBack() {} };

/** @param now monotonic clock, ms */
export function createRateLimiter(now: () => number): RateLimiter {
  const states = new Map<string, State>();

  function refill({ key, limit }: Bucket): State {
    const at = now();
    let state = states.get(key);
    if (state === undefined) {
      state = { tokens: limit.burst, oldest: undefined, newest: undefined, lent: 0, at };
      states.set(key, state);
    }
    const gained = ((at - state.at) * limit.requests) / limit.perMs;
    // A reload may have made the bucket smaller.
    state.tokens = Math.min(limit.burst, state.tokens + gained);
    state.at = at;
    voidLoans(state, state.lent + state.tokens - limit.burst);
    return state;
  }

  function voidLoans(state: State, excess: number): void {
    let left = excess;
    while (state.oldest !== undefined && left > 0) {
      const loan = state.oldest;
      const part = Math.min(loan.amount, left);
      left -= part;
      loan.amount -= part;
      state.lent -= part;
      if (loan.amount === 0) close(loan);
    }
  }

  function lend(state: State): Loan {
    const loan: Loan = { state, amount: 1, older: state.newest, newer: undefined };
    if (loan.older === undefined) state.oldest = loan;
    else loan.older.newer = loan;
    state.newest = loan;
    state.tokens -= 1;
    state.lent += 1;
    return loan;
  }

  /** Takes a loan off its list. */
  function close(loan: Loan): void {
    const { state, older, newer } = loan;
    if (older === undefined) state.oldest = newer;
    else older.newer = newer;
    if (newer === undefined) state.newest = older;
    else newer.older = older;
    // Its request may be long, and must not keep all that came behind it in memory.
    loan.older = loan.newer = undefined;
    // Sums of parts drift; no loan, nothing lent.
    state.lent = state.oldest === undefined ? 0 : state.lent - loan.amount;
  }

  function settleLoan(loan: Loan, back: 0 | 1): void {
    // It was made void.
    if (loan.amount === 0) return;
    close(loan);
    loan.state.tokens += back * loan.amount;
  }

  function take(buckets: readonly Bucket[]): Charge {
    if (buckets.length === 0) return FREE;
    const held = buckets.map((bucket) => ({ state: refill(bucket), limit: bucket.limit }));
    let waitMs = 0;
    for (const { state, limit } of held) {
      const missing = 1 - HAIR - state.tokens;
      if (missing > 0) waitMs = Math.max(waitMs, (missing * limit.perMs) / limit.requests);
    }
    if (waitMs > 0) throw new ProxyError('rate_limited', 'rate', Math.max(1, Math.ceil(waitMs / 1000)));
    const loans = held.map(({ state }) => lend(state));
    let isSettled = false;
    function settle(back: 0 | 1): void {
      if (isSettled) return;
      isSettled = true;
      for (const loan of loans) settleLoan(loan, back);
    }
    return { spend: () => settle(0), giveBack: () => settle(1) };
  }

  return {
    take,
    level: (bucket) => (states.has(bucket.key) ? refill(bucket).tokens : undefined),
  };
}
