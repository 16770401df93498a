/** Where the proxy is, as seen from inside the sandbox: which sockets there are, and why one cannot be used. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import type { Discovery } from '../discovery.ts';

/** One way to a proxy: a unix socket, or a TCP listener of a host that cannot share a socket with the sandbox. */
export type Place =
  | { readonly kind: 'socket'; readonly path: string }
  | { readonly kind: 'url'; readonly origin: string; readonly token: string };

/** A reason why a place cannot be used, and what to do about it. Never holds a secret. */
export class PlaceError extends Error {
  readonly hint: string;
  /** Could it be otherwise in a moment, because the proxy is being restarted? */
  readonly isTransient: boolean;

  constructor(message: string, hint: string, isTransient = false) {
    super(message);
    this.hint = hint;
    this.isTransient = isTransient;
  }
}

/** A place that answered, and what it offers. */
export interface Found {
  readonly place: Place;
  readonly discovery: Discovery;
}

/** A proxy as clients reach it. */
export interface Reachable {
  /** `http://127.0.0.1:PORT`, without a trailing slash. */
  readonly origin: string;
  readonly discovery: Discovery;
  /** Presented instead of a placeholder key, where the listener wants one. */
  readonly token: string | undefined;
}

/** Makes sockets reachable for clients; `bridge` opens one and resolves to its origin. A TCP listener needs none. */
export async function reach(
  found: readonly Found[],
  bridge: (socket: string) => Promise<string>,
): Promise<readonly Reachable[]> {
  const reachable: Reachable[] = [];
  for (const { place, discovery } of found)
    reachable.push(
      place.kind === 'url'
        ? { origin: place.origin, discovery, token: place.token }
        : { origin: await bridge(place.path), discovery, token: undefined },
    );
  return reachable;
}

/** Where a socket is looked for if none is named: the default paths of listeners, as they are mounted. */
export function defaultPatterns(env: Readonly<Record<string, string | undefined>>): readonly string[] {
  const runtimeDir = env['XDG_RUNTIME_DIR'];
  const own = runtimeDir ? [join(runtimeDir, 'isoproxy/*/isoproxy.sock')] : [];
  return ['/run/isoproxy/isoproxy.sock', '/run/isoproxy/*/isoproxy.sock', ...own];
}

/** Paths that match a pattern and are sockets, sorted. */
export function findSockets(patterns: readonly string[]): readonly string[] {
  const found = patterns.flatMap(expand);
  return [...new Set(found)].filter((path) => statOf(path)?.isSocket()).sort();
}

/** Paths where a socket could be, because their directory is there: empty during a restart, or closed to us. */
export function findEmptyPlaces(patterns: readonly string[]): readonly string[] {
  const directories = patterns
    .filter((pattern) => pattern.includes('*'))
    .flatMap((pattern) => expand(dirname(pattern)));
  return directories.filter((path) => statOf(path)?.isDirectory()).map((path) => join(path, 'isoproxy.sock'));
}

/**
 * What a pattern can mean: a path, or one with a `*` that stands for a whole name. No glob of the runtime, which
 * passes over linked directories and takes a `[` in $XDG_RUNTIME_DIR for more than a letter.
 */
function expand(pattern: string): readonly string[] {
  const at = pattern.lastIndexOf('/*');
  if (at === -1) return [pattern];
  try {
    return readdirSync(pattern.slice(0, at) || '/').map(
      (name) => `${pattern.slice(0, at)}/${name}${pattern.slice(at + 2)}`,
    );
  } catch {
    return [];
  }
}

/** Says in words what a system error means for the socket at `path`, and what to change where. */
export function explainSocketError(path: string, code: string): PlaceError {
  const stat = statOf(path);
  const directory = dirname(path);
  const mount = `mount the directory of the listener's socket on the host at ${directory} (bwrap --ro-bind, docker -v …:ro)`;
  if (code === 'EACCES' || code === 'EPERM' || (stat === undefined && deniedOn(directory))) {
    return new PlaceError(`${path}: permission denied: ${describeOwner(path)}`, permissionHint());
  }
  if (stat === undefined) {
    return statOf(directory)
      ? new PlaceError(
          `${path}: no such socket`,
          `is isoproxy serve running on the host? If it is, ${mount}`,
          true,
        )
      : new PlaceError(`${path}: no such directory`, mount);
  }
  if (!stat.isSocket())
    return new PlaceError(`${path} is not a socket`, 'name the socket itself: DIRECTORY/isoproxy.sock');
  if (isMountPoint(path))
    return new PlaceError(
      `${path}: nobody listens: the socket file itself is mounted, and the proxy has made a new one since`,
      `mount its directory instead: ${mount}`,
    );
  if (code === 'ECONNREFUSED')
    return new PlaceError(
      `${path}: nobody listens`,
      'isoproxy serve does not run on the host; start it there',
      true,
    );
  return new PlaceError(
    `${path}: ${code}`,
    'see on the host whether isoproxy serve is well',
    code === 'EAGAIN',
  );
}

function statOf(path: string) {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** Is a directory on the way to `path` closed to this process? */
function deniedOn(path: string): boolean {
  try {
    statSync(path);
    return false;
  } catch (error) {
    return (error as { code?: string }).code === 'EACCES';
  }
}

/** Owner and mode of what denies access: the socket, or the nearest directory that can be seen. */
function describeOwner(path: string): string {
  for (let at = path; ; at = dirname(at)) {
    const stat = statOf(at);
    if (stat === undefined && at !== dirname(at)) continue;
    const mode = ((stat?.mode ?? 0) & 0o7777).toString(8).padStart(4, '0');
    const self = `this process is uid ${process.getuid?.()}, gid ${process.getgid?.()}`;
    return `${at} belongs to uid ${stat?.uid}, gid ${stat?.gid}, mode ${mode}; ${self}`;
  }
}

function permissionHint(): string {
  const change =
    'on the host, give the listener mode = "0660" and the group that the sandbox runs with, or run the sandbox with the socket\'s uid';
  // 65534 is what a user namespace shows for every uid that it does not map.
  return isMappedUser()
    ? change
    : `${change} (this is a user namespace: a uid that it does not map shows as 65534)`;
}

function isMappedUser(): boolean {
  try {
    return readFileSync('/proc/self/uid_map', 'utf8').trim().endsWith('4294967295');
  } catch {
    return true;
  }
}

function isMountPoint(path: string): boolean {
  try {
    return readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .some((line) => line.split(' ')[4] === path);
  } catch {
    return false;
  }
}
