/**
 * Time limits. One clock tick looks at every exchange in flight; an exchange only writes down when it
 * last moved. That is cheaper than timers per chunk, and it is why limits are kept to a tenth of a second.
 *
 * Time spent waiting for the client counts against the client (408, minimum rate), time spent waiting for
 * the upstream against the upstream (504): a slow upstream must not look like a slow upload.
 */
import { ProxyError } from '../errors.ts';

/** How often limits are looked at, ms. */
export const TICK_MS = 100;

/** Grace before the minimum upload rate counts, ms. */
const RATE_GRACE_MS = 10_000;

export interface WatchLimits {
  readonly firstByteTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly totalTimeoutMs: number;
  readonly requestBodyTimeoutMs: number;
  /** Bytes per second. */
  readonly minBodyRate: number;
}

/** What an exchange is doing, which decides the limit that applies. */
type Phase =
  /** A small body is being read whole from the client. */
  | 'small_body'
  /** A body streams up: waiting for the client's next chunk. */
  | 'upload_client'
  /** A body streams up: waiting for the upstream to take the last chunk. */
  | 'upload_upstream'
  /** The request is sent; waiting for the response head. */
  | 'head'
  /** A body streams down: waiting for the upstream's next chunk. */
  | 'download_upstream'
  /** A body streams down: waiting for the client to take the last chunk. */
  | 'download_client';

export interface Watch {
  /** Enters a phase; the phase's clock starts anew. */
  readonly enter: (phase: Phase) => void;
  /** Counts upload bytes for the minimum rate. */
  readonly uploaded: (bytes: number) => void;
  readonly stop: () => void;
}

export interface Watchdog {
  /** Watches an exchange; `onExpire` is called once, with the error that the client should see. */
  readonly watch: (limits: WatchLimits, onExpire: (error: ProxyError) => void) => Watch;
  readonly close: () => void;
}

interface Watched {
  readonly limits: WatchLimits;
  readonly startedAt: number;
  readonly onExpire: (error: ProxyError) => void;
  phase: Phase;
  since: number;
  /** Time spent waiting for the client's upload in earlier phases, ms. */
  clientMs: number;
  uploadedBytes: number;
}

/** @param now monotonic clock, ms */
export function createWatchdog(now: () => number): Watchdog {
  const watched = new Set<Watched>();
  let timer: ReturnType<typeof setInterval> | undefined;

  function tick(): void {
    const at = now();
    for (const entry of watched) {
      const error = findExpired(entry, at);
      if (error === undefined) continue;
      watched.delete(entry);
      entry.onExpire(error);
    }
    if (watched.size === 0) stopTicking();
  }

  function stopTicking(): void {
    clearInterval(timer);
    timer = undefined;
  }

  function watch(limits: WatchLimits, onExpire: (error: ProxyError) => void): Watch {
    const at = now();
    const entry: Watched = {
      limits,
      startedAt: at,
      onExpire,
      phase: 'head',
      since: at,
      clientMs: 0,
      uploadedBytes: 0,
    };
    watched.add(entry);
    timer ??= setInterval(tick, TICK_MS);
    return {
      enter(phase) {
        const time = now();
        if (entry.phase === 'upload_client') entry.clientMs += time - entry.since;
        entry.phase = phase;
        entry.since = time;
      },
      uploaded(bytes) {
        entry.uploadedBytes += bytes;
      },
      stop() {
        watched.delete(entry);
      },
    };
  }

  return { watch, close: stopTicking };
}

function findExpired(entry: Watched, at: number): ProxyError | undefined {
  const { limits, phase } = entry;
  const waited = at - entry.since;
  const fromClient = phase === 'small_body' || phase === 'upload_client' || phase === 'download_client';
  if (at - entry.startedAt >= limits.totalTimeoutMs) return timeout(fromClient, 'total_timeout');
  switch (phase) {
    case 'small_body':
      return waited >= limits.requestBodyTimeoutMs ? timeout(true, 'request_body_timeout') : undefined;
    case 'head':
      return waited >= limits.firstByteTimeoutMs ? timeout(false, 'first_byte_timeout') : undefined;
    case 'upload_client': {
      if (waited >= limits.idleTimeoutMs) return timeout(true, 'idle_timeout');
      const clientMs = entry.clientMs + waited;
      if (clientMs < RATE_GRACE_MS) return undefined;
      const tooSlow = entry.uploadedBytes * 1000 < limits.minBodyRate * clientMs;
      return tooSlow ? timeout(true, 'min_body_rate') : undefined;
    }
    default:
      return waited >= limits.idleTimeoutMs ? timeout(fromClient, 'idle_timeout') : undefined;
  }
}

function timeout(causedByClient: boolean, limit: string): ProxyError {
  return new ProxyError(causedByClient ? 'request_timeout' : 'upstream_timeout', limit);
}
