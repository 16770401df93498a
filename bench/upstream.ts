/**
 * The upstream of every measurement, a process of its own: `bun bench/upstream.ts '{"file": …}'`. Prints its ports
 * as one line of JSON, then serves until its standard input ends. Refuses what lacks the injected key, so that a
 * peer that injects nothing has no figure.
 */
import process from 'node:process';

export const KEY = 'bench-key-0123456789abcdefghijklmnop';
/** One too short for the reflection guard. */
export const SHORT_KEY = 'bench-key';
export const ANSWER = JSON.stringify({
  id: 'chatcmpl-1',
  object: 'chat.completion',
  created: 1,
  model: 'bench',
  choices: [{ index: 0, message: { role: 'assistant', content: 'pong '.repeat(40) }, finish_reason: 'stop' }],
});
export const CHAT_PATH = '/v1/chat/completions';

export interface UpstreamOptions {
  /** What `/v1/down` sends: a file, so that its length is declared. */
  readonly file: string;
  readonly tls: { readonly cert: string; readonly key: string };
}

/** Wall clock in ms with microseconds, comparable between processes of one machine. */
export function wallNow(): number {
  return performance.timeOrigin + performance.now();
}

/** Events with their number and the moment they were sent, `every` ms, until the reader leaves or `count` is reached. */
function events(every: number, count: number): Response {
  let timer: ReturnType<typeof setInterval> | undefined;
  let sent = 0;
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      const send = () => {
        controller.enqueue(encoder.encode(`data: ${sent++} ${wallNow()}\n\n`));
        if (sent < count) return;
        clearInterval(timer);
        controller.close();
      };
      send();
      if (sent < count) timer = setInterval(send, every);
    },
    cancel: () => clearInterval(timer),
  });
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
}

async function swallow(request: Request): Promise<Response> {
  let bytes = 0;
  if (request.body !== null) for await (const piece of request.body) bytes += piece.byteLength;
  return Response.json({ bytes });
}

function isAuthorised({ headers }: Request): boolean {
  const key = headers.get('x-api-key');
  return key === KEY || key === SHORT_KEY || headers.get('authorization') === `Bearer ${KEY}`;
}

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] ?? '{}') as UpstreamOptions;
  const answer = () => new Response(ANSWER, { headers: { 'content-type': 'application/json' } });
  const fetch = async (request: Request): Promise<Response> => {
    if (!isAuthorised(request)) return new Response('no key', { status: 401 });
    const { url } = request;
    const path = url.slice(url.indexOf('/', 8));
    if (path === CHAT_PATH) {
      await request.arrayBuffer();
      return answer();
    }
    if (path === '/v1/up') return swallow(request);
    if (path === '/v1/down') return new Response(Bun.file(options.file));
    if (path.startsWith('/v1/events')) {
      const query = new URL(url).searchParams;
      return events(Number(query.get('every')), Number(query.get('count')));
    }
    return answer();
  };
  const common = { hostname: '127.0.0.1', port: 0, idleTimeout: 0, maxRequestBodySize: 2 ** 40, fetch };
  const plain = Bun.serve(common);
  const tls = Bun.serve({ ...common, tls: options.tls });
  console.log(JSON.stringify({ port: plain.port, tlsPort: tls.port }));
  process.stdin.on('end', () => process.exit(0)).resume();
}
