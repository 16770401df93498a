/** Limits: the defaults, and tables laid over them. */
import type { CircuitLimit } from '../guards/circuit-breaker.ts';
import type { RateLimit } from '../guards/rate-limit.ts';
import type { Limits } from './effective.ts';
import type { CircuitTable, LimitsTable, RateTable } from './schema-limits.ts';

/** The contract's defaults. */
export const DEFAULT_LIMITS: Limits = {
  maxRequestBody: 32 * 1024 ** 2,
  maxResponseBody: 64 * 1024 ** 2,
  firstByteTimeoutMs: 600_000,
  idleTimeoutMs: 600_000,
  totalTimeoutMs: 3_600_000,
  requestBodyTimeoutMs: 60_000,
  minBodyRate: 1024,
  maxConcurrent: 256,
};

const MAX_OPEN_MS = 300_000;

export function compileRate(table: RateTable | undefined): RateLimit | undefined {
  if (table === undefined) return undefined;
  return { requests: table.requests, perMs: table.per, burst: table.burst ?? table.requests };
}

export function compileCircuit(table: CircuitTable | undefined): CircuitLimit | undefined {
  if (table === undefined) return undefined;
  const maxOpenMs = table.max_open ?? Math.max(MAX_OPEN_MS, table.open);
  return { failures: table.failures, openMs: table.open, maxOpenMs };
}

/** Which key of the file sets which limit, and how it is written. */
export const LIMIT_KEYS = [
  ['max_request_body', 'maxRequestBody', 'size'],
  ['max_response_body', 'maxResponseBody', 'size'],
  ['first_byte_timeout', 'firstByteTimeoutMs', 'duration'],
  ['idle_timeout', 'idleTimeoutMs', 'duration'],
  ['total_timeout', 'totalTimeoutMs', 'duration'],
  ['request_body_timeout', 'requestBodyTimeoutMs', 'duration'],
  ['min_body_rate', 'minBodyRate', 'size'],
  ['max_concurrent', 'maxConcurrent', 'count'],
] as const satisfies readonly (readonly [keyof LimitsTable, keyof Limits, 'size' | 'duration' | 'count'])[];

/** `base` with what the table sets. */
export function overlayLimits(base: Limits, table: LimitsTable | undefined): Limits {
  const limits: { -readonly [key in keyof Limits]: number } = { ...base };
  for (const [key, field] of LIMIT_KEYS) {
    const value = table?.[key];
    if (value !== undefined) limits[field] = value;
  }
  return limits;
}
