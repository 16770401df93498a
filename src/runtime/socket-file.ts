/**
 * Unix socket files: bound under a private name, given their final owner and mode, then moved into place.
 * A client never sees a socket with another mode, a stale one is replaced without a gap, and a
 * live one is never touched.
 */
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  type Stats,
  unlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';

/** A socket that cannot be opened; `message` is complete, `hint` says what to do. */
export class SocketFileError extends Error {
  readonly hint: string;

  constructor(message: string, hint: string) {
    super(message);
    this.hint = hint;
  }
}

export interface SocketFile {
  /** The name under which the kernel lists it: the private one. */
  readonly boundTo: string;
  /** Removes the file if it still is ours. */
  readonly remove: () => void;
  /** Gives the file another mode and group, as a reload may want. */
  readonly setMode: (mode: number, group: string | undefined) => void;
  /** Is the file at the path still the one that was bound here? */
  readonly isOurs: () => boolean;
}

/**
 * Makes the directory of a socket if it is absent: 0700, or 0755 if the socket's mode lets others in. One of ours that
 * is 0700 from an earlier start becomes 0755 too: nobody could use the mode that was configured since.
 * @throws SocketFileError if it is no directory, or others may write to it.
 */
export function prepareDirectory(path: string, socketMode: number): void {
  const directory = dirname(path);
  if (lstat(directory) === undefined) mkdirSync(directory, { recursive: true, mode: 0o700 });
  const letsOthersIn = (socketMode & 0o077) !== 0;
  const made = lstat(directory);
  if (letsOthersIn && made?.isDirectory() && made.uid === process.getuid?.() && (made.mode & 0o777) === 0o700)
    chmodSync(directory, 0o755);
  const stat = lstat(directory);
  if (stat?.isSymbolicLink() || !stat?.isDirectory()) {
    throw new SocketFileError(`${directory} is not a directory`, 'remove it, or set another socket path');
  }
  if ((stat.mode & 0o022) !== 0) {
    throw new SocketFileError(
      `${directory} is writable by its group or by others, who could replace the socket`,
      `chmod go-w ${directory}, or use a directory of its own`,
    );
  }
}

let bindings = 0;

/**
 * Binds a socket at `path`. `bind` listens on the path that it is given; `discard` stops what it returned.
 * @throws SocketFileError for a live socket, a foreign file, or an unknown group.
 */
export async function bindSocket<T>(
  path: string,
  mode: number,
  group: string | undefined,
  bind: (path: string) => T,
  discard: (server: T) => void,
): Promise<{ readonly server: T; readonly file: SocketFile }> {
  const gid = group === undefined ? undefined : groupId(group);
  await refuseForeign(path);
  const temporary = join(dirname(path), `.${process.pid.toString(36)}-${(++bindings).toString(36)}`);
  if (lstat(temporary)?.isSocket()) unlinkSync(temporary);
  const umask = process.umask(0o177);
  let server: T;
  try {
    server = bind(temporary);
  } finally {
    process.umask(umask);
  }
  const { dev, ino } = lstatSync(temporary);
  try {
    if (gid !== undefined) setGroup(temporary, gid, group);
    chmodSync(temporary, mode);
    renameSync(temporary, path);
  } catch (error) {
    unlinkSync(temporary);
    discard(server);
    throw error;
  }
  const isOurs = () => {
    const now = lstat(path);
    return now !== undefined && now.dev === dev && now.ino === ino;
  };
  const remove = () => {
    try {
      if (isOurs()) unlinkSync(path);
    } catch {
      // Left behind, it is a stale socket, which the next start replaces; stopping must not fail over it.
    }
  };
  const setMode = (nextMode: number, nextGroup: string | undefined) => {
    if (!isOurs()) return;
    if (nextGroup !== undefined) setGroup(path, groupId(nextGroup), nextGroup);
    chmodSync(path, nextMode);
  };
  return { server, file: { boundTo: temporary, isOurs, remove, setMode } };
}

function setGroup(path: string, gid: number, group: string | undefined): void {
  try {
    chownSync(path, -1, gid);
  } catch (error) {
    if ((error as { code?: string }).code !== 'EPERM') throw error;
    throw new SocketFileError(
      `this user is not in group ${group}`,
      'add it with usermod -aG, or set another group',
    );
  }
}

/** Lets nothing but a dead socket of our own be replaced. */
async function refuseForeign(path: string): Promise<void> {
  const stat = lstat(path);
  if (stat === undefined) return;
  if (!stat.isSocket()) {
    throw new SocketFileError(`${path} exists and is not a socket`, 'remove it, or set another socket path');
  }
  const uid = process.getuid?.();
  if (uid !== 0 && stat.uid !== uid) {
    throw new SocketFileError(
      `${path} belongs to another user (uid ${stat.uid})`,
      'remove it as that user, or set another socket path',
    );
  }
  if (await isLive(path)) {
    throw new SocketFileError(
      `${path} is in use: another process listens there`,
      "stop it first (pgrep -af 'isoproxy serve' shows it), or set another socket path",
    );
  }
}

/** Does somebody listen? Anything but a plain refusal counts as yes. */
async function isLive(path: string): Promise<boolean> {
  const { connect } = await import('node:net');
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: Error & { code?: string }) =>
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
}

/** Looks a group up in /etc/group: neither runtime offers getgrnam(3). */
function groupId(name: string): number {
  if (/^[0-9]+$/.test(name)) return Number(name);
  for (const line of readFileSync('/etc/group', 'utf8').split('\n')) {
    const [group, , gid] = line.split(':');
    if (group === name && gid !== undefined) return Number(gid);
  }
  throw new SocketFileError(`no group named ${name}`, 'create it with groupadd, or give its numeric id');
}

function lstat(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}
