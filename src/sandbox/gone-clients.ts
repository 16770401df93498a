/**
 * Tells a client that has left from one that has only shut its sending side. On the wire both are the same FIN,
 * but the peer is a socket of this very network namespace: the kernel's table says whether a process still
 * holds it. Where there is no such table (macOS), a client that has left is noticed at the next bytes for it.
 */
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';

/** How often the table is read while there is something to find out, ms. */
const LOOK_MS = 100;

/** How long askers are gathered, ms. */
const GATHER_MS = 50;

/** Where Linux lists the TCP sockets of this network namespace: `sl local remote st … uid timeout inode`. */
const TABLES = ['/proc/self/net/tcp', '/proc/self/net/tcp6'];

export interface GoneClients {
  /** Destroys `client`, which has sent its FIN, as soon as no process holds the other end. */
  readonly watch: (client: Socket) => void;
  /** Is there still a process at the other end? True where nothing can be told. */
  readonly isThere: (client: Socket) => Promise<boolean>;
  readonly close: () => void;
}

export function createGoneClients(): GoneClients {
  /** With their names, which cost a system call each. */
  const watched = new Map<Socket, string>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let shared: Promise<ReadonlySet<string> | undefined> | undefined;

  /** One reading for all who ask within a moment, begun after the last of them: a table of thousands takes 20 ms. */
  function readTogether(): Promise<ReadonlySet<string> | undefined> {
    shared ??= new Promise((resolve) => setTimeout(resolve, GATHER_MS)).then(() => {
      shared = undefined;
      return heldPorts();
    });
    return shared;
  }

  async function look(): Promise<void> {
    const held = await heldPorts();
    // Without a table nothing can be told, now or later.
    if (held === undefined) watched.clear();
    for (const [client, name] of watched) {
      if (!client.destroyed && held?.has(name)) continue;
      watched.delete(client);
      client.destroy();
    }
    timer = watched.size > 0 ? setTimeout(look, LOOK_MS) : undefined;
  }

  return {
    watch(client) {
      if (!isLocal(client)) return;
      watched.set(client, nameOf(client));
      client.once('close', () => watched.delete(client));
      timer ??= setTimeout(look, LOOK_MS);
    },
    async isThere(client) {
      if (client.destroyed) return false;
      const held = isLocal(client) ? await readTogether() : undefined;
      return !client.destroyed && (held?.has(nameOf(client)) ?? true);
    },
    close() {
      watched.clear();
      clearTimeout(timer);
    },
  };
}

/** Is the peer in this network namespace? With `--unsafe-listen` it need not be, and then it is in no table here. */
function isLocal({ remoteAddress = '', localAddress }: Socket): boolean {
  return remoteAddress === localAddress || /^(?:::ffff:)?127\.|^::1$/.test(remoteAddress);
}

/** The client's own end of the connection. */
function nameOf(client: Socket): string {
  return `${client.remotePort}-${client.localPort}`;
}

/** `local-remote` port pairs of the sockets that some process holds; undefined where the system does not say. */
async function heldPorts(): Promise<ReadonlySet<string> | undefined> {
  const tables = await Promise.all(TABLES.map((file) => readFile(file, 'utf8').catch(() => '')));
  if (tables.every((table) => table === '')) return undefined;
  const held = new Set<string>();
  for (const line of tables.join('\n').split('\n')) {
    const match = /^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4}) (?:\S+\s+){6}(\d+)/.exec(line);
    // A socket that its process has closed has lost its inode, and soon its line.
    if (match && match[3] !== '0')
      held.add(`${Number.parseInt(match[1] as string, 16)}-${Number.parseInt(match[2] as string, 16)}`);
  }
  return held;
}
