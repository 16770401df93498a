/** Rate limits and circuits of a configuration, as commands show them. */
import { formatDuration } from '../config/units.ts';
import type { CircuitLimit } from '../guards/circuit-breaker.ts';
import type { RateLimit } from '../guards/rate-limit.ts';

export function formatRate(rate: RateLimit | undefined): string | undefined {
  return rate && `${rate.requests} requests per ${formatDuration(rate.perMs)}, burst ${rate.burst}`;
}

export function formatCircuit(circuit: CircuitLimit | undefined): string | undefined {
  if (circuit === undefined) return undefined;
  const { failures, openMs, maxOpenMs } = circuit;
  return `opens after ${failures} failures in a row, for ${formatDuration(openMs)} to ${formatDuration(maxOpenMs)}`;
}

/** Durations in ms. */
export function rateToJson(rate: RateLimit | undefined): Record<string, number> | null {
  return rate ? { requests: rate.requests, per: rate.perMs, burst: rate.burst } : null;
}

/** Durations in ms. */
export function circuitToJson(circuit: CircuitLimit | undefined): Record<string, number> | null {
  return circuit ? { failures: circuit.failures, open: circuit.openMs, max_open: circuit.maxOpenMs } : null;
}
