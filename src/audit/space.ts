/**
 * The room that the log has. Near its quota the listener that fills it most is refused first; what a stop, a halt or an
 * outcome has to say still fits when nothing more is forwarded.
 */
import { statSync, unlinkSync } from 'node:fs';
import { listSegments, type Segment } from './segments.ts';

/** From this part of the quota on, the noisiest listener is refused. */
const NOISIEST_SHARE = 0.9;
/** Kept for what must still be recorded when it is full: this much, or a sixteenth of the quota, bytes. */
const RESERVE_BYTES = 1024 * 1024;
/** What a listener did is half forgotten after some ten minutes: so much is left of it after each `tick`. */
const FORGETTING = 0.99;

export interface Space {
  /** A segment has so many bytes now. */
  readonly grew: (first: number, bytes: number) => void;
  /** A record of this listener was written. */
  readonly count: (listener: string) => void;
  /** May more be forwarded for this listener? */
  readonly refuses: (listener: string) => boolean;
  /** No listener may. */
  readonly isFull: () => boolean;
  readonly bytes: () => number;
  /** To be called every 10 s: forgets a little. */
  readonly tick: () => void;
  /** The oldest segment, if all its records are older than is kept; never the last one. */
  readonly expired: () => Segment | undefined;
  /** Number of the record after the oldest segment. */
  readonly firstAfter: (segment: Segment) => number;
  readonly remove: (segment: Segment) => void;
}

export interface SpaceOptions {
  readonly directory: string;
  readonly maxBytes: () => number;
  /** How many listeners are configured. */
  readonly listeners: () => number;
  readonly retainMs: () => number;
  /** Wall clock, ms. */
  readonly wallNow: () => number;
}

export function createSpace(options: SpaceOptions): Space {
  const sizes = new Map<number, number>();
  const records = new Map<string, number>();
  for (const { first, path } of listSegments(options.directory)) sizes.set(first, statSync(path).size);
  let used = sum(sizes.values());

  const isFull = () => {
    const max = options.maxBytes();
    return used >= max - Math.min(RESERVE_BYTES, max / 16);
  };

  function noisiest(): string | undefined {
    let found: string | undefined;
    // Alone, it has nobody to leave room for.
    if (options.listeners() < 2) return undefined;
    for (const [listener, count] of records)
      if (found === undefined || count > (records.get(found) as number)) found = listener;
    return found;
  }

  return {
    isFull,
    bytes: () => used,
    grew(first, bytes) {
      sizes.set(first, bytes);
      used = sum(sizes.values());
    },
    count(listener) {
      records.set(listener, (records.get(listener) ?? 0) + 1);
    },
    refuses(listener) {
      if (used < options.maxBytes() * NOISIEST_SHARE) return false;
      return isFull() || noisiest() === listener;
    },
    tick() {
      for (const [listener, count] of records) {
        if (count < 1) records.delete(listener);
        else records.set(listener, count * FORGETTING);
      }
    },
    expired() {
      const [oldest, next] = listSegments(options.directory);
      if (oldest === undefined || next === undefined) return undefined;
      return statSync(oldest.path).mtimeMs < options.wallNow() - options.retainMs() ? oldest : undefined;
    },
    firstAfter: ({ first }) =>
      listSegments(options.directory).find((segment) => segment.first > first)?.first ?? first,
    remove({ path, first }) {
      unlinkSync(path);
      sizes.delete(first);
      used = sum(sizes.values());
    },
  };
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
