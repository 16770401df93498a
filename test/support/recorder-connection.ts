// One connection of the recording upstream: what a handler can do to it, down to single bytes, FIN and RST.

import type { Socket } from 'node:net';
import { type ByteReader, createByteReader, type InputEnd } from './byte-reader.ts';
import { formatHeaders, type HeaderList, type HeadersLike, toHeaderList } from './http1.ts';

/** What is known about one accepted TCP (or unix) connection. */
export interface ConnectionRecord {
  /** Counts from 1 over the recorder's life; `reset()` does not start it again. */
  id: number;
  /** Requests whose head arrived on it. */
  requests: number;
  /** Decrypted bytes that arrived, and all of them unless `hashOnly`. */
  bytesIn: number;
  rawIn(): Buffer;
  state: 'open' | 'closed';
  /** First sign that the peer left: its FIN, or an error. Undefined while it is there. */
  peerEnd: InputEnd | undefined;
  /** Set once the TLS handshake is done. */
  tls?: { servername: string; protocol: string; alpn: string; clientName: string | undefined };
}

export type Bytes = string | Uint8Array;
export type Event = string | { event?: string; data: string; id?: string };
type Items<T> = Iterable<T> | AsyncIterable<T>;

/** The handler's side of a connection. Every write resolves true when handed over, false when the peer has left. */
export interface RecorderConnection {
  readonly record: ConnectionRecord;
  /** Settles at the first sign that the peer left. Not noticed while reading is paused (also: over 1 MiB unread). */
  readonly gone: Promise<InputEnd>;
  /** Exact bytes, with the backpressure of the socket; strings as latin-1. */
  write(bytes: Bytes): Promise<boolean>;
  /** A whole answer with Content-Length (unless given). To HEAD, and with 1xx, 204 and 304, no body is written. */
  reply(status: number, headers?: HeadersLike, body?: Bytes): Promise<boolean>;
  json(status: number, value: unknown, headers?: HeadersLike): Promise<boolean>;
  /** Status line and headers only. */
  head(status: number, headers?: HeadersLike): Promise<boolean>;
  /** One chunk of a chunked body, and its end. */
  chunk(bytes: Bytes): Promise<boolean>;
  lastChunk(trailers?: HeadersLike): Promise<boolean>;
  /** A whole chunked answer, one chunk an item. */
  chunked(status: number, headers: HeadersLike, parts: Items<Bytes>): Promise<boolean>;
  /** A `text/event-stream`, chunked, one chunk an event; a string is the event's data. */
  sse(events: Items<Event>, headers?: HeadersLike): Promise<boolean>;
  /** Orderly half close: close_notify (TLS) and FIN. */
  end(): void;
  /** FIN without close_notify: what a cut TLS connection looks like. */
  cut(): void;
  /** RST. */
  reset(): void;
  /** Stops and resumes reading from the socket. */
  pause(): void;
  resume(): void;
  /** Takes the connection over after this request (WebSocket, tunnels): what follows is read from here, unparsed. */
  takeOver(): ByteReader;
}

/** What the recorder itself needs besides. */
export interface OwnedConnection extends RecorderConnection {
  readonly reader: ByteReader;
  readonly taken: boolean;
  /** The method of the request being answered. */
  method: string;
}

/** Above this many unread bytes the socket is paused, so that an upload sees backpressure. */
const HIGH_WATER = 1 << 20;

export function createConnection(
  socket: Socket,
  underlying: Socket,
  record: ConnectionRecord,
  keep: (chunk: Buffer) => void,
): OwnedConnection {
  let taken = false;
  const reader = createByteReader({
    highWater: HIGH_WATER,
    onFull: () => socket.pause(),
    onRoom: () => socket.resume(),
  });
  const gone = Promise.withResolvers<InputEnd>();
  const left = (how: InputEnd) => {
    record.peerEnd ??= how;
    reader.end(how);
    gone.resolve(record.peerEnd);
  };
  socket.on('data', (chunk: Buffer) => {
    record.bytesIn += chunk.length;
    keep(chunk);
    reader.push(chunk);
  });
  socket.on('end', () => left('fin'));
  for (const side of new Set([socket, underlying])) {
    side.on('error', () => left('reset'));
    side.on('close', () => {
      record.state = 'closed';
      left('reset');
    });
  }

  const write = async (bytes: Bytes): Promise<boolean> => {
    if (record.state === 'closed' || !socket.writable) return false;
    const buffer = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : Buffer.from(bytes);
    if (buffer.length > 0 && !socket.write(buffer)) await drained(socket);
    return !socket.destroyed;
  };
  const head = (status: number, headers: HeadersLike = []) =>
    write(`HTTP/1.1 ${status} ${status === 200 ? 'OK' : 'Status'}\r\n${formatHeaders(headers)}\r\n`);
  const chunk = (bytes: Bytes) => {
    const data = Buffer.from(bytes as string);
    return write(Buffer.concat([Buffer.from(`${data.length.toString(16)}\r\n`), data, Buffer.from('\r\n')]));
  };
  const lastChunk = (trailers: HeadersLike = []) => write(`0\r\n${formatHeaders(trailers)}\r\n`);

  const self: OwnedConnection = {
    record,
    reader,
    gone: gone.promise,
    method: '',
    get taken() {
      return taken;
    },
    write,
    head,
    chunk,
    lastChunk,
    async reply(status, headers = [], body = '') {
      const bytes = Buffer.from(body as string);
      const list: HeaderList = [...toHeaderList(headers)];
      const bodiless = status < 200 || status === 204 || status === 304;
      if (!bodiless && !list.some(([name]) => /^(content-length|transfer-encoding)$/i.test(name))) {
        list.push(['Content-Length', String(bytes.length)]);
      }
      const start = `HTTP/1.1 ${status} ${status === 200 ? 'OK' : 'Status'}\r\n${formatHeaders(list)}\r\n`;
      if (bodiless || self.method === 'HEAD') return write(start);
      return write(Buffer.concat([Buffer.from(start, 'latin1'), bytes]));
    },
    json: (status, value, headers = []) =>
      self.reply(
        status,
        [['Content-Type', 'application/json'], ...toHeaderList(headers)],
        JSON.stringify(value),
      ),
    async chunked(status, headers, parts) {
      await head(status, [...toHeaderList(headers), ['Transfer-Encoding', 'chunked']]);
      for await (const part of parts) if (!(await chunk(part))) return false;
      return lastChunk();
    },
    sse: (events, headers = []) =>
      self.chunked(
        200,
        [['Content-Type', 'text/event-stream'], ...toHeaderList(headers)],
        formatEvents(events),
      ),
    end: () => void socket.end(),
    cut: () => void underlying.destroy(),
    reset: () => void underlying.resetAndDestroy(),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    takeOver() {
      taken = true;
      return reader;
    },
  };
  return self;
}

async function* formatEvents(events: Items<Event>): AsyncGenerator<string> {
  for await (const item of events) {
    const { event, data, id } = typeof item === 'string' ? ({ data: item } as Exclude<Event, string>) : item;
    const lines = data.split('\n').map((line) => `data: ${line}\n`);
    yield `${event ? `event: ${event}\n` : ''}${id ? `id: ${id}\n` : ''}${lines.join('')}\n`;
  }
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done);
      socket.off('close', done);
      resolve();
    };
    socket.on('drain', done);
    socket.on('close', done);
  });
}
