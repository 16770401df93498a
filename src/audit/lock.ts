/**
 * One writer for a log, by a lock that nothing but the process holds: it is gone when the process is, however that ended.
 *
 * Node's file functions know no locks; SQLite takes a POSIX lock on its file, in both runtimes. The file stays empty.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';

/** Returns what releases it; undefined if another process has it. */
export function lock(path: string): (() => void) | undefined {
  // With its mode, which SQLite leaves to the umask. Closed at once: closing it later would give the lock away (fcntl(2)).
  closeSync(openSync(path, constants.O_CREAT | constants.O_RDWR | constants.O_NOFOLLOW, 0o600));
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    // No journal file beside it.
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (/locked/.test((error as Error).message)) return undefined;
    throw error;
  }
  return () => database.close();
}
