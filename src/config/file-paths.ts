/** Paths in a configuration: absolute, because the working directory may belong to an agent. */
import { realpathSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, normalize } from 'node:path';
import { ValueError } from './config-error.ts';

/** Longest path of a unix socket: sun_path holds 108 bytes with its final NUL (unix(7)). */
export const MAX_SOCKET_BYTES = 107;

/** An absolute path, normalised (no "." or "..", no final slash). */
export function parsePath(text: string): string {
  if (text.includes('\0')) throw new ValueError('a path holds no NUL');
  if (text.startsWith('~')) throw new ValueError('"~" is not expanded; write the absolute path');
  if (!isAbsolute(text))
    throw new ValueError('must be an absolute path, so that the working directory has no say in it');
  const path = normalize(text);
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
}

/** The path of a unix socket. Abstract names ("@…", NUL) have no permissions at all and are refused. */
export function parseSocketPath(text: string): string {
  if (text.startsWith('@') || text.startsWith('\0'))
    throw new ValueError('abstract sockets have no permissions, any local user could connect; name a path');
  const path = parsePath(text);
  const bytes = new TextEncoder().encode(path).length;
  if (bytes > MAX_SOCKET_BYTES)
    throw new ValueError(
      `a socket path has at most ${MAX_SOCKET_BYTES} bytes, this one has ${bytes}; shorten the directory or the name`,
    );
  return path;
}

/** The path with links resolved as far as it exists; the rest as written. */
export function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(realPath(parent), basename(path));
  }
}

/** Is `path` the directory itself or anything below it? Both as realPath gives them. */
export function isWithin(directory: string, path: string): boolean {
  return path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`);
}
