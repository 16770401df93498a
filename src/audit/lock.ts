/**
 * One writer for a log, by a lock that nothing but the process holds: it is gone when the process is, however that ended.
 *
 * Node's file functions know no locks; SQLite takes a POSIX lock on its file, in both runtimes. The file stays empty.
 */
import { DatabaseSync } from 'node:sqlite';

/** Returns what releases it; undefined if another process has it. */
export function lock(path: string): (() => void) | undefined {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec('BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (/locked/.test((error as Error).message)) return undefined;
    throw error;
  }
  return () => database.close();
}
