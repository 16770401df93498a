/** Opens configuration files. Whoever may write one decides where credentials go, so permissions count. */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync, type Stats } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ValueError } from './config-error.ts';

/** Far more than a configuration needs; a wrong path (a log, a device) should not fill the memory. */
const MAX_CONFIG_BYTES = 4 * 1024 ** 2;

/**
 * The text of a configuration file, read through one descriptor, so that what is checked is what is read.
 * @throws ValueError if it cannot be opened, is no regular file, is writable by group or others, or is not UTF-8.
 */
export function readConfigFile(path: string): string {
  let fd: number;
  try {
    // Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw new ValueError(openFailure(error));
  }
  try {
    checkFile(fstatSync(fd));
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(fd));
  } catch (error) {
    if (error instanceof ValueError) throw error;
    throw new ValueError(error instanceof TypeError ? 'is not UTF-8 text' : openFailure(error));
  } finally {
    closeSync(fd);
  }
}

function checkFile(stat: Stats): void {
  if (!stat.isFile()) throw new ValueError('is not a regular file');
  if (stat.size > MAX_CONFIG_BYTES) throw new ValueError('is larger than 4 MiB');
  if ((stat.mode & 0o022) !== 0) {
    const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
    throw new ValueError(`is writable by its group or others (mode ${mode}); chmod go-w it`);
  }
}

function openFailure(error: unknown): string {
  const code = (error as { code?: string }).code;
  if (code === 'ENOENT') return 'does not exist';
  if (code === 'EACCES') return 'cannot be opened: permission denied';
  return `cannot be read (${code ?? 'unknown error'})`;
}

/**
 * The files that an include pattern names, sorted by bytes. "*" stands for any part of the file name (no
 * leading dot); directories hold no pattern.
 * @throws ValueError for a pattern in a directory, or a directory that cannot be read.
 */
export function expandInclude(pattern: string): string[] {
  if (!pattern.includes('*')) return [pattern];
  const directory = dirname(pattern);
  if (directory.includes('*')) throw new ValueError('"*" stands only in the file name, not in a directory');
  const [head, ...rest] = basename(pattern).split('*') as [string, ...string[]];
  const matches = (name: string): boolean => {
    if (!name.startsWith(head) || (name.startsWith('.') && !head.startsWith('.'))) return false;
    let at = head.length;
    for (const [index, part] of rest.entries()) {
      const last = index === rest.length - 1;
      const found = last ? name.length - part.length : name.indexOf(part, at);
      if (found < at || !name.startsWith(part, found)) return false;
      at = found + part.length;
    }
    return true;
  };
  return listDirectory(directory)
    .filter(matches)
    .sort()
    .map((name) => join(directory, name));
}

function listDirectory(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    // A directory of includes that is not there yet is like an empty one.
    if ((error as { code?: string }).code === 'ENOENT') return [];
    throw new ValueError(`its directory ${openFailure(error)}`);
  }
}
