/** Requests in flight per listener and provider: beyond the cap a request is refused at once, never queued. */
import { ProxyError } from '../errors.ts';
import { pairKey } from './keys.ts';

export interface Concurrency {
  /**
   * Takes a place and returns the function that gives it back (call it once).
   * @throws ProxyError overloaded when `cap` requests of this pair are in flight.
   */
  readonly acquire: (listener: string, provider: string, cap: number) => () => void;
  /** Requests in flight, all together. */
  readonly inFlight: () => number;
  /** Requests in flight by pair; pairs without any are absent. */
  readonly counts: () => readonly { listener: string; provider: string; count: number }[];
}

/** Whole seconds that a refused client is told to wait: places come free at any moment. */
const RETRY_AFTER_SECONDS = 1;

export function createConcurrency(): Concurrency {
  const counts = new Map<string, number>();
  let total = 0;

  function acquire(listener: string, provider: string, cap: number): () => void {
    const key = pairKey(listener, provider);
    const count = counts.get(key) ?? 0;
    if (count >= cap) throw new ProxyError('overloaded', 'max_concurrent reached', RETRY_AFTER_SECONDS);
    counts.set(key, count + 1);
    total++;
    let released = false;
    return () => {
      if (released) return;
      released = true;
      total--;
      const left = (counts.get(key) ?? 1) - 1;
      if (left === 0) counts.delete(key);
      else counts.set(key, left);
    };
  }

  return {
    acquire,
    inFlight: () => total,
    counts: () =>
      [...counts].map(([key, count]) => {
        const [listener = '', provider = ''] = key.split(' ');
        return { listener, provider, count };
      }),
  };
}
