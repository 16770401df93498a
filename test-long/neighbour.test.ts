// D1 to D8 together from one sandbox: another one loses no request, and its slowest hundredth stays below 250 ms.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { join } from 'node:path';
import { makeCanary } from '../test/support/canary.ts';
import { type Isoproxy, simpleConfig, startIsoproxy } from '../test/support/isoproxy.ts';
import { type Child, spawn } from '../test/support/process.ts';
import { request } from '../test/support/raw-client.ts';
import { type Recorder, startRecorder } from '../test/support/recorder.ts';

const QUIET_MS = 5_000;
const HOSTILE_MS = Number(process.env['ISOPROXY_HOSTILE_MS'] ?? 20_000);

let up: Recorder;
let proxy: Isoproxy;
beforeAll(async () => {
  up = await startRecorder();
  up.handle(async (seen, connection) => {
    const kind = seen.header('x-kind');
    if (kind === 'hang') {
      await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      await connection.gone;
    } else await connection.reply(kind === '500' ? 500 : 200, {}, 'ok');
  });
  proxy = await startIsoproxy((dir) =>
    simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary: makeCanary(),
      endpoints: [{ methods: ['*'], paths: ['/x'] }],
      top: {
        listeners: ['agent-1', 'agent-2'].map((name) => ({
          name,
          socket: join(dir, name, 'isoproxy.sock'),
          providers: ['api'],
        })),
      },
    }),
  );
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});

/** A request each 10 ms for so long: how long each took, ms, sorted, and what failed. */
async function work(ms: number): Promise<{ times: number[]; failures: string[] }> {
  const times: number[] = [];
  const failures: string[] = [];
  const pending: Promise<unknown>[] = [];
  const end = performance.now() + ms;
  while (performance.now() < end) {
    const started = performance.now();
    const ask = request(proxy.socket('agent-2'), { method: 'POST', target: '/api/x', body: '{}' });
    pending.push(
      ask.then(
        ({ status }) => {
          times.push(performance.now() - started);
          if (status !== 200) failures.push(String(status));
        },
        (error: Error) => failures.push(error.message),
      ),
    );
    await Bun.sleep(10);
  }
  await Promise.all(pending);
  return { times: times.sort((a, b) => a - b), failures };
}

const p99 = (times: number[]): number => times[Math.floor(times.length * 0.99)] ?? Number.POSITIVE_INFINITY;

test.each([
  ['1,000 idle connections', '1000'],
  ['10,000 idle connections, which are a flood', '10000'],
])(
  'a hostile neighbour with %s',
  async (name, idle) => {
    const quiet = await work(QUIET_MS);
    const hostile: Child = spawn(
      [process.execPath, join(import.meta.dir, 'support/hostile.ts'), proxy.socket('agent-1'), idle],
      proxy.workspace.dir,
    );
    try {
      const loud = await work(HOSTILE_MS);
      const cuts = proxy.lines().filter(({ event }) => event === 'listener_flooded');
      console.log(
        `${name}: p99 ${p99(quiet.times).toFixed(1)} ms quiet, ${p99(loud.times).toFixed(1)} ms beside it;`,
        `${loud.times.length} requests, ${loud.failures.length} failed; cut ${cuts.length} times`,
      );
      expect([quiet.failures, loud.failures]).toEqual([[], []]);
      expect(cuts.every(({ listener }) => listener === 'agent-1')).toBe(true);
      expect(p99(loud.times)).toBeLessThan(250);
    } finally {
      hostile.kill('SIGKILL');
      await hostile.exited;
    }
  },
  120_000,
);
