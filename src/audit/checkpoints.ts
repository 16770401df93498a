/** When the log is signed, and where the signed text goes. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../system-code.ts';
import { formatNote, type Note, parseNotes, type Signer } from './checkpoint.ts';
import type { Head, RecordBody } from './record.ts';

/** As much of the end of a file of checkpoints as is read at a start: a few hundred of them. */
const TAIL_BYTES = 64 * 1024;
/** How long the last one may take to be written: its file may be on a file system that does not answer, ms. */
const FINISH_MS = 2_000;

export interface Checkpoints {
  /** So many more records are on disk now. Returns the record of a checkpoint if that was time for one. */
  readonly observe: (head: Head, plainRecords: number) => RecordBody | undefined;
  /** Makes one that announces what is about to be removed; returns its record. */
  readonly announce: (head: Head, first: number) => RecordBody;
  /** The last one, which no record tells of: `stop` stays the last record. Resolves when it is written. */
  readonly finish: (head: Head) => Promise<void>;
  /** Number of the last record that one covers. */
  readonly size: () => number;
}

export interface CheckpointsOptions {
  readonly signer: Signer;
  /** Files that each of them is appended to. */
  readonly files: () => readonly string[];
  readonly every: () => number;
  readonly intervalMs: () => number;
  /** Number of the oldest record that is kept. */
  readonly first: number;
  /** Number of the last record that one covers, at the start. */
  readonly size: number;
  /** Called for each. */
  readonly onNote: (note: Note) => void;
  /** It could not be written to a file. */
  readonly onFault: (file: string, code: string) => void;
  readonly now: () => number;
  readonly wallNow: () => number;
}

export function checkpointFile(directory: string): string {
  return join(directory, 'checkpoints');
}

export function createCheckpoints(options: CheckpointsOptions): Checkpoints {
  let { first, size } = options;
  let uncovered = 0;
  let madeAt = options.now();
  /** Does the file end with a whole one? */
  const writing = new Map<string, Promise<boolean>>();

  function make(head: Head): Note {
    const time = new Date(options.wallNow()).toISOString();
    const note = options.signer.sign({ size: head.seq, head: head.hash, first, time });
    for (const file of options.files()) write(file, formatNote(note));
    options.onNote(note);
    size = head.seq;
    uncovered = 0;
    madeAt = options.now();
    return note;
  }

  /** Off the request path, and one after the other; the log does not wait for it. */
  function write(file: string, text: string): void {
    const before = writing.get(file) ?? Promise.resolve(false);
    // One may have been left unfinished: what comes behind it begins on a line of its own.
    const done = before
      .then((isWhole) => appendText(file, isWhole ? text : `\n${text}`))
      .then(
        () => true,
        (error) => {
          options.onFault(file, systemCode(error));
          return false;
        },
      );
    writing.set(file, done);
  }

  function recordOf({ size, head, first, time, signature }: Note): RecordBody {
    return { kind: 'checkpoint', size, head, first, signed: time, signature };
  }

  return {
    observe(head, plainRecords) {
      uncovered += plainRecords;
      const isTime =
        uncovered >= options.every() || (uncovered > 0 && options.now() - madeAt >= options.intervalMs());
      return isTime ? recordOf(make(head)) : undefined;
    },
    announce(head, oldest) {
      first = oldest;
      return recordOf(make(head));
    },
    async finish(head) {
      if (head.seq > size) make(head);
      const { promise: late, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, FINISH_MS);
      await Promise.race([Promise.all(writing.values()), late]);
      clearTimeout(timer);
    },
    size: () => size,
  };
}

async function appendText(path: string, text: string): Promise<void> {
  const { O_APPEND, O_CREAT, O_NOFOLLOW, O_WRONLY } = constants;
  const file = await open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The checkpoints at the end of a file; none if there is no file. @throws Error with the system's code */
export function readLastNotes(path: string): Note[] {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return [];
    throw error;
  }
  try {
    const { size } = fstatSync(fd);
    const buffer = Buffer.alloc(Math.min(size, TAIL_BYTES));
    const length = readSync(fd, buffer, 0, buffer.length, size - buffer.length);
    return parseNotes(buffer.toString('utf8', 0, length));
  } finally {
    closeSync(fd);
  }
}
