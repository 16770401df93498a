/** A lock between processes that holds when one of them is killed: a file that names who made it. */
import {
  closeSync,
  constants,
  linkSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import process from 'node:process';

/** How long another process may hold the lock, ms. Longer, and it must have died. */
const LOCK_WAIT_MS = 1_000;
const LOCK_STEP_MS = 10;

/**
 * Waits for the lock and takes it; blocks the process meanwhile, a second at the most.
 * @returns what gives it back
 * @throws Error with the system's code, if it cannot be made
 */
export function takeLock(path: string): () => void {
  const own = describeSelf();
  for (let waited = 0; ; ) {
    if (create(path, own)) return () => removeFile(path);
    const holder = readHolder(path);
    if (holder !== undefined && isDead(holder, own)) steal(path, holder);
    else if (waited < LOCK_WAIT_MS) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOCK_STEP_MS);
      waited += LOCK_STEP_MS;
    } else removeFile(path);
  }
}

/** Removes a file, if it is there. */
export function removeFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
  }
}

/** The process, and where its number counts: in a container, the same number is another process. */
function describeSelf(): string | undefined {
  try {
    return `${process.pid} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return undefined;
  }
}

function create(path: string, own = ''): boolean {
  const { O_CREAT, O_EXCL, O_WRONLY, O_NOFOLLOW } = constants;
  let fd: number;
  try {
    fd = openSync(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0o600);
  } catch (error) {
    if ((error as { code?: string }).code === 'EEXIST') return false;
    throw error;
  }
  try {
    writeSync(fd, own);
  } catch {
    // A full disk still has room for an empty file, and a halt must not fail over the name of who wrote it.
  } finally {
    closeSync(fd);
  }
  return true;
}

function readHolder(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** Is it certain that the holder has ended? */
function isDead(holder: string, own: string | undefined): boolean {
  const [, pid, place] = /^([1-9][0-9]{0,9}) (.+)$/.exec(holder) ?? [];
  if (pid === undefined || own === undefined || place !== own.slice(own.indexOf(' ') + 1)) return false;
  // It does one thing at a time: whoever had this number before it left the lock behind.
  if (holder === own) return true;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as { code?: string }).code === 'ESRCH';
  }
}

/** Of several that find the holder dead, a later one must not take away the lock of the first. */
function steal(path: string, holder: string): void {
  const aside = `${path}.${process.pid.toString(36)}`;
  try {
    renameSync(path, aside);
    if (readHolder(aside) !== holder) linkSync(aside, path);
  } catch {
    // Another one was faster.
  }
  removeFile(aside);
}
