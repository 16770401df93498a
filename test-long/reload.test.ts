// A hundred reloads in a minute while 200 streams run and requests go on: none fails, none is dropped.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { makeCanary } from '../test/support/canary.ts';
import { type ProxyConfig, simpleConfig, startIsoproxy } from '../test/support/isoproxy.ts';
import { connect, formatRequest, request } from '../test/support/raw-client.ts';
import { type Recorder, startRecorder } from '../test/support/recorder.ts';
import { openStreams } from '../test/support/streams.ts';

const STREAMS = 200;
const RELOADS = 100;
const MINUTE = 60_000;

const canary = makeCanary();
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

test(
  '100 reloads in 60 s with 200 open streams: every request is answered, every event arrives',
  async () => {
    const configOf = (dir: string, generation: number): ProxyConfig =>
      simpleConfig(dir, {
        upstreamPort: up.port,
        ca: up.ca,
        canary,
        limits: { max_concurrent: 500 },
        endpoints: ['POST /v1/messages', 'GET /v1/models/*', `GET /v1/generation-${generation}`],
      });
    await using proxy = await startIsoproxy((dir) => configOf(dir, 1));
    const { dir } = proxy.workspace;
    const control = proxy.workspace.path('state/control.sock');
    using streams = await openStreams(up, proxy.socket(), STREAMS);
    let loading = true;
    const failures: string[] = [];
    let served = 0;
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        let client = await connect(proxy.socket());
        while (loading) {
          await client.send(formatRequest({ target: '/api/v1/models/x' }));
          const answer = await client.response();
          if (answer.status !== 200 || !answer.complete) failures.push(`${answer.status} ${answer.problem}`);
          served++;
          // Once a minute the proxy announces that it closes idle connections.
          if (answer.header('connection') !== 'close') continue;
          client.close();
          client = await connect(proxy.socket());
        }
        client.close();
      }),
    );
    const started = performance.now();
    for (let i = 2; i <= RELOADS + 1; i++) {
      proxy.writeConfig(configOf(dir, i));
      const answer = await request(control, { method: 'POST', target: '/reload' });
      expect(answer.json()).toMatchObject({ ok: true, generation: i });
      expect((await request(proxy.socket(), { target: `/api/v1/generation-${i}` })).status).toBe(200);
      await streams.event(`event-${i}`);
      const due = started + ((i - 1) * MINUTE) / RELOADS;
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    }
    loading = false;
    await load;
    await streams.finish();
    expect(failures).toEqual([]);
    expect(served).toBeGreaterThan(1_000);
    const expected = ['first', ...Array.from({ length: RELOADS }, (_, i) => `event-${i + 2}`)];
    for (const client of streams.clients)
      expect((await client.response()).text()).toBe(expected.map((one) => `data: ${one}\n\n`).join(''));
  },
  3 * MINUTE,
);
