/** Bun: `Bun.serve` and Bun's own fetch options. The only file that names Bun. */
import { write } from 'node:fs';
import { ProxyError } from '../errors.ts';
import type { Upstream } from '../proxy/forward.ts';
import type { BodySource } from '../proxy/response-body.ts';
import { type EndEvents, NO_CLOSE_FRAME, type OpenWebSocket, type TunnelEnd } from '../proxy/websocket.ts';
import { hideMemory } from './hidden-memory.ts';
import type { Runtime, ServeOptions, Server, UpstreamRoute } from './runtime.ts';

/** What the types of this Bun version do not say: the address of a unix listener, and the sweep. */
type BunServer = ReturnType<typeof Bun.serve> & { readonly address: unknown; closeIdleConnections(): void };

function serve(options: ServeOptions): Server {
  const { address, handle } = options;
  const common = {
    fetch: (request: Request, server: BunServer) =>
      request.headers.has('upgrade') ? handleUpgrade(request, server, handle) : handle(request),
    websocket: webSocketHandlers(options.maxMessageBytes ?? 0),
    // Bun's own error page would show source; ours is made before this is ever reached.
    error: () => new Response(null, { status: 500, headers: { connection: 'close' } }),
    development: false,
    // Bun's limit answers before the rules can; limits are enforced in proxy/.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    // It would also run while a handler waits for a slow upstream; watch.ts has the clocks.
    idleTimeout: 0,
  };
  const place =
    address.kind === 'unix' ? { unix: address.path } : { hostname: address.hostname, port: address.port };
  const server = Bun.serve({ ...common, ...place } as Parameters<typeof Bun.serve>[0]) as BunServer;
  // Bun.serve({ unix: undefined }) and its like silently listen on every interface (docs/runtime.md 1).
  const asAsked =
    address.kind === 'unix'
      ? String(server.address) === address.path && server.port === undefined
      : server.port === address.port && server.hostname === address.hostname;
  if (!asAsked) {
    server.stop(true);
    throw new ProxyError('internal', 'the runtime listens elsewhere than it was told to');
  }
  return {
    stopAccepting: () => void server.stop(),
    destroy: () => void server.stop(true),
    closeIdle: () => server.closeIdleConnections(),
  };
}

/** Requests that may become WebSockets, with their server, and those that did. */
const upgradable = new WeakMap<Request, BunServer>();
const upgraded = new WeakSet<Request>();

async function handleUpgrade(
  request: Request,
  server: BunServer,
  handle: ServeOptions['handle'],
): Promise<Response | undefined> {
  upgradable.set(request, server);
  const response = await handle(request);
  return upgraded.has(request) ? undefined : response;
}

/** What a WebSocket carries along. */
interface SocketData {
  readonly events: EndEvents;
  socket: Bun.ServerWebSocket<SocketData> | undefined;
}

/** The largest message that a string can hold, with room to spare. */
const MAX_MESSAGE_BYTES = 2 ** 29;

function webSocketHandlers(maxMessageBytes: number): Bun.WebSocketHandler<SocketData> {
  return {
    // watch.ts has the clocks.
    idleTimeout: 0,
    sendPings: false,
    perMessageDeflate: false,
    maxPayloadLength: Math.min(maxMessageBytes, MAX_MESSAGE_BYTES),
    open(socket) {
      socket.data.socket = socket;
    },
    message({ data }, message) {
      const isText = typeof message === 'string';
      data.events.message(isText ? Buffer.from(message) : message, isText);
    },
    drain: ({ data }) => data.events.drained(),
    close({ data }, code, reason) {
      // What Bun itself closes, it reports as this code and a text of its own (docs/runtime.md 27).
      if (code === NO_CLOSE_FRAME && reason !== '') data.events.failed(clientFault(reason));
      data.events.closed(code, reason);
    },
  };
}

function clientFault(reason: string): ProxyError {
  return reason === 'Received too big message'
    ? new ProxyError('request_too_large', 'message over max_request_body')
    : new ProxyError('bad_request', 'malformed WebSocket frame');
}

function accept(request: Request, headers: Headers, events: EndEvents): TunnelEnd | undefined {
  const data: SocketData = { events, socket: undefined };
  // Without this name Bun chooses the first subprotocol that the client offers; an empty value it leaves out
  // (docs/runtime.md 27).
  if (!headers.has('sec-websocket-protocol')) headers.set('sec-websocket-protocol', '');
  if (!upgradable.get(request)?.upgrade(request, { headers, data } as never)) return undefined;
  upgraded.add(request);
  // Bun opens it before `upgrade` returns.
  const { socket } = data;
  return socket === undefined ? undefined : createEnd(socket);
}

/** A byte order mark at the beginning of a message is part of it. */
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

function createEnd(socket: Bun.ServerWebSocket<SocketData>): TunnelEnd {
  return {
    send(bytes, isText) {
      const sent = isText ? socket.sendText(utf8.decode(bytes)) : socket.sendBinary(bytes as Buffer);
      // 0: it was dropped, or it is empty; -1: it waits (docs/runtime.md 25).
      return sent !== 0 || bytes.byteLength === 0;
    },
    waiting: () => socket.getBufferedAmount(),
    // 1005 makes Bun send a close frame without a code (docs/runtime.md 27).
    close: (code, reason) => socket.close(code, reason),
    terminate: () => socket.terminate(),
  };
}

/**
 * Bun hands over `http://<Host><normalised target>`, or only a path when Host is unusable (docs/runtime.md 5).
 */
function targetOf(request: Request): string | undefined {
  const { url } = request;
  if (!url.startsWith('http://')) return undefined;
  const slash = url.indexOf('/', 7);
  return slash === -1 ? undefined : url.slice(slash);
}

/** The part of Bun's sink for direct streams that is used here; its own types leave `write`'s promise out. */
interface DirectSink {
  /** A promise while the socket takes no more. */
  write(chunk: Uint8Array): number | Promise<number>;
  flush(): unknown;
  close(error?: Error): void;
}

/**
 * A direct stream, because it is the only kind whose failure closes a socket that its client does not
 * read: `controller.error()` of a standard stream leaves the connection open for ever (measured).
 */
function bodyStream(source: BodySource): ReadableStream<Uint8Array<ArrayBuffer>> {
  let open = true;
  async function pull(sink: DirectSink): Promise<void> {
    const cut = () => {
      if (open) sink.close(new Error('cut'));
      open = false;
    };
    const leave = source.abort.onAbort(cut);
    try {
      for (;;) {
        const piece = source.abort.isAborted() ? cut() : await source.next();
        if (!open) return;
        if (piece === undefined) break;
        const written = sink.write(piece);
        sink.flush();
        if (written instanceof Promise) await written;
        if (!open) return;
      }
      open = false;
      sink.close();
    } catch {
      cut();
    } finally {
      leave();
    }
  }
  function cancel(): void {
    open = false;
    source.cancel();
  }
  return new ReadableStream({ type: 'direct', pull, cancel } as unknown as UnderlyingDefaultSource<
    Uint8Array<ArrayBuffer>
  >);
}

/** Its client is loaded when the first one is asked for: most configurations have none. */
function openWebSocketBy(route: UpstreamRoute): OpenWebSocket {
  return async (request, events) =>
    (await import('./websocket-client.ts')).openWebSocket(route, request, events);
}

function openUpstream(route: UpstreamRoute): Upstream {
  const options: Record<string, unknown> = {
    decompress: false,
    // `false` is the one value that makes Bun ignore HTTP(S)_PROXY.
    proxy: route.proxy ?? false,
    // Bun's hidden five minutes would cut quiet event streams; watch.ts has the clocks.
    timeout: false,
    verbose: false,
  };
  if (route.socket !== undefined) options['unix'] = route.socket;
  // Without `ca` the bundled set holds, because the clean start removed every variable that adds to it.
  // Passing the 118 certificates of that set on each call would cost 60 % of the throughput (measured).
  const tls: Record<string, unknown> = { rejectUnauthorized: true };
  if (route.ca !== undefined) tls['ca'] = route.ca;
  if (route.cert !== undefined) tls['cert'] = route.cert;
  if (route.key !== undefined) tls['key'] = route.key;
  const overTls = { ...options, tls };
  // Even where there is no TLS, looking at these costs 3 us (measured).
  return (url, init) => fetch(url, Object.assign(init, url.startsWith('https:') ? overTls : options));
}

/** In a thread of the runtime's: a reader that blocks must not block the process. */
function writeStderr(bytes: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    write(2, bytes, (error, written) => (error === null ? resolve(written) : reject(error)));
  });
}

export const bunRuntime: Runtime = {
  name: 'bun',
  get version() {
    return Bun.version;
  },
  serve,
  targetOf,
  bodyStream,
  openUpstream,
  webSocket: { accept, openUpstream: openWebSocketBy },
  writeStderr,
  hideMemory,
  collectGarbage: () => Bun.gc(true),
  refusals: () => [],
};
