/**
 * Bun.serve, and an HTTP/1.1 client of our own instead of fetch: `bun bun-connect.ts PORT ORIGIN KEY [CA-FILE]`.
 * Small bodies go up in one write with the head; all others are streamed. Left out: what own-client.ts leaves out,
 * and all that Bun.serve hides (the raw target, order and case of fields).
 */
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { type Field, hopByHop } from './message-reader.ts';
import { type AnswerSink, createClient, type Exchange } from './own-client.ts';

const [port, upstream = '', key = '', caFile] = process.argv.slice(2);
const { protocol, hostname, port: upstreamPort, host } = new URL(upstream);
const ca = caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') };
const isTls = protocol === 'https:';
const client = createClient({
  hostname,
  port: Number(upstreamPort || (isTls ? 443 : 80)),
  ...(isTls && { tls: ca }),
});
const SMALL = 64 * 1024;
const EMPTY = Buffer.alloc(0);

Bun.serve({
  hostname: '127.0.0.1',
  port: Number(port),
  idleTimeout: 0,
  maxRequestBodySize: 2 ** 40,
  async fetch(request) {
    try {
      return await forward(request);
    } catch {
      return new Response('upstream failed', { status: 502 });
    }
  },
});

/** Method, target and fields on the wire, and how the body is framed. */
function formatHead(request: Request, isChunked: boolean): Buffer {
  const { url, method, headers } = request;
  const fields = [...headers] as Field[];
  const dropped = hopByHop(fields).add('host').add('x-api-key').add('expect');
  let head = `${method} ${url.slice(url.indexOf('/', 8))} HTTP/1.1\r\nHost: ${host}\r\n`;
  for (const [name, value] of fields) if (!dropped.has(name)) head += `${name}: ${value}\r\n`;
  if (isChunked) head += 'Transfer-Encoding: chunked\r\n';
  return Buffer.from(`${head}x-api-key: ${key}\r\n\r\n`, 'latin1');
}

async function forward(request: Request): Promise<Response> {
  const { method, headers, body } = request;
  const declared = headers.get('content-length');
  const hasBody = headers.has('transfer-encoding') || Number(declared ?? 0) > 0;
  if (hasBody && body === null) return new Response('no body with this method', { status: 400 });
  const isSmall = Number(declared ?? SMALL + 1) <= SMALL;
  const isChunked = hasBody && declared === null;
  const head = formatHead(request, isChunked);
  const whole = hasBody && isSmall ? Buffer.from(await request.arrayBuffer()) : EMPTY;
  const { sink, answer, attach, drained } = createAnswer();
  const exchange = await client.send(method, hasBody && isSmall ? Buffer.concat([head, whole]) : head, sink);
  attach(exchange);
  request.signal.addEventListener('abort', exchange.abort, { once: true });
  if (request.signal.aborted) exchange.abort();
  if (!hasBody || isSmall) exchange.finish();
  else pump(body as ReadableStream<Uint8Array>, exchange, isChunked, drained).catch(exchange.abort);
  return answer;
}

async function pump(
  body: ReadableStream<Uint8Array>,
  exchange: Exchange,
  isChunked: boolean,
  drained: () => Promise<void>,
): Promise<void> {
  for await (const piece of body) {
    if (piece.length === 0) continue;
    if (isChunked) exchange.write(Buffer.from(`${piece.length.toString(16)}\r\n`));
    const isTaken = exchange.write(piece);
    if (isChunked ? !exchange.write(Buffer.from('\r\n')) : !isTaken) await drained();
  }
  if (isChunked) exchange.write(Buffer.from('0\r\n\r\n'));
  exchange.finish();
}

/** A Response of what comes: at once with its body where one read held all of it, else as a stream. */
function createAnswer() {
  const { promise, resolve, reject } = Promise.withResolvers<Response>();
  let exchange: Exchange | undefined;
  let init: { status: number; statusText: string; headers: Headers } | undefined;
  let pieces: Buffer[] = [];
  let stream: ReadableStreamDefaultController<Uint8Array> | undefined;
  let isOver = false;
  let onDrain: (() => void) | undefined;
  const release = () => {
    onDrain?.();
    onDrain = undefined;
  };

  const sink: AnswerSink = {
    head({ start, fields }, status) {
      const headers = new Headers();
      const dropped = hopByHop(fields);
      for (const [name, value] of fields) if (!dropped.has(name.toLowerCase())) headers.append(name, value);
      init = { status, statusText: start.slice(13), headers };
    },
    body(piece) {
      if (stream === undefined) return void pieces.push(piece);
      stream.enqueue(piece);
      if ((stream.desiredSize ?? 0) <= 0) exchange?.pause();
    },
    end() {
      isOver = true;
      stream?.close();
    },
    flush() {
      if (init === undefined || stream !== undefined) return;
      if (isOver) return resolve(new Response(pieces.length > 0 ? Buffer.concat(pieces) : null, init));
      // Nothing is pulled before the answer is taken: the queue is what the limit holds for.
      const body = new ReadableStream<Uint8Array>(
        {
          start(controller) {
            stream = controller;
            for (const piece of pieces) controller.enqueue(piece);
            pieces = [];
          },
          pull: () => exchange?.resume(),
          cancel() {
            isOver = true;
            exchange?.abort();
          },
        },
        { highWaterMark: 256 * 1024, size: (piece) => piece?.byteLength ?? 0 },
      );
      resolve(new Response(body, init));
    },
    drain: release,
    failed(error) {
      if (!isOver) stream?.error(error);
      isOver = true;
      reject(error);
      release();
    },
  };
  return {
    sink,
    answer: promise,
    attach: (opened: Exchange) => {
      exchange = opened;
    },
    drained: () =>
      new Promise<void>((done) => {
        onDrain = done;
      }),
  };
}
