/** `[limits]` and `[providers.NAME.limits]`. */
import * as v from 'valibot';
import { count, duration, size } from './schema-values.ts';

const MIB = 1024 ** 2;
const TIB = 1024 ** 4;
const WEEK = 7 * 86_400_000;

/** The runtime honours at most this many requests in flight (docs/runtime.md 4). */
export const MAX_IN_FLIGHT = 65_535;

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
});

export type LimitsTable = v.InferOutput<typeof limitsSchema>;

/** `[listeners.limits]`. */
export const listenerLimitsSchema = v.strictObject({
  /** Requests in flight of this client per provider; replaces the provider's. Default: the provider's. */
  max_concurrent: v.optional(count(MAX_IN_FLIGHT)),
});

/** The limits of a preset, which are written like those of a file. */
export function readLimits(table: Readonly<Record<string, string>>): LimitsTable {
  return v.parse(limitsSchema, table);
}
