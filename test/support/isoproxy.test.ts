// The harness's process side, against a stand-in for the binary: starting, records, stopping, and leaving nothing behind.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { existsSync, statSync } from 'node:fs';
import { until } from './deadline.ts';
import {
  createWorkspace,
  isRunning,
  run,
  SECRET_FILE,
  StartError,
  simpleConfig,
  startIsoproxy,
  startSimple,
} from './isoproxy.ts';
import { request } from './raw-client.ts';
import { startRecorder } from './recorder.ts';

const FAKE = `
import { mkdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
const [command, , file] = process.argv.slice(2);
if (command === 'env') { console.log(JSON.stringify([process.env, process.cwd(), await Bun.stdin.text()])); process.exit(3); }
const { listeners, refuse } = Bun.TOML.parse(await Bun.file(file).text());
if (refuse) { console.error('isoproxy: error: refused'); process.exit(78); }
rmSync(listeners[0].socket, { force: true });
mkdirSync(dirname(listeners[0].socket), { recursive: true, mode: 0o700 });
Bun.serve({ unix: listeners[0].socket, fetch(request) {
  console.error(JSON.stringify({ request_id: '1', decision: 'allow', path: new URL(request.url).pathname }));
  return new Response('hi');
} });
process.on('SIGTERM', () => process.exit(0));
console.error('{"kind":"start"}');
`;

const tools = createWorkspace();
const before = process.env['ISOPROXY_BIN'];
const beforeRuntime = process.env['ISOPROXY_RUNTIME'];
const options = { upstreamPort: 1, ca: 'CA', canary: 'canary-value' };

beforeAll(() => {
  const script = tools.write('fake.ts', FAKE);
  process.env['ISOPROXY_BIN'] = tools.write(
    'fake',
    `#!/bin/sh\nexec '${process.execPath}' '${script}' "$@"\n`,
    0o700,
  );
  delete process.env['ISOPROXY_RUNTIME'];
});
afterAll(() => {
  if (before === undefined) delete process.env['ISOPROXY_BIN'];
  else process.env['ISOPROXY_BIN'] = before;
  if (beforeRuntime !== undefined) process.env['ISOPROXY_RUNTIME'] = beforeRuntime;
  tools.remove();
});

test('starts, gives records, stops with its code, starts again, and leaves nothing', async () => {
  let dir: string;
  let pid: number;
  {
    await using proxy = await startSimple(options);
    dir = proxy.workspace.dir;
    expect(statSync(dir).mode & 0o777).toBe(0o700);
    expect(statSync(proxy.workspace.path(SECRET_FILE)).mode & 0o777).toBe(0o600);
    expect((await request(proxy.socket(), { target: '/x' })).text()).toBe('hi');
    expect((await proxy.record((record) => record.path === '/x')).decision).toBe('allow');
    expect([proxy.records().length, proxy.lines().length]).toEqual([1, 2]);
    expect([proxy.rss() > 1e6, proxy.fds() > 3]).toEqual([true, true]);
    expect(Object.keys(proxy.visible()).sort()).toEqual(['stderr', 'stdout']);
    expect(await proxy.stop()).toBe(0);
    await proxy.start();
    expect(await proxy.stop('SIGKILL')).toBe(137);
    await proxy.start();
    pid = proxy.child.pid;
  }
  expect([existsSync(dir), isRunning(pid)]).toEqual([false, false]);
});

test('reports an exit at start with its code and message, and removes the directory', async () => {
  let dir = '';
  const failed = await startIsoproxy((path) => {
    dir = path;
    return simpleConfig(path, { ...options, top: { refuse: true } });
  }).catch((error) => error);
  expect(failed).toBeInstanceOf(StartError);
  expect([failed.code, failed.stderr]).toEqual([78, 'isoproxy: error: refused\n']);
  expect(existsSync(dir)).toBe(false);
});

test('runs a command in a minimal environment', async () => {
  const result = await run(['env'], { env: { A: 'b' }, stdin: 'in' });
  const [env, cwd, stdin] = result.json();
  expect([result.code, stdin, cwd]).toEqual([3, 'in', env.HOME]);
  expect(
    Object.keys(env)
      .filter((name) => !/^(PWD|OLDPWD|SHLVL|_)$/.test(name))
      .sort(),
  ).toEqual(['A', 'HOME', 'PATH']);
});

test('a test process that is killed takes its proxy and its directory with it', async () => {
  await using up = await startRecorder({ tls: false });
  const script = tools.write(
    'killed.ts',
    `import { startSimple } from ${JSON.stringify(`${import.meta.dir}/isoproxy.ts`)};
     const proxy = await startSimple(${JSON.stringify({ ...options, upstreamPort: up.port })});
     console.log(JSON.stringify([proxy.child.pid, proxy.workspace.dir]));
     await new Promise(() => setInterval(() => {}, 1000));`,
  );
  const victim = Bun.spawn([process.execPath, script], { stdout: 'pipe', env: { ...process.env } });
  const { value } = await victim.stdout.getReader().read();
  const [pid, dir] = JSON.parse(new TextDecoder().decode(value)) as [number, string];
  expect([isRunning(pid), existsSync(dir)]).toEqual([true, true]);
  victim.kill('SIGKILL');
  await until('proxy and directory to go', () => !isRunning(pid) && !existsSync(dir));
});
