// `isoproxy check`: what it prints, its JSON, its exit codes; and that no value of a secret kind shows up.

import { afterAll, expect, test } from 'bun:test';
import { createCheckCommand } from '../../src/cli/check.ts';
import { createWorkspace } from '../support/workspace.ts';
import { runCommand } from './command-io.ts';
import { API, CANARY, LISTENER } from './faults/snippets.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };

const GOOD = `${LISTENER}mode = "0660"
group = "agents"
[providers.api]
base_url = "https://api.example/base"
credential = { header = "authorization", format = "Bearer {secret}", command = ["/usr/bin/pass", "${CANARY}"] }
endpoints = [{ methods = ["GET", "POST"], paths = ["/v1/*"], query = ["page"] }]
headers = { x-team = "${CANARY}" }
client_env = { API_URL = "${CANARY}" }
`;

const check = (toml: string, ...args: string[]) =>
  runCommand(['check', '--config', workspace.write('proxy.toml', toml), ...args], ENV);

test('a good configuration: what is in force, on stdout', async () => {
  const { code, out, err } = await check(GOOD);
  expect(err).toBe('');
  expect(code).toBe(0);
  for (const line of [
    '  address         /run/isoproxy/agent-1/isoproxy.sock (mode 0660, group agents)',
    '  upstream        https://api.example/base',
    '  credential      header authorization from command /usr/bin/pass',
    '  allows           1  GET,POST /v1/*  (query page)',
    '                  max_concurrent 256',
    'usable; no secret was read',
  ])
    expect(out).toContain(`${line}\n`);
});

test('header values, variables and arguments of commands are not printed', async () => {
  for (const args of [[], ['--json']]) {
    const { out, err } = await check(GOOD, ...args);
    expect(out + err).not.toContain(CANARY);
  }
});

test('warnings go to stderr; --strict makes them an error', async () => {
  const { code, out, err } = await check(API);
  expect(code).toBe(0);
  expect(err).toContain('isoproxy: warning: ');
  expect(out).toEndWith('\nusable; no secret was read (2 warnings)\n');
  const strict = await check(API, '--strict');
  expect(strict.code).toBe(78);
  expect(strict.err).toContain('isoproxy: error: 2 warnings, and --strict was asked for\n');
  expect((await check(GOOD, '--strict')).code).toBe(0);
});

test('a faulty configuration: every problem, exit 78, nothing on stdout', async () => {
  const { code, out, err } = await check('[log]\nlevel = 1\nformt = "x"\n');
  expect({ code, out }).toEqual({ code: 78, out: '' });
  expect(err).toContain('proxy.toml:2: log.level: must be a string\n');
  expect(err).toContain('proxy.toml:3: log.formt: unknown key\n');
  expect(err).toContain('isoproxy: hint: did you mean "format"?\n');
});

test('--json of a good configuration has the documented shape', async () => {
  const { code, out } = await check(GOOD, '--json');
  expect(code).toBe(0);
  const report = JSON.parse(out);
  expect(Object.keys(report)).toEqual(['ok', 'problems', 'warnings', 'config']);
  expect(report).toMatchObject({ ok: true, problems: [], warnings: [] });
  expect(report.config.listeners[0]).toEqual({
    name: 'agent-1',
    socket: '/run/isoproxy/agent-1/isoproxy.sock',
    mode: '0660',
    group: 'agents',
    providers: ['api'],
    mount: null,
    network_profile: null,
    allow_origins: [],
    max_concurrent: null,
    rate: null,
  });
  expect(report.config.providers[0]).toMatchObject({
    name: 'api',
    base_url: 'https://api.example/base',
    credentials: [{ placement: 'header authorization', source: 'command /usr/bin/pass' }],
    rules: [{ entry: 1, methods: ['GET', 'POST'], path: '/v1/*', query: ['page'] }],
    headers: ['x-team'],
    limits: { max_request_body: 33_554_432, idle_timeout: 600_000 },
  });
});

test('--json of a faulty one lists the problems, and exits 78', async () => {
  const { code, out } = await check('[log]\nformt = "x"\n', '--json');
  expect(code).toBe(78);
  expect(JSON.parse(out)).toMatchObject({
    ok: false,
    problems: [{ line: 2, key: 'log.formt', message: 'unknown key', hint: 'did you mean "format"?' }],
    config: null,
  });
});

test('secrets are read only with --secrets, by what the caller brings', async () => {
  let calls = 0;
  const command = createCheckCommand({
    checkSecrets: async (config) => {
      calls++;
      return [...config.providers.keys()].map((name) => `providers.${name}.credential: does not exist`);
    },
  });
  let out = '';
  const stdout = (text: string) => {
    out += text;
  };
  const io = { stdout, stderr: () => {}, env: ENV, color: false };
  const args = ['--config', workspace.write('proxy.toml', GOOD)];
  expect(await command.run(args, io)).toBe(0);
  expect(calls).toBe(0);
  await expect(Promise.resolve(command.run([...args, '--secrets'], io))).rejects.toThrow(
    'providers.api.credential: does not exist',
  );
  out = '';
  expect(await command.run([...args, '--secrets', '--json'], io)).toBe(78);
  expect(JSON.parse(out)).toMatchObject({ ok: false, secrets: ['providers.api.credential: does not exist'] });
});

test('an argument is a usage error', async () => {
  expect(await runCommand(['check', 'proxy.toml'])).toMatchObject({ code: 64 });
});
