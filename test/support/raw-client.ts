// A client that sends exact bytes to a unix socket or TCP port, and says exactly what came back and how it ended.

import { connect as connectNet, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { createByteReader, type InputEnd } from './byte-reader.ts';
import { DEADLINE_MS, until, within } from './deadline.ts';
import {
  createBodySink,
  formatHeaders,
  type HeaderList,
  type HeadersLike,
  headerValues,
  parseHead,
  readBody,
  responseFraming,
  toHeaderList,
} from './http1.ts';

/** A unix socket path, or TCP on 127.0.0.1 (with TLS when a CA is given). */
export type Endpoint = string | { port: number; host?: string; tls?: { ca: string; servername?: string } };

export interface RawResponse {
  /** 0 when the connection ended before a whole response head; `body` then holds what there was. */
  status: number;
  reason: string;
  version: string;
  rawHead: Buffer;
  headers: HeaderList;
  header(name: string): string | undefined;
  headerAll(name: string): string[];
  /** Statuses of the 1xx answers before it. */
  interim: number[];
  framing: 'none' | 'length' | 'chunked' | 'until-close';
  /** Decoded body, and as framed on the wire; both empty with `hashOnly`. */
  body: Buffer;
  rawBody: Buffer;
  bodyBytes: number;
  bodySha256: string;
  trailers: HeaderList;
  /** The body ended as its framing promised; false when it was cut or malformed, `problem` says how. */
  complete: boolean;
  problem: string | undefined;
  text(): string;
  // biome-ignore lint/suspicious/noExplicitAny: a test knows what it asked for
  json(): any;
}

export interface ResponseOptions {
  /** Method of the request answered (HEAD has no body). Default GET. */
  method?: string;
  hashOnly?: boolean;
  ms?: number;
}

export interface RawClient extends Disposable {
  /** Writes exactly these bytes (strings as latin-1); resolves when the socket took them. */
  send(bytes: string | Uint8Array): Promise<void>;
  /** Everything that came so far, also what `response()` has read. Empty with `keep: false`. */
  received(): Buffer;
  /** Waits until the received bytes hold `what`, or until `what` accepts them. */
  waitFor(what: string | ((received: Buffer) => boolean), ms?: number): Promise<Buffer>;
  /** Reads the next response (keep-alive and pipelining: call it again for the next one). */
  response(options?: ResponseOptions): Promise<RawResponse>;
  /** Waits until the server closes; returns everything received. */
  untilClosed(ms?: number): Promise<Buffer>;
  /** `fin` or `reset` once the server's side ended. */
  readonly closed: InputEnd | undefined;
  /** Ends our writing side (FIN). */
  halfClose(): void;
  /** RST on TCP; on a unix socket a plain close. */
  abort(): void;
  /** Stops and resumes reading. */
  pause(): void;
  resume(): void;
  close(): void;
}

/** Connects; rejects with the system error (ECONNREFUSED, ENOENT, ...). `keep: false` for huge answers. */
export async function connect(endpoint: Endpoint, options: { keep?: boolean } = {}): Promise<RawClient> {
  const socket = await openSocket(endpoint);
  const kept: Buffer[] = [];
  const reader = createByteReader();
  socket.on('data', (chunk: Buffer) => {
    if (options.keep !== false) kept.push(chunk);
    reader.push(chunk);
  });
  socket.on('end', () => reader.end('fin'));
  socket.on('error', () => reader.end('reset'));
  socket.on('close', () => reader.end('reset'));

  const client: RawClient = {
    send: (bytes) =>
      new Promise((resolve) => {
        // A server may answer and close before it has read everything: what it said counts, not EPIPE.
        const done = () => {
          socket.off('close', done);
          resolve();
        };
        socket.once('close', done);
        socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes, done);
      }),
    received: () => Buffer.concat(kept),
    waitFor(what, ms = DEADLINE_MS) {
      const found = typeof what === 'string' ? (bytes: Buffer) => bytes.includes(what, 0, 'latin1') : what;
      const describe = () =>
        `${typeof what === 'string' ? JSON.stringify(what) : 'expected bytes'} from server; got ${clip()}`;
      return until(describe, () => found(client.received()) && client.received(), ms);
    },
    response: ({ ms = DEADLINE_MS, ...rest } = {}) =>
      within('a response', readResponse(reader, rest), ms).catch((error: Error) => {
        throw new Error(`${error.message}; got ${clip()}`);
      }),
    async untilClosed(ms = DEADLINE_MS) {
      await until(
        () => `server to close; got ${clip()}`,
        () => reader.ended,
        ms,
      );
      return client.received();
    },
    get closed() {
      return reader.ended;
    },
    halfClose: () => void socket.end(),
    abort: () => void (typeof endpoint === 'string' ? socket.destroy() : socket.resetAndDestroy()),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    close: () => void socket.destroy(),
    [Symbol.dispose]: () => void socket.destroy(),
  };
  const clip = () => JSON.stringify(client.received().toString('latin1').slice(0, 400));
  return client;
}

function openSocket(endpoint: Endpoint): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const base = { allowHalfOpen: true };
    let socket: Socket;
    const opened = () => {
      socket.off('error', reject);
      resolve(socket);
    };
    if (typeof endpoint === 'string') socket = connectNet({ ...base, path: endpoint }, opened);
    else {
      const at = { ...base, host: endpoint.host ?? '127.0.0.1', port: endpoint.port };
      socket = endpoint.tls
        ? connectTls({ ...at, servername: 'localhost', ...endpoint.tls }, opened)
        : connectNet(at, opened);
    }
    socket.once('error', reject);
  });
}

async function readResponse(
  reader: ReturnType<typeof createByteReader>,
  { method = 'GET', hashOnly = false }: ResponseOptions,
): Promise<RawResponse> {
  const interim: number[] = [];
  const sink = createBodySink(!hashOnly);
  for (;;) {
    const raw = await reader.readThrough('\r\n\r\n');
    if (!raw) {
      const end = await readBody(reader, { kind: 'until-close' }, sink);
      const problem = end.problem ?? 'closed before a response head';
      return describe({ raw: Buffer.alloc(0), headers: [], startLine: '' }, sink, {
        ...end,
        complete: false,
        problem,
      });
    }
    const head = parseHead(raw);
    const status = Number(/^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(head.startLine)?.[1]);
    if (!status) throw new Error(`malformed status line ${JSON.stringify(head.startLine)}`);
    if (status >= 100 && status < 200 && status !== 101) {
      interim.push(status);
      continue;
    }
    const framing = responseFraming(method, status, head.headers);
    const end = await readBody(reader, framing, sink);
    return { ...describe(head, sink, end), interim, framing: framing.kind };
  }
}

function describe(
  head: ReturnType<typeof parseHead>,
  sink: ReturnType<typeof createBodySink>,
  end: Awaited<ReturnType<typeof readBody>>,
): RawResponse {
  const [, version = '', status = '0', reason = ''] = /^(\S+) (\d{3}) ?(.*)$/.exec(head.startLine) ?? [];
  const body = sink.body();
  return {
    status: Number(status),
    reason,
    version,
    rawHead: head.raw,
    headers: head.headers,
    header: (name) => headerValues(head.headers, name)[0],
    headerAll: (name) => headerValues(head.headers, name),
    interim: [],
    framing: 'none',
    body,
    rawBody: sink.rawBody(),
    bodyBytes: sink.bytes,
    bodySha256: sink.sha256(),
    trailers: end.trailers,
    complete: end.complete,
    problem: end.problem,
    text: () => body.toString(),
    json: () => JSON.parse(body.toString()),
  };
}

export interface RequestOptions extends ResponseOptions {
  /** The request target, written as it is. Default `/`. */
  target?: string;
  /** `Host: localhost`, and Content-Length with a body, are added unless given. */
  headers?: HeadersLike;
  body?: string | Uint8Array;
}

/** The bytes of one request. */
export function formatRequest({ method = 'GET', target = '/', headers = [], body }: RequestOptions): Buffer {
  const list = [...toHeaderList(headers)];
  const has = (pattern: RegExp) => list.some(([name]) => pattern.test(name));
  if (!has(/^host$/i)) list.unshift(['Host', 'localhost']);
  const bytes = Buffer.from((body ?? '') as string);
  if (body !== undefined && !has(/^(content-length|transfer-encoding)$/i)) {
    list.push(['Content-Length', String(bytes.length)]);
  }
  return Buffer.concat([
    Buffer.from(`${method} ${target} HTTP/1.1\r\n${formatHeaders(list)}\r\n`, 'latin1'),
    bytes,
  ]);
}

/**
 * One request on a connection of its own. `connectionClosed` tells whether the server closed it; when its answer says
 * `Connection: close`, that is waited for.
 */
export async function request(
  endpoint: Endpoint,
  options: RequestOptions = {},
): Promise<RawResponse & { connectionClosed: boolean }> {
  using client = await connect(endpoint, { keep: !options.hashOnly });
  void client.send(formatRequest(options));
  const response = await client.response(options);
  if (/\bclose\b/i.test(response.header('connection') ?? ''))
    await client.untilClosed(options.ms).catch(() => {});
  return { ...response, connectionClosed: client.closed !== undefined };
}
