/** The files of the log: how segments are named, listed and read. */
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';

export interface Segment {
  readonly path: string;
  readonly name: string;
  /** Number of its first record. */
  readonly first: number;
}

const NAME = /^log-([0-9]{16})\.jsonl$/;
const CHUNK = 1024 * 1024;

export function auditDirectory(stateDir: string): string {
  return join(stateDir, 'audit');
}

export function segmentName(first: number): string {
  return `log-${String(first).padStart(16, '0')}.jsonl`;
}

/** The segments of a log, oldest first; none if there is no directory. */
export function listSegments(directory: string): Segment[] {
  return namesIn(directory)
    .flatMap((name) => {
      const digits = NAME.exec(name)?.[1];
      return digits === undefined ? [] : [{ path: join(directory, name), name, first: Number(digits) }];
    })
    .sort((a, b) => a.first - b.first);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return [];
    throw error;
  }
}

/** A line of a segment, without its newline, and where it begins. */
export interface Line {
  readonly text: string;
  readonly offset: number;
  /** False for what stands after the last newline. */
  readonly isWhole: boolean;
}

/**
 * The lines of a segment, a megabyte in memory at a time; a line that is longer comes in pieces. Bytes are taken for
 * Latin-1, so that each is one character, whatever it is. What is appended meanwhile is not read.
 * @param from where to begin, bytes; in the middle of a line, its rest comes first
 * @throws Error with the system's code
 */
export function* readLines(path: string, from = 0): Generator<Line> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const end = fstatSync(fd).size;
    const buffer = Buffer.alloc(CHUNK);
    let rest = '';
    let offset = from;
    for (let at = from; at < end; ) {
      const length = readSync(fd, buffer, 0, Math.min(CHUNK, end - at), at);
      if (length === 0) break;
      at += length;
      const text = rest + buffer.toString('latin1', 0, length);
      let start = 0;
      for (let newline = text.indexOf('\n'); newline !== -1; newline = text.indexOf('\n', start)) {
        yield { text: text.slice(start, newline), offset, isWhole: true };
        offset += newline + 1 - start;
        start = newline + 1;
      }
      rest = text.slice(start);
      if (rest.length <= CHUNK) continue;
      yield { text: rest, offset, isWhole: true };
      offset += rest.length;
      rest = '';
    }
    if (rest !== '') yield { text: rest, offset, isWhole: false };
  } finally {
    closeSync(fd);
  }
}
