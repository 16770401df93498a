/** Is the log as it was written? docs/audit.md, "What makes a log intact". Of the log, what is kept does not grow with it; of each
 * checkpoint some 100 bytes are. */
import { statSync } from 'node:fs';
import { type Chain, createChain, type Fault } from './chain.ts';
import { noteOf } from './checkpoint.ts';
import type { CheckpointSet } from './checkpoint-files.ts';
import type { ReadRecord } from './record.ts';
import { listSegments, readLines, type Segment } from './segments.ts';

export interface VerifyOptions {
  readonly directory: string;
  readonly key: Uint8Array;
  /** Read before this is called: what is written meanwhile can only make the log longer than they say. */
  readonly checkpoints: CheckpointSet;
  /** Called now and then with bytes that are done and bytes in all. */
  readonly onProgress?: ((done: number, all: number) => void) | undefined;
}

/** Members are named as in the JSON that is printed; they are added, never changed. */
export interface Verdict {
  readonly ok: boolean;
  /** Records whose hash is right. */
  readonly records: number;
  readonly segments: number;
  /** Numbers of the first and last record; 0 if there is none. */
  readonly first: number;
  readonly last: number;
  /** Their times, as they are written. */
  readonly since: string | null;
  readonly until: string | null;
  /** Up to this record checkpoints from outside vouch for the log; 0: none does. */
  readonly anchored_to: number;
  /** Records that are chained, and that no checkpoint from outside covers. */
  readonly unanchored: { readonly from: number; readonly to: number } | null;
  /** An unfinished line at the end: a crash's, or one that is being written. */
  readonly torn: { readonly segment: string; readonly bytes: number } | null;
  /** Unfinished lines that starts found and set aside. */
  readonly recovered: number;
  /** Faults, at most 100 of them; by number. */
  readonly gaps: readonly Fault[];
  readonly more_gaps: number;
  /** Intents without an outcome in runs that are over: the request may have been sent, or not. */
  readonly unfinished: number;
  /** The first of them. */
  readonly unfinished_requests: readonly string[];
  /** Intents of the last run without an outcome: in flight, if it still runs. */
  readonly open: number;
  /** Runs that ended without a stop. */
  readonly unclean_ends: number;
}

const MAX_FAULTS = 100;
const MAX_NAMED = 10;
/** Most open requests that are remembered; beyond, the oldest counts as unfinished. */
const MAX_OPEN = 100_000;
const PROGRESS_LINES = 8_192;

/** @throws Error with the system's code if a segment cannot be read */
export function verifyLog({ directory, key, checkpoints, onProgress }: VerifyOptions): Verdict {
  const { verifier } = checkpoints;
  const faults: Fault[] = [];
  let more = 0;
  const onFault = (fault: Fault) => {
    if (faults.length < MAX_FAULTS) faults.push(fault);
    else more++;
  };
  const requests = createRequests();
  let records = 0;
  let recovered = 0;
  let uncleanEnds = 0;
  let newestFirst = 1;
  let since: string | null = null;
  let until: string | null = null;

  const pins = createPinCheck(checkpoints, onFault);
  const chain: Chain = createChain({
    key,
    onFault,
    onLate: (from, to) => removeMissing(faults, from, to),
    onRecord(record, isNext, segment) {
      records++;
      if (!isNext) return;
      pins.check(record.seq, record.hash, segment);
      since ??= record.time;
      until = record.time;
      requests.read(record);
      if (record.kind === 'recovered') recovered++;
      if (record.kind === 'start' && record['clean'] === false && record.seq > 1) uncleanEnds++;
      if (record.kind !== 'checkpoint') return;
      // Who has the key of the chain only must not be able to say that its beginning was removed.
      if (!verifier.isSignedBy(noteOf(record, verifier.origin))) {
        const text = `the signature of the checkpoint in record ${record.seq} is wrong`;
        onFault({ kind: 'forged', from: record.seq, to: record.seq, segment, text });
        return;
      }
      newestFirst = Math.max(newestFirst, Number(record['first']));
      pins.checkRecord(record, chain.hashOf, segment);
    },
  });

  const { segments, torn } = readSegments(directory, chain, onProgress);
  chain.end();
  const [first, last] = [chain.first(), chain.last()];
  if (first > newestFirst)
    onFault({
      kind: 'missing',
      from: newestFirst,
      to: first - 1,
      segment: '',
      text: 'the log begins later than its checkpoints say: its beginning was removed',
    });
  pins.end(last);
  for (const { file, size } of checkpoints.forged)
    onFault({
      kind: 'forged',
      from: size,
      to: size,
      segment: file,
      text: `the signature of a checkpoint for record ${size} is wrong`,
    });
  const { anchors, foreign } = checkpoints;
  if (anchors() === 0 && foreign.size > 0)
    onFault({
      kind: 'foreign',
      from: first,
      to: last,
      segment: '',
      text: 'all checkpoints from outside are of another log: this one was put in its place, or they are not meant for it',
    });
  const anchoredTo = pins.anchoredTo();
  return {
    ok: faults.length === 0,
    records,
    segments,
    first,
    last,
    since,
    until,
    anchored_to: anchoredTo,
    unanchored: last > anchoredTo ? { from: Math.max(first, anchoredTo + 1), to: last } : null,
    torn,
    recovered,
    gaps: faults.sort((a, b) => a.from - b.from || a.to - b.to),
    more_gaps: more,
    unfinished: requests.unfinished(),
    unfinished_requests: requests.named,
    open: requests.open(),
    unclean_ends: uncleanEnds,
  };
}

/**
 * Reads what stands in the segments now. A log may be written meanwhile: of each segment its size at the opening
 * counts, and if the oldest ones are removed, the newest are read too, for the checkpoint that says so.
 */
function readSegments(
  directory: string,
  chain: Chain,
  onProgress: VerifyOptions['onProgress'],
): { segments: number; torn: Verdict['torn'] } {
  const queue = listSegments(directory);
  const all = queue.reduce((sum, { path }) => sum + sizeOf(path), 0);
  let count = 0;
  let torn: Verdict['torn'] = null;
  let done = 0;
  for (let index = 0; index < queue.length; index++) {
    const segment = queue[index] as Segment;
    const isLast = index === queue.length - 1;
    let read = 0;
    try {
      for (const { text, offset, isWhole } of readLines(segment.path)) {
        if (read++ === 0) chain.beginSegment(segment);
        // Only what stands after the last newline of all is a torn line.
        if (isWhole || !isLast) chain.readLine(text);
        else torn = { segment: segment.name, bytes: text.length };
        if (read % PROGRESS_LINES === 0) onProgress?.(done + offset, all);
      }
    } catch (error) {
      if ((error as { code?: string }).code !== 'ENOENT') throw error;
      const now = listSegments(directory);
      // Retention removes the oldest; a segment that is gone from between others is a fault that its records show.
      if (now.some(({ first }) => first <= segment.first)) continue;
      chain.forgetPast();
      queue.push(...now.filter(({ first }) => first > (queue.at(-1)?.first ?? 0)));
      continue;
    }
    if (read === 0) chain.beginSegment(segment);
    count++;
    done += sizeOf(segment.path);
    onProgress?.(done, all);
  }
  return { segments: count, torn };
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

/** Numbers that turned up elsewhere are not missing. */
function removeMissing(faults: Fault[], from: number, to: number): void {
  for (const [index, fault] of faults.entries()) {
    if (fault.kind !== 'missing' || fault.from > to || fault.to < from) continue;
    const rest = [
      { ...fault, to: from - 1 },
      { ...fault, from: to + 1 },
    ].filter((part) => part.from <= part.to);
    faults.splice(index, 1, ...rest);
    return;
  }
}

/** Requests that were intended, and not ended, when their run was over. */
function createRequests() {
  const open = new Set<string>();
  const named: string[] = [];
  let unfinished = 0;
  const give = (id: string) => {
    unfinished++;
    if (named.length < MAX_NAMED) named.push(id);
  };
  return {
    named,
    unfinished: () => unfinished,
    open: () => open.size,
    read({ kind, request_id }: ReadRecord): void {
      if (kind === 'start' || kind === 'stop') {
        for (const id of open) give(id);
        open.clear();
      }
      if (typeof request_id !== 'string') return;
      if (kind === 'outcome') open.delete(request_id);
      if (kind !== 'intent') return;
      open.add(request_id);
      if (open.size <= MAX_OPEN) return;
      const oldest = open.values().next().value as string;
      open.delete(oldest);
      give(oldest);
    },
  };
}

/** Compares records with what checkpoints say of them. */
function createPinCheck(checkpoints: CheckpointSet, onFault: (fault: Fault) => void) {
  let fits = 0;
  let anchoredTo = 0;
  /** Checkpoints that do not fit, one after another. */
  let run: { readonly from: number; readonly at: number; to: number; segment: string } | undefined;

  function differs(size: number, segment: string): void {
    run ??= { from: Math.min(fits + 1, size), at: size, to: size, segment };
    run.to = Math.max(run.to, size);
  }
  function settle(): void {
    if (run === undefined) return;
    const { from, at, to, segment } = run;
    run = undefined;
    const text = `the checkpoint for record ${at} has another hash than the log: written anew from a record in ${from}..${at} on`;
    onFault({ kind: 'rewritten', from, to, segment, text });
  }

  return {
    anchoredTo: () => anchoredTo,
    check(seq: number, hash: string, segment: string): void {
      const pins = checkpoints.pins.get(seq);
      if (pins === undefined) return;
      if (pins.some((pin) => pin.head !== hash)) differs(seq, segment);
      else {
        settle();
        fits = Math.max(fits, seq);
      }
      if (pins.some((pin) => pin.isAnchor && pin.head === hash)) anchoredTo = Math.max(anchoredTo, seq);
    },
    /** Of a checkpoint in the log itself: it vouches for nothing, but must fit. */
    checkRecord(record: ReadRecord, hashOf: Chain['hashOf'], segment: string): void {
      const size = Number(record['size']);
      const hash = hashOf(size);
      const isOlder = size < record.seq;
      if (!isOlder || (hash !== undefined && hash !== record['head']))
        differs(Math.min(size, record.seq), segment);
    },
    end(last: number): void {
      settle();
      let newest = 0;
      for (const size of checkpoints.pins.keys()) newest = Math.max(newest, size);
      if (newest > last)
        onFault({
          kind: 'cut',
          from: last + 1,
          to: newest,
          segment: '',
          text: `a checkpoint says that there were ${newest} records: the end was cut off, or an older copy was put in its place`,
        });
    },
  };
}
