/** Many event streams in one process, read off raw sockets: `events` and `hold` of the load, and the long hold. */
import { createReader } from '../http-reader.ts';
import type { Job } from '../load.ts';
import { wallNow } from '../upstream.ts';
import { connect, head, type Line } from './connection.ts';

const LONGEST_S = 120;

/** One stream as its reader has seen it so far. */
export interface Stream {
  events: number;
  /** Wall clock, ms; NaN before its first event, or before its end. */
  firstAt: number;
  endedAt: number;
}

export interface Streams {
  readonly lines: Line[];
  readonly each: readonly Stream[];
  readonly firsts: number[];
  readonly delays: number[];
  readonly errors: () => number;
  readonly ended: () => number;
}

const EVENT = /data: (\d+) ([\d.]+)\n\n/g;

/** Opens event streams, spread over an interval so that they do not beat in step; each starts with an event at once. */
export async function openStreams(job: Job): Promise<Streams> {
  const { connections, every = 1000, count, atOnce } = job;
  const path = `/v1/events?every=${every}&count=${count ?? Number.MAX_SAFE_INTEGER}`;
  const request = Buffer.from(head('GET', path, job.headers));
  const lines: Line[] = [];
  const each: Stream[] = [];
  const firsts: number[] = [];
  const delays: number[] = [];
  let errors = 0;
  let ended = 0;
  const gap = (atOnce === undefined ? Math.min(every, 3000) : every) / connections;
  const start = performance.now();
  for (let n = 0; n < connections; n++) {
    const stream: Stream = { events: 0, firstAt: Number.NaN, endedAt: Number.NaN };
    each.push(stream);
    let rest = '';
    const body = (piece: Buffer) => {
      const at = wallNow();
      const text = rest + piece.toString('latin1');
      let behind = 0;
      for (const match of text.matchAll(EVENT)) {
        if (stream.events === 0) stream.firstAt = at;
        (stream.events === 0 ? firsts : delays).push(at - Number(match[2]));
        if (Number(match[1]) !== stream.events++) errors++;
        behind = match.index + match[0].length;
      }
      rest = text.slice(behind);
    };
    const done = (status: number) => {
      if (!Number.isNaN(stream.endedAt)) return;
      stream.endedAt = wallNow();
      ended++;
      if (status !== 200 || rest !== '' || (count !== undefined && stream.events !== count)) errors++;
    };
    const line = await connect(job.place, createReader({ body, done }), () => done(0));
    line.send(request);
    lines.push(line);
    if (atOnce !== undefined && (n + 1) % atOnce === 0) await until(() => firsts.length + ended > n);
    const ahead = start + gap * (n + 1) - performance.now();
    if (ahead > 2) await Bun.sleep(ahead);
  }
  return { lines, each, firsts, delays, errors: () => errors, ended: () => ended };
}

export async function until(condition: () => boolean): Promise<boolean> {
  const deadline = performance.now() + LONGEST_S * 1000;
  while (!condition()) {
    if (performance.now() > deadline) return false;
    await Bun.sleep(5);
  }
  return true;
}
