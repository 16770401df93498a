/** Records that are committed together, as the bytes that they become: kept as strings, each would be copied three times. */
import type { Head } from './record.ts';

export interface Batch {
  /** Adds a record's line, which is ASCII; `now` is the monotonic clock, ms. */
  readonly add: (line: string, head: Head, isCheckpoint: boolean, now: number) => void;
  /** Empties it, to be filled anew. */
  readonly clear: () => void;
  /** Adds those of a later batch. */
  readonly join: (later: Batch) => void;
  /** Number of the first record. */
  readonly first: () => number;
  /** When the first record came. */
  readonly since: () => number;
  /** Where the chain ends with it. */
  readonly head: () => Head;
  readonly records: () => number;
  /** How many of them are no checkpoints. */
  readonly plainRecords: () => number;
  /** Bytes. */
  readonly size: () => number;
  /** Valid until the next change. */
  readonly bytes: () => Uint8Array;
}

const FIRST_BYTES = 4 * 1024;
/** What an empty batch keeps of its memory, bytes: room for what is committed at once while the log is busy. */
const KEPT_BYTES = 2 * 1024 * 1024;
const NEWLINE = 0x0a;

export function createBatch(): Batch {
  let buffer = Buffer.allocUnsafe(FIRST_BYTES);
  let used = 0;
  let first = 0;
  let since = 0;
  let head: Head = { seq: 0, hash: '' };
  let records = 0;
  let plainRecords = 0;

  function makeRoom(bytes: number): void {
    if (used + bytes <= buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(2 * buffer.length, used + bytes));
    buffer.copy(larger, 0, 0, used);
    buffer = larger;
  }

  return {
    add(line, next, isCheckpoint, now) {
      makeRoom(line.length + 1);
      used += buffer.write(line, used, 'latin1');
      buffer[used++] = NEWLINE;
      if (records === 0) {
        first = next.seq;
        since = now;
      }
      head = next;
      records++;
      if (!isCheckpoint) plainRecords++;
    },
    clear() {
      used = records = plainRecords = 0;
      if (buffer.length > KEPT_BYTES) buffer = Buffer.allocUnsafe(FIRST_BYTES);
    },
    join(later) {
      const bytes = later.bytes();
      makeRoom(bytes.length);
      buffer.set(bytes, used);
      used += bytes.length;
      head = later.head();
      records += later.records();
      plainRecords += later.plainRecords();
    },
    first: () => first,
    since: () => since,
    head: () => head,
    records: () => records,
    plainRecords: () => plainRecords,
    size: () => used,
    bytes: () => buffer.subarray(0, used),
  };
}
