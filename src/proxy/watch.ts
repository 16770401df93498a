/**
 * Time limits. One clock tick looks at every exchange in flight; an exchange only writes down when it
 * last moved. That is cheaper than timers per chunk, and it is why limits are kept to a tenth of a second.
 *
 * Time spent waiting for the client counts against the client (408, minimum rate), time spent waiting for
 * the upstream against the upstream (504): a slow upstream must not look like a slow upload.
 */
import { createBag } from '../bag.ts';
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

/** What the request body is doing. */
type Upload =
  /** A small body is being read whole from the client. */
  | 'small_body'
  /** It streams: waiting for the client's next chunk. */
  | 'client'
  /** It streams: waiting for the upstream to take the last chunk. */
  | 'upstream'
  /** The request is sent; without a response head yet, the first byte is awaited. */
  | 'sent';

/** What the response body is doing, once its head has come. */
type Download =
  /** Waiting for the upstream's next chunk. */
  | 'upstream'
  /** Waiting for the client to take the last chunk. */
  | 'client';

export interface Watch {
  /** The request body enters a state; its clock starts anew. */
  readonly upload: (state: Upload) => void;
  /** The response body enters a state; its clock starts anew. */
  readonly download: (state: Download) => void;
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
  slot: number;
  readonly limits: WatchLimits;
  readonly startedAt: number;
  readonly onExpire: (error: ProxyError) => void;
  upload: Upload;
  uploadSince: number;
  /** Undefined until the response head has come. */
  download: Download | undefined;
  downloadSince: number;
  /** Time spent waiting for the client's upload in earlier states, ms. */
  clientMs: number;
  uploadedBytes: number;
}

/** @param now monotonic clock, ms */
export function createWatchdog(now: () => number): Watchdog {
  const watched = createBag<Watched>();
  let timer: ReturnType<typeof setInterval> | undefined;

  function tick(): void {
    const at = now();
    const { items } = watched;
    // From the end, because the last one takes the place of one that is removed; ending one may end others.
    for (let i = items.length - 1; i >= 0; i--) {
      const entry = items[i];
      if (entry === undefined) continue;
      const error = findExpired(entry, at);
      if (error === undefined) continue;
      watched.remove(entry);
      entry.onExpire(error);
    }
    if (items.length === 0) stopTicking();
  }

  function stopTicking(): void {
    clearInterval(timer);
    timer = undefined;
  }

  function watch(limits: WatchLimits, onExpire: (error: ProxyError) => void): Watch {
    const at = now();
    const entry: Watched = {
      slot: -1,
      limits,
      startedAt: at,
      onExpire,
      upload: 'sent',
      uploadSince: at,
      download: undefined,
      downloadSince: at,
      clientMs: 0,
      uploadedBytes: 0,
    };
    watched.add(entry);
    timer ??= setInterval(tick, TICK_MS);
    return {
      upload(state) {
        const time = now();
        if (entry.upload === 'client') entry.clientMs += time - entry.uploadSince;
        entry.upload = state;
        entry.uploadSince = time;
      },
      download(state) {
        entry.download = state;
        entry.downloadSince = now();
      },
      uploaded(bytes) {
        entry.uploadedBytes += bytes;
      },
      stop() {
        watched.remove(entry);
      },
    };
  }

  return { watch, close: stopTicking };
}

function findExpired(entry: Watched, at: number): ProxyError | undefined {
  const { limits } = entry;
  const byClient =
    entry.download === undefined
      ? entry.upload === 'small_body' || entry.upload === 'client'
      : entry.download === 'client';
  if (at - entry.startedAt >= limits.totalTimeoutMs) return timeout(byClient, 'total_timeout');
  return findSlowUpload(entry, at) ?? findSlowDownload(entry, at);
}

function findSlowUpload(entry: Watched, at: number): ProxyError | undefined {
  const { limits, upload } = entry;
  const waited = at - entry.uploadSince;
  switch (upload) {
    case 'small_body':
      return waited >= limits.requestBodyTimeoutMs ? timeout(true, 'request_body_timeout') : undefined;
    case 'client': {
      if (waited >= limits.idleTimeoutMs) return timeout(true, 'idle_timeout');
      const clientMs = entry.clientMs + waited;
      if (clientMs < RATE_GRACE_MS) return undefined;
      return entry.uploadedBytes * 1000 < limits.minBodyRate * clientMs
        ? timeout(true, 'min_body_rate')
        : undefined;
    }
    case 'upstream':
      return waited >= limits.idleTimeoutMs ? timeout(false, 'idle_timeout') : undefined;
    case 'sent':
      if (entry.download !== undefined) return undefined;
      return waited >= limits.firstByteTimeoutMs ? timeout(false, 'first_byte_timeout') : undefined;
  }
}

function findSlowDownload(entry: Watched, at: number): ProxyError | undefined {
  if (entry.download === undefined) return undefined;
  // While the upload still moves, an answer that has begun may be quiet.
  const since =
    entry.upload === 'sent' ? entry.downloadSince : Math.max(entry.downloadSince, entry.uploadSince);
  if (at - since < entry.limits.idleTimeoutMs) return undefined;
  return timeout(entry.download === 'client', 'idle_timeout');
}

function timeout(causedByClient: boolean, limit: string): ProxyError {
  return new ProxyError(causedByClient ? 'request_timeout' : 'upstream_timeout', limit);
}
