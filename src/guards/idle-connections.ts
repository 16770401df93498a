/**
 * Idle client connections are closed once a minute, and every second while descriptors run short, so that
 * one sandbox cannot hold the descriptors of all.
 *
 * A sweep is announced one tick ahead: meanwhile every answer closes its connection. The runtime's sweep
 * would otherwise also hit connections that are idle for a moment between two requests, and lose a request
 * that is on its way (measured: 19 of 356,253 over one sweep).
 */
import { DESCRIPTORS_PER_REQUEST } from './descriptors.ts';

/** How often `tick` is to be called, ms. */
export const TICK_MS = 1_000;
/** Ticks between two sweeps without pressure. */
const TICKS_PER_SWEEP = 60;

export interface IdleConnections {
  /** Should this answer close its connection? Asked once for each. */
  readonly isClosing: () => boolean;
  readonly tick: () => void;
}

export interface IdleConnectionsOptions {
  /** Descriptors that may be open; undefined = unknown, then there is never pressure. */
  readonly limit: number | undefined;
  /** Counts open descriptors; undefined where it cannot. */
  readonly countOpen: () => number | undefined;
  /** Closes connections on which no request is in flight. */
  readonly sweep: () => void;
}

export function createIdleConnections(options: IdleConnectionsOptions): IdleConnections {
  const half = (options.limit ?? Number.POSITIVE_INFINITY) / 2;
  let open = 0;
  let answers = 0;
  let ticks = 0;
  let closing = false;

  function measure(): boolean {
    open = options.countOpen() ?? 0;
    answers = 0;
    return open > half;
  }

  return {
    isClosing() {
      answers++;
      // A count that is a second old misses a burst: each answer since then may stand for new connections.
      if (!closing && open + answers * DESCRIPTORS_PER_REQUEST > half) closing = measure();
      return closing;
    },
    tick() {
      if (closing) options.sweep();
      ticks++;
      closing = measure() || ticks % TICKS_PER_SWEEP === 0;
    },
  };
}
