/**
 * Deno: node:http as the server, and Deno's HTTP clients for fetch. The only file that names Deno.
 *
 * `Deno.serve` is not used: it accepts bare LF, loose chunk sizes and any method, pastes Host into the url, and
 * cannot close a connection after an answer. node:http's parser (llhttp, strict) refuses the first, hands over
 * the raw target, keeps Content-Length and closes when an answer says so (docs/runtime.md 19).
 */
import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Upstream } from '../proxy/forward.ts';
import type { BodySource } from '../proxy/response-body.ts';
import { fetchOnce } from './deno-fetch.ts';
import type { Runtime, RuntimeFeatures, ServeOptions, Server, UpstreamRoute } from './runtime.ts';

/** What is used of Deno's own API. */
interface DenoApi {
  version: { deno: string };
  listen(options: { hostname: string; port: number }): { close(): void };
  createHttpClient(options: Record<string, unknown>): unknown;
  stderr: { write(bytes: Uint8Array): Promise<number> };
}
declare const Deno: DenoApi;

/** The bounds of Bun's parser: a header block in bytes and in fields, ms until it must be whole, how often to look. */
const MAX_HEADER_BYTES = 16 * 1024;
const MAX_HEADER_FIELDS = 200;
const HEADERS_TIMEOUT_MS = 12_000;
const CHECK_MS = 4_000;
/** Requests behind a pending one; node:http would keep any number. */
const MAX_BEHIND = 32;
/** Connections that may wait to be accepted; Node's 511 refuses a burst of 600. */
const BACKLOG = 4096;
/** How long an upload may go on after its answer has ended. */
const LINGER_MS = 2_000;

/** What the parser's errors are answered with; 400 for all others. */
const STATUS_OF: Readonly<Record<string, number>> = {
  HPE_HEADER_OVERFLOW: 431,
  ERR_HTTP_REQUEST_TIMEOUT: 408,
};

interface Answering {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  /** Requests that came while it was being answered. */
  behind: number;
}

/** Targets as they stood on the wire: a Request would normalise them. */
const rawTargets = new WeakMap<Request, string>();

function serve({ address, handle }: ServeOptions): Server {
  /** The one request per connection that is being answered. */
  const current = new WeakMap<Socket, Answering>();
  const server = createServer({
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: HEADERS_TIMEOUT_MS,
    connectionsCheckingInterval: CHECK_MS,
    // watch.ts has the clocks of a request, server.ts sweeps idle connections.
    requestTimeout: 0,
    keepAliveTimeout: 0,
    // proxy/framing.ts answers for a missing Host and unknown expectations, with a record.
    requireHostHeader: false,
  });

  async function answer(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { socket } = incoming;
    const fault = faultOf(incoming);
    const before = current.get(socket);
    if (before !== undefined) {
      // Pipelining is not kept, as under Bun: what is pending is answered, then the connection closes.
      if (before.behind === 0) before.outgoing.once('finish', () => socket.destroySoon());
      if (++before.behind > MAX_BEHIND) socket.destroy();
      return;
    }
    if (fault !== undefined) return refuse(socket, fault);
    current.set(socket, { incoming, outgoing, behind: 0 });
    const gone = new AbortController();
    outgoing.once('close', () => {
      current.delete(socket);
      // A client whose upload nobody wants any more may finish it, within bounds.
      if (!incoming.complete) setTimeout(() => incoming.complete || socket.destroySoon(), LINGER_MS).unref();
      if (!outgoing.writableFinished) gone.abort();
    });
    try {
      const malformed = () => refuse(socket, outgoing.headersSent ? undefined : 400);
      await send(await handle(requestOf(incoming, outgoing, gone.signal, malformed)), outgoing);
    } catch {
      // A head that cannot be written, or a body that was cut: a cut never looks like an end.
      outgoing.destroy();
    }
  }

  /** Answers what is no HTTP, and closes; there is no record of it. */
  function refuse(socket: Socket, status: number | undefined): void {
    if (status !== undefined && socket.writable)
      socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\n\r\n`);
    socket.destroySoon();
  }

  function onParserError(error: Error & { code?: string }, socket: Socket): void {
    const pending = current.get(socket);
    // It must not be taken for the answer to an earlier request, nor stand in the middle of one.
    const spoken = pending?.outgoing.headersSent || pending?.incoming.complete;
    refuse(socket, spoken ? undefined : (STATUS_OF[error.code ?? ''] ?? 400));
  }

  server.on('request', answer);
  server.on('checkExpectation', answer);
  server.on('connect', (_incoming, socket) => {
    // node:http has let go of it.
    socket.on('error', () => {});
    refuse(socket as Socket, current.has(socket as Socket) ? undefined : 405);
  });
  server.on('clientError', (error, socket) => onParserError(error, socket as Socket));
  if (address.kind === 'unix') {
    server.listen({ path: address.path, backlog: BACKLOG });
  } else {
    const { hostname, port } = address;
    // node:http reports a port in use only later; this throws now.
    Deno.listen({ hostname, port }).close();
    server.listen({ host: hostname, port, backlog: BACKLOG });
  }
  return {
    stopAccepting: () => void server.close(),
    destroy() {
      server.close();
      server.closeAllConnections();
    },
    closeIdle: () => server.closeIdleConnections(),
  };
}

/** The status with which a head is refused that llhttp lets through and Bun's parser does not. */
function faultOf({ httpVersion, headers, rawHeaders }: IncomingMessage): number | undefined {
  // In HTTP/1.0 the end of a streamed answer is the end of the connection: a cut would look like it.
  if (httpVersion !== '1.1') return 505;
  if (rawHeaders.length > 2 * MAX_HEADER_FIELDS) return 431;
  const coding = headers['transfer-encoding'];
  return coding === undefined || coding.toLowerCase() === 'chunked' ? undefined : 400;
}

/** @param malformed called when the body turns out to be one that is refused */
function requestOf(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  signal: AbortSignal,
  malformed: () => void,
): Request {
  const { rawHeaders, method = '', url = '' } = incoming;
  const headers = new Headers();
  for (let i = 0; i < rawHeaders.length; i += 2)
    headers.append(rawHeaders[i] as string, rawHeaders[i + 1] as string);
  const framed = headers.has('content-length') || headers.has('transfer-encoding');
  const hasBody = framed && method !== 'GET' && method !== 'HEAD';
  const request = new Request('http://isoproxy.invalid/', {
    method: 'POST',
    headers,
    signal,
    body: hasBody ? requestBody(incoming, outgoing, malformed) : null,
    duplex: 'half',
  } as RequestInit);
  // Request takes neither TRACE nor a GET with a framing; both are for the pipeline to refuse.
  Object.defineProperty(request, 'method', { value: method });
  rawTargets.set(request, url);
  return request;
}

function requestBody(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  malformed: () => void,
): ReadableStream<Uint8Array> {
  const pieces: AsyncIterator<Uint8Array> = incoming.iterator({ destroyOnReturn: false });
  return new ReadableStream(
    {
      start(controller) {
        // Once the answer has ended, nobody waits for the rest of an upload.
        outgoing.once('close', () => incoming.complete || controller.error(new Error('abandoned')));
      },
      async pull(controller) {
        const piece = await pieces.next();
        if (!piece.done) controller.enqueue(piece.value);
        else if (incoming.rawTrailers.length === 0) controller.close();
        else {
          malformed();
          controller.error(new Error('trailers'));
        }
      },
    },
    { highWaterMark: 0 },
  );
}

/** Writes an answer, as fast as the client takes it. Rejects when its body was cut. */
async function send(response: Response, outgoing: ServerResponse): Promise<void> {
  const { status, headers, body } = response;
  // A 205 has no body, whatever its upstream announced (RFC 9110 15.3.6).
  if (status === 205) headers.delete('content-length');
  outgoing.writeHead(status, [...headers].flat());
  if (body === null) return void outgoing.end();
  // The head goes at once; header values are bytes, which flushHeaders() would turn into UTF-8.
  outgoing.write('', 'latin1');
  const reader = body.getReader();
  // Also while the client does not read, when nobody waits for the next piece.
  reader.closed.catch(() => outgoing.destroy());
  outgoing.once('close', () => reader.cancel().catch(() => {}));
  for (;;) {
    const piece = await reader.read();
    if (piece.done) return void outgoing.end();
    await new Promise((resolve) => outgoing.write(piece.value, resolve));
  }
}

function targetOf(request: Request): string | undefined {
  const target = rawTargets.get(request);
  // Absolute form and "*" are refused: nobody who speaks to a unix socket or a base URL sends them.
  return target?.startsWith('/') ? target : undefined;
}

function bodyStream(source: BodySource): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream(
    {
      start(controller) {
        source.abort.onAbort(() => controller.error(new Error('cut')));
      },
      async pull(controller) {
        const piece = await source.next();
        if (piece === undefined) controller.close();
        else controller.enqueue(piece);
      },
      cancel: source.cancel,
    },
    { highWaterMark: 0 },
  );
}

function openUpstream(route: UpstreamRoute): Upstream {
  const options: Record<string, unknown> = { http1: true, http2: false, allowHost: true };
  if (route.ca !== undefined) options['caCerts'] = [route.ca];
  if (route.cert !== undefined) options['cert'] = route.cert;
  if (route.key !== undefined) options['key'] = route.key;
  if (route.proxy !== undefined) options['proxy'] = { transport: 'http', url: route.proxy };
  if (route.socket !== undefined) options['proxy'] = { transport: 'unix', path: route.socket };
  const client = Deno.createHttpClient(options);
  return (url, init) => fetchOnce(url, { ...init, client } as RequestInit);
}

function refusals(features: RuntimeFeatures): string[] {
  const found: string[] = [];
  if (features.encodedResponses) {
    found.push(
      'unsafe_allow_encoded_response cannot be kept under Deno: its fetch always decodes; use the compiled binary',
    );
  }
  if (features.webSocket) {
    found.push('websocket = true cannot be kept under Deno: use the compiled binary');
  }
  return found;
}

export const denoRuntime: Runtime = {
  name: 'deno',
  get version() {
    return Deno.version.deno;
  },
  serve,
  targetOf,
  bodyStream,
  openUpstream,
  webSocket: undefined,
  // Deno offers no such doors to code, or only to code that may call anything at all (--allow-ffi).
  hideMemory: () => Promise.resolve(false),
  collectGarbage: () => {},
  writeStderr: (bytes) => Deno.stderr.write(bytes),
  refusals,
};
