// A recording upstream: TLS, plain TCP or a unix socket; HTTP/1.1 parsed by hand; answers under full control.

import { createServer, type Socket } from 'node:net';
import { TLSSocket, type TLSSocketOptions } from 'node:tls';
import { type LeafKind, testCerts } from './certs.ts';
import { DEADLINE_MS, until } from './deadline.ts';
import { beginRequest, type RecordedRequest, receiveBody } from './recorded-request.ts';
import {
  type ConnectionRecord,
  createConnection,
  type OwnedConnection,
  type RecorderConnection,
} from './recorder-connection.ts';

export type { RecordedRequest } from './recorded-request.ts';
export type { ConnectionRecord, RecorderConnection } from './recorder-connection.ts';

export type Handler = (request: RecordedRequest, connection: RecorderConnection) => unknown;

export interface RecorderOptions {
  /** Certificate to show, or false for plain text. Default `good`. */
  tls?: LeafKind | false;
  /** Listen on this unix socket path instead of TCP 127.0.0.1:0; plain text. */
  unix?: string;
  /** Called when a request has arrived whole, one at a time per connection. Default: 200 `ok`. */
  handler?: Handler;
  /** Called at the head, before the body is read. What it returns is awaited; `'answered'` skips `handler`. */
  onHead?: (request: RecordedRequest, connection: RecorderConnection) => unknown;
  /** Called with every accepted socket; returning true takes it (silence, garbage, a broken handshake). */
  onAccept?: (socket: Socket) => unknown;
  /** Ask for a client certificate, or also refuse connections without a good one. */
  clientCert?: 'request' | 'require';
  /** Count and hash bodies, keep none. */
  hashOnly?: boolean;
  /** More for the TLS side (ALPNProtocols, maxVersion, ...). */
  tlsOptions?: TLSSocketOptions;
}

export interface Recorder extends AsyncDisposable {
  /** 0 with `unix`. */
  readonly port: number;
  /** PEM that verifies the `good` certificate. */
  readonly ca: string;
  /** Since start or `reset()`. Every accepted connection counts, also one whose handshake failed. */
  readonly requests: RecordedRequest[];
  readonly connections: ConnectionRecord[];
  /** What was wrong on the wire: malformed requests, bytes after the end, errors thrown by handlers. */
  readonly problems: string[];
  /** The first recorded request that `match` accepts (default: any); waits for it. */
  request(match?: (request: RecordedRequest) => boolean, ms?: number): Promise<RecordedRequest>;
  /** Replace the handler, or show another certificate to connections to come. */
  handle(handler: Handler): void;
  showCertificate(kind: LeafKind): void;
  /** Forgets what was recorded and restores the first handler and certificate; live connections stay. */
  reset(): void;
  /** Ends every live connection. */
  dropConnections(how: 'fin' | 'cut' | 'reset'): void;
  /** Refuses connections (the port is closed) until `up()`, which takes the same port again. */
  down(): Promise<void>;
  up(): Promise<void>;
  close(): Promise<void>;
}

const answerOk: Handler = (_, connection) => connection.reply(200, { 'Content-Type': 'text/plain' }, 'ok');

/** Starts an upstream; close it, or hold it with `await using`. */
export async function startRecorder(options: RecorderOptions = {}): Promise<Recorder> {
  const certs = await testCerts();
  const secure = options.tls !== false && options.unix === undefined;
  const requests: RecordedRequest[] = [];
  const connections: ConnectionRecord[] = [];
  const problems: string[] = [];
  const live = new Set<OwnedConnection>();
  const sockets = new Set<Socket>();
  let handler = options.handler ?? answerOk;
  let leaf = options.tls || 'good';
  let connectionCount = 0;

  const accept = (socket: Socket) => {
    const kept: Buffer[] = [];
    const record: ConnectionRecord = {
      id: ++connectionCount,
      requests: 0,
      bytesIn: 0,
      rawIn: () => Buffer.concat(kept),
      state: 'open',
      peerEnd: undefined,
    };
    connections.push(record);
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    if (options.onAccept?.(socket) === true) return;
    const stream = secure ? secureSide(socket, record) : socket;
    const keep = (chunk: Buffer) => void (options.hashOnly || kept.push(chunk));
    const connection = createConnection(stream, socket, record, keep);
    live.add(connection);
    socket.on('close', () => live.delete(connection));
    serve(connection).catch((error) => {
      problems.push(error instanceof Error ? error.message : String(error));
      connection.cut();
    });
  };

  const secureSide = (socket: Socket, record: ConnectionRecord): Socket => {
    const tls = new TLSSocket(socket, {
      isServer: true,
      ...certs.leaves[leaf],
      ca: certs.ca,
      requestCert: options.clientCert !== undefined,
      rejectUnauthorized: options.clientCert === 'require',
      ...options.tlsOptions,
    });
    tls.on('secure', () => {
      record.tls = {
        servername: String((tls as { servername?: unknown }).servername || ''),
        protocol: tls.getProtocol() ?? '',
        alpn: tls.alpnProtocol || '',
        clientName: tls.getPeerCertificate()?.subject?.CN as string | undefined,
      };
    });
    return tls;
  };

  /** Reads and answers requests, one after the other, until the connection ends or is taken over. */
  const serve = async (connection: OwnedConnection): Promise<void> => {
    const { reader, record } = connection;
    for (;;) {
      const raw = await reader.readThrough('\r\n\r\n');
      if (!raw) break;
      const request = beginRequest(raw, record.id);
      requests.push(request);
      record.requests += 1;
      connection.method = request.method;
      const answered = (await options.onHead?.(request, connection)) === 'answered';
      if (connection.taken) return;
      await receiveBody(request, reader, !options.hashOnly);
      if (request.state === 'cut') break;
      if (!answered) await handler(request, connection);
      if (connection.taken) return;
      if (request.version === 'HTTP/1.0' || /\bclose\b/i.test(request.header('connection') ?? '')) break;
    }
    if (reader.size > 0) problems.push(`connection ${record.id}: ${reader.size} bytes that are no request`);
    connection.end();
  };

  const server = createServer({ allowHalfOpen: true }, accept);
  const listen = (port: number) =>
    new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      const done = () => {
        server.off('error', reject);
        resolve();
      };
      if (options.unix === undefined) server.listen(port, '127.0.0.1', done);
      else server.listen(options.unix, done);
    });
  const stopListening = () => new Promise<void>((resolve) => server.close(() => resolve()));
  await listen(0);
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;

  const recorder: Recorder = {
    port,
    ca: certs.ca,
    requests,
    connections,
    problems,
    request: (match = () => true, ms = DEADLINE_MS) =>
      until('an upstream request', () => requests.find(match), ms),
    handle(next) {
      handler = next;
    },
    showCertificate(kind) {
      leaf = kind;
    },
    reset() {
      requests.length = connections.length = problems.length = 0;
      handler = options.handler ?? answerOk;
      leaf = options.tls || 'good';
    },
    dropConnections(how) {
      for (const connection of live) connection[how === 'fin' ? 'end' : how]();
    },
    async down() {
      const closed = stopListening();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
    up: () => listen(port),
    async close() {
      if (server.listening) await recorder.down();
    },
    [Symbol.asyncDispose]: () => recorder.close(),
  };
  return recorder;
}
