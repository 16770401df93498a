/**
 * The byte pump inside the sandbox: a loopback port for clients that cannot speak HTTP over a unix socket.
 * It reads nothing of what it carries. Backpressure is the streams' own: a side that does not read stops the
 * other one.
 */
import { connect as connectSocket, createServer, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { errorMessage, ProxyError } from '../errors.ts';
import { isLoopbackAddress } from '../proxy/private-address.ts';
import { createGoneClients, type GoneClients } from './gone-clients.ts';

/** How long a connection waits for a proxy that is being restarted, ms. */
export const RETRY_MS = 10_000;
/** Pause between two attempts, ms. */
const RETRY_PAUSE_MS = 50;
/** What a proxy that restarts answers with; EAGAIN is a full backlog on Linux. */
const RESTARTING: ReadonlySet<string> = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN']);
/** Time for a client to read why it is refused before its connection closes, ms. */
const LINGER_MS = 1_000;
/**
 * After so many bytes carried, garbage is collected at once: left to itself, the runtime lets tens of MiB of
 * spent buffers stand before it does (docs/runtime.md 22).
 */
const BYTES_PER_COLLECTION = 16 * 1024 * 1024;

export interface BridgeOptions {
  /** Where it listens; port 0 = any free one. */
  readonly hostname: string;
  readonly port: number;
  /** The listener's socket, as it is mounted in the sandbox. */
  readonly socket: string;
  /** Frees memory that is not used any more; see runtime/. */
  readonly collectGarbage: () => void;
  /** Told when the socket stops answering, and when it answers again. */
  readonly onTrouble?: (code: string | undefined) => void;
}

export interface Bridge {
  readonly hostname: string;
  readonly port: number;
  /** Stops listening and closes every connection. */
  readonly close: () => void;
}

/** Is an attempt that failed so worth another, because the proxy on the host may be about to listen again? */
export function isRestarting(code: string): boolean {
  return RESTARTING.has(code);
}

/** The system's name of an error; "no code" for what has none. */
export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : 'no code';
}

/**
 * Opens the bridge; resolves when it accepts connections.
 * @throws the system's error (EADDRINUSE, EADDRNOTAVAIL, EACCES)
 */
export async function openBridge(options: BridgeOptions): Promise<Bridge> {
  const clients = new Set<Socket>();
  const gone = createGoneClients();
  let uncollected = 0;
  const onBytes = (bytes: Uint8Array) => {
    uncollected += bytes.length;
    if (uncollected < BYTES_PER_COLLECTION) return;
    uncollected = 0;
    options.collectGarbage();
  };
  let trouble: string | undefined;
  const tell = (code: string | undefined) => {
    if (code !== trouble) options.onTrouble?.(code);
    trouble = code;
  };

  // Half-open, because a client may shut its side while its answer is pending; paused until the proxy is there.
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
    clients.add(client);
    client.once('close', () => clients.delete(client));
    client.on('error', () => client.destroy());
    reach(options.socket, client, gone, tell).then(
      (proxy) => pump(client, proxy, gone, onBytes),
      (error) => {
        tell(codeOf(error));
        refuse(client);
      },
    );
  });
  await listen(server, options);
  const { port } = server.address() as { port: number };
  return {
    hostname: options.hostname,
    port,
    close() {
      gone.close();
      server.close();
      for (const client of clients) client.destroy();
    },
  };
}

function listen(server: Server, { hostname, port }: BridgeOptions): Promise<void> {
  // With loopback down, listening on it succeeds and nobody can ever connect (docs/runtime.md 23).
  if (
    isLoopbackAddress(hostname) &&
    !Object.values(networkInterfaces())
      .flat()
      .some((entry) => entry?.internal)
  )
    return Promise.reject(Object.assign(new Error('loopback is down'), { code: 'EADDRNOTAVAIL' }));
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: hostname, port }, () => {
      server.off('error', reject);
      // Descriptors may run out for a while; those who are connected go on.
      server.on('error', () => {});
      resolve();
    });
  });
}

/** Connects to the proxy for `client`, waiting for a restart of the proxy as long as the client waits. */
async function reach(
  path: string,
  client: Socket,
  gone: GoneClients,
  tell: (code: string | undefined) => void,
): Promise<Socket> {
  const deadline = performance.now() + RETRY_MS;
  for (let waited = false; ; waited = true) {
    try {
      const proxy = await connect(path);
      tell(undefined);
      // A client that gave up meanwhile has most likely asked again: its first request must not be sent too.
      if (waited && !(await gone.isThere(client))) client.destroy();
      return proxy;
    } catch (error) {
      if (!isRestarting(codeOf(error)) || client.destroyed || performance.now() >= deadline) throw error;
      tell(codeOf(error));
      await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE_MS));
    }
  }
}

function connect(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({ path, allowHalfOpen: true });
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

/** Carries bytes both ways until either side has gone. */
function pump(client: Socket, proxy: Socket, gone: GoneClients, onBytes: (bytes: Uint8Array) => void): void {
  // A client that has left meanwhile is no error here.
  if (client.destroyed) return void proxy.destroy();
  proxy.on('error', () => client.destroy());
  // Whatever the proxy has sent is still written; `end` alone would leave a client that goes on sending.
  proxy.once('close', () => client.destroySoon());
  client.once('close', () => proxy.destroy());
  // The client's FIN is held back: the proxy takes one as a client that has left, and answers nothing
  // (docs/runtime.md 21). The connection ends when the proxy ends it, or when the client has really left.
  client.once('end', () => gone.watch(client));
  proxy.on('data', onBytes);
  client.on('data', onBytes);
  proxy.pipe(client);
  client.pipe(proxy, { end: false });
}

/** Tells a client why there is nobody, in the form of any other refusal. */
function refuse(client: Socket): void {
  if (client.destroyed) return;
  client.end(errorMessage(new ProxyError('proxy_unreachable', 'retried')));
  // Unread bytes at close would make it a reset, which throws the answer away.
  client.resume();
  setTimeout(() => client.destroy(), LINGER_MS).unref();
}
