/**
 * The other client of the hold, a process of its own: small POSTs at a steady rate until its standard input ends, then what
 * each took. A request is due at its time, whether the one before it has been answered or not: one that has to wait for
 * its connection is counted from when it was due, so that a stall is not told too short.
 */
import process from 'node:process';
import { createReader } from '../http-reader.ts';
import { chatBody, type Job } from '../load.ts';
import { ANSWER, CHAT_PATH, wallNow } from '../upstream.ts';
import { connect, head } from './connection.ts';
import { PER_SECOND } from './pace.ts';

export interface Answered {
  /** Wall clock and duration of each, ms. */
  readonly times: readonly (readonly [number, number])[];
  readonly failed: number;
  /** Connections that the proxy closed between two requests. */
  readonly reopened: number;
}

if (import.meta.main) {
  const job = JSON.parse(process.argv[2] ?? '{}') as Job;
  const body = chatBody(job.bytes ?? 0);
  const framing = ['content-type: application/json', `content-length: ${body.length}`];
  const request = Buffer.from(head('POST', CHAT_PATH, [...job.headers, ...framing]) + body);
  const every = (job.connections * 1000) / PER_SECOND;
  const times: [number, number][] = [];
  let failed = 0;
  let reopened = 0;
  let running = true;

  /** One connection after another, where the proxy closes them. */
  async function open() {
    const state = { isOpen: true, answered: (_isWhole: boolean) => {} };
    const close = () => {
      state.isOpen = false;
      state.answered(false);
    };
    const reader = createReader({
      done(status, bytes, closes) {
        if (closes) state.isOpen = false;
        state.answered(status === 200 && bytes === ANSWER.length);
      },
    });
    const line = await connect(job.place, reader, close);
    const ask = () =>
      new Promise<boolean>((resolve) => {
        state.answered = resolve;
        line.send(request);
      });
    return { ask, isOpen: () => state.isOpen, end: line.end };
  }

  async function work(index: number): Promise<void> {
    let connection = await open();
    const start = performance.now() + (every * index) / job.connections;
    for (let n = 0; running; n++) {
      const due = start + n * every;
      const wait = due - performance.now();
      if (wait > 0) await Bun.sleep(wait);
      // A timer of ours that is late is no delay of the proxy.
      const from = wait > 0 ? performance.now() : due;
      if (!connection.isOpen()) {
        reopened++;
        connection = await open();
      }
      const isWhole = await connection.ask();
      times.push([wallNow(), Math.round((performance.now() - from) * 1000) / 1000]);
      if (!isWhole) failed++;
    }
    connection.end();
  }

  process.stdin
    .on('end', () => {
      running = false;
    })
    .resume();
  const workers = Array.from({ length: job.connections }, (_, index) =>
    work(index).catch(() => void failed++),
  );
  await Promise.all(workers);
  const result: Answered = { times, failed, reopened };
  await Bun.write(Bun.stdout, `${JSON.stringify(result)}\n`);
  process.exit(0);
}
