/** The guards of a process: what they know outlives every reload. */
import { type CircuitBreaker, createCircuitBreaker } from './circuit-breaker.ts';
import { type Concurrency, createConcurrency } from './concurrency.ts';
import type { InFlight } from './in-flight.ts';
import type { KillSwitch } from './kill-switch.ts';
import { createRateLimiter, type RateLimiter } from './rate-limit.ts';

export interface Guards {
  readonly killSwitch: KillSwitch;
  readonly concurrency: Concurrency;
  readonly inFlight: InFlight;
  readonly rateLimiter: RateLimiter;
  readonly circuitBreaker: CircuitBreaker;
}

/** @param now monotonic clock, ms */
export function createGuards(killSwitch: KillSwitch, inFlight: InFlight, now: () => number): Guards {
  return {
    killSwitch,
    inFlight,
    concurrency: createConcurrency(),
    rateLimiter: createRateLimiter(now),
    circuitBreaker: createCircuitBreaker(now),
  };
}
