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
  /** Answers that are not as they should be. */
  readonly wrong: number;
  /** Requests that got none, because their connection was closed or refused. */
  readonly cut: number;
  /** Connections opened anew, because the proxy had closed the one before. */
  readonly reopened: number;
}

type Outcome = 'whole' | 'wrong' | 'cut';

if (import.meta.main) {
  const job = JSON.parse(process.argv[2] ?? '{}') as Job;
  const body = chatBody(job.bytes ?? 0);
  const framing = ['content-type: application/json', `content-length: ${body.length}`];
  const request = Buffer.from(head('POST', CHAT_PATH, [...job.headers, ...framing]) + body);
  const every = (job.connections * 1000) / PER_SECOND;
  const times: [number, number][] = [];
  let wrong = 0;
  let cut = 0;
  let reopened = 0;
  let running = true;

  async function open() {
    const state = { isOpen: true, tell: (_outcome: Outcome) => {} };
    const close = () => {
      state.isOpen = false;
      state.tell('cut');
    };
    const reader = createReader({
      done(status, bytes, closes) {
        if (closes) state.isOpen = false;
        state.tell(status === 200 && bytes === ANSWER.length ? 'whole' : 'wrong');
      },
    });
    const line = await connect(job.place, reader, close);
    const ask = () =>
      new Promise<Outcome>((resolve) => {
        if (!state.isOpen) return resolve('cut');
        state.tell = resolve;
        line.send(request);
      });
    return { ask, isOpen: () => state.isOpen, end: line.end };
  }

  /** One connection after another, where the proxy closes them. Nothing is asked twice. */
  async function work(index: number): Promise<void> {
    let connection = await open();
    const start = performance.now() + (every * index) / job.connections;
    for (let n = 0; running; n++) {
      const due = start + n * every;
      const wait = due - performance.now();
      if (wait > 0) await Bun.sleep(wait);
      // A timer of ours that is late is no delay of the proxy.
      const from = wait > 0 ? performance.now() : due;
      let outcome: Outcome = 'cut';
      try {
        if (!connection.isOpen()) {
          reopened++;
          connection = await open();
        }
        outcome = await connection.ask();
      } catch {
        // Refused: there is no connection to be cut, and no answer either.
      }
      times.push([wallNow(), Math.round((performance.now() - from) * 1000) / 1000]);
      if (outcome === 'wrong') wrong++;
      else if (outcome === 'cut') cut++;
    }
    connection.end();
  }

  process.stdin
    .on('end', () => {
      running = false;
    })
    .resume();
  await Promise.all(Array.from({ length: job.connections }, (_, index) => work(index)));
  const result: Answered = { times, wrong, cut, reopened };
  await Bun.write(Bun.stdout, `${JSON.stringify(result)}\n`);
  process.exit(0);
}
