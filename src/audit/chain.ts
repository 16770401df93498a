/**
 * The chain, read line by line: does each record follow the one before? What does not becomes a fault with a range
 * (docs/audit.md, "What makes a log intact"). Keeps the last hashes only, however long the log is.
 */
import { GENESIS, type ReadRecord, readRecord } from './record.ts';
import type { Segment } from './segments.ts';

export type FaultKind =
  | 'edited'
  | 'malformed'
  | 'inserted'
  | 'missing'
  | 'repeated'
  | 'forked'
  | 'disorder'
  | 'rewritten'
  | 'cut'
  | 'forged'
  | 'foreign';

/** Where a log is not as it was written. */
export interface Fault {
  readonly kind: FaultKind;
  /** Numbers of the first and the last record that it is about. */
  readonly from: number;
  readonly to: number;
  /** File in which it was seen. */
  readonly segment: string;
  readonly text: string;
}

export interface ChainOptions {
  readonly key: Uint8Array;
  readonly onFault: (fault: Fault) => void;
  /** A run of records turned up behind later ones: they are not missing. */
  readonly onLate: (from: number, to: number) => void;
  /** A record whose hash is right; `isNext` if it stands where it belongs. */
  readonly onRecord: (record: ReadRecord, isNext: boolean, segment: string) => void;
}

export interface Chain {
  readonly beginSegment: (segment: Segment) => void;
  readonly readLine: (text: string) => void;
  /** Takes the next record for the first that is kept: what stood before was removed meanwhile. */
  readonly forgetPast: () => void;
  /** Reports what was still open. */
  readonly end: () => void;
  /** Number of the first line; 0 if there is none. */
  readonly first: () => number;
  /** Number of the last line, right or wrong. */
  readonly last: () => number;
  /** Hash of one of the last records. */
  readonly hashOf: (seq: number) => string | undefined;
}

/** How many of the last hashes are kept: enough for the checkpoint records, and to tell a copy from a fork. */
const RECENT = 4_096;

interface Run {
  readonly kind: 'repeated' | 'forked' | 'disorder';
  readonly from: number;
  to: number;
  readonly segment: string;
}

export function createChain({ key, onFault, onLate, onRecord }: ChainOptions): Chain {
  const recent: { seq: number; hash: string }[] = [];
  let segment: Segment | undefined;
  let isFirstLine = false;
  let first = 0;
  let last: { readonly seq: number; readonly hash: string } | undefined;
  let bad: { lines: number; hasRecord: boolean; readonly segment: Segment | undefined } | undefined;
  let late: Run | undefined;

  const hashOf = (seq: number) => {
    const entry = recent[seq % RECENT];
    return entry?.seq === seq ? entry.hash : undefined;
  };
  const fault = (kind: FaultKind, from: number, to: number, text: string, where = segment?.name ?? '') =>
    onFault({ kind, from, to, segment: where, text });

  /** What the lines before record `next` (undefined: before the end) were, whose hash is wrong or that are no records. */
  function settleBad(next: number | undefined): void {
    if (bad === undefined) return;
    const { lines, hasRecord } = bad;
    const where = bad.segment?.name;
    const begin = bad.segment?.first ?? 1;
    bad = undefined;
    const from = last === undefined ? Math.min(begin, next ?? begin) : last.seq + 1;
    if (first === 0) first = from;
    const to = next === undefined ? from + lines - 1 : next - 1;
    const what = `${lines} ${lines === 1 ? 'line' : 'lines'}`;
    if (to < from) {
      fault('inserted', from - 1, from, `${what} where no record is missing`, where);
      return;
    }
    const kind = hasRecord ? 'edited' : 'malformed';
    fault(
      kind,
      from,
      to,
      `${what} ${hasRecord ? 'with a hash that is wrong' : 'that are no records'}`,
      where,
    );
    const gone = to - from + 1 - lines;
    if (gone > 0)
      fault('missing', from, to, `${gone} of these ${to - from + 1} records are not there`, where);
    if (next === undefined) last = { seq: to, hash: '' };
  }

  function settleLate(): void {
    if (late === undefined) return;
    const { kind, from, to, segment: where } = late;
    late = undefined;
    if (kind === 'disorder') onLate(from, to);
    const text = {
      repeated: 'these records stand there twice',
      forked: 'there are two different records of each number, both with a right hash: two writers',
      disorder: 'these records stand behind later ones',
    }[kind];
    fault(kind, from, to, text, where);
  }

  function putAside(record: ReadRecord): void {
    first = Math.min(first, record.seq);
    const known = hashOf(record.seq);
    const kind = known === undefined ? 'disorder' : known === record.hash ? 'repeated' : 'forked';
    if (late?.kind === kind && late.to + 1 === record.seq) late.to = record.seq;
    else {
      settleLate();
      late = { kind, from: record.seq, to: record.seq, segment: segment?.name ?? '' };
    }
  }

  function follow(record: ReadRecord): void {
    const { seq, prev } = record;
    if (bad !== undefined) settleBad(seq);
    else if (last === undefined) {
      if (seq === 1 && prev !== GENESIS) fault('rewritten', 1, 1, 'record 1 names a record before it');
    } else if (seq > last.seq + 1) fault('missing', last.seq + 1, seq - 1, 'these records are not there');
    else if (prev !== last.hash)
      fault(
        'rewritten',
        last.seq,
        seq,
        `record ${seq} does not follow this record ${last.seq}: one of them was written anew, with the key`,
      );
    if (first === 0) first = seq;
    last = { seq, hash: record.hash };
    recent[seq % RECENT] = last;
  }

  return {
    beginSegment(next) {
      segment = next;
      isFirstLine = true;
    },
    readLine(text) {
      const read = readRecord(text, key);
      const isFirst = isFirstLine;
      isFirstLine = false;
      if (read === undefined || !read.isRight) {
        bad ??= { lines: 0, hasRecord: false, segment };
        bad.lines++;
        bad.hasRecord ||= read !== undefined;
        return;
      }
      const { record } = read;
      if (isFirst && segment !== undefined && record.seq !== segment.first)
        fault('disorder', record.seq, record.seq, `the segment begins with record ${record.seq}`);
      const isNext = last === undefined || record.seq > last.seq;
      if (isNext) follow(record);
      else putAside(record);
      onRecord(record, isNext, segment?.name ?? '');
    },
    forgetPast() {
      settleBad(undefined);
      last = undefined;
      first = 0;
    },
    end() {
      settleBad(undefined);
      settleLate();
      // An empty segment still says by its name how many records came before it.
      const seq = last?.seq ?? 0;
      if (segment !== undefined && segment.first > seq + 1 && last !== undefined)
        fault('missing', seq + 1, segment.first - 1, 'these records are not there');
    },
    first: () => first,
    last: () => last?.seq ?? 0,
    hashOf,
  };
}
