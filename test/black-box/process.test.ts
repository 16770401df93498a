// The process around the requests: start, signals, drain, records, secrets that change, own routes.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { closeSync, constants, existsSync, openSync, readSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import {
  createWorkspace,
  type Isoproxy,
  isoproxyCommand,
  SECRET_FILE,
  type SimpleConfigOptions,
  type StartOptions,
  simpleConfig,
  startIsoproxy,
  startSimple,
} from '../support/isoproxy.ts';
import { spawn } from '../support/process.ts';
import { connect, formatRequest, request } from '../support/raw-client.ts';
import { type Recorder, type RecorderConnection, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(20_000);

const canary = makeCanary();
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

const start = (options: Partial<SimpleConfigOptions> = {}, how?: StartOptions): Promise<Isoproxy> => {
  up.reset();
  return startSimple({ upstreamPort: up.port, ca: up.ca, canary, ...options }, how);
};
const post = (proxy: Isoproxy) =>
  request(proxy.socket(), { method: 'POST', target: '/api/v1/messages', body: '{}' });

/** An event stream that sends one event at a time, when told; and the client that reads it. */
async function openStream(proxy: Isoproxy) {
  const connected = Promise.withResolvers<RecorderConnection>();
  up.handle(async (_, connection) => {
    await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
    await connection.chunk('data: first\n\n');
    connected.resolve(connection);
    await connection.gone;
  });
  const client = await connect(proxy.socket());
  await client.send(formatRequest({ method: 'POST', target: '/api/v1/messages', body: '{}' }));
  const upstream = await connected.promise;
  await client.waitFor('data: first');
  return {
    client,
    event: (text: string) => upstream.chunk(`data: ${text}\n\n`),
    finish: () => upstream.lastChunk(),
  };
}
const stopping = (proxy: Isoproxy) =>
  until('the stop to begin', () => proxy.lines().some((line) => line['event'] === 'stopping'));

const canConnect = async (socket: string): Promise<boolean> => {
  const client = await connect(socket).catch(() => undefined);
  client?.close();
  return client !== undefined;
};

describe('stopping', () => {
  test('SIGTERM lets streams finish, refuses new connections, removes the socket and exits 0', async () => {
    await using proxy = await start();
    const stream = await openStream(proxy);
    proxy.signal('SIGTERM');
    await stopping(proxy);
    await stream.event('second');
    await stream.client.waitFor('data: second');
    await until('the socket to refuse', () => canConnect(proxy.socket()).then((can) => !can));
    expect(proxy.child.code).toBeUndefined();
    await stream.event('third');
    await stream.finish();
    const answer = await stream.client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([
      200,
      true,
      'data: first\n\ndata: second\n\ndata: third\n\n',
    ]);
    expect(await proxy.stop('SIGTERM', 2000)).toBe(0);
    expect(existsSync(proxy.socket())).toBe(false);
    expect(proxy.records().at(-1)).toMatchObject({ status: 200, reason: '' });
  });

  test('SIGINT stops as SIGTERM does', async () => {
    await using proxy = await start();
    await post(proxy);
    expect(await proxy.stop('SIGINT', 2000)).toBe(0);
  });

  test('a request on a kept-alive connection during the drain gets 503 shutting_down or a close, never the upstream', async () => {
    await using proxy = await start();
    using kept = await connect(proxy.socket());
    await kept.send(formatRequest({ method: 'POST', target: '/api/v1/messages', body: '{}' }));
    expect((await kept.response()).status).toBe(200);
    const stream = await openStream(proxy);
    proxy.signal('SIGTERM');
    await stopping(proxy);
    up.requests.length = 0;
    await kept.send(formatRequest({ method: 'POST', target: '/api/v1/messages', body: '{}' }));
    const answer = await kept.response();
    if (answer.status !== 0)
      expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([503, 'shutting_down']);
    expect(up.requests.length).toBe(0);
    await stream.finish();
    expect((await stream.client.response()).complete).toBe(true);
    expect(await proxy.child.exited).toBe(0);
  });

  test('a second signal exits now', async () => {
    await using proxy = await start();
    const stream = await openStream(proxy);
    proxy.signal('SIGTERM');
    await stopping(proxy);
    const started = performance.now();
    expect(await proxy.stop('SIGTERM', 2000)).toBe(0);
    expect(performance.now() - started).toBeLessThan(1500);
    expect((await stream.client.response()).complete).toBe(false);
    expect(existsSync(proxy.socket())).toBe(false);
  });

  test('shutdown_grace cuts what is not done, and the record says so', async () => {
    await using proxy = await start({ top: { server: { shutdown_grace: '500ms' } } });
    const stream = await openStream(proxy);
    const started = performance.now();
    expect(await proxy.stop('SIGTERM', 3000)).toBe(0);
    const took = performance.now() - started;
    expect(took).toBeGreaterThan(450);
    expect(took).toBeLessThan(1500);
    expect((await stream.client.response()).complete).toBe(false);
    expect(proxy.records().length).toBe(1);
    expect(proxy.records()[0]).toMatchObject({ path: '/api/v1/messages', status: 200 });
  });

  test('SIGTERM does not cut the end of an answer that a slow client is still reading', async () => {
    await using proxy = await start();
    const size = 1_500_000;
    up.handle((_, connection) => connection.reply(200, {}, Buffer.alloc(size, 120)));
    using client = await connect(proxy.socket());
    client.pause();
    await client.send(formatRequest({ method: 'POST', target: '/api/v1/messages', body: '{}' }));
    await up.request();
    proxy.signal('SIGTERM');
    await stopping(proxy);
    // Well past the drain's own polls, and well within shutdown_grace.
    await Bun.sleep(300);
    client.resume();
    const answer = await client.response();
    expect([answer.status, answer.bodyBytes, answer.complete]).toEqual([200, size, true]);
    expect(await proxy.child.exited).toBe(0);
  });

  test('the same, for a smaller answer that the proxy holds whole', async () => {
    await using proxy = await start();
    for (const size of [60_000, 300_000, 500_000]) {
      up.handle((_, connection) => connection.reply(200, {}, Buffer.alloc(size, 120)));
      using client = await connect(proxy.socket());
      client.pause();
      await client.send(formatRequest({ method: 'POST', target: '/api/v1/messages', body: '{}' }));
      await until('the request', () => up.requests.length > 0);
      proxy.signal('SIGTERM');
      await stopping(proxy);
      await Bun.sleep(200);
      client.resume();
      const answer = await client.response();
      expect([size, answer.bodyBytes, answer.complete]).toEqual([size, size, true]);
      expect(await proxy.child.exited).toBe(0);
      up.requests.length = 0;
      await proxy.start();
    }
  });

  test('after SIGKILL it starts again on the same socket', async () => {
    await using proxy = await start();
    expect(await proxy.stop('SIGKILL')).toBe(137);
    expect(existsSync(proxy.socket())).toBe(true);
    await proxy.start();
    expect((await post(proxy)).status).toBe(200);
  });

  test('SIGHUP does not end it', async () => {
    await using proxy = await start();
    const stream = await openStream(proxy);
    proxy.signal('SIGHUP');
    await until('a line about it', () => proxy.lines().some((line) => /reload/.test(String(line['event']))));
    await stream.event('after');
    await stream.client.waitFor('data: after');
    await stream.finish();
    expect((await stream.client.response()).complete).toBe(true);
    expect(proxy.child.code).toBeUndefined();
  });

  test('SIGPIPE and a client that closes under a write do not end it', async () => {
    await using proxy = await start();
    proxy.signal('SIGPIPE');
    for (let i = 0; i < 20; i++) {
      const client = await connect(proxy.socket());
      await client.send(formatRequest({ target: '/nothing' }));
      client.close();
    }
    expect((await post(proxy)).status).toBe(200);
  });
});

describe('start', () => {
  test('it accepts soon after a cold start', async () => {
    const started = performance.now();
    await using proxy = await start();
    const took = performance.now() - started;
    console.log(
      `cold start to accepting: ${took.toFixed(0)} ms, resident ${(proxy.rss() / 2 ** 20).toFixed(0)} MiB`,
    );
    expect(took).toBeLessThan(2000);
  });

  test('a reader of stderr that stops reading never blocks a request, and lost lines are counted', async () => {
    using workspace = createWorkspace();
    const config = simpleConfig(workspace.dir, { upstreamPort: up.port, ca: up.ca, canary });
    for (const [name, content] of Object.entries(config.files)) workspace.write(name, content);
    const serve = [
      ...isoproxyCommand(workspace.dir),
      'serve',
      '--config',
      workspace.write('proxy.toml', config.toml),
    ];
    // A named pipe that somebody holds open and nobody reads: 64 KiB fit in, then it blocks.
    const pipe = workspace.path('stderr');
    expect(Bun.spawnSync(['mkfifo', '-m', '600', pipe]).exitCode).toBe(0);
    const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
    const child = spawn(['/bin/sh', '-c', `exec "$@" 2>'${pipe}'`, 'sh', ...serve], workspace.dir);
    try {
      up.reset();
      const socket = workspace.path('agent-1/isoproxy.sock');
      await until('the socket to accept', () => canConnect(socket));
      // 7,500 records of 800 bytes: what the pipe holds, the 4 MiB that wait, and more.
      let slowest = 0;
      const refused = async () => {
        const started = performance.now();
        expect((await request(socket, { target: `/api/${'y'.repeat(600)}` })).status).toBe(403);
        slowest = Math.max(slowest, performance.now() - started);
      };
      for (let i = 0; i < 250; i++) await Promise.all(Array.from({ length: 30 }, refused));
      const answer = await request(socket, { method: 'POST', target: '/api/v1/messages', body: '{}' });
      expect(answer.status).toBe(200);
      expect(slowest).toBeLessThan(1000);
      // Now somebody reads again.
      let text = '';
      const part = Buffer.alloc(1 << 16);
      const read = () => {
        try {
          for (let n = readSync(reader, part); n > 0; n = readSync(reader, part))
            text += part.toString('latin1', 0, n);
        } catch (error) {
          if ((error as { code?: string }).code !== 'EAGAIN') throw error;
        }
      };
      await until('the count of lost lines', async () => {
        read();
        await refused();
        return /"event":"log_lines_lost","count":[0-9]+/.test(text);
      });
      child.kill('SIGTERM');
      await until('the end', () => {
        read();
        return child.code !== undefined;
      });
      read();
      expect(child.code).toBe(0);
      for (const line of text.split('\n').slice(0, -1)) JSON.parse(line);
    } finally {
      child.kill('SIGKILL');
      await child.exited;
      closeSync(reader);
    }
  });
});

describe('records', () => {
  test('each request leaves exactly one record, with exactly these fields', async () => {
    await using proxy = await start({
      endpoints: [
        { methods: ['POST'], paths: ['/v1/messages'] },
        { methods: ['GET'], paths: ['/v1/models/*'] },
      ],
    });
    up.handle((_, connection) => connection.reply(201, {}, 'x'.repeat(777)));
    const before = Date.now();
    await request(proxy.socket(), {
      method: 'POST',
      target: '/api/v1/messages?beta=true',
      body: 'y'.repeat(333),
    });
    const record = (await proxy.recordCount(1))[0]!;
    expect(record).toEqual({
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as never,
      request_id: expect.stringMatching(/^[0-9a-z-]{6,64}$/) as never,
      listener: 'agent-1',
      provider: 'api',
      method: 'POST',
      path: '/api/v1/messages',
      status: 201,
      decision: 'allow',
      reason: '',
      rule: 'POST /v1/messages',
      bytes_in: 333,
      bytes_out: 777,
      ttfb_ms: expect.any(Number) as never,
      duration_ms: expect.any(Number) as never,
      error: '',
    });
    expect(Math.abs(Date.parse(record.time) - before)).toBeLessThan(5000);
    expect(Number(record['duration_ms'])).toBeGreaterThanOrEqual(Number(record['ttfb_ms']));

    const refusals: [Parameters<typeof request>[1], Record<string, unknown>][] = [
      [
        { target: '/api/v1/other' },
        { status: 403, reason: 'endpoint_not_allowed', provider: 'api', rule: '', decision: 'deny' },
      ],
      [{ target: '/nobody/x' }, { status: 404, reason: 'unknown_provider', provider: '', decision: 'deny' }],
      [
        { target: '/api/v1//models' },
        { status: 400, reason: 'bad_target', path: '/api/v1//models', decision: 'deny' },
      ],
      [
        { method: 'TRACE', target: '/api/v1/models/x' },
        { status: 405, reason: 'method_not_supported', method: 'TRACE' },
      ],
      [
        { target: '/api/v1/models/x', headers: { Origin: 'https://x.example' } },
        { status: 403, reason: 'browser_origin' },
      ],
      [{ target: '/healthz' }, { status: 200, decision: 'own', reason: '', provider: '', path: '/healthz' }],
      [{ target: `/api/${'z'.repeat(900)}` }, { path: `/api/${'z'.repeat(507)}`, status: 403 }],
      [
        { target: '/api/v1/models/x?key=SECRETQUERY' },
        { status: 201, path: '/api/v1/models/x', bytes_in: 0, bytes_out: 777 },
      ],
    ];
    for (const [i, [options, expected]] of refusals.entries()) {
      await request(proxy.socket(), options);
      const next = (await proxy.recordCount(i + 2))[i + 1]!;
      expect(next).toMatchObject(expected);
      if (expected['reason']) expect([next.bytes_out, next['ttfb_ms']]).toEqual([0, null]);
    }
    await post(proxy);
    expect((await proxy.recordCount(refusals.length + 2)).length).toBe(refusals.length + 2);
    expect(new Set(proxy.records().map(({ request_id }) => request_id)).size).toBe(refusals.length + 2);
    const { stderr } = proxy.visible();
    expect(stderr!.includes('SECRETQUERY')).toBe(false);
    assertClean(canary, proxy.visible());
  });

  test('a streamed answer is recorded when it ends, with all its bytes', async () => {
    await using proxy = await start();
    const stream = await openStream(proxy);
    expect(proxy.records()).toEqual([]);
    await stream.event('x');
    await stream.finish();
    const { rawBody, bodyBytes } = await stream.client.response();
    expect(rawBody.length).toBeGreaterThan(bodyBytes);
    expect((await proxy.recordCount(1))[0]).toMatchObject({ status: 200, bytes_out: bodyBytes, bytes_in: 2 });
  });

  test('an answer from the upstream carries no request id of ours, an own error does, the one in the record', async () => {
    await using proxy = await start();
    const refused = await request(proxy.socket(), { target: '/nobody/x' });
    const [record] = await proxy.recordCount(1);
    expect([refused.header('x-request-id'), refused.json().request_id]).toEqual([
      record!.request_id,
      record!.request_id,
    ]);
  });

  test('the log as text has one line a request, with status, decision, reason and no query', async () => {
    await using proxy = await start({ top: { log: { format: 'text' } } });
    await request(proxy.socket(), { method: 'POST', target: '/api/v1/messages?q=HIDDEN', body: '{}' });
    await request(proxy.socket(), { target: '/api/v1/other' });
    const lines = await until('two lines', () => {
      const found = proxy.child
        .stderr()
        .toString()
        .split('\n')
        .filter((line) => line.includes(' /api/'));
      return found.length === 2 && found;
    });
    expect(lines[0]).toMatch(/^\d{4}-\S+Z 200 allow agent-1 api POST \/api\/v1\/messages [\d.]+ ms \S+$/);
    expect(lines[1]).toMatch(
      /^\d{4}-\S+Z 403 deny agent-1 api GET \/api\/v1\/other [\d.]+ ms \S+ \(endpoint_not_allowed/,
    );
    expect(proxy.child.stderr().includes('HIDDEN')).toBe(false);
  });

  test('log level error writes no access records', async () => {
    await using proxy = await start({ top: { log: { level: 'error' } } });
    await post(proxy);
    expect(await proxy.stop()).toBe(0);
    // A checkpoint is an anchor, no message: it goes out at every level.
    expect(proxy.lines().map(({ event }) => event)).toEqual(['audit_checkpoint']);
  });
});

describe('secrets that change', () => {
  const key = () => up.requests.at(-1)!.header('x-api-key');

  test('a replaced key file takes effect within two seconds, without a restart', async () => {
    await using proxy = await start();
    await post(proxy);
    expect(key()).toBe(canary);
    const next = makeCanary();
    // As tools rotate: a new file, renamed over the old one.
    proxy.workspace.write('secrets/next', next);
    renameSync(proxy.workspace.path('secrets/next'), proxy.workspace.path(SECRET_FILE));
    const started = performance.now();
    await until('the new key upstream', async () => (await post(proxy)).status === 200 && key() === next);
    expect(performance.now() - started).toBeLessThan(2000);
    // The guard knows the new one.
    up.handle((_, connection) => connection.reply(200, {}, `your key is ${next}`));
    expect((await post(proxy)).header('x-isoproxy-error')).toBe('credential_reflected');
    // C1 And still the one that it replaced, which may be good for a while and may stand in what the upstream kept.
    up.handle((_, connection) => connection.reply(200, {}, `your last key was ${canary}`));
    const late = await post(proxy);
    expect([late.status, late.header('x-isoproxy-error')]).toEqual([502, 'credential_reflected']);
    assertClean(canary, { late: Buffer.concat([late.rawHead, late.rawBody]) });
  });

  test('a key file that cannot be used any more is 503 credential_unavailable, and service comes back with it', async () => {
    await using proxy = await start();
    await post(proxy);
    const bad: [string, () => void][] = [
      ['missing', () => renameSync(proxy.workspace.path(SECRET_FILE), proxy.workspace.path('secrets/away'))],
      ['world-readable', () => void proxy.workspace.write(SECRET_FILE, canary, 0o644)],
      ['empty', () => void proxy.workspace.write(SECRET_FILE, '')],
      ['two lines', () => void proxy.workspace.write(SECRET_FILE, `${canary}\n${canary}\n`)],
      ['short', () => void proxy.workspace.write(SECRET_FILE, 'short')],
    ];
    for (const [name, spoil] of bad) {
      spoil();
      const answer = await until(`503 for a key that is ${name}`, async () => {
        const found = await post(proxy);
        return found.status !== 200 && found;
      });
      expect([name, answer.status, answer.header('x-isoproxy-error')]).toEqual([
        name,
        503,
        'credential_unavailable',
      ]);
      const seen = up.requests.length;
      expect((await post(proxy)).status).toBe(503);
      expect(up.requests.length).toBe(seen);
      proxy.workspace.write(SECRET_FILE, canary);
      await until('service again', async () => (await post(proxy)).status === 200);
      expect(key()).toBe(canary);
    }
    expect(proxy.records().find(({ status }) => status === 503)).toMatchObject({
      reason: 'credential_unavailable',
      decision: 'deny',
    });
    assertClean(canary, proxy.visible());
  });

  test('a command is run once for many requests, again after its ttl, and its failure is 503', async () => {
    const first = makeCanary();
    const second = makeCanary();
    up.reset();
    await using proxy = await startIsoproxy((dir) =>
      simpleConfig(dir, {
        upstreamPort: up.port,
        ca: up.ca,
        canary,
        provider: {
          credential: {
            file: undefined,
            command: ['/bin/sh', '-c', `echo run >> ${dir}/runs; cat ${dir}/value`],
            ttl: '1s',
          },
        },
        files: { value: first },
      }),
    );
    await Promise.all(Array.from({ length: 20 }, () => post(proxy)));
    expect(new Set(up.requests.map((seen) => seen.header('x-api-key')))).toEqual(new Set([first]));
    expect(proxy.workspace.files()['runs']!.toString()).toBe('run\n');
    proxy.workspace.write('value', second);
    await until('the new value', async () => (await post(proxy)).status === 200 && key() === second);
    proxy.workspace.write('value', '');
    await until(
      '503',
      async () => (await post(proxy)).header('x-isoproxy-error') === 'credential_unavailable',
    );
  });

  test('systemd and environment sources are read', async () => {
    const byEnv = makeCanary();
    const bySystemd = makeCanary();
    const workspace = createWorkspace();
    workspace.write('creds/api-key', bySystemd);
    up.reset();
    await using proxy = await startIsoproxy(
      (dir) =>
        simpleConfig(dir, {
          upstreamPort: up.port,
          ca: up.ca,
          canary,
          provider: {
            credential: [
              { header: 'x-api-key', systemd: 'api-key' },
              { header: 'authorization', format: 'Bearer {secret}', env: 'API_TOKEN' },
            ],
          },
        }),
      { workspace, env: { CREDENTIALS_DIRECTORY: join(workspace.dir, 'creds'), API_TOKEN: byEnv } },
    );
    expect((await post(proxy)).status).toBe(200);
    expect([key(), up.requests[0]!.header('authorization')]).toEqual([bySystemd, `Bearer ${byEnv}`]);
    workspace.remove();
  });
});

describe('own routes', () => {
  test('every listener answers /healthz and /.well-known/isoproxy, without a secret', async () => {
    await using proxy = await startIsoproxy((dir) => {
      const base = simpleConfig(dir, { upstreamPort: up.port, ca: up.ca, canary });
      const more = ['agent-2', 'agent-3'].map(
        (name) =>
          `\n[[listeners]]\nname = "${name}"\nsocket = "${join(dir, name, 'isoproxy.sock')}"\nproviders = ["api"]\n${name === 'agent-3' ? 'mount = "api"\n' : ''}`,
      );
      return { ...base, toml: base.toml + more.join('') };
    });
    up.reset();
    for (const name of ['agent-1', 'agent-2', 'agent-3']) {
      const socket = proxy.socket(name);
      const health = await request(socket, { target: '/healthz' });
      expect([health.status, health.text().trim()]).toEqual([200, 'ok']);
      expect(await request(socket, { target: '/healthz', method: 'HEAD' })).toMatchObject({
        status: 200,
        bodyBytes: 0,
      });
      const known = await request(socket, { target: '/.well-known/isoproxy' });
      expect([known.status, known.header('content-type')]).toEqual([
        200,
        expect.stringMatching(/^application\/json/) as never,
      ]);
      expect(known.json()).toMatchObject({
        isoproxy: 1,
        listener: name,
        providers: { api: { base_path: name === 'agent-3' ? '' : '/api' } },
      });
      expect(known.text()).not.toContain(String(up.port));
      for (const target of ['/healthz', '/.well-known/isoproxy']) {
        const answer = await request(socket, { target, method: 'POST', body: '{}' });
        expect(answer.status).toBeGreaterThanOrEqual(400);
        expect(answer.header('x-isoproxy-error')).toBeDefined();
      }
      for (const target of ['/healthz/', '/healthz/x', '/.well-known/isoproxy/x', '/.well-known']) {
        expect((await request(socket, { target })).status).toBeGreaterThanOrEqual(400);
      }
      for (const target of ['/healthz?x=1', '/.well-known/isoproxy?x'])
        expect((await request(socket, { target })).status).toBe(200);
    }
    expect(up.requests).toEqual([]);
    assertClean(canary, proxy.visible());
  });
});

describe('under a mixed load', () => {
  test('hundreds of good, bad and broken requests leave no unhandled event, no foreign line and no open descriptor', async () => {
    await using proxy = await start({ limits: { idle_timeout: '1s', max_response_body: '64KiB' } });
    up.handle(async (seen, connection) => {
      const kind = seen.header('x-kind');
      if (kind === 'reset') return connection.reset();
      if (kind === 'cut') {
        await connection.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n');
        return connection.cut();
      }
      if (kind === 'garbage') return connection.write('SSH-2.0-OpenSSH_9.2 is no answer\r\n\r\n');
      if (kind === 'large')
        return connection.chunked(
          200,
          {},
          Array.from({ length: 20 }, () => 'x'.repeat(10_000)),
        );
      if (kind === 'echo') return connection.reply(200, {}, `key=${canary}`);
      if (kind === 'leave') {
        await connection.head(200, { 'Transfer-Encoding': 'chunked' });
        await connection.chunk('x');
        return connection.gone;
      }
      return connection.reply(200, {}, 'ok');
    });
    await post(proxy);
    const fds = proxy.fds();
    const target = '/api/v1/messages';
    const kinds = [
      'ok',
      'reset',
      'cut',
      'garbage',
      'large',
      'echo',
      'leave',
      'denied',
      'torn',
      'malformed',
      'chunks',
    ];
    const one = async (kind: string): Promise<void> => {
      const headers: Record<string, string> = { 'X-Kind': kind };
      if (kind === 'leave') {
        using client = await connect(proxy.socket());
        await client.send(formatRequest({ method: 'POST', target, headers, body: '{}' }));
        await client.waitFor('\r\n\r\n');
      } else if (kind === 'torn') {
        using client = await connect(proxy.socket());
        await client.send(
          formatRequest({
            method: 'POST',
            target,
            headers: { ...headers, 'Content-Length': '100000' },
            body: 'x'.repeat(80_000),
          }),
        );
      } else if (kind === 'malformed') {
        using client = await connect(proxy.socket());
        await client.send('POST /api/v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n');
        await client.untilClosed();
      } else if (kind === 'chunks') {
        await request(proxy.socket(), {
          method: 'POST',
          target,
          headers: { ...headers, 'Transfer-Encoding': 'chunked' },
          body: '3\r\nabc\r\nzz\r\n',
        });
      } else {
        await request(proxy.socket(), {
          method: 'POST',
          target: kind === 'denied' ? '/api/no' : target,
          headers,
          body: '{}',
        });
      }
    };
    for (let round = 0; round < 40; round++)
      await Promise.all(
        kinds.map((kind) =>
          one(kind).catch((error) => Promise.reject(new Error(`${kind}, round ${round}: ${error.message}`))),
        ),
      );
    expect((await post(proxy)).status).toBe(200);
    await until(
      () => `descriptors back to ${fds}, not ${proxy.fds()}`,
      () => proxy.fds() <= fds + 12,
    );
    // Connections that are kept for the next request may be more than before: none of them is a client's.
    const text = proxy.child.stderr().toString();
    expect(text.split('\n').filter((line) => line !== '' && !line.startsWith('{'))).toEqual([]);
    const expected = ['listening', 'audit_checkpoint'];
    expect(
      proxy.lines().filter((line) => 'event' in line && !expected.includes(String(line['event']))),
    ).toEqual([]);
    expect(proxy.records().filter(({ reason }) => reason === 'internal')).toEqual([]);
    assertClean(canary, proxy.visible());
    up.problems.length = 0;
  });
});
