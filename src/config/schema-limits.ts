/** `[limits]` and `[providers.NAME.limits]`. */
import * as v from 'valibot';
import { count, duration, size } from './schema-values.ts';

const MIB = 1024 ** 2;
const TIB = 1024 ** 4;
const WEEK = 7 * 86_400_000;

/** The runtime honours at most this many requests in flight (docs/runtime.md 4). */
export const MAX_IN_FLIGHT = 65_535;

const rateSchema = v.strictObject({
  /** Requests that each `per` brings. Required. */
  requests: count(1_000_000),
  /** The time for that many, duration. Required. */
  per: duration(1, WEEK),
  /** Requests at once, when there were none for a while. Default: `requests`. */
  burst: v.optional(count(1_000_000)),
});

const circuitSchema = v.strictObject({
  /** Failures in a row that open the circuit. Required. */
  failures: count(1_000_000),
  /** First pause, duration; doubles with each probe that fails. Required. */
  open: duration(1, WEEK),
  /** Longest pause, duration. Default "5m", or `open` if that is longer. */
  max_open: v.optional(duration(1, WEEK)),
});

export type RateTable = v.InferOutput<typeof rateSchema>;
export type CircuitTable = v.InferOutput<typeof circuitSchema>;

export const limitsSchema = v.strictObject({
  /** Largest request body forwarded, size. Default "32MiB"; beyond: 413. */
  max_request_body: v.optional(size(1, TIB)),
  /** Largest response body passed on, size. Default "64MiB"; beyond: 502, or cut where no length was declared. */
  max_response_body: v.optional(size(1, TIB)),
  /** Request sent → response headers, duration. Default "10m"; beyond: 504. */
  first_byte_timeout: v.optional(duration(1, WEEK)),
  /** Longest wait between two body chunks, either way, duration. Default "10m". */
  idle_timeout: v.optional(duration(1, WEEK)),
  /** Longest life of one request, duration. Default "1h". */
  total_timeout: v.optional(duration(1, WEEK)),
  /** Time for a body of at most 64 KiB to arrive whole, duration. Default "60s"; beyond: 408. */
  request_body_timeout: v.optional(duration(1, WEEK)),
  /** Bytes per second that an upload keeps up after 10 s, size. Default "1KiB"; below: 408. */
  min_body_rate: v.optional(size(1, 1024 * MIB)),
  /** Requests in flight per listener and provider. Default 256; beyond: 503 at once, never a queue. */
  max_concurrent: v.optional(count(MAX_IN_FLIGHT)),
  /** Token bucket; beyond: 429. In [limits] one for each listener and provider, in a provider's limits one for it. Default: none. */
  rate: v.optional(rateSchema),
  /** Circuit breaker; open: 503. Default: none. */
  circuit: v.optional(circuitSchema),
});

export type LimitsTable = v.InferOutput<typeof limitsSchema>;

/** `[listeners.limits]`. */
export const listenerLimitsSchema = v.strictObject({
  /** Requests in flight of this client per provider; replaces the provider's. Default: the provider's. */
  max_concurrent: v.optional(count(MAX_IN_FLIGHT)),
  /** Token bucket of this client, all its providers together; beyond: 429. Default: none. */
  rate: v.optional(rateSchema),
});

/** The limits of a preset, which are written like those of a file. */
export function readLimits(table: Readonly<Record<string, string>>): LimitsTable {
  return v.parse(limitsSchema, table);
}
