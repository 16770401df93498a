/**
 * The log while it is written: records are chained in the order in which they come, gathered, and committed together.
 * Whoever must not go on before its record is on disk waits for the commit.
 *
 * A commit that fails stops everything until an operator clears it: what the disk kept of it cannot be known, and asking
 * again says nothing about it (after a failed fsync the kernel may forget what it could not write, and report success).
 * What was not committed is kept, and written anew, elsewhere, when it is cleared.
 */
import { type Batch, createBatch } from './batch.ts';
import type { Checkpoints } from './checkpoints.ts';
import type { Head, RecordBody, RecordPlace } from './record.ts';
import { AuditFault, type SegmentFile, type SegmentFiles, toFault } from './segment-file.ts';

/** Records that nobody waits for are gathered this long, ms: most find one that somebody waits for. */
const GATHER_MS = 5;
/** And with `async` this long. */
const ASYNC_GATHER_MS = 500;
/** More than this is committed at once, bytes. */
const GATHER_BYTES = 1024 * 1024;
/** What may wait while nothing can be committed, bytes; beyond, records are lost, and counted. */
const MAX_WAITING_BYTES = 8 * 1024 * 1024;
/** A segment ends at this age, so that old ones can be removed, ms. */
const SEGMENT_AGE_MS = 86_400_000;

export interface Failure {
  /** The system's code, `stalled`, or what is wrong with the file (segment-file.ts). */
  readonly code: string;
  /** RFC 3339, UTC. */
  readonly since: string;
  readonly sinceUs: number;
}

export interface AuditLog {
  /** Adds a record; it is committed soon. */
  readonly append: (body: RecordBody) => void;
  /** Adds a record; resolves when it is on disk. @throws AuditFault */
  readonly commit: (body: RecordBody) => Promise<void>;
  readonly failure: () => Failure | undefined;
  /** Tries again after a failure, with a record of that; resolves when it is on disk. @throws AuditFault if it fails again */
  readonly clear: (reason: string) => Promise<void>;
  /** Signs the log if it is time. To be called each second or so. */
  readonly tick: () => void;
  /** Announces that records before this number will be removed; resolves when that is on disk. @throws AuditFault */
  readonly announce: (first: number) => Promise<void>;
  /** Commits what waits, then ends. True if all is on disk. */
  readonly close: () => Promise<boolean>;
  /** The last record on disk. */
  readonly head: () => Head;
  /** Records that are not on disk yet. */
  readonly waiting: () => number;
  /** How long the oldest of them has waited, ms. */
  readonly lagMs: () => number;
  /** Records that could not be kept. */
  readonly lost: () => number;
  /** Microseconds since the start of the process. */
  readonly monoUs: () => number;
}

export interface AuditLogOptions {
  readonly files: SegmentFiles;
  readonly key: Uint8Array;
  readonly bootId: string;
  readonly head: Head;
  /** The segment to go on with; undefined = begin one. */
  readonly segment: SegmentFile | undefined;
  /** How old it is, ms. */
  readonly segmentAgeMs?: number;
  readonly isAsync: boolean;
  /** A commit that takes longer has failed: a disk that does not answer must be told of, ms. */
  readonly stallMs: number;
  /** Of a segment, bytes; may change. */
  readonly segmentSize: () => number;
  readonly checkpoints: Checkpoints;
  /** A segment was begun, or has grown. */
  readonly onGrowth: (first: number, bytes: number) => void;
  readonly onFailure: (failure: Failure) => void;
  /** Monotonic clock, ms. */
  readonly now: () => number;
  /** Wall clock, ms. */
  readonly wallNow: () => number;
}

interface Waiter {
  readonly seq: number;
  readonly resolve: () => void;
  readonly reject: (fault: AuditFault) => void;
}

export function createAuditLog(options: AuditLogOptions): AuditLog {
  const { files, key, now, wallNow, checkpoints } = options;
  const startedAt = now();
  const gatherMs = options.isAsync ? ASYNC_GATHER_MS : GATHER_MS;
  let segment = options.segment;
  let begunAt = now() - (options.segmentAgeMs ?? 0);
  /** What of it is committed, bytes: a commit that was given up may still succeed, and does not count. */
  let committedBytes = segment?.size() ?? 0;
  let last = options.head;
  let durable = options.head;
  /** What is being committed, or could not be. */
  let committing: Batch | undefined;
  /** What came since. */
  let gathered: Batch | undefined;
  /** Empty ones, two at most: a new buffer for each commit would have to grow, and keep the collector busy. */
  const spares: Batch[] = [];
  let waiters: Waiter[] = [];
  let failure: Failure | undefined;
  let lost = 0;
  let isCommitting = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let immediate: ReturnType<typeof setImmediate> | undefined;
  /** Appends that have not come back, also those that were given up. */
  let unsettled = 0;
  let onIdle: (() => void) | undefined;
  let isClosed = false;

  const monoUs = () => Math.round((now() - startedAt) * 1000);

  function append(body: RecordBody): boolean {
    // Nothing comes behind a `stop`.
    if (isClosed || (failure !== undefined && waitingBytes() > MAX_WAITING_BYTES)) {
      lost++;
      return false;
    }
    const place: RecordPlace = {
      seq: last.seq + 1,
      boot_id: options.bootId,
      time: new Date(wallNow()).toISOString(),
      mono_us: monoUs(),
    };
    gathered ??= spares.pop() ?? createBatch(key);
    last = gathered.add(place, body, last.hash, now());
    return true;
  }

  const waitingBytes = () => (committing?.size() ?? 0) + (gathered?.size() ?? 0);
  const waiting = () => (committing?.records() ?? 0) + (gathered?.records() ?? 0);

  function commitSoon(): void {
    timer ??= setTimeout(run, gatherMs);
  }

  /** All requests of this turn of the event loop share a commit; those of the next ones, the one after it. */
  function commitNow(): void {
    immediate ??= setImmediate(run);
  }

  function run(): void {
    clearTimeout(timer);
    clearImmediate(immediate);
    timer = immediate = undefined;
    if (isCommitting || failure !== undefined || waiting() === 0) return;
    isCommitting = true;
    commitAll()
      .catch((error) => fail(toFault(error)))
      .finally(() => {
        isCommitting = false;
        onIdle?.();
        if (waiters.length > 0) commitNow();
        else if (waiting() > 0) commitSoon();
      });
  }

  async function commitAll(): Promise<void> {
    // After a failure, what could not be committed comes first.
    const batch = committing ?? (gathered as Batch);
    if (gathered !== undefined && gathered !== batch) batch.join(gathered);
    committing = batch;
    gathered = undefined;
    if (segment !== undefined && isFull(segment)) {
      segment.close();
      segment = undefined;
    }
    if (segment === undefined) {
      segment = files.create(batch.first());
      begunAt = now();
      committedBytes = 0;
    }
    const bytes = batch.bytes();
    await unlessStalled(segment.append(bytes));
    committedBytes += bytes.length;
    committing = undefined;
    durable = batch.head();
    options.onGrowth(segment.first, committedBytes);
    const done = waiters.filter(({ seq }) => seq <= durable.seq);
    waiters = waiters.filter(({ seq }) => seq > durable.seq);
    for (const { resolve } of done) resolve();
    const plain = batch.plainRecords();
    batch.clear();
    spares.push(batch);
    const record = checkpoints.observe(durable, plain);
    if (record !== undefined) append(record);
  }

  function isFull({ size }: SegmentFile): boolean {
    return size() >= options.segmentSize() || now() - begunAt > SEGMENT_AGE_MS;
  }

  async function unlessStalled(appended: Promise<void>): Promise<void> {
    const { promise, reject } = Promise.withResolvers<never>();
    const stall = setTimeout(() => reject(new AuditFault('stalled')), options.stallMs);
    const settle = () => {
      unsettled--;
    };
    unsettled++;
    appended.then(settle, settle);
    try {
      await Promise.race([appended, promise]);
    } finally {
      clearTimeout(stall);
    }
  }

  function fail(fault: AuditFault): void {
    failure = { code: fault.code, since: new Date(wallNow()).toISOString(), sinceUs: monoUs() };
    const refused = waiters;
    waiters = [];
    for (const { reject } of refused) reject(fault);
    options.onFailure(failure);
  }

  async function clear(reason: string): Promise<void> {
    const before = failure;
    if (before === undefined) return;
    // What is still on its way to the disk would come after what is to stand in its place.
    if (unsettled > 0) throw new AuditFault('stalled');
    const failed = segment;
    // What is not committed is written anew; it must not stand in two places.
    failed?.giveUp(committedBytes);
    failed?.close();
    segment = undefined;
    failure = undefined;
    await commit({ kind: 'cleared', reason, failure: before.code, since_us: before.sinceUs });
  }

  function commit(body: RecordBody): Promise<void> {
    if (failure !== undefined) return Promise.reject(new AuditFault(failure.code));
    if (!append(body)) return Promise.reject(new AuditFault('closed'));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    waiters.push({ seq: last.seq, resolve, reject });
    commitNow();
    return promise;
  }

  async function close(): Promise<boolean> {
    isClosed = true;
    while (isCommitting || (waiting() > 0 && failure === undefined)) {
      await new Promise<void>((resolve) => {
        onIdle = resolve;
        run();
      });
    }
    if (failure === undefined) await checkpoints.finish(durable);
    segment?.close();
    segment = undefined;
    return failure === undefined;
  }

  return {
    append(body) {
      if (!append(body)) return;
      if (!isCommitting && waitingBytes() > GATHER_BYTES) commitNow();
      else commitSoon();
    },
    commit,
    tick() {
      const record = failure === undefined ? checkpoints.observe(durable, 0) : undefined;
      if (record === undefined) return;
      append(record);
      commitSoon();
    },
    announce: (first) => commit(checkpoints.announce(durable, first)),
    failure: () => failure,
    clear,
    close,
    head: () => durable,
    waiting,
    lagMs() {
      const oldest = committing ?? gathered;
      return oldest === undefined ? 0 : now() - oldest.since();
    },
    lost: () => lost,
    monoUs,
  };
}
