// The audit log through a hundred crashes, and a hundred thousand refusals.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { statSync } from 'node:fs';
import { readChain, segmentPaths } from '../test/support/audit-chain.ts';
import { makeCanary } from '../test/support/canary.ts';
import { startSimple } from '../test/support/isoproxy.ts';
import { request } from '../test/support/raw-client.ts';
import { type Recorder, startRecorder } from '../test/support/recorder.ts';

const KILLS = Number(process.env['ISOPROXY_KILLS'] ?? 100);
const REFUSALS = Number(process.env['ISOPROXY_REFUSALS'] ?? 100_000);

let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

test(`${KILLS} times kill -9 at random moments under load`, async () => {
  await using proxy = await startSimple({ upstreamPort: up.port, ca: up.ca, canary: makeCanary() });
  const seen: string[] = [];
  up.handle(async (request, connection) => {
    seen.push(request.header('x-mark') ?? '');
    await connection.reply(200, {}, 'ok');
  });
  let mark = 0;
  let torn = 0;
  const restarts: number[] = [];
  for (let round = 0; round < KILLS; round++) {
    let stop = false;
    const lane = async () => {
      while (!stop) {
        const own = `m${mark++}`;
        const target = `/api/v1/messages?${own}=1`;
        await request(proxy.socket(), {
          method: 'POST',
          target,
          headers: { 'x-mark': own },
          body: '{}',
        }).catch(() => Bun.sleep(2));
      }
    };
    const lanes = Array.from({ length: 6 }, lane);
    await Bun.sleep(10 + Math.random() * 490);
    await proxy.stop('SIGKILL');
    stop = true;
    await Promise.all(lanes);
    const started = performance.now();
    await proxy.start();
    restarts.push(performance.now() - started);
    const records = readChain(proxy.workspace);
    torn = records.filter(({ kind }) => kind === 'recovered').length;
    const intended = new Set(
      records.flatMap((record) => (record['query_names'] as string[] | undefined) ?? []),
    );
    expect(seen.filter((id) => !intended.has(id))).toEqual([]);
    const verdict = await proxy.cli(['audit', 'verify', '--json']);
    expect([round, verdict.code]).toEqual([round, 0]);
  }
  restarts.sort((a, b) => a - b);
  console.log(
    `${KILLS} kills: ${seen.length} requests seen by the upstream, each on record; ${torn} torn lines;`,
    `serving again after ${restarts[KILLS >> 1]?.toFixed(0)} ms (median), ${restarts.at(-1)?.toFixed(0)} ms (worst)`,
  );
  expect(seen.length).toBeGreaterThan(KILLS * 10);
  expect(torn).toBeLessThanOrEqual(KILLS);
  expect(restarts.at(-1)).toBeLessThan(1_000);
}, 600_000);

test(`${REFUSALS} refusals`, async () => {
  await using proxy = await startSimple({ upstreamPort: up.port, ca: up.ca, canary: makeCanary() });
  const target = `/api/${'x'.repeat(7_000)}`;
  const started = performance.now();
  let left = REFUSALS;
  const lane = async () => {
    while (left-- > 0) await request(proxy.socket(), { target });
  };
  await Promise.all(Array.from({ length: 16 }, lane));
  const seconds = (performance.now() - started) / 1000;
  await proxy.stop();
  const records = readChain(proxy.workspace);
  const denied = records.filter(({ kind }) => kind === 'deny').length;
  const counted = records
    .filter(({ kind }) => kind === 'deny_summary')
    .reduce((sum, record) => sum + (record['count'] as number), 0);
  const bytes = segmentPaths(proxy.workspace).reduce((sum, path) => sum + statSync(path).size, 0);
  console.log(
    `${REFUSALS} refusals in ${seconds.toFixed(0)} s: ${denied} one by one, ${counted} counted, ${(bytes / 1024).toFixed(0)} KiB`,
  );
  expect(denied + counted).toBe(REFUSALS);
  // 100, and 10 a second, of at most 1 KiB each; and the summaries.
  expect(bytes).toBeLessThan((120 + 11 * seconds) * 1024 + 65_536);
}, 600_000);
