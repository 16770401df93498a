// The audit log of a running proxy: what is in it, when it is there, and what the proxy does when it cannot be written.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { auditDir, readChain, segmentPaths } from '../support/audit-chain.ts';
import { assertClean, makeCanary } from '../support/canary.ts';
import { skipped, works } from '../support/client-side.ts';
import { until } from '../support/deadline.ts';
import {
  createWorkspace,
  type Isoproxy,
  run,
  type StartOptions,
  simpleConfig,
  startIsoproxy,
} from '../support/isoproxy.ts';
import { spawn } from '../support/process.ts';
import { connect, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(25_000);

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
const canary = makeCanary();
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

type Table = Record<string, unknown>;
type Audit = Table | ((dir: string) => Table);
const start = async (audit: Audit = {}, how?: StartOptions) => {
  up.reset();
  const proxy = await startIsoproxy((dir) => {
    const table = typeof audit === 'function' ? audit(dir) : audit;
    return simpleConfig(dir, { upstreamPort: up.port, ca: up.ca, canary, top: { audit: table } });
  }, how);
  await until('it to listen', () => proxy.lines().some(({ event }) => event === 'listening'));
  return proxy;
};
const post = (proxy: Isoproxy, target = '/api/v1/messages') =>
  request(proxy.socket(), { method: 'POST', target, body: '{"question":"why"}' });
const kinds = (proxy: Isoproxy) => readChain(proxy.workspace).map(({ kind }) => kind);
const status = async (proxy: Isoproxy) => (await proxy.cli(['status', '--json'])).json().audit;
const segment = (proxy: Isoproxy) => segmentPaths(proxy.workspace).at(-1)!;
const serve = (proxy: Isoproxy) => run(['serve', '--config', proxy.configPath], { dir: proxy.workspace.dir });

describe('what is recorded', () => {
  test('a start, a configuration, an intent and an outcome, a refusal, a halt and a stop', async () => {
    await using proxy = await start();
    await post(proxy, '/api/v1/messages?beta=true&token=SECRET-VALUE');
    await post(proxy, '/api/v1/elsewhere');
    await request(proxy.socket(), { target: '/healthz' });
    await proxy.cli(['halt', '--reason', 'drill', '--provider', 'api']);
    await post(proxy);
    await proxy.cli(['resume', '--all']);
    await proxy.cli(['resume', '--provider', 'api']);
    await proxy.cli(['reload']);
    expect(await proxy.stop()).toBe(0);
    const records = readChain(proxy.workspace);
    expect(records.map(({ kind }) => kind)).toEqual([
      'start',
      'config',
      'intent',
      'outcome',
      'deny',
      'halt',
      'deny',
      'resume',
      'config',
      'stop',
    ]);
    const [first, config, intent, outcome, deny, halt, halted, resume, again] = records as never as Table[];
    expect(first).toMatchObject({ seq: 1, durability: 'commit', clean: true });
    expect(config).toMatchObject({ generation: 1 });
    const id = proxy.records()[0]!.request_id;
    expect(intent).toMatchObject({
      request_id: id,
      listener: 'agent-1',
      provider: 'api',
      method: 'POST',
      path: '/api/v1/messages',
      query_names: ['beta', 'token'],
      rule: 'POST /v1/messages',
      decision: 'allow',
      config: config!['config'],
    });
    expect(outcome).toMatchObject({
      request_id: id,
      decision: 'allow',
      reason: '',
      status: 200,
      bytes_in: 18,
      bytes_out: 2,
    });
    expect(deny).toMatchObject({
      path: '/api/v1/elsewhere',
      decision: 'deny',
      reason: 'endpoint_not_allowed',
      status: 403,
    });
    expect(halt).toMatchObject({ scope: 'provider api', reason: 'drill' });
    expect(halted).toMatchObject({ kind: 'deny', reason: 'halted' });
    expect(resume).toMatchObject({ scope: 'provider api' });
    // The same file comes to the same configuration.
    expect(again).toMatchObject({ generation: 2, config: config!['config'] });
    const text = readFileSync(segment(proxy), 'latin1');
    expect(text).not.toContain('SECRET-VALUE');
    expect(text).not.toContain('question');
    assertClean(canary, proxy.visible());
    for (const name of readdirSync(auditDir(proxy.workspace)))
      expect([name, statSync(join(auditDir(proxy.workspace), name)).mode & 0o077]).toEqual([
        name,
        name === 'lock' ? statSync(join(auditDir(proxy.workspace), name)).mode & 0o077 : 0,
      ]);
    expect(statSync(auditDir(proxy.workspace)).mode & 0o777).toBe(0o700);
  });

  test('the chain goes on across a restart, and says whether the end before was clean', async () => {
    await using proxy = await start();
    await post(proxy);
    await proxy.stop();
    await proxy.start();
    await post(proxy);
    await proxy.stop('SIGKILL');
    await proxy.start();
    await proxy.stop();
    const starts = readChain(proxy.workspace).filter(({ kind }) => kind === 'start');
    expect(starts.map((record) => record['clean'])).toEqual([true, true, false]);
    expect(new Set(starts.map(({ boot_id }) => boot_id)).size).toBe(3);
  });

  test('an intent is on disk before the upstream sees a byte', async () => {
    await using proxy = await start();
    const found: boolean[] = [];
    up.handle(async (seen, connection) => {
      const text = readFileSync(segment(proxy), 'latin1');
      found.push(text.includes(`"kind":"intent","request_id":"${seen.header('x-mark')}`));
      await connection.reply(200, {}, 'ok');
    });
    // Ids are a listener's own series: the prefix is known after the first one.
    await post(proxy);
    const { request_id } = await proxy.record(() => true);
    const prefix = request_id.split('-')[0];
    found.length = 0;
    for (let i = 2; i <= 6; i++)
      await request(proxy.socket(), {
        method: 'POST',
        target: '/api/v1/messages',
        headers: { 'x-mark': `${prefix}-${i}"` },
        body: '{}',
      });
    expect(found).toEqual([true, true, true, true, true]);
  });

  test('A8 what an agent puts into a target stays within its line', async () => {
    await using proxy = await start();
    const evil = [
      '/api/v1/%22%7D%0A%7B%22seq%22:9',
      '/api/"}\u2028{"seq":9,"kind":"stop"}',
      '/api/\x1b[31mred',
      `/api/${'%F0%9F%92%A9'.repeat(200)}`,
      `/api/${'"'.repeat(900)}`,
      `/api/v1/messages?${'%22%5C'.repeat(40)}=1`,
    ];
    for (const target of evil) {
      using client = await connect(proxy.endpoint());
      await client.send(`POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`);
      await client.response({ method: 'POST' }).catch(() => {});
    }
    await proxy.stop();
    const text = readFileSync(segment(proxy), 'latin1');
    expect(text).not.toMatch(/[^\x20-\x7e\n]/);
    const records = readChain(proxy.workspace);
    expect(records.filter(({ kind }) => kind === 'stop')).toHaveLength(1);
    expect(records.length).toBe(text.split('\n').length - 1);
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThan(1024);
  });

  test('a flood of refusals: the first ones one by one, the others counted, all there', async () => {
    await using proxy = await start();
    const COUNT = 1_500;
    using client = await connect(proxy.endpoint());
    // Refusals close their connection: each is one of its own.
    void client;
    for (let sent = 0; sent < COUNT; sent += 50)
      await Promise.all(Array.from({ length: 50 }, () => post(proxy, '/api/v1/none').catch(() => {})));
    await proxy.recordCount(COUNT);
    await proxy.stop();
    const records = readChain(proxy.workspace);
    const denied = records.filter(({ kind }) => kind === 'deny').length;
    const counted = records
      .filter(({ kind }) => kind === 'deny_summary')
      .reduce((sum, record) => sum + (record['count'] as number), 0);
    expect(denied).toBeLessThan(400);
    expect(denied + counted).toBe(COUNT);
  });

  test('durability off: no log, a warning, and it serves', async () => {
    await using proxy = await start({ durability: 'off' });
    expect((await post(proxy)).status).toBe(200);
    expect(readdirSync(proxy.workspace.path('state'))).not.toContain('audit');
    expect((await proxy.cli(['check', '--strict'])).code).toBe(78);
    expect(await status(proxy)).toMatchObject({ durability: 'off', state: 'ok' });
  });

  test('durability async: written when it stops', async () => {
    await using proxy = await start({ durability: 'async' });
    for (let i = 0; i < 5; i++) await post(proxy);
    await proxy.stop();
    expect(kinds(proxy).filter((kind) => kind === 'intent')).toHaveLength(5);
  });
});

describe('checkpoints', () => {
  test('every so many records, to both files and stderr, and one at the stop', async () => {
    await using proxy = await start((dir) => ({ checkpoint_every: 4, checkpoint_file: join(dir, 'worm') }));
    for (let i = 0; i < 10; i++) await post(proxy);
    await proxy.stop();
    const notes = readFileSync(join(auditDir(proxy.workspace), 'checkpoints'), 'utf8');
    expect(readFileSync(proxy.workspace.path('worm'), 'utf8')).toBe(notes);
    const sizes = [...notes.matchAll(/^isoproxy-audit\/[0-9a-f]{16}\n(\d+)\n/gm)].map((match) =>
      Number(match[1]),
    );
    const records = readChain(proxy.workspace);
    expect(sizes.length).toBeGreaterThan(4);
    expect(sizes.at(-1)).toBe(records.length);
    const events = proxy.lines().filter(({ event }) => event === 'audit_checkpoint');
    expect(events.map(({ size }) => size)).toEqual(sizes);
    expect(records.filter(({ kind }) => kind === 'checkpoint')).toHaveLength(sizes.length - 1);
    expect(records.at(-1)!.kind).toBe('stop');
  });

  test('a checkpoint file that cannot be written is told of, and stops nothing', async () => {
    await using proxy = await start((dir) => ({
      checkpoint_every: 1,
      checkpoint_file: join(dir, 'not-mounted/worm'),
    }));
    expect((await post(proxy)).status).toBe(200);
    await until('the event', () => proxy.lines().some(({ event }) => event === 'audit_checkpoint_failed'));
    expect((await post(proxy)).status).toBe(200);
  });
});

/** What is done to the log of a running proxy, and what the proxy calls it. */
const FAULTS: [string, (path: string) => unknown, string][] = [
  ['removed', (path) => unlinkSync(path), 'removed'],
  ['renamed', (path) => renameSync(path, `${path}.old`), 'removed'],
  [
    'replaced by a copy',
    (path) => {
      cpSync(path, `${path}.copy`);
      renameSync(`${path}.copy`, path);
    },
    'removed',
  ],
  [
    'replaced by a link',
    (path) => {
      renameSync(path, `${path}.old`);
      symlinkSync(`${path}.old`, path);
    },
    'replaced',
  ],
  ['truncated', (path) => truncateSync(path, 10), 'truncated'],
  ['appended to', (path) => appendFileSync(path, '{}\n'), 'replaced'],
  ['made readable for all', (path) => chmodSync(path, 0o644), 'mode_changed'],
];

describe('A7 the log is taken away while it runs', () => {
  test.each(FAULTS)('%s: nothing is forwarded from then on, until it is cleared', async (_, harm, code) => {
    await using proxy = await start();
    expect((await post(proxy)).status).toBe(200);
    await until('the outcome', () => kinds(proxy).includes('outcome'));
    const before = up.requests.length;
    harm(segment(proxy));
    for (let i = 0; i < 3; i++) {
      const refused = await post(proxy);
      expect([refused.status, refused.header('x-isoproxy-error'), refused.header('x-should-retry')]).toEqual([
        503,
        'audit_unavailable',
        'false',
      ]);
    }
    expect(up.requests.length).toBe(before);
    expect((await request(proxy.socket(), { target: '/healthz' })).status).toBe(200);
    const now = await status(proxy);
    expect(now).toMatchObject({ state: 'failed' });
    expect(['removed', 'replaced', code]).toContain(now.failure);
    expect((await proxy.cli(['status'])).stdout).toContain('isoproxy audit clear');
    const events = proxy.lines().filter(({ event }) => event === 'audit_failed');
    expect(events).toHaveLength(1);
    const metrics = await fetchMetrics(proxy);
    expect(metrics).toContain('isoproxy_audit_failed 1');

    expect((await proxy.cli(['audit', 'clear'])).code).toBe(64);
    const cleared = await proxy.cli(['audit', 'clear', '--reason', 'put back']);
    expect([cleared.code, cleared.stderr]).toEqual([0, '']);
    expect((await post(proxy)).status).toBe(200);
    await proxy.stop();
    const written = readFileSync(segment(proxy), 'latin1');
    // What was not on disk when it failed is in the new segment.
    expect(written).toContain('"kind":"cleared","reason":"put back"');
    expect(written).toContain('"reason":"audit_unavailable"');
  });

  test('under load: what the upstream saw has an intent, and after the fault it sees nothing', async () => {
    await using proxy = await start();
    let stop = false;
    const lane = async () => {
      while (!stop) await post(proxy).catch(() => {});
    };
    const lanes = Array.from({ length: 8 }, lane);
    await until('some load', () => up.requests.length > 50);
    const path = segment(proxy);
    const kept = `${path}.kept`;
    renameSync(path, kept);
    await until('refusals', () =>
      proxy.records().some(({ reason, status: code }) => code === 503 && reason === 'audit_unavailable'),
    );
    // Those that were committed before are on their way still.
    await Bun.sleep(200);
    const seen = up.requests.length;
    await Bun.sleep(200);
    expect(up.requests.length).toBe(seen);
    stop = true;
    await Promise.all(lanes);
    const allowed = proxy.records().filter(({ decision }) => decision === 'allow');
    const text = readFileSync(kept, 'latin1');
    for (const { request_id } of allowed)
      expect(text).toContain(`"kind":"intent","request_id":"${request_id}"`);
  });
});

async function fetchMetrics(proxy: Isoproxy): Promise<string> {
  const answer = await request(proxy.workspace.path('state/control.sock'), { target: '/metrics' });
  return answer.text();
}

/** What is in the way of a fault that only a system can make; undefined = nothing is. */
const tmpfsMissing = process.getuid?.() === 0 ? undefined : 'needs root to mount a small tmpfs';
const straceMissing = works(['strace', '-V']) ? undefined : 'needs strace';

describe('the disk fails', () => {
  test.skipIf(tmpfsMissing !== undefined)(`a full disk${skipped(tmpfsMissing)}`, async () => {
    using workspace = createWorkspace();
    mkdirSync(workspace.path('state'), { mode: 0o700 });
    const mount = spawnSync('mount', [
      '-t',
      'tmpfs',
      '-o',
      'size=256k,mode=0700',
      'tmpfs',
      workspace.path('state'),
    ]);
    if (mount.status !== 0) throw new Error(String(mount.stderr));
    try {
      await using proxy = await start({ max_bytes: '1GiB' }, { workspace });
      let refused = false;
      for (let i = 0; i < 400 && !refused; i++)
        refused = (await Promise.all(Array.from({ length: 8 }, () => post(proxy)))).some(
          ({ status: code }) => code === 503,
        );
      expect(refused).toBe(true);
      const seen = up.requests.length;
      expect((await post(proxy)).status).toBe(503);
      expect(up.requests.length).toBe(seen);
      expect(await status(proxy)).toMatchObject({ state: 'failed', failure: 'ENOSPC' });
      // No room yet: it stays as it is.
      const vain = await proxy.cli(['audit', 'clear', '--reason', 'hoping']);
      expect([vain.code, vain.stderr.includes('ENOSPC')]).toEqual([74, true]);
      expect((await post(proxy)).status).toBe(503);
      spawnSync('mount', ['-o', 'remount,size=4m', workspace.path('state')]);
      expect((await proxy.cli(['audit', 'clear', '--reason', 'made room'])).code).toBe(0);
      expect((await post(proxy)).status).toBe(200);
      await proxy.stop();
      // Every request that was forwarded is there, and the chain has no gap.
      const intents = new Set(readChain(workspace).map((record) => record['request_id']));
      const allowed = proxy.records().filter(({ decision }) => decision === 'allow');
      expect(allowed.filter(({ request_id }) => !intents.has(request_id))).toEqual([]);
      expect(up.requests.length).toBe(allowed.length);
    } finally {
      spawnSync('umount', ['-l', workspace.path('state')]);
    }
  });

  test.skipIf(straceMissing !== undefined)(`EIO from fdatasync${skipped(straceMissing)}`, async () => {
    await using proxy = await start();
    expect((await post(proxy)).status).toBe(200);
    const seen = up.requests.length;
    const tracer = spawn(
      [
        'strace',
        '-f',
        '-qq',
        '-o',
        '/dev/null',
        '-p',
        String(proxy.child.pid),
        '-e',
        'inject=fdatasync:error=EIO',
      ],
      proxy.workspace.dir,
    );
    await until('the tracer', () =>
      /^TracerPid:\t[1-9]/m.test(readFileSync(`/proc/${proxy.child.pid}/status`, 'utf8')),
    );
    const answers = await Promise.all([post(proxy), post(proxy), post(proxy)]);
    expect(answers.map(({ status: code }) => code)).toEqual([503, 503, 503]);
    tracer.kill('SIGTERM');
    await tracer.exited;
    // The disk is well again, and the log is not trusted before somebody says so.
    expect((await post(proxy)).status).toBe(503);
    expect(up.requests.length).toBe(seen);
    expect(await status(proxy)).toMatchObject({ state: 'failed', failure: 'EIO' });
    expect((await proxy.cli(['audit', 'clear', '--reason', 'cable'])).code).toBe(0);
    expect((await post(proxy)).status).toBe(200);
    await proxy.stop();
    expect(kinds(proxy)).toContain('cleared');
  });
});

describe('what a start finds', () => {
  const filled = async () => {
    const proxy = await start({ checkpoint_every: 5 });
    for (let i = 0; i < 10; i++) await post(proxy);
    return proxy;
  };

  test('A5 a torn last line is set aside and recorded, and the chain goes on', async () => {
    await using proxy = await filled();
    await proxy.stop('SIGKILL');
    appendFileSync(segment(proxy), '{"v":1,"seq":99,"torn');
    await proxy.start();
    expect((await post(proxy)).status).toBe(200);
    await proxy.stop();
    const records = readChain(proxy.workspace);
    expect(records.find(({ kind }) => kind === 'recovered')).toMatchObject({ bytes: 21 });
    const torn = readdirSync(auditDir(proxy.workspace)).filter((name) => name.startsWith('torn-'));
    expect(torn).toHaveLength(1);
    expect(readFileSync(join(auditDir(proxy.workspace), torn[0]!), 'latin1')).toBe('{"v":1,"seq":99,"torn');
  });

  test('a last segment without a whole line is taken for one that was just begun', async () => {
    await using proxy = await filled();
    await proxy.stop('SIGKILL');
    const next = String(readChain(proxy.workspace).length + 1).padStart(16, '0');
    writeFileSync(join(auditDir(proxy.workspace), `log-${next}.jsonl`), '{"v":1', { mode: 0o600 });
    await proxy.start();
    await proxy.stop();
    expect(kinds(proxy)).toContain('recovered');
  });

  const HARMS: [string, (proxy: Isoproxy) => unknown, RegExp][] = [
    [
      'A1 the tail was cut',
      (proxy) => {
        const lines = readFileSync(segment(proxy), 'latin1').split('\n');
        writeFileSync(segment(proxy), `${lines.slice(0, 6).join('\n')}\n`);
      },
      /went backwards: it ends at record 6, and a checkpoint/,
    ],
    [
      'A3 all segments were deleted',
      (proxy) => {
        for (const path of segmentPaths(proxy.workspace)) unlinkSync(path);
      },
      /went backwards: it ends at record 0/,
    ],
    [
      'a record was edited',
      (proxy) => {
        const text = readFileSync(segment(proxy), 'latin1');
        writeFileSync(segment(proxy), text.replace('"status":200', '"status":201'));
      },
      /not intact/,
    ],
    [
      'a line was dropped from the middle',
      (proxy) => {
        const lines = readFileSync(segment(proxy), 'latin1').split('\n');
        writeFileSync(segment(proxy), lines.filter((_, index) => index !== 5).join('\n'));
      },
      /not intact/,
    ],
    [
      'the key was replaced',
      (proxy) => writeFileSync(join(auditDir(proxy.workspace), 'hmac.key'), `${'0'.repeat(64)}\n`),
      /not intact/,
    ],
    [
      'the key is gone',
      (proxy) => unlinkSync(join(auditDir(proxy.workspace), 'hmac.key')),
      /hmac\.key: cannot be read \(ENOENT\)/,
    ],
  ];
  test.each(HARMS)('%s: it refuses to start, and says what to do', async (_, harm, message) => {
    await using proxy = await filled();
    expect(await proxy.stop()).toBe(0);
    harm(proxy);
    const result = await serve(proxy);
    expect([result.code, result.stdout]).toEqual([74, '']);
    expect(result.stderr).toMatch(message);
  });

  test('A3 the whole directory was deleted: the checkpoint file elsewhere knows', async () => {
    await using proxy = await start((dir) => ({ checkpoint_file: join(dir, 'worm') }));
    await post(proxy);
    await proxy.stop();
    rmSync(auditDir(proxy.workspace), { recursive: true });
    const result = await serve(proxy);
    expect(result.code).toBe(74);
    expect(result.stderr).toContain('of another audit log');
    expect(result.stderr).toMatch(/hint: .* move .*worm away/);
  });

  test('A10 a second writer is refused', async () => {
    await using proxy = await start();
    const text = readFileSync(proxy.configPath, 'utf8')
      .replaceAll('/agent-1/', '/agent-9/')
      .replace('[server]', `[server]\ncontrol = "${proxy.workspace.path('other/control.sock')}"`);
    proxy.workspace.write('second.toml', text);
    const second = await run(['serve', '--config', proxy.workspace.path('second.toml')], {
      dir: proxy.workspace.dir,
    });
    expect(second.code).toBe(69);
    expect(second.stderr).toContain('another isoproxy writes the audit log');
    await post(proxy);
    await proxy.stop();
    expect(kinds(proxy).filter((kind) => kind === 'start')).toHaveLength(1);
  });

  test('a state directory that cannot be written: 74, and no socket', async () => {
    await using proxy = await start();
    await proxy.stop();
    rmSync(proxy.workspace.path('state'), { recursive: true });
    writeFileSync(proxy.workspace.path('state'), 'a file');
    const result = await serve(proxy);
    expect(result.code).toBe(74);
    expect(result.stderr).toMatch(/cannot be written \((ENOTDIR|EEXIST)\)/);
  });
});

describe('crashes', () => {
  test.skipIf(DENO)('kill -9 under load, five times: what the upstream saw has an intent', async () => {
    await using proxy = await start();
    const ids: string[] = [];
    up.handle(async (seen, connection) => {
      ids.push(seen.header('x-mark') ?? '');
      await connection.reply(200, {}, 'ok');
    });
    let mark = 0;
    for (let round = 0; round < 5; round++) {
      let stop = false;
      const lane = async () => {
        while (!stop) {
          const headers = { 'x-mark': `m${mark++}` };
          const target = `/api/v1/messages?${headers['x-mark']}=1`;
          await request(proxy.socket(), { method: 'POST', target, headers, body: '{}' }).catch(() =>
            Bun.sleep(5),
          );
        }
      };
      const lanes = Array.from({ length: 6 }, lane);
      await Bun.sleep(50 + Math.random() * 150);
      await proxy.stop('SIGKILL');
      stop = true;
      await Promise.all(lanes);
      await proxy.start();
      expect((await post(proxy)).status).toBe(200);
    }
    await proxy.stop();
    const intended = new Set(
      readChain(proxy.workspace).flatMap((record) => (record['query_names'] as string[] | undefined) ?? []),
    );
    const marked = ids.filter((id) => id !== '');
    expect(marked.length).toBeGreaterThan(20);
    expect(marked.filter((id) => !intended.has(id))).toEqual([]);
  });
});

describe('room', () => {
  test('a segment that is old enough is announced, then removed; a start removes one, and never the last', async () => {
    await using proxy = await start({ max_bytes: '1MiB', segment_size: '64KiB', retain: '1d' });
    for (let i = 0; i < 40; i++) await Promise.all(Array.from({ length: 8 }, () => post(proxy)));
    await proxy.stop();
    const before = segmentPaths(proxy.workspace);
    expect(before.length).toBeGreaterThan(3);
    const old = new Date(Date.now() - 2 * 86_400_000);
    for (const path of before) utimesSync(path, old, old);
    await proxy.start();
    await until('the removal', () => segmentPaths(proxy.workspace)[0] !== before[0]);
    expect(segmentPaths(proxy.workspace)[0]).toBe(before[1]);
    expect((await post(proxy)).status).toBe(200);
    await proxy.stop();
    const notes = readFileSync(join(auditDir(proxy.workspace), 'checkpoints'), 'utf8');
    const first = Number(/log-(\d+)/.exec(before[1]!)?.[1]);
    expect(notes).toContain(`\nfirst ${first}\n`);
    // What is left is intact for whoever reads the announcement.
    const verdict = await proxy.cli(['audit', 'verify', '--json']);
    expect([verdict.code, verdict.json()]).toMatchObject([0, { ok: true, first }]);
  });

  test('at max_bytes nothing more is forwarded, and what must be said still is', async () => {
    await using proxy = await start({ max_bytes: '1MiB', segment_size: '64KiB' });
    let refused = false;
    for (let i = 0; i < 400 && !refused; i++) {
      const answers = await Promise.all(Array.from({ length: 8 }, () => post(proxy)));
      refused = answers.some(({ status: code }) => code === 503);
    }
    expect(refused).toBe(true);
    expect(await status(proxy)).toMatchObject({ state: 'full', failure: null });
    const seen = up.requests.length;
    expect((await post(proxy)).header('x-isoproxy-error')).toBe('audit_unavailable');
    expect(up.requests.length).toBe(seen);
    // More room, and it goes on: nothing has failed.
    proxy.writeConfig(readFileSync(proxy.configPath, 'utf8').replace('1MiB', '2MiB'));
    expect((await proxy.cli(['reload'])).code).toBe(0);
    expect((await post(proxy)).status).toBe(200);
    await proxy.stop();
    expect(readChain(proxy.workspace).at(-1)!.kind).toBe('stop');
    expect(segmentPaths(proxy.workspace).length).toBeGreaterThan(10);
  });
});
