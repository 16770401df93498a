// Two thousand event streams at once, for a minute: nothing lost, nothing reordered, and other requests stay quick.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { connect } from '../test/support/raw-client.ts';
import {
  type Answer,
  describeLatency,
  describeMemory,
  descriptorLimit,
  formatGet,
  get,
  type LongSetup,
  quantile,
  slowly,
  startLong,
  toMib,
  watchMemory,
} from './support/long.ts';

const STREAMS = 2000;
const EVENT_EVERY_MS = 2000;
const EVENTS = 31;
/** Streams opened together; each opening is a TLS handshake. */
const OPENED_AT_ONCE = 50;

let long: LongSetup;
beforeAll(async () => {
  long = await startLong();
}, 60_000);
afterAll(() => long?.[Symbol.asyncDispose]());

interface Stream {
  id: number;
  /** Events in order so far; the first that was not the next one expected. */
  events: number;
  wrong: string | undefined;
  answer: Answer | undefined;
  done: Promise<void>;
  opened: Promise<void>;
}

function openStream(id: number): Stream {
  const opened = Promise.withResolvers<void>();
  const stream: Stream = {
    id,
    events: 0,
    wrong: undefined,
    answer: undefined,
    opened: opened.promise,
    done: Promise.resolve(),
  };
  let rest = '';
  const onData = (part: Buffer) => {
    const events = (rest + part.toString()).split('\n\n');
    rest = events.pop() ?? '';
    for (const event of events) {
      if (event === `data: ${id} ${stream.events + 1}`) stream.events += 1;
      else stream.wrong ??= `after ${stream.events}: ${event}`;
    }
    opened.resolve();
  };
  const target = `/api/v1/events?id=${id}&count=${EVENTS}&every=${EVENT_EVERY_MS}`;
  stream.done = get(long.proxy.socket(), target, onData).then((answer) => {
    stream.answer = answer;
    if (rest !== '') stream.wrong ??= `left over: ${rest}`;
    opened.resolve();
  });
  return stream;
}

interface Probe {
  /** Times of the answered requests, ms. */
  times: number[];
  statuses: Set<number>;
  /** Connections that the proxy closed between two requests, and those on which a request was under way. */
  closedIdle: number;
  closedBusy: number;
  stop(): Promise<void>;
}

/** Small requests, one after the other on four kept-alive connections, until `stop`. */
function probe(path: string): Probe {
  let going = true;
  const run = async () => {
    let client = await connect(path, { keep: false });
    while (going) {
      if (client.closed !== undefined) {
        result.closedIdle += 1;
        client = await connect(path, { keep: false });
      }
      const started = performance.now();
      await client.send(formatGet('/api/v1/small'));
      const answer = await client.response({ ms: 20_000 });
      if (answer.status === 0) result.closedBusy += 1;
      else {
        result.times.push(performance.now() - started);
        result.statuses.add(answer.status);
        if (/\bclose\b/i.test(answer.header('connection') ?? '')) await client.untilClosed();
      }
      await Bun.sleep(20);
    }
    client.close();
  };
  const result: Probe = {
    times: [],
    statuses: new Set(),
    closedIdle: 0,
    closedBusy: 0,
    async stop() {
      going = false;
      await Promise.all(runs);
    },
  };
  const runs = Array.from({ length: 4 }, run);
  return result;
}

const describeProbe = ({ times, closedIdle, closedBusy }: Probe): string =>
  `${describeLatency(times)}; connections closed between requests ${closedIdle}, with a request under way ${closedBusy}`;

test('2,000 event streams held for a minute lose and reorder nothing, and other requests stay quick', async () => {
  const { proxy } = long;
  const limit = descriptorLimit(proxy);
  // Each stream holds the client's and the upstream's connection; the proxy keeps 128 for itself.
  const fits = Math.floor((limit - 128) / 2);
  console.log(
    `streams: descriptor limit of the proxy ${limit}: ${fits} streams fit, ${STREAMS} are opened, ${proxy.fds()} descriptors before`,
  );
  expect(fits).toBeGreaterThan(STREAMS);

  const alone = probe(proxy.socket());
  await Bun.sleep(5000);
  await alone.stop();
  console.log(`streams: other requests, no streams: ${describeProbe(alone)}`);
  const idleFds = proxy.fds();

  const memory = watchMemory(proxy);
  const started = performance.now();
  const streams: Stream[] = [];
  while (streams.length < STREAMS) {
    const wave = Array.from({ length: OPENED_AT_ONCE }, (_, index) => openStream(streams.length + index));
    streams.push(...wave);
    await Promise.all(wave.map((stream) => stream.opened));
  }
  const openedMs = performance.now() - started;
  const open = () => streams.filter((stream) => stream.answer === undefined).length;
  const openThen = open();
  const fds = proxy.fds();
  const settled = proxy.rss();
  console.log(
    `streams: ${openThen} open after ${(openedMs / 1000).toFixed(1)} s, ${fds} descriptors of the proxy, ${(await long.stats()).open} upstream connections`,
  );
  expect(openThen).toBe(STREAMS);

  const busy = probe(proxy.socket());
  // Until the first stream comes to its end: all 2,000 are open during every one of these requests.
  await Promise.race(streams.map((stream) => stream.done));
  await busy.stop();
  const heldMs = performance.now() - started - openedMs;
  console.log(
    `streams: other requests beside ${STREAMS} streams for ${(heldMs / 1000).toFixed(1)} s: ${describeProbe(busy)}`,
  );

  await Promise.all(streams.map((stream) => stream.done));
  const use = memory();
  const events = streams.reduce((sum, stream) => sum + stream.events, 0);
  console.log(`streams: ${events} events of ${STREAMS * EVENTS} came in order`);
  console.log(
    `streams: ${describeMemory(use)}; a stream ${((use.peak - use.before) / STREAMS / 1024).toFixed(1)} KiB at the peak, ${((settled - use.before) / STREAMS / 1024).toFixed(1)} KiB once all were open`,
  );
  expect(streams.filter((stream) => stream.wrong !== undefined).map((stream) => stream.wrong)).toEqual([]);
  expect(streams.filter((stream) => stream.events !== EVENTS).length).toBe(0);
  expect(streams.filter((stream) => stream.answer?.complete !== true).length).toBe(0);
  expect([...alone.statuses, ...busy.statuses]).toEqual([200, 200]);
  // The sweep may meet a request that is just arriving, which the client then sends again.
  expect(busy.closedBusy).toBe(0);
  // A wide bound: it is there to catch a proxy that stalls, not a machine that is busy.
  expect(quantile(busy.times, 0.99)).toBeLessThan(250);

  const records = await slowly(
    'a record of every stream',
    () => {
      const found = proxy.records().filter(({ path }) => path.endsWith('/events'));
      return found.length >= STREAMS && found;
    },
    20_000,
  );
  expect(records.length).toBe(STREAMS);
  expect(records.filter(({ status, reason }) => status !== 200 || reason !== '').length).toBe(0);
  const pooled = async () => (await long.stats()).open;
  await slowly(
    () => `descriptors back to ${idleFds}, not ${proxy.fds()}`,
    async () => proxy.fds() <= idleFds + (await pooled()),
    20_000,
  );
  console.log(
    `streams: ${proxy.fds()} descriptors after (${idleFds} before), ${await pooled()} of them upstream connections kept for reuse; RSS ${toMib(proxy.rss())}`,
  );
  expect((await long.stats()).problems).toEqual([]);
}, 240_000);
