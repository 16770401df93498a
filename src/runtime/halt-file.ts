/**
 * The file `halt` in the state directory: what is halted, one line each, also when a person wrote it.
 *
 *     all # 2026-01-31T12:00:00.000Z key leaked
 *     provider NAME
 *     listener NAME
 *
 * Fail safe: a file that is empty, holds comments only, or cannot be read or understood halts the whole proxy.
 */
import {
  closeSync,
  constants,
  fchownSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import {
  createHalt,
  formatScope,
  type Halt,
  type HaltFile,
  type HaltScope,
  mergeHalts,
  parseScope,
  tidyReason,
} from '../guards/kill-switch.ts';
import { syncDirectory } from '../sync-directory.ts';
import { systemCode } from '../system-code.ts';
import { removeFile, takeLock } from './lock-file.ts';

/** Longest file that is read, bytes: more than a thousand halts with the longest reasons. */
const MAX_FILE_BYTES = 1024 * 1024;
/**
 * How often a changed file is read again although it looks the same: two writes within one tick of the file system's
 * clock (2 s at the worst, eight polls) may leave the same times and size.
 */
const SETTLING_READS = 8;
const HEADER =
  '# Written by isoproxy. `isoproxy resume` lifts halts; so does removing a line, or this file.\n';
/** The last moment that RFC 3339 can name, ms. */
const LAST_MOMENT = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

export function createHaltFile(stateDir: string): HaltFile {
  const path = join(stateDir, 'halt');
  let known = '';
  let settling = 0;
  let failure: Halt | undefined;

  function read(): readonly Halt[] | 'unchanged' | 'lost' {
    try {
      const looks = looksOf(path);
      if (looks === 'absent' && !isPresent(stateDir)) {
        known = '';
        return 'lost';
      }
      if (looks !== known) settling = SETTLING_READS;
      else if (settling === 0) return 'unchanged';
      else settling--;
      known = looks;
      return looks === 'absent' ? [] : readHalts(path);
    } catch (error) {
      // Not known, so the next call tries again, and tells the same halt for the same failure.
      known = '';
      const halt = unreadable(error);
      if (failure?.reason !== halt.reason) failure = halt;
      return [failure];
    }
  }

  function update(change: (inFile: readonly Halt[]) => readonly Halt[]): readonly Halt[] {
    // Of two that read, then write, the second would undo the halt of the first.
    const unlock = takeLock(join(stateDir, '.halt.lock'));
    // Else a file that is removed before the next look would pass for one that never was.
    known = '';
    try {
      const next = change(readHaltsNow(path));
      if (next.length > 0) replace(stateDir, path, next);
      else removeFile(path);
      syncDirectory(stateDir);
      return next;
    } finally {
      unlock();
    }
  }

  return { read, update };
}

/**
 * Adds a halt to the file, for when no proxy answers; a running one sees it with its next poll. Returns all that the
 * file holds then.
 * @throws Error with the system's code; RangeError for a name that cannot be halted
 */
export function writeHaltByHand(stateDir: string, scope: HaltScope, reason: string): readonly Halt[] {
  const halt = createHalt(scope, reason, Date.now());
  // A proxy that has never run has none; its first start will find it halted.
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  return createHaltFile(stateDir).update((inFile) => mergeHalts(inFile, [halt]));
}

/** The halts in a text; `since` for lines that name no time. Exported for its tests. */
export function parseHalts(text: string, since: string): readonly Halt[] {
  const halts: Halt[] = [];
  let misread = 0;
  for (const [index, line] of text.split('\n').entries()) {
    const hash = line.search(/(?:^|[ \t])#/);
    const written = (hash === -1 ? line : line.slice(0, hash)).trim();
    const comment = hash === -1 ? undefined : line.slice(line.indexOf('#', hash) + 1).trim();
    const scope = parseScope(written);
    if (scope !== undefined) halts.push({ scope, ...parseComment(comment, since) });
    else if (written !== '') misread ||= index + 1;
  }
  if (misread > 0) halts.push(wholeProxy(`line ${misread} of the halt file is not understood`, since));
  else if (halts.length === 0) halts.push(wholeProxy('the halt file names nothing', since));
  return mergeHalts([], halts);
}

function parseComment(comment: string | undefined, since: string): Pick<Halt, 'reason' | 'since'> {
  if (comment === undefined) return { since, reason: 'by hand' };
  const [, time, reason = ''] = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)(?: (.*))?$/.exec(comment) ?? [];
  if (time === undefined || Number.isNaN(Date.parse(time))) return { since, reason: tidyReason(comment) };
  return { since: time, reason: tidyReason(reason) };
}

function formatHalts(halts: readonly Halt[]): string {
  const lines = halts.map(({ scope, since, reason }) =>
    `${formatScope(scope)} # ${since} ${reason}`.trimEnd(),
  );
  return `${HEADER}${lines.join('\n')}\n`;
}

/** Tells one state of the file from another, without opening it. */
function looksOf(path: string): string {
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (stat === undefined) return 'absent';
  return [stat.dev, stat.ino, stat.mode, stat.size, stat.mtimeNs, stat.ctimeNs].join(' ');
}

function isPresent(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

function readHaltsNow(path: string): readonly Halt[] {
  try {
    return looksOf(path) === 'absent' ? [] : readHalts(path);
  } catch (error) {
    return [unreadable(error)];
  }
}

/** @throws Error if it cannot be opened: then it is to be tried again */
function readHalts(path: string): readonly Halt[] {
  // Without O_NONBLOCK a pipe in its place would block the proxy.
  const fd = openUnlessGone(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
  if (fd === undefined) return [];
  try {
    const stat = fstatSync(fd);
    const since = momentOf(stat.mtimeMs);
    if (!stat.isFile()) return [wholeProxy('the halt file is no regular file', since)];
    if (stat.size > MAX_FILE_BYTES) return [wholeProxy('the halt file is too large', since)];
    // What is appended meanwhile, the next look finds.
    const buffer = new Uint8Array(stat.size);
    const length = readSync(fd, buffer, 0, buffer.length, 0);
    try {
      return parseHalts(new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(0, length)), since);
    } catch {
      return [wholeProxy('the halt file is not UTF-8', since)];
    }
  } finally {
    closeSync(fd);
  }
}

/** Removed between the look at it and its opening, it is absent, and no reason to halt the whole proxy. */
function openUnlessGone(path: string, flags: number): number | undefined {
  try {
    return openSync(path, flags);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return undefined;
    throw error;
  }
}

function unreadable(error: unknown): Halt {
  const code = systemCode(error);
  const reason =
    code === 'ELOOP' ? 'the halt file is a symbolic link' : `the halt file cannot be read (${code})`;
  return wholeProxy(reason, momentOf(Date.now()));
}

function wholeProxy(reason: string, since: string): Halt {
  return { scope: { kind: 'all' }, reason, since };
}

/** File systems keep times that no date can hold. */
function momentOf(ms: number): string {
  return new Date(Math.min(LAST_MOMENT, Math.max(0, ms))).toISOString();
}

/** The file is whole at every moment: the old one, then the new one. */
function replace(directory: string, path: string, halts: readonly Halt[]): void {
  const temporary = join(directory, `.halt.${process.pid.toString(36)}`);
  removeFile(temporary);
  const { O_CREAT, O_EXCL, O_WRONLY, O_NOFOLLOW } = constants;
  const fd = openSync(temporary, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0o600);
  try {
    try {
      // Written by root, it has to be readable for the user whose proxy is halted.
      if (process.getuid?.() === 0) giveToOwnerOf(directory, fd);
      writeAll(fd, halts);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    removeFile(temporary);
    throw error;
  }
}

function giveToOwnerOf(directory: string, fd: number): void {
  const { uid, gid } = statSync(directory);
  if (uid !== 0) fchownSync(fd, uid, gid);
}

function writeAll(fd: number, halts: readonly Halt[]): void {
  const bytes = new TextEncoder().encode(formatHalts(halts));
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  } catch (error) {
    // A full disk still has room for an empty file, and that says the same.
    const isAllOnly = halts.length === 1 && halts[0]?.scope.kind === 'all';
    if (!isAllOnly) throw error;
    ftruncateSync(fd, 0);
  }
}
