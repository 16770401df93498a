/**
 * Raw sockets on both sides: Bun.listen with a parser of our own, and own-client.ts: `bun bun-sockets.ts PORT ORIGIN KEY
 * [CA-FILE]`. What a client sends goes up as it came, in order and case, but for hop-by-hop fields, the framing of a
 * chunked body, and the key. Left out: limits of a request, timeouts but for the head's, trailers, upgrades, CONNECT.
 */
import { readFileSync } from 'node:fs';
import process from 'node:process';
import {
  createMessageReader,
  declaredFraming,
  type Framing,
  type Head,
  hopByHop,
  type MessageReader,
  values,
} from './message-reader.ts';
import { type AnswerSink, createClient, type Exchange } from './own-client.ts';

const [port, upstream = '', key = '', caFile] = process.argv.slice(2);
const { protocol, hostname, port: upstreamPort, host } = new URL(upstream);
const isTls = protocol === 'https:';
const ca = caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') };
const client = createClient({
  hostname,
  port: Number(upstreamPort || (isTls ? 443 : 80)),
  ...(isTls && { tls: ca }),
});

const LONGEST_HEAD = 16 * 1024;
const HEAD_MS = 10_000;
const METHODS = /^(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (\/[\x21-\x7e]*) HTTP\/1\.1$/;
const CRLF = Buffer.from('\r\n');
const LAST_CHUNK = Buffer.from('0\r\n\r\n');

type Client = Bun.Socket<ReturnType<typeof serve>>;

Bun.listen({
  hostname: '127.0.0.1',
  port: Number(port),
  socket: {
    open(socket: Client) {
      socket.data = serve(socket);
    },
    data: ({ data }: Client, chunk: Buffer) => data.data(chunk),
    drain: ({ data }: Client) => data.drain(),
    end: ({ data }: Client) => data.end(),
    close: ({ data }: Client) => data.close(),
    error: ({ data }: Client) => data.close(),
  },
} as unknown as Parameters<typeof Bun.listen>[0]);

/** A piece of a body as it goes on the wire. */
function frame(piece: Buffer, isChunked: boolean): Buffer[] {
  return isChunked ? [Buffer.from(`${piece.length.toString(16)}\r\n`), piece, CRLF] : [piece];
}

function formatHead(start: string, { fields }: Head, more: string, dropped: Set<string>): Buffer {
  let text = `${start}\r\n`;
  for (const [name, value] of fields) if (!dropped.has(name.toLowerCase())) text += `${name}: ${value}\r\n`;
  return Buffer.from(`${text + more}\r\n`, 'latin1');
}

function requestHead(head: Head, framing: Framing): Buffer {
  if (values(head.fields, 'host').length !== 1) throw new Error('not one Host');
  const dropped = hopByHop(head.fields).add('x-api-key').add('host');
  const more = `${framing === 'chunked' ? 'Transfer-Encoding: chunked\r\n' : ''}x-api-key: ${key}\r\n`;
  return formatHead(`${head.start}\r\nHost: ${host}`, head, more, dropped);
}

/** One connection of a client: requests one after another, the next read when the answer is over. */
function serve(socket: Bun.Socket<unknown>) {
  let waiting: Uint8Array[] = [];
  /** What goes out with the next flush, in one write. */
  let outgoing: Buffer[] = [];
  let exchange: Exchange | undefined;
  let upload: Buffer[] = [];
  let isChunkedUp = false;
  let received = false;
  let closes = false;
  let busy = false;
  /** The client has left, or was refused. */
  let gone = false;
  let headTimer: ReturnType<typeof setTimeout> | undefined;
  waitForHead();

  function waitForHead(): void {
    headTimer = setTimeout(() => socket.terminate(), HEAD_MS);
  }

  function write(bytes: Uint8Array): void {
    if (waiting.length > 0) return void waiting.push(bytes);
    const taken = Math.max(0, socket.write(bytes));
    if (taken === bytes.length) return;
    waiting = [bytes.subarray(taken)];
    exchange?.pause();
  }

  function refuse(status: string): void {
    write(Buffer.from(`HTTP/1.1 ${status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`));
    socket.end();
    close();
  }

  function close(): void {
    clearTimeout(headTimer);
    gone = true;
    exchange?.abort();
    exchange = undefined;
  }

  /** Sends up what one read has brought; before the connection is there it waits. */
  function flushUp(): void {
    if (exchange === undefined) return;
    const bytes = upload.length === 1 ? upload[0] : Buffer.concat(upload);
    upload = [];
    if (bytes !== undefined && bytes.length > 0 && !exchange.write(bytes)) socket.pause();
    if (received) exchange.finish();
  }

  async function start(method: string): Promise<void> {
    // In the next turn of the queue: by then one read is parsed, and head and body go up in one write.
    await undefined;
    if (gone) return;
    const first = Buffer.concat(upload);
    upload = [];
    if (!received) socket.pause();
    try {
      const opened = await client.send(method, first, createSink());
      if (gone) return opened.abort();
      exchange = opened;
      flushUp();
      if (!received) socket.resume();
    } catch {
      if (!gone) refuse('502 Bad Gateway');
    }
  }

  function createSink(): AnswerSink {
    let isChunked = false;
    let begun = false;
    return {
      interim: (head) => void outgoing.push(formatHead(head.start, head, '', new Set())),
      head(head, _status, framing) {
        begun = true;
        isChunked = framing === 'chunked' || framing === 'close';
        const more = isChunked ? 'Transfer-Encoding: chunked\r\n' : '';
        outgoing.push(formatHead(head.start, head, more, hopByHop(head.fields)));
      },
      body: (piece) => void outgoing.push(...frame(piece, isChunked)),
      end() {
        if (isChunked) outgoing.push(LAST_CHUNK);
        exchange = undefined;
        busy = false;
      },
      flush() {
        const bytes = outgoing.length === 1 ? outgoing[0] : Buffer.concat(outgoing);
        outgoing = [];
        if (bytes !== undefined && bytes.length > 0) write(bytes);
        if (busy) return;
        // A client that is still sending would have its rest taken for the next request.
        if (closes || !received) return void socket.end();
        waitForHead();
        nextRequest();
      },
      drain: () => socket.resume(),
      failed() {
        exchange = undefined;
        if (begun) socket.terminate();
        else if (!gone) refuse('502 Bad Gateway');
      },
    };
  }

  function nextRequest(): void {
    socket.resume();
    received = false;
    read(() => reader.next());
  }

  const reader: MessageReader = createMessageReader(
    {
      head(head) {
        clearTimeout(headTimer);
        if (!METHODS.test(head.start)) throw new Error('no usable request line');
        const method = head.start.slice(0, head.start.indexOf(' '));
        const framing = declaredFraming(head) ?? 0;
        // What a parser upstream may take for the next request.
        if (framing !== 0 && (method === 'GET' || method === 'HEAD'))
          throw new Error('a body with this method');
        isChunkedUp = framing === 'chunked';
        closes = values(head.fields, 'connection').some((value) => /\bclose\b/i.test(value));
        upload = [requestHead(head, framing)];
        busy = true;
        start(method);
        return framing;
      },
      body: (piece) => void upload.push(...frame(piece, isChunkedUp)),
      end() {
        if (isChunkedUp) upload.push(LAST_CHUNK);
        received = true;
      },
    },
    LONGEST_HEAD,
  );

  function read(step: () => void): void {
    try {
      step();
      flushUp();
    } catch {
      if (busy) socket.terminate();
      else refuse('400 Bad Request');
      close();
    }
  }

  return {
    data(chunk: Buffer) {
      read(() => reader.read(chunk));
      // The next request waits in the reader; more of it waits in the kernel.
      if (busy && received && reader.excess() > LONGEST_HEAD) socket.pause();
    },
    drain() {
      const bytes = Buffer.concat(waiting);
      waiting = [];
      if (bytes.length > 0) write(bytes);
      if (waiting.length === 0) exchange?.resume();
    },
    // A client that has left cannot be told from one that only shuts its sending side.
    end: () => void socket.terminate(),
    close,
  };
}
