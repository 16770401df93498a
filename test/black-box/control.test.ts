// The control socket and its commands: status, halt, resume, denied. reload.test.ts has what changes a configuration.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { parse } from 'smol-toml';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until, within } from '../support/deadline.ts';
import {
  createWorkspace,
  freePort,
  type Isoproxy,
  isoproxyCommand,
  recorderAt,
  run,
  type SimpleConfigOptions,
  type StartOptions,
  simpleConfig,
  startIsoproxy,
  startSimple,
  twoListeners,
} from '../support/isoproxy.ts';
import { spawn } from '../support/process.ts';
import { request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';
import { openStreams } from '../support/streams.ts';

setDefaultTimeout(25_000);

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
/** Deno takes a second for a start under load; what is tried is the same with fewer. */
const STREAMS = DENO ? 100 : 500;
const HALTED = [503, 'halted', 'false'];

const canary = makeCanary();
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

const control = (proxy: Isoproxy) => proxy.workspace.path('state/control.sock');
/** It says so when it handles signals, too. */
const listens = async (proxy: Isoproxy): Promise<Isoproxy> => {
  await until('it to listen', () => proxy.lines().some(({ event }) => event === 'listening'));
  return proxy;
};
const start = async (options: Partial<SimpleConfigOptions> = {}, how?: StartOptions): Promise<Isoproxy> => {
  up.reset();
  return listens(await startSimple({ upstreamPort: up.port, ca: up.ca, canary, ...options }, how));
};
const restart = async (proxy: Isoproxy) => {
  await proxy.start();
  await listens(proxy);
};
/** Two providers, `api` and `other`, on two listeners, `agent-1` and `agent-2`. */
const startTwo = async (): Promise<Isoproxy> => {
  up.reset();
  const proxy = await startIsoproxy((dir) => {
    return simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      top: {
        listeners: twoListeners(dir, ['api', 'other']),
        providers: {
          other: {
            ...recorderAt(dir, up.port),
            credential: 'none',
            endpoints: [{ methods: ['GET'], paths: ['/v1/models'] }],
          },
        },
      },
    });
  });
  return listens(proxy);
};
const haltFile = (proxy: Isoproxy) => proxy.workspace.path('state/halt');
const ask = (proxy: Isoproxy, method: string, target: string, body?: string) =>
  request(control(proxy), { method, target, ...(body !== undefined && { body }) });
const status = async (proxy: Isoproxy) => (await ask(proxy, 'GET', '/status')).json();
const post = (proxy: Isoproxy, listener?: string) =>
  request(proxy.endpoint(listener), { method: 'POST', target: '/api/v1/messages', body: '{}' });
const models = (proxy: Isoproxy, listener?: string) =>
  request(proxy.endpoint(listener), { target: '/other/v1/models' });
const outcome = ({ status, header }: { status: number; header(name: string): string | undefined }) => [
  status,
  header('x-isoproxy-error'),
  header('x-should-retry'),
];
/** All that both commands and both processes printed. */
const printed = ({ stdout, stderr }: { stdout: string; stderr: string }) => stdout + stderr;

describe('control socket', () => {
  test('is 0600, and gone after the stop', async () => {
    await using proxy = await start();
    const stat = statSync(control(proxy));
    expect([stat.isSocket(), stat.mode & 0o777]).toEqual([true, 0o600]);
    expect(await proxy.stop()).toBe(0);
    expect(existsSync(control(proxy))).toBe(false);
  });

  test('no listener leads to it', async () => {
    await using proxy = await start();
    for (const target of ['/status', '/metrics', '/denied', '/halt', '/resume', '/reload'])
      for (const method of ['GET', 'POST']) {
        const answer = await request(proxy.socket(), { method, target, headers: { host: 'control' } });
        expect([target, answer.status, answer.header('x-isoproxy-error')]).toEqual([
          target,
          404,
          'unknown_provider',
        ]);
      }
    expect(up.connections.length).toBe(0);
    expect((await status(proxy)).halts).toEqual([]);
  });

  test('a listener must not be in the directory of the control socket', async () => {
    using workspace = createWorkspace();
    const { toml, files } = simpleConfig(workspace.dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      listener: { socket: workspace.path('state/agent.sock') },
    });
    for (const [name, content] of Object.entries(files)) workspace.write(name, content);
    workspace.write('proxy.toml', toml);
    const result = await run(['check', '--config', workspace.path('proxy.toml')], { dir: workspace.dir });
    expect(result.code).toBe(78);
  });

  test.each([
    ['commit', 'another isoproxy writes the audit log'],
    ['off', 'server.control'],
  ])(
    'a second instance on the same state directory is refused with 69, and the first goes on: audit %s',
    async (durability, why) => {
      await using proxy = await start({ top: { audit: { durability } } });
      const text = readFileSync(proxy.configPath, 'utf8').replaceAll('/agent-1/', '/agent-9/');
      proxy.workspace.write('second.toml', text);
      const second = await run(['serve', '--config', proxy.workspace.path('second.toml')], {
        dir: proxy.workspace.dir,
      });
      expect(second.code).toBe(69);
      expect(second.stderr).toContain(why);
      expect(second.stderr).toContain('isoproxy: hint:');
      expect(existsSync(proxy.workspace.path('agent-9/isoproxy.sock'))).toBe(false);
      expect((await status(proxy)).pid).toBe(proxy.child.pid);
      expect((await post(proxy)).status).toBe(200);
    },
  );

  test('a stale one is replaced', async () => {
    await using proxy = await start();
    await proxy.stop('SIGKILL');
    expect(existsSync(control(proxy))).toBe(true);
    await restart(proxy);
    expect((await status(proxy)).pid).toBe(proxy.child.pid);
  });

  test('answers nonsense without falling over', async () => {
    await using proxy = await start();
    for (const [method, target, body, code] of [
      ['POST', '/halt', 'no json', 400],
      ['POST', '/halt', '[]', 400],
      ['POST', '/halt', 'null', 400],
      ['POST', '/halt', '{"scope":"provider ../x"}', 400],
      ['POST', '/resume', '{"scope":7}', 400],
      ['GET', '/denied?since_ms=x', undefined, 200],
      ['GET', '/halt', undefined, 404],
      ['GET', '/nothing', undefined, 404],
    ] as const)
      expect([target, body, (await ask(proxy, method, target, body)).status]).toEqual([target, body, code]);
    expect((await status(proxy)).halts).toEqual([]);
  });
});

describe('status', () => {
  test('counts what was forwarded, refused, carried and is in flight, as text and as JSON', async () => {
    await using proxy = await start();
    await post(proxy);
    await request(proxy.socket(), { target: '/api/v1/secret' });
    await request(proxy.socket(), { target: '/nobody/v1' });
    using streams = await openStreams(up, proxy.socket(), 3);
    const json = await proxy.cli(['status', '--json']);
    expect(json.code).toBe(0);
    const now = json.json();
    expect(Object.keys(now)).toEqual([
      'isoproxy',
      'version',
      'pid',
      'started_at',
      'uptime_s',
      'config',
      'generation',
      'halts',
      'audit',
      'listeners',
    ]);
    expect(now).toMatchObject({
      isoproxy: 1,
      pid: proxy.child.pid,
      config: proxy.configPath,
      generation: 1,
      halts: [],
      listeners: [
        {
          name: 'agent-1',
          address: proxy.socket(),
          rate_tokens: null,
          denied_elsewhere: 1,
          providers: [
            {
              name: 'api',
              in_flight: 3,
              allowed: 1,
              denied: 1,
              denied_by_code: { endpoint_not_allowed: 1 },
              bytes_in: 2,
              circuit: 'closed',
              provider_tokens: null,
              pair_tokens: null,
            },
          ],
        },
      ],
    });
    const text = await proxy.cli(['status']);
    expect(text.stdout).toContain(`pid ${proxy.child.pid}`);
    expect(text.stdout).toContain(`(${control(proxy)})`);
    expect(text.stdout).toContain(`configuration ${proxy.configPath}, generation 1`);
    expect(text.stdout).toMatch(/^agent-1 +api +3 +1 +1 +2B /m);
    expect(text.stdout).not.toContain('\x1b');
    await streams.finish();
    await until(
      'nothing in flight',
      async () => (await status(proxy)).listeners[0].providers[0].in_flight === 0,
    );
    assertClean(canary, { text: printed(text), json: printed(json), ...proxy.visible() });
  });

  test('--watch on a pipe prints one table after the other, without escapes, until a signal', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    const watch = spawn([...isoproxyCommand(dir), 'status', '--watch', '--config', proxy.configPath], dir);
    const tables = () => watch.stdout().toString().split('isoproxy ').length - 1;
    await until('three tables', () => tables() >= 3, 8_000);
    expect(watch.stdout().toString()).not.toContain('\x1b');
    watch.kill('SIGINT');
    expect(await within('the end of --watch', watch.exited)).toBe(130);
    expect(watch.stderr().toString()).toBe('');
  });

  test('a wrong --control: 69, and a hint', async () => {
    await using proxy = await start();
    const wrong = proxy.workspace.path('state/none.sock');
    for (const command of ['status', 'resume', 'denied', 'reload']) {
      const all = command === 'resume' ? ['--all'] : [];
      const result = await proxy.cli([command, '--control', wrong, ...all]);
      expect([command, result.code, result.stdout]).toEqual([command, 69, '']);
      expect(result.stderr).toContain(`isoproxy: error: no answer from ${wrong}: ENOENT`);
      expect(result.stderr).toContain('isoproxy: hint:');
    }
    expect((await post(proxy)).status).toBe(200);
  });

  test('what is no control socket is not taken for one', async () => {
    await using proxy = await start();
    const result = await proxy.cli(['status', '--control', proxy.socket()]);
    expect(result.code).toBe(69);
    expect(result.stderr).toContain('isoproxy: error: ');
  });
});

describe('kill switch', () => {
  test(`halt cuts ${STREAMS} streams within a second and survives kill -9, until resume`, async () => {
    await using proxy = await start({
      limits: { max_concurrent: 1000 },
    });
    using streams = await openStreams(up, proxy.socket(), STREAMS);
    let ticking = true;
    const ticks = (async () => {
      while (ticking) {
        await streams.event('tick');
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    })();
    const result = await proxy.cli(['halt', '--reason', 'key leaked']);
    const haltedAt = performance.now();
    expect([result.code, result.stdout]).toEqual([0, `halted: all (${control(proxy)})\n`]);
    await until('all streams to end', () => streams.clients.every(({ closed }) => closed), 1_000);
    const received = streams.clients.map((client) => client.received().length);
    await until('all upstreams to be left', () => streams.upstreams.every(({ record }) => record.peerEnd));
    expect(performance.now() - haltedAt).toBeLessThan(1_500);
    ticking = false;
    await ticks;
    expect(streams.clients.map((client) => client.received().length)).toEqual(received);
    // Cut, not ended in order: no client may take what it has for the whole.
    expect((await streams.clients[0]?.response())?.complete).toBe(false);

    up.reset();
    expect(outcome(await post(proxy))).toEqual(HALTED);
    expect((await request(proxy.socket(), { target: '/healthz' })).status).toBe(200);
    expect((await status(proxy)).halts).toMatchObject([{ scope: 'all', reason: 'key leaked' }]);
    expect((await proxy.cli(['status'])).stdout).toMatch(/^halted: all since .*: key leaked$/m);
    expect(proxy.lines().find(({ event }) => event === 'halted')).toMatchObject({
      scope: 'all',
      reason: 'key leaked',
      cut: STREAMS,
    });
    const cutRecords = proxy
      .records()
      .filter(({ reason, decision }) => reason === 'halted' && decision === 'allow');
    expect(cutRecords.length).toBe(STREAMS);

    await proxy.stop('SIGKILL');
    await restart(proxy);
    expect(outcome(await post(proxy))).toEqual(HALTED);
    expect((await status(proxy)).halts).toMatchObject([{ scope: 'all', reason: 'key leaked' }]);
    expect(up.connections.length).toBe(0);

    const resumed = await proxy.cli(['resume', '--all']);
    expect([resumed.code, resumed.stdout]).toEqual([0, 'resumed: all (key leaked)\n']);
    expect((await post(proxy)).status).toBe(200);
    await until('the event', () => proxy.lines().some(({ event }) => event === 'resumed'));
    expect(existsSync(haltFile(proxy))).toBe(false);
    expect(await proxy.stop()).toBe(0);
    await restart(proxy);
    expect((await post(proxy)).status).toBe(200);
  });

  test('a provider is halted for all listeners, a listener for all providers, and nothing else is', async () => {
    await using proxy = await startTwo();
    using mine = await openStreams(up, proxy.socket('agent-1'), 2);
    expect((await proxy.cli(['halt', '--provider', 'other'])).code).toBe(0);
    expect(outcome(await models(proxy, 'agent-1'))).toEqual(HALTED);
    expect(outcome(await models(proxy, 'agent-2'))).toEqual(HALTED);
    expect((await post(proxy, 'agent-2')).status).toBe(200);
    expect((await proxy.cli(['halt', '--listener', 'agent-2'])).code).toBe(0);
    expect(outcome(await post(proxy, 'agent-2'))).toEqual(HALTED);
    expect((await post(proxy, 'agent-1')).status).toBe(200);
    await mine.event('still here');
    for (const client of mine.clients) await client.waitFor('still here');
    expect((await status(proxy)).halts.map(({ scope }: { scope: string }) => scope)).toEqual([
      'provider other',
      'listener agent-2',
    ]);
    expect((await proxy.cli(['resume', '--provider', 'other'])).code).toBe(0);
    expect((await models(proxy, 'agent-1')).status).toBe(200);
    expect(outcome(await post(proxy, 'agent-2'))).toEqual(HALTED);
    expect((await proxy.cli(['resume', '--all'])).code).toBe(0);
    expect((await post(proxy, 'agent-2')).status).toBe(200);
    expect((await proxy.cli(['resume', '--all', '--json'])).json()).toEqual({
      resumed: [],
      saved: true,
      code: null,
    });
  });

  test('the file alone halts, whoever wrote it, and its removal resumes', async () => {
    await using proxy = await startTwo();
    const all = [HALTED, HALTED];
    const other = [[200, undefined, undefined], HALTED];
    for (const [content, expected] of [
      ['', all],
      ['provider other\n', other],
      ['{{{ garbage', all],
      ['provider other\nand then?\n', all],
      [Uint8Array.of(0xff, 0xfe), all],
    ] as const) {
      writeFileSync(haltFile(proxy), content);
      const look = async () => [outcome(await post(proxy)), outcome(await models(proxy))];
      await until(
        `the halt of ${JSON.stringify(content)}`,
        async () => JSON.stringify(await look()) === JSON.stringify(expected),
        2_000,
      );
      rmSync(haltFile(proxy));
      await until('the resume', async () => (await models(proxy)).status === 200, 2_000);
      expect((await post(proxy)).status).toBe(200);
    }
  });

  test('a configuration that no longer parses does not stand in the way of halt and resume', async () => {
    await using proxy = await start();
    const before = readFileSync(proxy.configPath, 'utf8');
    writeFileSync(proxy.configPath, `${before}\n[[[ broken`);
    const halted = await proxy.cli(['halt']);
    expect([halted.code, halted.stdout]).toEqual([0, `halted: all (${control(proxy)})\n`]);
    expect(outcome(await post(proxy))).toEqual(HALTED);
    expect((await proxy.cli(['status'])).code).toBe(0);
    expect((await proxy.cli(['resume', '--all'])).code).toBe(0);
    expect((await post(proxy)).status).toBe(200);
  });

  test('a stopped process that answers nobody is halted by the file, and obeys when it goes on', async () => {
    await using proxy = await start();
    proxy.signal('SIGSTOP');
    const started = performance.now();
    const result = await proxy.cli(['halt', '--reason', 'stuck']);
    // Deno compiles before it starts.
    expect(performance.now() - started).toBeLessThan(DENO ? 3_500 : 1_800);
    expect([result.code, result.stdout]).toEqual([0, `halted: all (${haltFile(proxy)})\n`]);
    expect(result.stderr).toContain('is silent for 1 s');
    proxy.signal('SIGCONT');
    await until('the halt', async () => (await post(proxy)).status === 503, 2_000);
    await until('the reason', async () => (await status(proxy)).halts[0]?.reason === 'stuck', 2_000);
  });

  test('with no process at all the next one starts halted', async () => {
    await using proxy = await start();
    expect(await proxy.stop()).toBe(0);
    const result = await proxy.cli(['halt', '--provider', 'api']);
    expect([result.code, result.stdout]).toEqual([0, `halted: provider api (${haltFile(proxy)})\n`]);
    await restart(proxy);
    expect(outcome(await post(proxy))).toEqual(HALTED);
  });

  test('what has never run is halted by the file, in a state directory like that of a start', async () => {
    await using proxy = await start();
    expect(await proxy.stop()).toBe(0);
    rmSync(proxy.workspace.path('state'), { recursive: true });
    expect((await proxy.cli(['halt'])).code).toBe(0);
    expect(statSync(proxy.workspace.path('state')).mode & 0o777).toBe(0o700);
    await restart(proxy);
    expect(outcome(await post(proxy))).toEqual(HALTED);
  });

  test('with --control the file is written where a configuration says that it is the same proxy', async () => {
    await using proxy = await start();
    expect(await proxy.stop()).toBe(0);
    const elsewhere = proxy.workspace.path('elsewhere.sock');
    const named = await proxy.cli(['halt', '--control', elsewhere]);
    expect([named.code, named.stdout]).toEqual([0, `halted: all (${haltFile(proxy)})\n`]);
    rmSync(haltFile(proxy));
    const found = (socket: string) =>
      run(['halt', '--control', socket], {
        dir: proxy.workspace.dir,
        env: { ISOPROXY_CONFIG: proxy.configPath },
      });
    expect((await found(control(proxy))).code).toBe(0);
    rmSync(haltFile(proxy));
    // The proxy that the usual search finds may be another one.
    const other = await found(elsewhere);
    expect([other.code, other.stdout]).toEqual([69, '']);
    expect(other.stderr).toContain('nothing is halted');
    expect(other.stderr).toContain('echo all >> STATE_DIR/halt');
    expect(existsSync(haltFile(proxy))).toBe(false);
  });

  test('names that nobody configured are refused, also without a process that knows them', async () => {
    await using proxy = await start();
    for (const args of [
      ['--provider', 'nobody'],
      ['--listener', 'api'],
      ['--provider', '../x'],
      ['--provider', ''],
      ['--provider', 'api', '--listener', 'agent-1'],
    ])
      expect([args, (await proxy.cli(['halt', ...args])).code]).toEqual([args, 64]);
    expect((await status(proxy)).halts).toEqual([]);
    expect(await proxy.stop()).toBe(0);
    expect((await proxy.cli(['halt', '--provider', 'nobody'])).code).toBe(64);
    expect(existsSync(haltFile(proxy))).toBe(false);
  });

  test.each([[[]], [['--all', '--provider', 'api']]])('resume %j is a usage error', async (args) => {
    await using proxy = await start();
    await proxy.cli(['halt']);
    const result = await proxy.cli(['resume', ...args]);
    expect(result.code).toBe(64);
    expect(result.stderr).toContain('isoproxy: hint:');
    expect(outcome(await post(proxy))).toEqual(HALTED);
  });

  test('a reason with control characters is one harmless line everywhere', async () => {
    await using proxy = await start();
    const reason = 'a\nlistener agent-1\x1b[31m\x07\u202eb\r\n# c';
    expect((await proxy.cli(['halt', '--provider', 'api', `--reason=${reason}`])).code).toBe(0);
    const { stdout } = await proxy.cli(['status']);
    const said = (await status(proxy)).halts;
    expect(said.length).toBe(1);
    for (const text of [
      stdout,
      said[0].reason,
      proxy.child.stderr().toString(),
      readFileSync(haltFile(proxy), 'utf8'),
    ])
      expect(/[\x1b\x07\u202e\r]/.test(text)).toBe(false);
    expect(readFileSync(haltFile(proxy), 'utf8')).not.toMatch(/^listener/m);
    await proxy.stop('SIGKILL');
    await restart(proxy);
    expect((await status(proxy)).halts).toEqual(said);
  });

  test('where it cannot be saved it holds in memory, says so, and exits 69', async () => {
    await using proxy = await start();
    // Root is kept out by no mode: a directory stands where the new file is written first.
    const inTheWay = proxy.workspace.path(`state/.halt.${proxy.child.pid.toString(36)}`);
    mkdirSync(join(inTheWay, 'full'), { recursive: true });
    const result = await proxy.cli(['halt']);
    expect(result.code).toBe(69);
    expect(result.stdout).toBe(`halted: all (${control(proxy)})\n`);
    expect(result.stderr).toContain('will not survive a restart');
    expect(outcome(await post(proxy))).toEqual(HALTED);
    rmSync(inTheWay, { recursive: true });
    await until('it to be saved after all', () => existsSync(haltFile(proxy)), 8_000);
    expect((await proxy.cli(['resume', '--all'])).code).toBe(0);
    expect((await post(proxy)).status).toBe(200);
  });
});

describe('denied', () => {
  const rows = async (proxy: Isoproxy, ...args: string[]) => {
    const result = await proxy.cli(['denied', '--json', ...args]);
    expect(result.code).toBe(0);
    return result.json() as { path: string; count: number; listener: string; code: string; method: string }[];
  };

  test('lists kinds with counts, most recent first, by listener and by time', async () => {
    await using proxy = await startTwo();
    const get = (listener: string, target: string) => request(proxy.endpoint(listener), { target });
    await get('agent-1', '/api/v1/a?secret=1');
    await get('agent-2', '/api/v1/a');
    await get('agent-1', '/api/v1/b');
    await get('agent-1', '/api/v1/a?secret=2');
    const all = await rows(proxy);
    expect(
      all.map(({ listener, method, path, code, count }) => [listener, method, path, code, count]),
    ).toEqual([
      ['agent-1', 'GET', '/api/v1/a', 'endpoint_not_allowed', 2],
      ['agent-1', 'GET', '/api/v1/b', 'endpoint_not_allowed', 1],
      ['agent-2', 'GET', '/api/v1/a', 'endpoint_not_allowed', 1],
    ]);
    expect((await rows(proxy, '--listener', 'agent-2')).length).toBe(1);
    expect((await rows(proxy, '--since', '10m')).length).toBe(3);
    const later = await ask(proxy, 'GET', `/denied?since_ms=${Date.now() + 60_000}`);
    expect(later.json().rows).toEqual([]);
    expect((await proxy.cli(['denied', '--since', 'soon'])).code).toBe(64);
    const table = await proxy.cli(['denied']);
    expect(table.stdout.split('\n')[1]).toMatch(
      /^\S+Z +2 +agent-1 +endpoint_not_allowed +GET +\/api\/v1\/a$/,
    );
    expect(table.stdout).not.toContain('secret');
  });

  test('a flood of 5,000 paths leaves 1,000 kinds, the last ones', async () => {
    await using proxy = await start();
    const flood = Array.from({ length: 10 }, async (_, lane) => {
      for (let i = lane; i < 5_000; i += 10)
        expect((await request(proxy.socket(), { target: `/api/v1/flood-${i}` })).status).toBe(403);
    });
    await Promise.all(flood);
    await request(proxy.socket(), { target: '/api/v1/last' });
    const kept = await rows(proxy);
    expect([kept.length, kept[0]?.path]).toEqual([1_000, '/api/v1/last']);
    expect(kept.some(({ path }) => path === '/api/v1/flood-5')).toBe(false);
  });

  test('an agent that fails, `denied --toml`, its lines in the file, `reload`: it works', async () => {
    await using proxy = await startTwo();
    const wanted: [string, string, string][] = [
      ['agent-1', 'POST', '/api/v1/files'],
      ['agent-1', 'GET', '/api/v1/files/a%20b/content'],
      ['agent-2', 'GET', '/other/v2/x:run'],
      ['agent-2', 'DELETE', '/other/v2/x'],
    ];
    const send = ([listener, method, target]: [string, string, string]) =>
      request(proxy.endpoint(listener), { method, target, ...(method === 'POST' && { body: '{}' }) });
    for (const one of wanted) expect((await send(one)).status).toBe(403);
    const result = await proxy.cli(['denied', '--toml']);
    expect(result.code).toBe(0);
    let config = readFileSync(proxy.configPath, 'utf8');
    const blocks = [
      ...result.stdout.matchAll(/^# In \[(providers\.\w+)\]:\n(extra_endpoints = \[\n[\s\S]*?\n\]\n)/gm),
    ];
    expect(blocks.map(([, table]) => table).sort()).toEqual(['providers.api', 'providers.other']);
    for (const [, table, lines] of blocks) {
      expect(Object.keys(parse(lines as string))).toEqual(['extra_endpoints']);
      config = config.replace(`[${table}]\n`, (head) => head + lines);
    }
    proxy.writeConfig(config);
    expect((await proxy.cli(['reload'])).stdout).toBe('reloaded: generation 2\n');
    for (const one of wanted) expect([one, (await send(one)).status]).toEqual([one, 200]);
    expect((await request(proxy.socket('agent-1'), { target: '/api/v1/other' })).status).toBe(403);
    assertClean(canary, { toml: result.stdout, ...proxy.visible() });
  });

  test('hostile paths stay inert text: the lines parse, and allow nothing but what was asked for', async () => {
    await using proxy = await start({
      provider: { endpoints: [{ methods: ['POST'], paths: ['/v1/*'], allow_encoded_slash: true }] },
    });
    const targets = [
      '/api/v2/"]}, { methods = ["*"], paths = ["/*',
      '/api/v2/%22%5D%0Aendpoints',
      '/api/v2/%0a%1b%5B31m%7F',
      "/api/v2/'quote'",
      '/api/v2/*',
      '/api/v2/**',
      '/api/v2/a%2Fb',
      '/api/v2/a%2fb',
      '/api/v2/%2A',
      '/api/v2/%e2%80%ae',
      '/api/v2/a\\b',
      '/api/v2/{x}',
      '/api/v2/~a!$&()+,;=:@',
      '/api/v2/trailing/',
      '/api/v2/..;/x',
      '/api/v2/%23',
      '/api/v2/%3f',
      '/api',
      '/api/',
      `/api/v2/${'long'.repeat(200)}`,
    ];
    const refused: string[] = [];
    for (const target of targets) {
      const answer = await request(proxy.socket(), { target });
      expect([target, answer.status >= 400]).toEqual([target, true]);
      if (answer.header('x-isoproxy-error') === 'endpoint_not_allowed') refused.push(target);
    }
    expect(refused.length).toBeGreaterThan(8);
    const result = await proxy.cli(['denied', '--toml']);
    expect(/[\x00-\x09\x0b-\x1f\x7f\u0080-\uffff]/.test(result.stdout)).toBe(false);
    expect(
      result.stdout
        .split('\n')
        .every((line) =>
          /^(?:#.*|extra_endpoints = \[| {2}# .*| {2}\{ methods = \["GET"\], paths = \["[^"*]*"\] \},|\]|)$/.test(
            line,
          ),
        ),
    ).toBe(true);
    const { extra_endpoints } = parse(result.stdout) as { extra_endpoints: { paths: string[] }[] };
    for (const { paths } of extra_endpoints) expect(paths.join()).not.toContain('*');
    const before = readFileSync(proxy.configPath, 'utf8');
    proxy.writeConfig(before.replace('[providers.api]\n', (head) => head + result.stdout));
    const reload = await proxy.cli(['reload']);
    expect([reload.code, reload.stderr]).toEqual([0, '']);
    const allowed: string[] = [];
    for (const target of refused)
      if ((await request(proxy.socket(), { target })).status === 200) allowed.push(target);
    // What no rule can name stands in a comment, with the reason.
    const nameless = ['/api/v2/*', '/api/v2/**', '/api/v2/%e2%80%ae', '/api/v2/%3f', '/api'];
    expect(allowed).toEqual(
      refused.filter((target) => !nameless.includes(target) && !target.includes('long')),
    );
    expect((await request(proxy.socket(), { target: '/api/v2/else' })).status).toBe(403);
  });
});

describe('metrics', () => {
  test('stand on the control socket', async () => {
    await using proxy = await start();
    await post(proxy);
    const answer = await ask(proxy, 'GET', '/metrics');
    expect(answer.status).toBe(200);
    expect(answer.header('content-type')).toContain('text/plain; version=0.0.4');
    expect(answer.text()).toMatch(/^isoproxy_\w+/m);
    assertClean(canary, { metrics: answer.text() });
  });

  test.each(['tcp', 'socket'])('[metrics] %s serves GET /metrics and nothing else', async (kind) => {
    using workspace = createWorkspace();
    const port = await freePort();
    const endpoint = kind === 'tcp' ? { port } : workspace.path('metrics/metrics.sock');
    await using proxy = await start(
      { top: { metrics: kind === 'tcp' ? { tcp: `127.0.0.1:${port}` } : { socket: endpoint } } },
      { workspace },
    );
    const answer = await request(endpoint, { target: '/metrics' });
    expect([answer.status, answer.text().includes('isoproxy_')]).toEqual([200, true]);
    for (const target of ['/', '/status', '/denied', '/halt', '/reload', '/metrics/', '/healthz'])
      for (const method of ['GET', 'POST'])
        expect([target, (await request(endpoint, { method, target })).status]).toEqual([target, 404]);
    const posted = await request(endpoint, { method: 'POST', target: '/metrics', body: '{}' });
    expect([posted.status, posted.text()]).toEqual([405, '']);
    expect((await status(proxy)).halts).toEqual([]);
    // The process asserts again on a reload that it listens where it should only.
    expect((await proxy.cli(['reload'])).stdout).toBe('reloaded: generation 2\n');
    expect((await request(endpoint, { target: '/metrics' })).text()).toMatch(/generation\S* 2\n/);
    expect(await proxy.stop()).toBe(0);
    if (typeof endpoint === 'string') expect(existsSync(endpoint)).toBe(false);
  });
});
