// WebSocket ends for tests, frame by frame (RFC 6455): a client on any endpoint, and an upstream on the recorder.

import { createHash, randomBytes } from 'node:crypto';
import { connect as connectNet, type Socket } from 'node:net';
import { type ByteReader, createByteReader, type InputEnd } from './byte-reader.ts';
import { DEADLINE_MS, within } from './deadline.ts';
import { type HeaderList, type HeadersLike, headerValues, parseHead, toHeaderList } from './http1.ts';
import { type Endpoint, formatRequest } from './raw-client.ts';
import type { RecordedRequest, RecorderConnection } from './recorder.ts';

export const TEXT = 1;
export const BINARY = 2;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;
const KINDS: Readonly<Record<number, string>> = { 1: 'text', 2: 'binary', 9: 'ping', 10: 'pong' };

export interface FrameOptions {
  fin?: boolean;
  mask?: boolean;
  rsv?: number;
  /** Announced length, where it is to differ from the payload's. */
  length?: number;
}

/** The bytes of one frame. */
export function formatFrame(
  opcode: number,
  payload: string | Uint8Array,
  options: FrameOptions = {},
): Buffer {
  const data = Buffer.from(payload as string);
  const length = options.length ?? data.length;
  const head = Buffer.alloc(length < 126 ? 2 : length < 65536 ? 4 : 10);
  head[0] = (options.fin === false ? 0 : 0x80) | (options.rsv ?? 0) | opcode;
  head[1] = (options.mask ? 0x80 : 0) | (length < 126 ? length : length < 65536 ? 126 : 127);
  if (head.length === 4) head.writeUInt16BE(length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
  if (!options.mask) return Buffer.concat([head, data]);
  const key = randomBytes(4);
  for (let i = 0; i < data.length; i++) data[i] = (data[i] as number) ^ (key[i & 3] as number);
  return Buffer.concat([head, key, data]);
}

export const formatClose = (code?: number, reason = ''): Buffer =>
  code === undefined
    ? Buffer.alloc(0)
    : Buffer.concat([Buffer.from([code >> 8, code & 255]), Buffer.from(reason)]);

/** What came: a whole message, a control frame, or the end of the connection. */
export interface Received {
  kind: 'text' | 'binary' | 'ping' | 'pong' | 'close' | 'end';
  data: Buffer;
  /** Frames of a message. */
  frames: number;
  /** Of a close frame, or `fin` / `reset` of the end. */
  code?: number | undefined;
  end?: InputEnd | undefined;
}

export interface WsPeer {
  /** One message in one frame: text for a string, binary for bytes. */
  send(data: string | Uint8Array): Promise<unknown>;
  frame(opcode: number, payload: string | Uint8Array, options?: FrameOptions): Promise<unknown>;
  raw(bytes: Uint8Array): Promise<unknown>;
  sendClose(code?: number, reason?: string): Promise<unknown>;
  /** The next thing that comes. */
  receive(ms?: number): Promise<Received>;
  /** Reads on until a close frame or the end. */
  untilClosed(ms?: number): Promise<Received>;
  /** Every byte that came and was read. */
  received(): Buffer;
  pause(): void;
  resume(): void;
  /** Closes the connection in order, without a close frame. */
  end(): void;
  /** Breaks it off. */
  cut(): void;
}

interface Wire {
  reader: ByteReader;
  write(bytes: Uint8Array): Promise<unknown>;
  masks: boolean;
  pause(): void;
  resume(): void;
  end(): void;
  cut(): void;
}

function createPeer(wire: Wire): WsPeer {
  const kept: Buffer[] = [];
  let parts: Buffer[] = [];
  let opcode = 0;

  async function take(length: number): Promise<Buffer | undefined> {
    const found: Buffer[] = [];
    for (let missing = length; missing > 0; ) {
      const piece = await wire.reader.read(missing);
      if (piece === undefined) return undefined;
      found.push(piece);
      missing -= piece.length;
    }
    const bytes = Buffer.concat(found);
    kept.push(bytes);
    return bytes;
  }

  async function readFrame() {
    const head = await take(2);
    if (head === undefined) return undefined;
    let length = (head[1] as number) & 0x7f;
    if (length === 126) length = (await take(2))?.readUInt16BE(0) ?? 0;
    else if (length === 127) length = Number((await take(8))?.readBigUInt64BE(0) ?? 0);
    const masked = ((head[1] as number) & 0x80) !== 0;
    const key = masked ? await take(4) : undefined;
    const payload = await take(length);
    if (payload === undefined) return undefined;
    const data = Buffer.from(payload);
    if (key) for (let i = 0; i < data.length; i++) data[i] = (data[i] as number) ^ (key[i & 3] as number);
    const first = head[0] as number;
    if (masked === wire.masks) throw new Error('a frame that is masked the wrong way');
    if (first & 0x70) throw new Error('a frame with a reserved bit');
    return { fin: (first & 0x80) !== 0, opcode: first & 15, data };
  }

  async function next(): Promise<Received> {
    for (;;) {
      const frame = await readFrame();
      if (frame === undefined)
        return { kind: 'end', data: Buffer.alloc(0), frames: 0, end: wire.reader.ended };
      if (frame.opcode === CLOSE) {
        const code = frame.data.length >= 2 ? frame.data.readUInt16BE(0) : undefined;
        return { kind: 'close', data: frame.data.subarray(2), frames: 1, code };
      }
      if (frame.opcode > CLOSE)
        return { kind: KINDS[frame.opcode] as 'ping' | 'pong', data: frame.data, frames: 1 };
      if (frame.opcode !== 0) opcode = frame.opcode;
      parts.push(frame.data);
      if (!frame.fin) continue;
      const whole = { kind: KINDS[opcode] as 'text', data: Buffer.concat(parts), frames: parts.length };
      parts = [];
      return whole;
    }
  }

  const frame: WsPeer['frame'] = (code, payload, options) =>
    wire.write(formatFrame(code, payload, { mask: wire.masks, ...options }));
  const peer: WsPeer = {
    frame,
    send: (data) => frame(typeof data === 'string' ? TEXT : BINARY, data),
    raw: (bytes) => wire.write(bytes),
    sendClose: (code, reason) => frame(CLOSE, formatClose(code, reason)),
    receive: (ms = DEADLINE_MS) => within('a frame', next(), ms),
    async untilClosed(ms = DEADLINE_MS) {
      const end = async () => {
        for (;;) {
          const got = await next();
          if (got.kind === 'close' || got.kind === 'end') return got;
        }
      };
      return within('a close frame or the end', end(), ms);
    },
    received: () => Buffer.concat(kept),
    pause: wire.pause,
    resume: wire.resume,
    end: wire.end,
    cut: wire.cut,
  };
  return peer;
}

export interface WsClient extends WsPeer, Disposable {
  readonly status: number;
  readonly rawHead: Buffer;
  readonly headers: HeaderList;
  header(name: string): string | undefined;
}

export const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';
const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=';

export const upgradeHeaders = (more: HeadersLike = []): HeaderList => [
  ['Upgrade', 'websocket'],
  ['Connection', 'Upgrade'],
  ['Sec-WebSocket-Version', '13'],
  ['Sec-WebSocket-Key', KEY],
  ...toHeaderList(more),
];

/** Asks for a WebSocket; returns when the answer's head has come, whatever its status. */
export async function openWs(
  endpoint: Endpoint,
  target: string,
  headers: HeadersLike = [],
): Promise<WsClient> {
  const socket: Socket =
    typeof endpoint === 'string'
      ? connectNet({ path: endpoint })
      : connectNet({ host: '127.0.0.1', ...endpoint });
  const reader = createByteReader();
  socket.on('data', (chunk: Buffer) => reader.push(chunk));
  socket.on('end', () => reader.end('fin'));
  socket.on('error', () => reader.end('reset'));
  socket.on('close', () => reader.end('reset'));
  socket.write(formatRequest({ target, headers: upgradeHeaders(headers) }));
  const raw = await within('the answer to an upgrade', reader.readThrough('\r\n\r\n'));
  if (raw === undefined) throw new Error('closed before the answer to an upgrade');
  const head = parseHead(raw);
  const status = Number(head.startLine.split(' ')[1]);
  const header = (name: string) => headerValues(head.headers, name)[0];
  if (status === 101 && header('sec-websocket-accept') !== ACCEPT) throw new Error('wrong accept key');
  const peer = createPeer({
    reader,
    masks: true,
    write: (bytes) => new Promise((resolve) => socket.write(bytes, () => resolve(undefined))),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    end: () => void socket.end(),
    cut: () => void socket.destroy(),
  });
  return {
    ...peer,
    status,
    rawHead: raw,
    headers: head.headers,
    header,
    [Symbol.dispose]: () => void socket.destroy(),
  };
}

/** Answers an upgrade with 101, and takes the connection over. */
export async function acceptWs(
  request: RecordedRequest,
  connection: RecorderConnection,
  headers: HeadersLike = [],
): Promise<WsPeer> {
  const accept = createHash('sha1')
    .update(`${request.header('sec-websocket-key')}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest('base64');
  const reader = connection.takeOver();
  await connection.head(101, [
    ['Upgrade', 'websocket'],
    ['Connection', 'Upgrade'],
    ['Sec-WebSocket-Accept', accept],
    ...toHeaderList(headers),
  ]);
  return createPeer({
    reader,
    masks: false,
    write: (bytes) => connection.write(bytes),
    pause: connection.pause,
    resume: connection.resume,
    end: connection.end,
    cut: connection.cut,
  });
}
