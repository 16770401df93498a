/** A segment that is being written: what is appended is on disk, in the file that stands in its place, or it failed. */
import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  openSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemCode } from '../system-code.ts';
import { segmentName } from './segments.ts';

const MODE = 0o600;

const syncData = promisify(fdatasync);

/** A commit that failed. */
export class AuditFault extends Error {
  /** The system's code, or what is wrong with the file: `removed`, `replaced`, `truncated`, `mode_changed`. */
  readonly code: string;

  constructor(code: string) {
    super(`the audit log failed: ${code}`);
    this.code = code;
  }
}

export interface SegmentFile {
  /** Number of its first record. */
  readonly first: number;
  /** Bytes that are on disk. */
  readonly size: () => number;
  /** Resolves when the bytes are on disk. After a failure, nothing but `giveUp` and `close` makes sense. @throws AuditFault */
  readonly append: (bytes: Uint8Array) => Promise<void>;
  /** Removes all but the first `bytes`, so that it can be written elsewhere. @throws AuditFault */
  readonly giveUp: (bytes: number) => void;
  readonly close: () => void;
}

/** How segments are opened; tests put faults here. */
export interface SegmentFiles {
  /** A new segment, which must not be there. @throws AuditFault */
  readonly create: (first: number) => SegmentFile;
  /** One that has `size` bytes, to go on with. @throws AuditFault */
  readonly open: (first: number, size: number) => SegmentFile;
}

export function createSegmentFiles(directory: string): SegmentFiles {
  const { O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
  const pathOf = (first: number) => join(directory, segmentName(first));
  // Opened before it is needed: when a segment ends there may be no descriptor left.
  const directoryFd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  return {
    create: (first) =>
      asFault(() => {
        const path = pathOf(first);
        const fd = openSync(path, O_CREAT | O_EXCL | O_WRONLY | O_APPEND | O_NOFOLLOW, MODE);
        try {
          // A file whose name is not on disk is not there after a power failure.
          fsyncSync(directoryFd);
          return openFile(path, fd, first, 0);
        } catch (error) {
          // Else the next attempt would find its name taken.
          closeSync(fd);
          unlinkSync(path);
          throw error;
        }
      }),
    open: (first, size) =>
      asFault(() => {
        const path = pathOf(first);
        const file = openFile(path, openSync(path, O_WRONLY | O_APPEND | O_NOFOLLOW), first, size);
        // The process before may have ended between its write and its sync.
        file.settle();
        return file;
      }),
  };
}

function openFile(path: string, fd: number, first: number, initialSize: number) {
  let size = initialSize;
  const { dev, ino } = fstatSync(fd);

  /** Whoever removes or replaces a log must not be thanked with a proxy that keeps serving. */
  function check(expected: number): void {
    const stat = fstatSync(fd);
    const named = lstatSync(path, { throwIfNoEntry: false });
    if (named === undefined || stat.nlink === 0) throw new AuditFault('removed');
    if (named.dev !== dev || named.ino !== ino || stat.nlink !== 1) throw new AuditFault('replaced');
    if (stat.size !== expected) throw new AuditFault(stat.size < expected ? 'truncated' : 'replaced');
    if ((stat.mode & 0o777) !== MODE) throw new AuditFault('mode_changed');
  }

  return {
    first,
    size: () => size,
    async append(bytes: Uint8Array) {
      try {
        // Into the page cache: a thread of the pool would take ten times as long as the copy.
        for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
        await syncData(fd);
        check(size + bytes.length);
      } catch (error) {
        throw toFault(error);
      }
      size += bytes.length;
    },
    settle() {
      fsyncSync(fd);
      check(size);
    },
    giveUp: (bytes: number) =>
      asFault(() => {
        // Somebody may have made it shorter still.
        ftruncateSync(fd, Math.min(bytes, fstatSync(fd).size));
        // Before the same records stand elsewhere.
        fsyncSync(fd);
        const named = lstatSync(path, { throwIfNoEntry: false });
        if (bytes === 0 && named?.ino === ino && named.dev === dev) unlinkSync(path);
      }),
    close: () => closeSync(fd),
  };
}

function asFault<T>(attempt: () => T): T {
  try {
    return attempt();
  } catch (error) {
    throw toFault(error);
  }
}

export function toFault(error: unknown): AuditFault {
  if (error instanceof AuditFault) return error;
  return new AuditFault(systemCode(error));
}
