/**
 * Idle client connections are closed once a minute, and every second while descriptors run short, so that
 * one sandbox cannot hold the descriptors of all.
 *
 * A sweep is announced one tick ahead: meanwhile every answer closes its connection. The runtime's sweep
 * would otherwise also hit connections that are idle for a moment between two requests, and lose a request
 * that is on its way (measured: 19 of 356,253 over one sweep).
 */

/** How often `tick` is to be called, ms. */
export const TICK_MS = 1_000;
/** Ticks between two sweeps without pressure. */
const TICKS_PER_SWEEP = 60;

export interface IdleConnections {
  /** Should answers close their connection now? */
  readonly isClosing: () => boolean;
  readonly tick: () => void;
}

/**
 * @param isShort are descriptors running short? Asked once a tick
 * @param sweep closes connections on which no request is in flight
 */
export function createIdleConnections(isShort: () => boolean, sweep: () => void): IdleConnections {
  let closing = false;
  let ticks = 0;
  return {
    isClosing: () => closing,
    tick() {
      if (closing) sweep();
      ticks++;
      closing = isShort() || ticks % TICKS_PER_SWEEP === 0;
    },
  };
}
