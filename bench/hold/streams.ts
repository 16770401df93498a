/**
 * The reader of the held streams, a process of its own: `bun bench/hold/streams.ts '{"kind": "events", …}'`. Says `held`
 * once all have begun; at a line on its standard input, how many have ended already; and when the upstream has
 * ended them all, what has come.
 */
import process from 'node:process';
import { createInterface } from 'node:readline';
import type { Job } from '../load.ts';
import { wallNow } from '../upstream.ts';
import { openStreams, type Stream, until } from './event-streams.ts';
import { type Summary, summarise } from './summary.ts';

export interface Held {
  /** Begun, and ended before the upstream ended them. */
  readonly begun: number;
  readonly early: number;
  readonly events: number;
  /** Events with another number than the next, and streams with an answer that is not whole. */
  readonly wrong: number;
  /** Streams with a number of events that is off by more than one. */
  readonly miscounted: number;
  /** The delay of events, by minute and of all while they were held. */
  readonly minutes: readonly Summary[];
  readonly all: Summary;
}

function isMiscounted({ events, firstAt, endedAt }: Stream, every: number): boolean {
  const expected = Math.floor((endedAt - firstAt) / every) + 1;
  return !(Math.abs(events - expected) <= 1);
}

if (import.meta.main) {
  const job = JSON.parse(process.argv[2] ?? '{}') as Job;
  const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const streams = await openStreams(job);
  await until(() => streams.firsts.length + streams.ended() >= job.connections);
  const begun = streams.firsts.length;
  const marks = [streams.delays.length];
  const from = wallNow();
  const timer = setInterval(() => marks.push(streams.delays.length), 60_000);
  console.log('held');
  await input.next();
  clearInterval(timer);
  // The last minute ends with the hold, even if its timer was first by a hair.
  if (wallNow() - from < (marks.length - 1) * 60_000 + 1_000 && marks.length > 1) marks.pop();
  marks.push(streams.delays.length);
  const early = streams.ended();
  console.log(early);
  await until(() => streams.ended() === job.connections);
  const delays = streams.delays;
  const held: Held = {
    begun,
    early,
    events: streams.firsts.length + delays.length,
    wrong: streams.errors(),
    miscounted: streams.each.filter((stream) => isMiscounted(stream, job.every ?? 0)).length,
    minutes: marks.slice(1).map((mark, n) => summarise(delays.slice(marks[n], mark))),
    all: summarise(delays.slice(marks[0], marks.at(-1))),
  };
  await Bun.write(Bun.stdout, `${JSON.stringify(held)}\n`);
  process.exit(0);
}
