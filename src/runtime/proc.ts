/** What /proc tells about this process: open descriptors, their limit, and TCP ports. Empty where there is no /proc. */
import { openSync, readdirSync, readFileSync, readlinkSync, readSync, statSync } from 'node:fs';

/** The kernel hands out a page of a table at a time. */
const TABLE_PIECE = 4096;
/** Descriptors beyond this number are not looked for one by one. */
const MAX_NUMBERS = 2 ** 20;
/**
 * Of more descriptors than this, some at random stand for all, because everybody waits while they are looked at: as
 * many as keep the standard error of a count below 100, and at least so many.
 */
const MIN_SAMPLE = 1_024;
const sampleOf = (count: number) => Math.min(count, Math.max(MIN_SAMPLE, Math.ceil((count / 200) ** 2)));

/** Most descriptors that this process may open; undefined where it cannot be known. */
export function descriptorLimit(): number | undefined {
  const line = read('/proc/self/limits')
    ?.split('\n')
    .find((text) => text.startsWith('Max open files'));
  const soft = line?.trim().split(/\s{2,}/)[1];
  if (soft === undefined) return undefined;
  return soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
}

/** Descriptors open now; undefined where it cannot be known. */
export function openDescriptors(): number | undefined {
  try {
    // Linux 6.2 says it as the size, without a descriptor; before, it is 0.
    const { size } = statSync('/proc/self/fd');
    return size > 0 ? size : readdirSync('/proc/self/fd').length;
  } catch (error) {
    // Counting takes a descriptor as well: with none left, the count is known.
    return (error as { code?: string }).code === 'EMFILE' ? Number.POSITIVE_INFINITY : undefined;
  }
}

/** TCP ports on which this process listens, sorted. */
export function listeningTcpPorts(): number[] {
  const inodes = new Set(descriptorNames(0).map(socketInode));
  const ports = new Set<number>();
  for (const table of ['/proc/self/net/tcp', '/proc/self/net/tcp6']) {
    for (const line of (read(table) ?? '').split('\n').slice(1)) {
      // proc(5): sl local_address rem_address st … inode; state 0A is LISTEN.
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
      if (state !== '0A' || local === undefined || !inodes.has(inode)) continue;
      ports.add(Number.parseInt(local.split(':')[1] ?? '', 16));
    }
  }
  return [...ports].sort((a, b) => a - b);
}

/** How to find the connections that a listener accepted: the path to which it was bound, or a TCP port. */
export type BoundTo = string | number;

/**
 * Counts this process's accepted connections by listener, also when no descriptor is left: the tables stay open. Of
 * very many it is an estimate.
 * Others may bind a socket of the same name in a mount namespace of their own: theirs are not counted.
 */
export function createConnectionCounter(): (wanted: readonly BoundTo[]) => ReadonlyMap<BoundTo, number> {
  const most = Math.min(descriptorLimit() ?? 0, MAX_NUMBERS);
  const unix = openTable('/proc/self/net/unix');
  const tcp = ['/proc/self/net/tcp', '/proc/self/net/tcp6'].map(openTable);
  return (wanted) => {
    const listenerOf = new Map<string, BoundTo | undefined>();
    // A name can hold a line feed and so forge a line: a socket that stands there twice is nobody's.
    const add = (inode = '', to: BoundTo) => listenerOf.set(inode, listenerOf.has(inode) ? undefined : to);
    // St (03 is connected), Inode, Path; an accepted socket has the path of its listener.
    for (const [, inode, path = ''] of readTable(unix).matchAll(/ 03 +([0-9]+) (\/.*)$/gm)) add(inode, path);
    // These take long where there is much memory, however few connections there are.
    const isTcp = wanted.some((to) => typeof to === 'number');
    for (const line of (isTcp ? tcp : []).flatMap((table) => readTable(table).split('\n').slice(1))) {
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
      if (state === '01') add(inode, Number.parseInt(local?.split(':')[1] ?? '', 16));
    }
    const names = descriptorNames(most);
    const sample = sampleOf(names.length);
    const each = names.length / sample;
    const counts = new Map<BoundTo, number>();
    for (let i = 0; i < sample; i++) {
      // One of each stretch: whose numbers are neighbours are met as often as they are many.
      const name = names[Math.floor((i + Math.random()) * each)] as string;
      const to = listenerOf.get(socketInode(name) ?? '');
      if (to !== undefined) counts.set(to, (counts.get(to) ?? 0) + each);
    }
    return counts;
  };
}

function openTable(path: string): number | undefined {
  try {
    return openSync(path, 'r');
  } catch {
    return undefined;
  }
}

function readTable(fd: number | undefined): string {
  if (fd === undefined) return '';
  const parts: Buffer[] = [];
  for (let at = 0; ; ) {
    const part = Buffer.allocUnsafe(TABLE_PIECE);
    const read = readSync(fd, part, 0, part.length, at);
    if (read === 0) return Buffer.concat(parts).toString();
    parts.push(part.subarray(0, read));
    at += read;
  }
}

/** @param most how many descriptors there may be, where the directory cannot be read because none is left */
function descriptorNames(most: number): string[] {
  try {
    return readdirSync('/proc/self/fd');
  } catch (error) {
    // With none left the directory cannot be opened, but every name is known. Without /proc nothing can be asserted.
    if ((error as { code?: string }).code !== 'EMFILE') return [];
    return Array.from({ length: most }, (_, number) => String(number));
  }
}

/** The inode of the socket that a descriptor is; undefined if it is none, or closed since it was listed. */
function socketInode(name: string): string | undefined {
  try {
    return /^socket:\[([0-9]+)\]$/.exec(readlinkSync(`/proc/self/fd/${name}`))?.[1];
  } catch {
    return undefined;
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
