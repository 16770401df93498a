// Clients that leave or stop reading, by the thousand: every connection and all memory comes back.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import type { Socket } from 'node:net';
import type { AccessRecord } from '../test/support/isoproxy.ts';
import {
  formatGet,
  get,
  type LongSetup,
  MIB,
  openSocket,
  slowly,
  startLong,
  toMib,
  watchMemory,
} from './support/long.ts';

const MAX_GROWTH = 32 * MIB;

let long: LongSetup;
beforeAll(async () => {
  long = await startLong();
  expect((await get(long.proxy.socket(), '/api/v1/small', () => {})).status).toBe(200);
}, 60_000);
afterAll(() => long?.[Symbol.asyncDispose]());

/** Opens a stream and resolves at the first bytes of its body. */
async function begin(target: string): Promise<Socket> {
  const socket = await openSocket(long.proxy.socket());
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  let seen = '';
  socket.on('data', (part: Buffer) => {
    if (seen.length > 4096) return;
    seen += part.toString('latin1');
    const body = seen.indexOf('\r\n\r\n') + 4;
    if (body > 3 && seen.length > body) resolve(socket);
  });
  socket.on('close', () => reject(new Error(`closed early: ${seen.slice(0, 200)}`)));
  socket.write(formatGet(target));
  return promise;
}

/**
 * One wave: half of the streams drip and are read, the other half run at full speed into a reader that stopped, so that
 * the proxy waits for the upstream in the one half and for the client in the other. Then all leave at once.
 */
async function abortWave(size: number): Promise<void> {
  const opening = Array.from({ length: size }, async (_, index) => {
    const fast = index % 2 === 0;
    const socket = await begin(`/api/v1/endless?${fast ? 'block=65536' : 'block=256&delay=50'}`);
    if (fast) socket.pause();
    return socket;
  });
  for (const socket of await Promise.all(opening)) socket.destroy();
}

/** Waits until no upstream connection but those in `kept` is open and the descriptors are back. */
async function backTo(fds: number, ms = 20_000): Promise<number> {
  const started = performance.now();
  await slowly(
    () => `descriptors back to ${fds}, not ${long.proxy.fds()}`,
    () => long.proxy.fds() <= fds,
    ms,
  );
  return performance.now() - started;
}

/** VmRSS once the heap has given back what it will: the lowest value that three seconds did not undercut by 1 MiB. */
async function settledRss(): Promise<number> {
  let lowest = long.proxy.rss();
  const end = performance.now() + 30_000;
  for (let since = performance.now(); performance.now() - since < 3000 && performance.now() < end; ) {
    await Bun.sleep(100);
    const rss = long.proxy.rss();
    if (rss < lowest - MIB) since = performance.now();
    lowest = Math.min(lowest, rss);
  }
  return lowest;
}

const reasons = (records: AccessRecord[]): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const { status, reason, error } of records) {
    const key = [status, reason, error].filter((part) => part !== '').join(' ');
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
};
const recordsOf = (provider: string): AccessRecord[] =>
  long.proxy.records().filter((record) => record.provider === provider && record.path.endsWith('/endless'));
const lostLines = (): number =>
  long.proxy
    .lines()
    .reduce((sum, line) => sum + (line['event'] === 'log_lines_lost' ? Number(line['count']) : 0), 0);

test('10,000 streams that are aborted mid-body give back descriptors, memory and upstream connections', async () => {
  const { proxy } = long;
  const waves = async (streams: number, size: number) => {
    for (let done = 0; done < streams; done += size) await abortWave(size);
  };
  const idleFds = proxy.fds();
  const idleOpen = (await long.stats()).open;
  await waves(2000, 200);
  await backTo(idleFds);
  const before = await settledRss();
  const memory = watchMemory(proxy);
  const series: string[] = [];
  const started = performance.now();
  for (let thousand = 0; thousand < 10; thousand++) {
    await waves(1000, 200);
    series.push((proxy.rss() / MIB).toFixed(0));
  }
  const ms = performance.now() - started;
  const backMs = await backTo(idleFds);
  const records = await slowly(
    () => `12,000 records, not ${recordsOf('api').length}`,
    () => recordsOf('api').length >= 12_000 && recordsOf('api'),
    20_000,
  );
  const { peak } = memory();
  const after = await settledRss();
  const open = (await long.stats()).open;
  console.log(
    `aborts: 10,000 streams in ${(ms / 1000).toFixed(1)} s; RSS at rest ${toMib(before)} after 2,000 for warm-up -> ${toMib(after)}, growth ${toMib(after - before)}, peak ${toMib(peak)}`,
  );
  console.log(`aborts: RSS after each 1,000: ${series.join(' ')} MiB`);
  console.log(
    `aborts: descriptors ${idleFds} -> ${proxy.fds()} (${backMs.toFixed(0)} ms after the last wave); upstream connections ${idleOpen} -> ${open}; records ${JSON.stringify(reasons(records))}; log lines lost ${lostLines()}`,
  );
  expect(after - before).toBeLessThan(MAX_GROWTH);
  expect(open).toBeLessThanOrEqual(idleOpen);
  expect(reasons(records)).toEqual({ '200 client_closed': 12_000 });
}, 240_000);

test('2,000 readers that stop reading are cut by idle_timeout, and their descriptors come back', async () => {
  const { proxy } = long;
  const size = 50;
  const idleFds = proxy.fds();
  const idleOpen = (await long.stats()).open;
  const memory = watchMemory(proxy);
  const started = performance.now();
  let slowest = 0;
  for (let done = 0; done < 2000; done += size) {
    const opening = Array.from({ length: size }, async () => {
      const socket = await begin('/idle/v1/endless?block=65536');
      socket.pause();
      return socket;
    });
    const sockets = await Promise.all(opening);
    // The clients stay connected: what comes back, the proxy has closed by itself.
    slowest = Math.max(slowest, await backTo(idleFds));
    for (const socket of sockets) socket.destroy();
  }
  const ms = performance.now() - started;
  const records = await slowly(
    () => `2,000 records, not ${recordsOf('idle').length}`,
    () => recordsOf('idle').length >= 2000 && recordsOf('idle'),
    20_000,
  );
  const use = memory();
  const open = (await long.stats()).open;
  console.log(
    `stalls: 2,000 readers in waves of ${size} in ${(ms / 1000).toFixed(1)} s; slowest wave back after ${slowest.toFixed(0)} ms (idle_timeout 1000 ms); descriptors ${idleFds} -> ${proxy.fds()}; upstream connections ${idleOpen} -> ${open}`,
  );
  console.log(
    `stalls: RSS ${toMib(use.before)} -> ${toMib(use.after)}, peak ${toMib(use.peak)}; records ${JSON.stringify(reasons(records))}; log lines lost ${lostLines()}`,
  );
  expect(reasons(records)).toEqual({ '200 request_timeout idle_timeout': 2000 });
  expect(open).toBeLessThanOrEqual(idleOpen);
  expect((await long.stats()).problems).toEqual([]);
}, 240_000);
