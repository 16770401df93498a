// A configuration that changes while requests are in flight: SIGHUP and `reload`.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import {
  freePort,
  type Isoproxy,
  type ProxyConfig,
  SECRET_FILE,
  type SimpleConfigOptions,
  simpleConfig,
  startIsoproxy,
} from '../support/isoproxy.ts';
import { connect, formatRequest, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';
import { openStreams } from '../support/streams.ts';

setDefaultTimeout(25_000);

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
const IS_ROOT = process.getuid?.() === 0;

const canary = makeCanary();
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

type Listener = { name: string; [key: string]: unknown };

const config = (dir: string, options: Partial<SimpleConfigOptions> = {}): ProxyConfig =>
  simpleConfig(dir, { upstreamPort: up.port, ca: up.ca, canary, ...options });
const at = (dir: string, name: string, more: Record<string, unknown> = {}): Listener => ({
  name,
  socket: join(dir, name, 'isoproxy.sock'),
  providers: ['api'],
  ...more,
});
/** The configuration with these listeners. */
const withListeners = (dir: string, listeners: Listener[], options: Partial<SimpleConfigOptions> = {}) =>
  config(dir, { ...options, top: { listeners, ...options.top } });

async function start(make: (dir: string) => ProxyConfig = (dir) => config(dir)): Promise<Isoproxy> {
  up.reset();
  const proxy = await startIsoproxy(make);
  await listens(proxy);
  return proxy;
}
const listens = (proxy: Isoproxy) =>
  until('it to listen', () => proxy.lines().some(({ event }) => event === 'listening'));
const events = (proxy: Isoproxy, name: string) => proxy.lines().filter(({ event }) => event === name);
const reload = (proxy: Isoproxy, next?: ProxyConfig | string) => {
  if (next !== undefined) proxy.writeConfig(next);
  return request(proxy.workspace.path('state/control.sock'), {
    method: 'POST',
    target: '/reload',
    ms: 15_000,
  });
};
const mustReload = async (proxy: Isoproxy, next?: ProxyConfig | string): Promise<number> => {
  const answer = (await reload(proxy, next)).json();
  expect(answer).toMatchObject({ ok: true, problems: [] });
  return answer.generation;
};
const status = async (proxy: Isoproxy) =>
  (await request(proxy.workspace.path('state/control.sock'), { target: '/status' })).json();
const get = (endpoint: string, target = '/api/v1/models/x') => request(endpoint, { target });
const inode = (path: string) => statSync(path).ino;
const code = ({ header }: { header(name: string): string | undefined }) => header('x-isoproxy-error');

describe('what a reload changes', () => {
  test.each(['SIGHUP', 'reload'])(
    '%s: the next request gets the new rule, streams are finished under the old',
    async (how) => {
      await using proxy = await start();
      expect((await get(proxy.socket(), '/api/v2/new')).status).toBe(403);
      using streams = await openStreams(up, proxy.socket(), 3);
      proxy.writeConfig(config(proxy.workspace.dir, { endpoints: ['GET /v2/new'] }));
      if (how === 'SIGHUP') {
        proxy.signal('SIGHUP');
        await until('the reload', () => events(proxy, 'reloaded').length === 1);
      } else {
        const result = await proxy.cli(['reload']);
        expect([result.code, result.stdout, result.stderr]).toEqual([0, 'reloaded: generation 2\n', '']);
      }
      expect((await get(proxy.socket(), '/api/v2/new')).status).toBe(200);
      const old = await request(proxy.socket(), { method: 'POST', target: '/api/v1/messages', body: '{}' });
      expect([old.status, code(old)]).toEqual([403, 'endpoint_not_allowed']);
      expect((await status(proxy)).generation).toBe(2);
      await streams.event('second');
      await streams.finish();
      for (const client of streams.clients) {
        const answer = await client.response();
        expect([answer.complete, answer.text()]).toEqual([true, 'data: first\n\ndata: second\n\n']);
      }
    },
  );

  test('an unchanged listener keeps its socket and its connections', async () => {
    await using proxy = await start();
    const before = inode(proxy.socket());
    using kept = await connect(proxy.socket());
    for (let generation = 2; generation <= 5; generation++) {
      await kept.send(formatRequest({ target: '/api/v1/models/x' }));
      expect((await kept.response()).status).toBe(200);
      expect(await mustReload(proxy)).toBe(generation);
    }
    await kept.send(formatRequest({ target: '/api/v1/models/x' }));
    const answer = await kept.response();
    expect([answer.status, answer.header('connection')]).not.toContain('close');
    expect([kept.closed, inode(proxy.socket())]).toEqual([undefined, before]);
  });

  test('an added listener accepts when reload returns', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-1'), at(dir, 'agent-2')]));
    expect((await get(proxy.socket('agent-2'))).status).toBe(200);
    expect((await get(proxy.socket('agent-1'))).status).toBe(200);
    expect(statSync(proxy.socket('agent-2')).mode & 0o777).toBe(0o600);
    expect(statSync(proxy.workspace.path('agent-2')).mode & 0o777).toBe(0o700);
  });

  test('a removed listener refuses at once, finishes its streams, and its socket is gone', async () => {
    await using proxy = await start((dir) => withListeners(dir, [at(dir, 'agent-1'), at(dir, 'agent-2')]));
    const { dir } = proxy.workspace;
    const path = proxy.socket('agent-2');
    using streams = await openStreams(up, path, 3);
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-1')]));
    expect(existsSync(path)).toBe(false);
    expect((await get(proxy.socket('agent-1'))).status).toBe(200);
    await streams.event('second');
    await streams.finish();
    for (const client of streams.clients) {
      expect((await client.response()).text()).toBe('data: first\n\ndata: second\n\n');
      await client.untilClosed();
    }
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-1'), at(dir, 'agent-2')]));
    expect((await get(path)).status).toBe(200);
  });

  test('a listener that is removed and comes back while its streams run: both generations of it work', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    using streams = await openStreams(up, proxy.socket('agent-1'), 2);
    const path = proxy.socket('agent-1');
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-2')]));
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-1')]));
    expect((await get(path)).status).toBe(200);
    await streams.event('still');
    for (const client of streams.clients) await client.waitFor('still');
    await streams.finish();
    for (const client of streams.clients) expect((await client.response()).complete).toBe(true);
    expect((await get(path)).status).toBe(200);
  });

  test('a listener whose socket somebody removed or replaced gets a new one, and its streams are finished', async () => {
    await using proxy = await start();
    const path = proxy.socket();
    using streams = await openStreams(up, path, 3);
    const gone = [
      () => rmSync(path),
      () => rmSync(dirname(path), { recursive: true }),
      // Dead: its process was killed.
      () => {
        rmSync(path);
        const killed = Bun.spawnSync([
          process.execPath,
          '-e',
          `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
        ]);
        expect(killed.signalCode).toBe('SIGKILL');
      },
    ];
    for (const remove of gone) {
      remove();
      await expect(get(path)).rejects.toThrow();
      await mustReload(proxy);
      expect((await get(path)).status).toBe(200);
      expect(statSync(path).mode & 0o777).toBe(0o600);
    }
    await streams.event('second');
    await streams.finish();
    for (const client of streams.clients)
      expect((await client.response()).text()).toBe('data: first\n\ndata: second\n\n');
    expect((await get(path)).status).toBe(200);
    expect(await proxy.stop()).toBe(0);
    expect(existsSync(path)).toBe(false);
  });

  test('a socket that is gone does not hinder the removal of its listener', async () => {
    await using proxy = await start((dir) => withListeners(dir, [at(dir, 'agent-1'), at(dir, 'agent-2')]));
    rmSync(proxy.socket('agent-2'));
    await mustReload(proxy, withListeners(proxy.workspace.dir, [at(proxy.workspace.dir, 'agent-1')]));
    expect((await get(proxy.socket('agent-1'))).status).toBe(200);
  });

  test('renamed on the same path it stays open, and streams of both names outlive its removal', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    const socket = proxy.socket('agent-1');
    const before = inode(socket);
    using first = await openStreams(up, socket, 2);
    await mustReload(proxy, withListeners(dir, [at(dir, 'renamed', { socket })]));
    expect(inode(socket)).toBe(before);
    using second = await openStreams(up, socket, 2);
    expect((await get(socket)).status).toBe(200);
    expect((await proxy.record(({ path }) => path === '/api/v1/models/x')).listener).toBe('renamed');
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-2')]));
    await until('the path to go', () => !existsSync(socket));
    for (const streams of [second, first]) {
      await streams.event('still');
      for (const client of streams.clients) await client.waitFor('still');
      await streams.finish();
      for (const client of streams.clients) expect((await client.response()).complete).toBe(true);
    }
  });

  test('shutdown_grace bounds how long a removed listener drains', async () => {
    const grace = { server: { shutdown_grace: '300ms' } };
    await using proxy = await start((dir) => config(dir, { top: grace }));
    const { dir } = proxy.workspace;
    using streams = await openStreams(up, proxy.socket('agent-1'), 1);
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-2')], { top: grace }));
    const answer = await streams.clients[0]?.response();
    expect(answer?.complete).toBe(false);
    expect((await get(proxy.socket('agent-2'))).status).toBe(200);
  });

  test('another mode and group on the same path', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    const path = proxy.socket('agent-1');
    const before = inode(path);
    const group = IS_ROOT ? '65534' : String(statSync(path).gid);
    await mustReload(proxy, withListeners(dir, [at(dir, 'agent-1', { mode: '0660', group })]));
    const changed = statSync(path);
    expect([changed.ino, changed.mode & 0o777, changed.gid]).toEqual([before, 0o660, Number(group)]);
    expect(statSync(proxy.workspace.path('agent-1')).mode & 0o777).toBe(0o755);
    await mustReload(proxy, config(dir));
    expect([statSync(path).mode & 0o777, (await get(path)).status]).toEqual([0o600, 200]);
  });

  test('a rotated credential file', async () => {
    await using proxy = await start();
    const next = makeCanary();
    await get(proxy.socket());
    proxy.workspace.write(SECRET_FILE, next);
    await mustReload(proxy);
    await get(proxy.socket());
    expect(up.requests.map((one) => one.header('x-api-key'))).toEqual([canary, next]);
    for (const secret of [canary, next]) assertClean(secret, proxy.visible());
  });

  test('a corrected base_url: the circuit of the wrong one is forgotten, and that of another reload is not', async () => {
    const circuit = { failures: 1, open: '10m' };
    const wrong = await freePort();
    const make = (dir: string, upstreamPort: number, more: Partial<SimpleConfigOptions> = {}) =>
      config(dir, { upstreamPort, limits: { circuit }, ...more });
    await using proxy = await start((dir) => make(dir, wrong));
    const { dir } = proxy.workspace;
    expect(code(await get(proxy.socket()))).toBe('upstream_unreachable');
    expect(code(await get(proxy.socket()))).toBe('circuit_open');
    await mustReload(proxy, make(dir, wrong, { endpoints: ['GET /v1/models/*', 'GET /other'] }));
    expect(code(await get(proxy.socket()))).toBe('circuit_open');
    await mustReload(proxy, make(dir, up.port));
    expect((await get(proxy.socket())).status).toBe(200);
  });

  test('what needs a restart is named, and not put in force by half', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    const server = { control: join(dir, 'elsewhere/control.sock'), state_dir: join(dir, 'state-2') };
    const next = config(dir, { top: { server, metrics: { socket: join(dir, 'metrics/m.sock') } } });
    expect((await reload(proxy, next)).json().warnings).toEqual([
      'server.state_dir has changed, which needs a restart',
      'server.control has changed, which needs a restart',
      '[metrics] has changed, which needs a restart',
    ]);
    expect(existsSync(server.control)).toBe(false);
    expect((await status(proxy)).generation).toBe(2);
  });

  test('requests in flight keep the credential and the limits they began with', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    using slow = await connect(proxy.socket());
    await slow.send(
      formatRequest({
        method: 'POST',
        target: '/api/v1/messages',
        headers: { 'content-length': '4' },
        body: 'ab',
      }),
    );
    await until(
      'the request to be known',
      async () => (await status(proxy)).listeners[0].providers[0].in_flight === 1,
    );
    const next = makeCanary();
    await mustReload(proxy, config(dir, { canary: next, endpoints: ['GET /v9'] }));
    await slow.send('cd');
    expect((await slow.response()).status).toBe(200);
    expect(up.requests[0]?.header('x-api-key')).toBe(canary);
  });
});

describe('a reload that fails changes nothing', () => {
  /** Both tell the same; afterwards the old rules hold, the socket is the same, and a good file is taken. */
  async function refused(proxy: Isoproxy, next: string | ProxyConfig, same = true): Promise<string> {
    const { dir } = proxy.workspace;
    const before = inode(proxy.socket('agent-1'));
    const path = proxy.socket('agent-1');
    proxy.writeConfig(next);
    const result = await proxy.cli(['reload']);
    expect([result.code, result.stdout]).toEqual([78, '']);
    expect(result.stderr).toStartWith('isoproxy: error: ');
    if (same) {
      const check = await proxy.cli(['check', '--secrets']);
      expect([check.code, check.stderr]).toEqual([78, result.stderr]);
    }
    await until('the event', () => events(proxy, 'reload_failed').length === 1);
    expect((await status(proxy)).generation).toBe(1);
    expect([inode(path), (await get(path)).status]).toEqual([before, 200]);
    assertClean(canary, { stderr: result.stderr, ...proxy.visible() });
    expect(await mustReload(proxy, config(dir, { endpoints: ['GET /v2/new'] }))).toBe(2);
    expect((await get(path, '/api/v2/new')).status).toBe(200);
    return result.stderr;
  }

  test.each([
    ['a syntax error', (text: string) => `${text}\n[[[`],
    ['an unknown key', (text: string) => text.replace('[server]', '[server]\nnonsense = 1')],
    ['an include that is not there', (text: string) => `include = ["/nonexistent/x.toml"]\n${text}`],
    ['a missing secret', (text: string) => text.replace('api.key', 'gone.key')],
    [
      'no listener of its own directory',
      (text: string) => text.replace('agent-1/isoproxy.sock', 'state/x.sock'),
    ],
  ])('%s', async (_, spoil) => {
    await using proxy = await start();
    await refused(proxy, spoil(readFileSync(proxy.configPath, 'utf8')));
  });

  test('a port in use: not even the listeners that could open are there', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    const port = await freePort();
    const taken = createServer().listen(port, '127.0.0.1');
    await new Promise((resolve) => taken.once('listening', resolve));
    const token = { file: join(dir, 'secrets/token') };
    proxy.workspace.write('secrets/token', makeCanary());
    try {
      const listeners = [
        at(dir, 'agent-1'),
        at(dir, 'agent-2'),
        { name: 'web', tcp: `127.0.0.1:${port}`, token, providers: ['api'] },
      ];
      const said = await refused(proxy, withListeners(dir, listeners), false);
      expect(said).toContain(`listeners.web: cannot listen on 127.0.0.1:${port} (EADDRINUSE)`);
      expect(existsSync(proxy.workspace.path('agent-2/isoproxy.sock'))).toBe(false);
    } finally {
      taken.close();
    }
  });

  test('a socket that another process listens on', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    const { socket: path } = at(dir, 'agent-2') as { socket?: string };
    mkdirSync(proxy.workspace.path('agent-2'), { mode: 0o700 });
    const taken = createServer().listen(path);
    await new Promise((resolve) => taken.once('listening', resolve));
    try {
      const said = await refused(proxy, withListeners(dir, [at(dir, 'agent-1'), at(dir, 'agent-2')]), false);
      expect(said).toContain('is in use: another process listens there');
      expect(existsSync(proxy.workspace.path('agent-2/isoproxy.sock'))).toBe(true);
    } finally {
      taken.close();
    }
  });

  test('an unknown group, also when other listeners changed before it', async () => {
    await using proxy = await start((dir) => withListeners(dir, [at(dir, 'agent-1'), at(dir, 'agent-2')]));
    const { dir } = proxy.workspace;
    const listeners = [
      at(dir, 'agent-1', { mode: '0666' }),
      at(dir, 'agent-2', { mode: '0660', group: 'nobody-knows' }),
    ];
    const modes = () =>
      ['agent-1', 'agent-2'].map(
        (name) => statSync(proxy.workspace.path(`${name}/isoproxy.sock`)).mode & 0o777,
      );
    proxy.writeConfig(withListeners(dir, listeners));
    const result = await proxy.cli(['reload']);
    expect([result.code, result.stderr.includes('no group named nobody-knows')]).toEqual([78, true]);
    expect(modes()).toEqual([0o600, 0o600]);
    expect((await status(proxy)).generation).toBe(1);
    expect(await mustReload(proxy, config(dir))).toBe(2);
  });

  test('a directory that others may write to since', async () => {
    await using proxy = await start();
    chmodSync(proxy.workspace.path('agent-1'), 0o777);
    const result = await proxy.cli(['reload']);
    expect([result.code, result.stderr.includes('is writable by its group or by others')]).toEqual([
      78,
      true,
    ]);
    expect((await status(proxy)).generation).toBe(1);
    chmodSync(proxy.workspace.path('agent-1'), 0o700);
    expect(await mustReload(proxy)).toBe(2);
  });

  test('SIGHUP with a broken file: the log says why, the process goes on', async () => {
    await using proxy = await start();
    proxy.writeConfig(`${readFileSync(proxy.configPath, 'utf8')}\nnonsense`);
    proxy.signal('SIGHUP');
    const event = await until('the event', () => events(proxy, 'reload_failed')[0]);
    expect(JSON.stringify(event['problems'])).toContain('proxy.toml');
    expect((await get(proxy.workspace.path('agent-1/isoproxy.sock'))).status).toBe(200);
  });
});

describe('reloads under load', () => {
  test('concurrent reloads wait for each other', async () => {
    await using proxy = await start();
    const generations = await Promise.all(Array.from({ length: 10 }, () => mustReload(proxy)));
    expect(generations.sort((a, b) => a - b)).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect((await status(proxy)).generation).toBe(11);
  });

  test('20 reloads with open streams and requests: none fails, none is dropped', async () => {
    const count = DENO ? 50 : 200;
    const limits = { max_concurrent: 500 };
    await using proxy = await start((dir) => config(dir, { limits }));
    const { dir } = proxy.workspace;
    using streams = await openStreams(up, proxy.socket(), count);
    let loading = true;
    const statuses = new Map<string, number>();
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        const client = await connect(proxy.socket());
        while (loading) {
          await client.send(formatRequest({ target: '/api/v1/models/x' }));
          const { status, complete } = await client.response();
          const key = `${status} ${complete}`;
          statuses.set(key, (statuses.get(key) ?? 0) + 1);
        }
        client.close();
      }),
    );
    for (let i = 0; i < 20; i++) {
      await mustReload(
        proxy,
        config(dir, { limits, endpoints: ['POST /v1/messages', 'GET /v1/models/*', `GET /v${i}`] }),
      );
      await streams.event(`event-${i}`);
    }
    loading = false;
    await load;
    await streams.finish();
    expect([...statuses.keys()]).toEqual(['200 true']);
    const text = ['first', ...Array.from({ length: 20 }, (_, i) => `event-${i}`)]
      .map((one) => `data: ${one}\n\n`)
      .join('');
    for (const client of streams.clients) expect((await client.response()).text()).toBe(text);
  });

  test('200 listeners from include files, one added and one removed a reload', async () => {
    const count = DENO ? 50 : 200;
    const limits = { max_concurrent: 4 };
    const block = (dir: string, name: string) =>
      `[[listeners]]\nname = "${name}"\nsocket = "${dir}/${name}/isoproxy.sock"\nproviders = ["api"]\n`;
    const main = (dir: string): ProxyConfig => {
      const whole = config(dir, { limits });
      return { ...whole, toml: `include = ["${dir}/listeners.d/*.toml"]\n${whole.toml}` };
    };
    await using proxy = await start((dir) => {
      const files = Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`listeners.d/l${i}.toml`, block(dir, `l${i}`)]),
      );
      const whole = main(dir);
      return { ...whole, files: { ...whole.files, ...files } };
    });
    const { dir, path, write } = proxy.workspace;
    const socket = (i: number) => path(`l${i}/isoproxy.sock`);
    // Under Deno each generation has its own kept-alive connections to the upstream, until they time out.
    const fds = () => proxy.fds() - up.connections.filter(({ state }) => state === 'open').length;
    const fdsBefore = fds();
    const before = inode(socket(count - 1));
    for (let i = 0; i < 10; i++) {
      write(`listeners.d/l${i}.toml`, '');
      write(`listeners.d/l${count + i}.toml`, block(dir, `l${count + i}`));
      await mustReload(proxy);
      expect((await get(socket(count + i))).status).toBe(200);
      expect(existsSync(socket(i))).toBe(false);
    }
    expect((await status(proxy)).listeners.length).toBe(count + 1);
    expect(inode(socket(count - 1))).toBe(before);
    await until(
      () => `descriptors: ${fds()} of ${fdsBefore}`,
      () => fds() <= fdsBefore + 3,
    );
  });

  test('kill -9 in the middle of a reload: the next start works', async () => {
    await using proxy = await start();
    const { dir } = proxy.workspace;
    for (const delay of [0, 1, 3]) {
      proxy.writeConfig(
        withListeners(dir, [
          at(dir, 'agent-1'),
          ...Array.from({ length: 30 }, (_, i) => at(dir, `x${delay}-${i}`)),
        ]),
      );
      const answer = reload(proxy).catch(() => undefined);
      if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
      await proxy.stop('SIGKILL');
      await answer;
      await proxy.start();
      await listens(proxy);
      expect((await get(proxy.socket(`x${delay}-29`))).status).toBe(200);
    }
  });
});
