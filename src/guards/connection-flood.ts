/**
 * Connections on which no request is in flight take descriptors from everybody, and the runtime closes those that
 * never sent a request late, and half a second head never. When they take too many, the listener that holds the most
 * of them loses all its connections and accepts none for a while: its own sandbox pays, and no other.
 */
import { DESCRIPTORS_PER_REQUEST } from './descriptors.ts';

/** How often `look` is to be called, ms: with few descriptors to spare, a flood takes them all in a moment. */
export const LOOK_MS = 20;
/**
 * More connections without a request than this may be a flood, however many descriptors there are. Few, because
 * everybody waits while they are counted and closed: some 10 us for each (measured).
 */
const MANY = 2_048;
/** More of them on one listener are one. */
const TOO_MANY = 1_536;
/** So many more than were found to be nobody's flood are worth another look at once. */
const GROWTH = 512;
/** No listener with fewer than this is ever cut. */
const HARMLESS = 32;
/** How long a listener stays closed: once may be a mishap, but each further time its neighbours wait again. */
const FIRST_PAUSE_MS = 1_000;
const PAUSE_MS = 16_000;
/** Descriptors in use from which on all may have been taken, and for how long what failed may be put down to that, ms. */
const EXHAUSTED_PART = 15 / 16;
const EXHAUSTED_MS = 1_000;
/** After so long without a flood a listener's past is forgotten, ms. */
const FORGET_MS = 60_000;
/** Looking may take this part of the time at most, and this while it finds nobody and descriptors are left. */
const LOOKING_SHARE = 1 / 10;
const VAIN_SHARE = 1 / 100;

export interface FloodedListener {
  readonly config: { readonly name: string };
  readonly closeIdle: () => void;
  /** Closes every connection and accepts no more. */
  readonly close: () => void;
  /** Accepts again; rejects when that is not possible now. */
  readonly reopen: () => Promise<void>;
  /** May it stay closed, or would that leave its address to others? */
  readonly canStayClosed: boolean;
}

export interface ConnectionFlood {
  readonly look: () => void;
  /** Are descriptors all taken, or were they a moment ago? Who looks when a connection failed may come late. */
  readonly isExhausted: () => boolean;
}

export interface ConnectionFloodOptions<L extends FloodedListener> {
  /** Descriptors that may be open; undefined = unknown. */
  readonly limit: number | undefined;
  /** Counts open descriptors; undefined where it cannot. */
  readonly countOpen: () => number | undefined;
  /** Requests in flight by listener. */
  readonly inFlight: () => readonly { readonly listener: string; readonly count: number }[];
  readonly listeners: () => readonly L[];
  /** Connections of each listener. */
  readonly count: (listeners: readonly L[]) => ReadonlyMap<L, number>;
  readonly onFlood: (flood: Flood) => void;
  /** Monotonic clock, ms. */
  readonly now: () => number;
}

export interface Flood {
  readonly listener: string;
  readonly connections: number;
  /** How long it accepts no more, ms. */
  readonly pause: number;
}

interface Past {
  hasPaused: boolean;
  forgetAt: number;
  /** When it is to accept again; undefined while it does. */
  reopenAt: number | undefined;
}

export function createConnectionFlood<L extends FloodedListener>(
  options: ConnectionFloodOptions<L>,
): ConnectionFlood {
  const { now } = options;
  const limit = options.limit ?? Number.POSITIVE_INFINITY;
  const pasts = new Map<L, Past>();
  let restUntil = 0;
  let exhaustedUntil = 0;
  /** From so many on, rest or not. */
  let restBelow = Number.POSITIVE_INFINITY;

  function measure(): { readonly idle: number; readonly isShort: boolean } {
    const open = options.countOpen() ?? 0;
    if (open >= limit * EXHAUSTED_PART) exhaustedUntil = now() + EXHAUSTED_MS;
    const requests = options.inFlight().reduce((sum, { count }) => sum + count, 0);
    const idle = open - requests * DESCRIPTORS_PER_REQUEST;
    return { idle, isShort: open > (limit / 4) * 3 && idle > limit / 4 };
  }

  /** The listener with the most connections beyond its requests, if those are more than its share. */
  function worst(isShort: boolean): { readonly listener: L; readonly idle: number } | undefined {
    const listeners = options.listeners();
    const requests = new Map<string, number>();
    for (const { listener, count } of options.inFlight())
      requests.set(listener, (requests.get(listener) ?? 0) + count);
    const share = Math.min(isShort ? limit / 8 / listeners.length : TOO_MANY, TOO_MANY);
    let found: { readonly listener: L; readonly idle: number } | undefined;
    for (const [listener, connections] of options.count(listeners)) {
      const idle = connections - (requests.get(listener.config.name) ?? 0);
      if (idle > (found?.idle ?? Math.max(share, HARMLESS))) found = { listener, idle };
    }
    return found;
  }

  /** Were most of them only idle? Then closing those is enough, and no request is lost. */
  function sweep(listener: L, connections: number): boolean {
    const before = options.countOpen() ?? 0;
    listener.closeIdle();
    return (options.countOpen() ?? 0) < before - connections / 2;
  }

  function strike(listener: L, connections: number): void {
    const isFirst = !pasts.has(listener);
    const past = pasts.get(listener) ?? { hasPaused: false, forgetAt: 0, reopenAt: undefined };
    pasts.set(listener, past);
    past.forgetAt = now() + FORGET_MS;
    if (isFirst && sweep(listener, connections)) return;
    const wanted = past.hasPaused ? PAUSE_MS : FIRST_PAUSE_MS;
    past.hasPaused = true;
    const pause = listener.canStayClosed ? wanted : 0;
    listener.close();
    past.reopenAt = now() + pause;
    options.onFlood({ listener: listener.config.name, connections, pause });
  }

  /** Reopens what has been closed long enough, and forgets what was long ago. */
  function restore(): void {
    for (const [listener, past] of pasts) {
      if (past.reopenAt === undefined) {
        if (now() > past.forgetAt) pasts.delete(listener);
      } else if (now() >= past.reopenAt) {
        past.reopenAt = undefined;
        // With no descriptor left it fails, and is tried again.
        listener.reopen().catch(() => {
          past.reopenAt = now();
        });
      }
    }
  }

  return {
    look() {
      const started = now();
      const { idle, isShort } = measure();
      if ((isShort || idle > MANY) && (started >= restUntil || idle > restBelow)) {
        const found = worst(isShort);
        const isVain = found === undefined && !isShort;
        restUntil = now() + (now() - started) / (isVain ? VAIN_SHARE : LOOKING_SHARE);
        restBelow = isVain ? idle + GROWTH : Number.POSITIVE_INFINITY;
        if (found !== undefined) strike(found.listener, found.idle);
      }
      restore();
    },
    isExhausted() {
      measure();
      return now() < exhaustedUntil;
    },
  };
}
