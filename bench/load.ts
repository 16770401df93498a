/**
 * The load generator, a process of its own for each measurement: `bun bench/load.ts '{"kind": …}'` prints one line
 * of JSON. Raw sockets, keep-alive, one request in flight on each connection; status and length of every answer are
 * checked, and anything unexpected counts as an error.
 */
import process from 'node:process';
import { connect, head, type Line } from './hold/connection.ts';
import { openStreams, until } from './hold/event-streams.ts';
import { createReader } from './http-reader.ts';
import { quantile } from './stats.ts';
import { ANSWER, CHAT_PATH } from './upstream.ts';

export type Place = { readonly unix: string } | { readonly hostname: string; readonly port: number };

export interface Job {
  readonly kind: 'requests' | 'events' | 'hold' | 'down' | 'up';
  readonly place: Place;
  /** Further header lines of each request. */
  readonly headers: readonly string[];
  readonly connections: number;
  /** `requests`: how long, and how long before that nothing is counted. */
  readonly seconds?: number;
  /** `requests`: bytes of the body; `up`, `down`: bytes in all. */
  readonly bytes?: number;
  /** `requests`: the answer's bytes are another's than the upstream's. */
  readonly rewrites?: boolean;
  /** `events`: interval, ms, and number for each stream; by default the upstream ends it when it will. */
  readonly every?: number;
  readonly count?: number;
  /** `events`: how often all of that is done, one after the other; 1 by default. */
  readonly turns?: number;
  /** `events`: so many are opened before all of them have to have begun; by default none waits for another. */
  readonly atOnce?: number;
}

export interface RequestsResult {
  /** In the time that is counted, and with those before and after it. */
  readonly requests: number;
  readonly all: number;
  readonly errors: number;
  readonly per_second: number;
  readonly p50_us: number;
  readonly p99_us: number;
}

export interface EventsResult {
  readonly events: number;
  readonly errors: number;
  readonly first_p50_ms: number;
  readonly first_p99_ms: number;
  readonly p50_ms: number;
  readonly p99_ms: number;
}

export interface TransferResult {
  readonly mb_per_s: number;
  readonly errors: number;
}

const WARM_UP_S = 0.4;

/** A chat request of about `bytes` bytes. */
export function chatBody(bytes: number): string {
  const make = (content: string) => JSON.stringify({ model: 'bench', messages: [{ role: 'user', content }] });
  return make('x'.repeat(Math.max(0, bytes - make('').length)));
}

async function requests(job: Job): Promise<RequestsResult> {
  const body = chatBody(job.bytes ?? 1024);
  const framing = ['content-type: application/json', `content-length: ${body.length}`];
  const request = Buffer.from(head('POST', CHAT_PATH, [...job.headers, ...framing]) + body);
  const times: number[] = [];
  let all = 0;
  let errors = 0;
  let running = true;
  let counting = false;
  const lines = new Set<Line>();

  /** One connection, request after request; where the server closes it, as it said it would, another takes over. */
  async function work(): Promise<void> {
    let sentAt = performance.now();
    let isLast = false;
    let line: Line | undefined;
    const send = () => {
      sentAt = performance.now();
      line?.send(request);
    };
    const reader = createReader({
      done(status, bytes, closes) {
        all++;
        if (counting) times.push(performance.now() - sentAt);
        if (status !== 200 || (bytes !== ANSWER.length && !job.rewrites)) errors++;
        isLast = closes;
        if (running && !closes) send();
      },
    });
    const opened = await connect(job.place, reader, () => {
      lines.delete(opened);
      if (!running) return;
      if (!isLast) errors++;
      work().catch(() => errors++);
    });
    line = opened;
    lines.add(opened);
    send();
  }

  for (let n = 0; n < job.connections; n++) await work();
  await Bun.sleep(WARM_UP_S * 1000);
  counting = true;
  const from = performance.now();
  await Bun.sleep((job.seconds ?? 1) * 1000);
  counting = false;
  const seconds = (performance.now() - from) / 1000;
  running = false;
  for (const line of lines) line.end();
  times.sort((a, b) => a - b);
  return {
    requests: times.length,
    all,
    errors,
    per_second: times.length / seconds,
    p50_us: quantile(times, 0.5) * 1000,
    p99_us: quantile(times, 0.99) * 1000,
  };
}

async function events(job: Job): Promise<EventsResult> {
  const firsts: number[] = [];
  const delays: number[] = [];
  let errors = 0;
  for (let turn = 0; turn < (job.turns ?? 1); turn++) {
    const streams = await openStreams(job);
    const whole = await until(() => streams.ended() === job.connections);
    for (const line of streams.lines) line.end();
    firsts.push(...streams.firsts);
    delays.push(...streams.delays);
    errors += streams.errors() + (whole ? 0 : 1);
  }
  for (const list of [firsts, delays]) list.sort((a, b) => a - b);
  return {
    events: firsts.length + delays.length,
    errors,
    first_p50_ms: quantile(firsts, 0.5),
    first_p99_ms: quantile(firsts, 0.99),
    p50_ms: quantile(delays, 0.5),
    p99_ms: quantile(delays, 0.99),
  };
}

/** Holds streams open: says `held` once each has begun, then waits for the end of its input. */
async function hold(job: Job): Promise<{ events: number; errors: number }> {
  const over = new Promise((resolve) => process.stdin.on('end', resolve).resume());
  const streams = await openStreams({ ...job, count: 1_000_000 });
  const whole = await until(() => streams.firsts.length + streams.errors() >= job.connections);
  console.log('held');
  await over;
  return {
    events: streams.firsts.length + streams.delays.length,
    errors: streams.errors() + (whole ? 0 : 1),
  };
}

async function down(job: Job): Promise<TransferResult> {
  const from = performance.now();
  const received = await new Promise<number>((resolve) => {
    const reader = createReader({ done: (status, bytes) => resolve(status === 200 ? bytes : 0) });
    connect(job.place, reader, () => resolve(0)).then((line) =>
      line.send(Buffer.from(head('GET', '/v1/down', job.headers))),
    );
  });
  return transferred(received, job, from);
}

async function up(job: Job): Promise<TransferResult> {
  const total = job.bytes ?? 0;
  const piece = Buffer.alloc(256 * 1024, 'x');
  const from = performance.now();
  const received = await new Promise<number>((resolve) => {
    let answer = '';
    const reader = createReader({
      body: (bytes) => {
        answer += bytes.toString('latin1');
      },
      done: (status) => resolve(status === 200 ? (JSON.parse(answer) as { bytes: number }).bytes : 0),
    });
    let left = total;
    const pump = (socket: Bun.Socket) => {
      while (left > 0) {
        const part = left < piece.length ? piece.subarray(0, left) : piece;
        const written = socket.write(part);
        left -= Math.max(0, written);
        if (written < part.length) return;
      }
    };
    Bun.connect({
      ...job.place,
      socket: {
        open(socket: Bun.Socket) {
          socket.write(head('POST', '/v1/up', [...job.headers, `content-length: ${total}`]));
          pump(socket);
        },
        drain: pump,
        data: (_socket: Bun.Socket, chunk: Buffer) => reader(chunk),
        close: () => resolve(0),
      },
    } as Parameters<typeof Bun.connect>[0]);
  });
  return transferred(received, job, from);
}

function transferred(received: number, job: Job, from: number): TransferResult {
  const seconds = (performance.now() - from) / 1000;
  return { mb_per_s: received / 1e6 / seconds, errors: received === job.bytes ? 0 : 1 };
}

if (import.meta.main) {
  const job = JSON.parse(process.argv[2] ?? '{}') as Job;
  const result = await { requests, events, hold, down, up }[job.kind](job);
  console.log(JSON.stringify(result));
  process.exit(0);
}
