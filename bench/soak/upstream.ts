/**
 * The upstream of the soak, a process of its own: `bun bench/soak/upstream.ts '{"cert": …, "key": …}'` prints its ports
 * as one line of JSON, then serves over TLS until its standard input ends. Each line of input, `drop`, ends all
 * connections: what the proxy then still holds is its own. Without a soak key it answers 401.
 */

import process from 'node:process';
import { createInterface } from 'node:readline';
import { FIRST_EVENT, KEY_HEADER, readKey } from './keys.ts';

const CHUNK = Buffer.alloc(64 * 1024, 'd');
const LONGEST_HANG_MS = 60_000;

interface Tls {
  readonly cert: string;
  readonly key: string;
}

/** Events until the reader leaves; each holds its number. */
function events(count: number, every: number, headers: Record<string, string>): Response {
  let timer: ReturnType<typeof setInterval> | undefined;
  let sent = 0;
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      const send = () => {
        controller.enqueue(encoder.encode(`data: {"n":${sent++},"text":"${'word '.repeat(8)}"}\n\n`));
        if (sent < count) return;
        clearInterval(timer);
        controller.close();
      };
      send();
      if (sent < count) timer = setInterval(send, every);
    },
    cancel: () => clearInterval(timer),
  });
  return new Response(body, { headers: { ...headers, 'content-type': 'text/event-stream' } });
}

async function answer(request: Request, server: Bun.Server<undefined>): Promise<Response | undefined> {
  const generation = readKey(request.headers.get('x-api-key'));
  if (generation === undefined) return new Response('no key', { status: 401 });
  const headers = { [KEY_HEADER]: String(generation) };
  const { pathname, searchParams } = new URL(request.url);
  const [, , kind = '', size = '0'] = pathname.split('/');
  if (kind === 'ws') return server.upgrade(request) ? undefined : new Response('no upgrade', { status: 400 });
  if (kind === 'stream')
    return events(Number(searchParams.get('n')), Number(searchParams.get('ms')), headers);
  if (kind === 'status') return Response.json({ error: 'as asked' }, { status: Number(size), headers });
  if (kind === 'files') {
    const whole = Math.floor(Number(size) / CHUNK.length);
    return new Response(new Blob(Array(whole).fill(CHUNK)), { headers });
  }
  let bytes = 0;
  if (request.body !== null) for await (const piece of request.body) bytes += piece.byteLength;
  return Response.json({ bytes, text: 'pong '.repeat(60) }, { headers });
}

/** What a bad day of an upstream looks like, by the last segment of the path. */
const FAULTS: Readonly<Record<string, (socket: Bun.Socket<unknown>) => void>> = {
  reset: (socket) => void socket.terminate(),
  garbage: (socket) => void socket.end('this is no HTTP at all\r\n\r\n'),
  cut: (socket) => void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this much'),
  'cut-chunks': (socket) => {
    const head = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n';
    void socket.end(`${head}${FIRST_EVENT.length.toString(16)}\r\n${FIRST_EVENT}\r\n`);
  },
  hang: (socket) => void setTimeout(() => socket.terminate(), LONGEST_HANG_MS),
};

function serveFaults(tls: Tls, open: Set<Bun.Socket<unknown>>) {
  return Bun.listen({
    hostname: '127.0.0.1',
    port: 0,
    tls,
    socket: {
      open: (socket) => void open.add(socket),
      close: (socket) => void open.delete(socket),
      error: (socket) => void open.delete(socket),
      data(socket, bytes) {
        const kind = /^GET \/v1\/([a-z-]+)/.exec(bytes.toString('latin1'))?.[1] ?? 'reset';
        FAULTS[kind]?.(socket);
      },
    },
  });
}

if (import.meta.main) {
  const tls = JSON.parse(process.argv[2] ?? '{}') as Tls;
  const serve = (port: number) =>
    Bun.serve({
      hostname: '127.0.0.1',
      port,
      tls,
      idleTimeout: 0,
      reusePort: true,
      maxRequestBodySize: 2 ** 30,
      fetch: answer,
      websocket: { message: (socket, message) => void socket.send(message) },
    });
  let server = serve(0);
  const open = new Set<Bun.Socket<unknown>>();
  const faulty = serveFaults(tls, open);
  console.log(JSON.stringify({ port: server.port, faultyPort: faulty.port }));
  const input = createInterface({ input: process.stdin });
  input.on('line', async () => {
    const { port } = server;
    for (const socket of open) socket.terminate();
    await server.stop(true);
    server = serve(port as number);
    console.log('dropped');
  });
  input.on('close', () => process.exit(0));
}
