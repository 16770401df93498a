/** Many event streams in one process, read off raw sockets: `events` and `hold` of the load, and the long hold. */
import { createReader } from '../http-reader.ts';
import type { Job } from '../load.ts';
import { wallNow } from '../upstream.ts';
import { connect, head, type Line } from './connection.ts';

const LONGEST_S = 120;

export interface Streams {
  readonly lines: Line[];
  readonly firsts: number[];
  readonly delays: number[];
  readonly errors: () => number;
  readonly ended: () => number;
}

const EVENT = /data: (\d+) ([\d.]+)\n\n/g;

/** Opens event streams, spread over an interval so that they do not beat in step; each starts with an event at once. */
export async function openStreams(job: Job): Promise<Streams> {
  const { connections, every = 1000, count = 1 } = job;
  const request = Buffer.from(head('GET', `/v1/events?every=${every}&count=${count}`, job.headers));
  const lines: Line[] = [];
  const firsts: number[] = [];
  const delays: number[] = [];
  let errors = 0;
  let ended = 0;
  const gap = Math.min(every, 3000) / connections;
  const start = performance.now();
  for (let n = 0; n < connections; n++) {
    let next = 0;
    let rest = '';
    const body = (piece: Buffer) => {
      const at = wallNow();
      const text = rest + piece.toString('latin1');
      let behind = 0;
      for (const match of text.matchAll(EVENT)) {
        (next === 0 ? firsts : delays).push(at - Number(match[2]));
        if (Number(match[1]) !== next++) errors++;
        behind = match.index + match[0].length;
      }
      rest = text.slice(behind);
    };
    const done = (status: number) => {
      ended++;
      if (status !== 200 || next !== count) errors++;
    };
    let isDone = false;
    const reader = createReader({
      body,
      done(status) {
        isDone = true;
        done(status);
      },
    });
    const line = await connect(job.place, reader, () => {
      if (!isDone) done(0);
    });
    line.send(request);
    lines.push(line);
    const ahead = start + gap * (n + 1) - performance.now();
    if (ahead > 2) await Bun.sleep(ahead);
  }
  return { lines, firsts, delays, errors: () => errors, ended: () => ended };
}

export async function until(condition: () => boolean): Promise<boolean> {
  const deadline = performance.now() + LONGEST_S * 1000;
  while (!condition()) {
    if (performance.now() > deadline) return false;
    await Bun.sleep(5);
  }
  return true;
}
