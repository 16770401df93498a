/** A file that was made, renamed or removed is so after a power failure only when its directory is on disk too. */
import { closeSync, constants, fsyncSync, openSync } from 'node:fs';

/** @throws Error with the system's code */
export function syncDirectory(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
