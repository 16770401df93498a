/** What /proc tells about this process: open descriptors, their limit, and TCP ports. Empty where there is no /proc. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

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
    return readdirSync('/proc/self/fd').length;
  } catch (error) {
    // Counting takes a descriptor as well: with none left, the count is known.
    return (error as { code?: string }).code === 'EMFILE' ? Number.POSITIVE_INFINITY : undefined;
  }
}

/** TCP ports on which this process listens, sorted. */
export function listeningTcpPorts(): number[] {
  const inodes = ownSocketInodes();
  const ports = new Set<number>();
  for (const table of ['/proc/self/net/tcp', '/proc/self/net/tcp6']) {
    for (const line of (read(table) ?? '').split('\n').slice(1)) {
      // proc(5): sl local_address rem_address st … inode; state 0A is LISTEN.
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
      if (state !== '0A' || local === undefined || !inodes.has(inode ?? '')) continue;
      ports.add(Number.parseInt(local.split(':')[1] ?? '', 16));
    }
  }
  return [...ports].sort((a, b) => a - b);
}

function ownSocketInodes(): Set<string> {
  const inodes = new Set<string>();
  let names: string[] = [];
  try {
    names = readdirSync('/proc/self/fd');
  } catch {
    // No /proc: nothing can be asserted.
  }
  for (const name of names) {
    try {
      const inode = /^socket:\[([0-9]+)\]$/.exec(readlinkSync(`/proc/self/fd/${name}`))?.[1];
      if (inode !== undefined) inodes.add(inode);
    } catch {
      // Closed since the directory was read.
    }
  }
  return inodes;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
