/**
 * What a start finds of the log: where the chain ends, whether the process before ended as it should, and whether
 * anything is missing. What a crash left unfinished is set aside; what no crash explains is a reason not to start.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fsyncSync,
  openSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { StartError } from '../start-error.ts';
import type { Note, Verifier } from './checkpoint.ts';
import { checkpointFile, readLastNotes } from './checkpoints.ts';
import { GENESIS, type Head, type ReadRecord, readRecord } from './record.ts';
import { syncDirectory, toFault } from './segment-file.ts';
import { type Line, listSegments, readLines, type Segment } from './segments.ts';

/** As much of the end of the last segment as is verified at a start: more than a thousand records. */
const TAIL_BYTES = 1024 * 1024;

export interface Recovered {
  readonly head: Head;
  /** The segment to go on with, and its size, bytes; undefined = there is none. */
  readonly segment: { readonly first: number; readonly size: number } | undefined;
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
  readonly torn: Line | undefined;
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
    if (found.torn !== undefined)
      torn = setAside(last, found.torn, join(directory, `torn-${nextOf(last, records)}-${bootId}`));
    if (records.length > 0) break;
    unlinkSync(last.path);
  }
  syncDirectory(directory);
  const newest = records.at(-1);
  const head: Head = newest === undefined ? { seq: 0, hash: GENESIS } : newest;
  return {
    head: { seq: head.seq, hash: head.hash },
    segment: last === undefined ? undefined : { first: last.first, size: statSync(last.path).size },
    first: segments[0]?.first ?? last?.first ?? 1,
    isClean: newest === undefined || records.findLast(({ kind }) => kind !== 'checkpoint')?.kind === 'stop',
    torn,
    checkpointed: compareWithCheckpoints(head, records, options),
  };
}

function nextOf(segment: Segment, records: readonly ReadRecord[]): string {
  return String((records.at(-1)?.seq ?? segment.first - 1) + 1).padStart(16, '0');
}

/** The last records of a segment, each right and each after the one before. */
function readTail(segment: Segment, { directory, key }: RecoverOptions): Found {
  const { size } = statSync(segment.path);
  const from = Math.max(0, size - TAIL_BYTES);
  const lines = [...readLines(segment.path, from)];
  // The rest of a line that begins before.
  if (from > 0) lines.shift();
  const records: ReadRecord[] = [];
  for (const [index, line] of lines.entries()) {
    const read = line.isWhole ? readRecord(line.text, key) : undefined;
    // Of a batch that a power failure cut, the last line may be whole and hold anything.
    if (read === undefined && index === lines.length - 1) return { records, torn: line };
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
  return { records, torn: undefined };
}

/** Copies the bytes into a file of their own, then takes them out of the segment. */
function setAside(segment: Segment, line: Line, path: string): Recovered['torn'] {
  const bytes = Buffer.from(line.isWhole ? `${line.text}\n` : line.text, 'latin1');
  const fd = openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600);
  try {
    writeSync(fd, bytes);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  truncateSync(segment.path, line.offset);
  return { bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
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
    throw new StartError('audit', `the checkpoints in ${file} cannot be read (${toFault(error).code})`);
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
