/**
 * What a start finds of the log: where the chain ends, whether the process before ended as it should, and whether
 * anything is missing. What a crash left unfinished is set aside; what no crash explains is a reason not to start.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { StartError } from '../start-error.ts';
import { syncDirectory } from '../sync-directory.ts';
import { systemCode } from '../system-code.ts';
import type { Note, Verifier } from './checkpoint.ts';
import { checkpointFile, readLastNotes } from './checkpoints.ts';
import { GENESIS, type Head, type ReadRecord, readRecord } from './record.ts';
import { listSegments, readLines, type Segment } from './segments.ts';

/** As much of the end of the last segment as is verified at a start: more than a thousand records. */
const TAIL_BYTES = 1024 * 1024;
/** Read at once where it is copied or searched, bytes. */
const PIECE_BYTES = 64 * 1024;
/** Where no record stands in it, so many times as much is read. */
const TAIL_GROWTH = 16;

export interface Recovered {
  readonly head: Head;
  /** The segment to go on with, and its size, bytes; undefined = there is none. */
  readonly segment:
    | {
        readonly first: number;
        readonly size: number;
        /** Wall clock, ms. */
        readonly bornAt: number;
      }
    | undefined;
  /** Number of the oldest record that is there; 1 in a new log. */
  readonly first: number;
  /** True if the log is new, or ends with a `stop`. */
  readonly isClean: boolean;
  /** What was set aside. */
  readonly torn: { readonly bytes: number; readonly sha256: string } | undefined;
  /** Number of the last record that a checkpoint covers. */
  readonly checkpointed: number;
}

export interface RecoverOptions {
  readonly directory: string;
  readonly key: Uint8Array;
  readonly verifier: Verifier;
  /** Besides the one in the directory. */
  readonly checkpointFile: string | undefined;
  readonly bootId: string;
}

interface Found {
  readonly records: readonly ReadRecord[];
  /** Where what is no record begins, bytes; undefined if nothing follows the last one. */
  readonly tornAt: number | undefined;
}

/** @throws StartError */
export function recover(options: RecoverOptions): Recovered {
  const { directory, bootId } = options;
  const segments = listSegments(directory);
  let torn: Recovered['torn'];
  let records: readonly ReadRecord[] = [];
  let last: Segment | undefined;
  // A segment without a whole record was begun by a process that ended with its first commit.
  for (last = segments.pop(); last !== undefined; last = segments.pop()) {
    const found = readTail(last, options);
    ({ records } = found);
    if (found.tornAt !== undefined)
      torn = setAside(last, found.tornAt, join(directory, `torn-${nextOf(last, records)}-${bootId}`));
    if (records.length > 0) break;
    unlinkSync(last.path);
  }
  syncDirectory(directory);
  const newest = records.at(-1);
  const head: Head = newest === undefined ? { seq: 0, hash: GENESIS } : newest;
  return {
    head: { seq: head.seq, hash: head.hash },
    segment: last === undefined ? undefined : describe(last),
    first: segments[0]?.first ?? last?.first ?? 1,
    isClean:
      newest === undefined
        ? torn === undefined
        : records.findLast(({ kind }) => kind !== 'checkpoint')?.kind === 'stop',
    torn,
    checkpointed: compareWithCheckpoints(head, records, options),
  };
}

function describe({ path, first }: Segment) {
  const { size, birthtimeMs, mtimeMs } = statSync(path);
  // Where a file system keeps no time of birth.
  return { first, size, bornAt: birthtimeMs > 0 ? birthtimeMs : mtimeMs };
}

function nextOf(segment: Segment, records: readonly ReadRecord[]): string {
  return String((records.at(-1)?.seq ?? segment.first - 1) + 1).padStart(16, '0');
}

/** The last records of a segment, each right and each after the one before; none only if the whole of it has none. */
function readTail(segment: Segment, options: RecoverOptions, bytes = TAIL_BYTES): Found {
  const { directory, key } = options;
  const { size } = statSync(segment.path);
  const end = endOfLines(segment.path, size);
  const from = Math.max(0, end - bytes);
  const lines = [...readLines(segment.path, from)].filter(({ offset }) => offset < end);
  // The rest of a line that begins before.
  if (from > 0) lines.shift();
  const records: ReadRecord[] = [];
  let tornAt = end < size ? end : undefined;
  for (const [index, line] of lines.entries()) {
    const read = readRecord(line.text, key);
    // Of a batch that a power failure cut, the last line may be whole and hold anything.
    if (read === undefined && index === lines.length - 1) {
      tornAt = line.offset;
      break;
    }
    const before = records.at(-1);
    const follows =
      before === undefined || (read?.record.seq === before.seq + 1 && read.record.prev === before.hash);
    if (read?.isRight !== true || !follows)
      throw refusal(
        `the audit log in ${directory} is not intact: ${segment.name}, ${before === undefined ? 'its first record read' : `after record ${before.seq}`}`,
        directory,
      );
    records.push(read.record);
  }
  // A crash may have left more that is no record than was looked at.
  if (records.length === 0 && from > 0) return readTail(segment, options, bytes * TAIL_GROWTH);
  return { records, tornAt };
}

/** Where the last newline ends, bytes. */
function endOfLines(path: string, size: number): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const buffer = Buffer.alloc(PIECE_BYTES);
    for (let end = size; end > 0; ) {
      const start = Math.max(0, end - PIECE_BYTES);
      const length = readSync(fd, buffer, 0, end - start, start);
      const newline = buffer.subarray(0, length).lastIndexOf(0x0a);
      if (newline !== -1) return start + newline + 1;
      end = start;
    }
    return 0;
  } finally {
    closeSync(fd);
  }
}

/** Copies what stands behind `offset` into a file of its own, then takes it out of the segment. */
function setAside(segment: Segment, offset: number, path: string): Recovered['torn'] {
  const from = openSync(segment.path, constants.O_RDWR | constants.O_NOFOLLOW);
  const to = openSync(path, constants.O_CREAT | constants.O_TRUNC | constants.O_WRONLY, 0o600);
  const sha256 = createHash('sha256');
  const buffer = Buffer.alloc(PIECE_BYTES);
  let bytes = 0;
  try {
    for (;;) {
      const length = readSync(from, buffer, 0, PIECE_BYTES, offset + bytes);
      if (length === 0) break;
      const piece = buffer.subarray(0, length);
      for (let at = 0; at < length; ) at += writeSync(to, piece, at);
      sha256.update(piece);
      bytes += length;
    }
    fsyncSync(to);
    ftruncateSync(from, offset);
    fsyncSync(from);
  } finally {
    closeSync(from);
    closeSync(to);
  }
  return { bytes, sha256: sha256.digest('hex') };
}

/** Number of the last record that a checkpoint covers. */
function compareWithCheckpoints(
  head: Head,
  records: readonly ReadRecord[],
  { directory, verifier, checkpointFile: external }: RecoverOptions,
): number {
  let covered = 0;
  for (const file of [checkpointFile(directory), external]) {
    if (file === undefined) continue;
    for (const note of readNotes(file)) {
      if (note.origin !== verifier.origin)
        throw refusal(
          `${file} has checkpoints of another audit log than that in ${directory}: the log was removed, or the file belongs to another instance`,
          directory,
          `if the log was removed on purpose, move ${file} away; else give each instance a file of its own`,
        );
      if (!verifier.isSignedBy(note)) continue;
      const record = records.find(({ seq }) => seq === note.size);
      if (note.size > head.seq || (record !== undefined && record.hash !== note.head))
        throw refusal(
          note.size > head.seq
            ? `the audit log in ${directory} went backwards: it ends at record ${head.seq}, and a checkpoint in ${file} covers ${note.size}`
            : `the audit log in ${directory} is not the one that was signed: record ${note.size} differs from the checkpoint in ${file}`,
          directory,
        );
      covered = Math.max(covered, note.size);
    }
  }
  return covered;
}

function readNotes(file: string): Note[] {
  try {
    return readLastNotes(file);
  } catch (error) {
    throw new StartError('audit', `the checkpoints in ${file} cannot be read (${systemCode(error)})`);
  }
}

function refusal(message: string, directory: string, hint?: string): StartError {
  return new StartError(
    'audit',
    message,
    hint ??
      `isoproxy audit verify --dir ${directory} says what is missing; to begin a new log, move the directory away and keep it`,
  );
}
