/**
 * The upstream of the long hold, a process of its own: `bun bench/hold/upstream.ts '{"cert": …, "key": …}'`. TLS on
 * loopback. An event goes to each stream at once and then by one clock for all, until `end` on its standard input ends
 * them; `drop` closes what connections are left. Each is answered with one line.
 */
import process from 'node:process';
import { createInterface } from 'node:readline';
import { ANSWER, CHAT_PATH, KEY, wallNow } from '../upstream.ts';
import { EVERY_MS } from './pace.ts';

export interface Ended {
  readonly streams: number;
  readonly sent: number;
  /** Readers that left before their stream was ended. */
  readonly left: number;
}

type Controller = ReadableStreamDefaultController<Uint8Array>;

interface Sender {
  readonly controller: Controller;
  sent: number;
}

const SLOT_MS = 5;
const SLOTS = EVERY_MS / SLOT_MS;
const encoder = new TextEncoder();

/** One timer for all streams: thousands of timers drift, each by its own, and cost more. */
function createClock() {
  const slots = Array.from({ length: SLOTS }, () => new Set<Sender>());
  const count = { streams: 0, sent: 0, left: 0 };
  const start = performance.now();
  let slot = 0;

  function send(sender: Sender): void {
    count.sent++;
    sender.controller.enqueue(encoder.encode(`data: ${sender.sent++} ${wallNow()}\n\n`));
  }

  setInterval(() => {
    for (const now = performance.now(); start + (slot + 1) * SLOT_MS <= now; slot++)
      for (const sender of slots[(slot + 1) % SLOTS] ?? []) send(sender);
  }, SLOT_MS);

  return {
    open(): Response {
      const due = slots[slot % SLOTS];
      let sender: Sender | undefined;
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          sender = { controller, sent: 0 };
          count.streams++;
          send(sender);
          due?.add(sender);
        },
        cancel() {
          if (sender !== undefined && due?.delete(sender)) count.left++;
        },
      });
      return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
    },
    end(): Ended {
      for (const senders of slots) {
        for (const { controller } of senders) controller.close();
        senders.clear();
      }
      return count;
    },
  };
}

if (import.meta.main) {
  const tls = JSON.parse(process.argv[2] ?? '{}') as { cert: string; key: string };
  const clock = createClock();
  const fetch = async (request: Request): Promise<Response> => {
    if (request.headers.get('x-api-key') !== KEY) return new Response('no key', { status: 401 });
    const { pathname } = new URL(request.url);
    if (pathname === '/v1/events') return clock.open();
    if (pathname !== CHAT_PATH) return new Response('no such path', { status: 404 });
    await request.arrayBuffer();
    return new Response(ANSWER, { headers: { 'content-type': 'application/json' } });
  };
  const serve = (port: number) =>
    Bun.serve({ hostname: '127.0.0.1', port, tls, idleTimeout: 0, reusePort: true, fetch });
  let server = serve(0);
  console.log(JSON.stringify({ port: 0, tlsPort: server.port }));
  const input = createInterface({ input: process.stdin });
  input.on('line', async (command) => {
    if (command === 'end') return console.log(JSON.stringify(clock.end()));
    const { port } = server;
    await server.stop(true);
    server = serve(port as number);
    console.log('dropped');
  });
  input.on('close', () => process.exit(0));
}
