/** Records that are committed together, as the bytes that they become: kept as strings, each would be copied three times. */
import { type Head, MAX_LINE, type RecordBody, type RecordPlace, writeRecord } from './record.ts';

export interface Batch {
  /** Adds a record behind the one whose hash is `prev`; `now` is the monotonic clock, ms. Returns where the chain ends then. */
  readonly add: (place: RecordPlace, body: RecordBody, prev: string, now: number) => Head;
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

/** @param key of the chain */
export function createBatch(key: Uint8Array): Batch {
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
    add(place, body, prev, now) {
      makeRoom(MAX_LINE);
      const { end, hash } = writeRecord(buffer, used, place, body, prev, key);
      used = end;
      if (records === 0) {
        first = place.seq;
        since = now;
      }
      head = { seq: place.seq, hash };
      records++;
      if (body.kind !== 'checkpoint') plainRecords++;
      return head;
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
