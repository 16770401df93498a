// From files to the effective configuration: defaults, presets, precedence, includes.

import { afterAll, expect, test } from 'bun:test';
import { ConfigError } from '../../src/config/config-error.ts';
import type { Config, ProviderConfig } from '../../src/config/effective.ts';
import { loadConfig } from '../../src/config/load.ts';
import { PRESETS } from '../../src/config/presets.ts';
import { createWorkspace } from '../support/workspace.ts';
import { API, LISTENER } from './faults/snippets.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };

const load = (toml: string, env: Record<string, string> = ENV, uid = 1000): Config =>
  loadConfig({ file: workspace.write('proxy.toml', toml), env, uid });
const provider = (toml: string, name = 'api'): ProviderConfig =>
  load(toml).providers.get(name) as ProviderConfig;
const refusal = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error.message.replaceAll(workspace.dir, 'DIR');
    throw error;
  }
  return 'accepted';
};

test('an empty file is accepted, with the defaults', () => {
  const config = load('');
  expect(config.server).toEqual({
    runtimeDir: '/run/isoproxy',
    stateDir: '/var/lib/isoproxy',
    controlSocket: '/var/lib/isoproxy/control.sock',
    shutdownGraceMs: 30_000,
    upstreamProxy: undefined,
    caFile: undefined,
  });
  expect(config.log).toEqual({ level: 'info', format: 'json' });
});

test.each([
  [
    'systemd',
    { RUNTIME_DIRECTORY: '/run/a:/run/b', STATE_DIRECTORY: '/var/a', XDG_RUNTIME_DIR: '/x' },
    0,
    '/run/a',
    '/var/a',
  ],
  ['XDG', { XDG_RUNTIME_DIR: '/run/user/1', XDG_STATE_HOME: '/s' }, 1, '/run/user/1/isoproxy', '/s/isoproxy'],
  [
    'home',
    { XDG_RUNTIME_DIR: '/run/user/1', HOME: '/h' },
    1,
    '/run/user/1/isoproxy',
    '/h/.local/state/isoproxy',
  ],
  ['root', { HOME: '/root' }, 0, '/run/isoproxy', '/var/lib/isoproxy'],
  [
    'relative values are ignored',
    { XDG_RUNTIME_DIR: 'r', XDG_STATE_HOME: 's' },
    0,
    '/run/isoproxy',
    '/var/lib/isoproxy',
  ],
])('default directories: %s', (_, env, uid, runtimeDir, stateDir) => {
  expect(load('', env as Record<string, string>, uid).server).toMatchObject({ runtimeDir, stateDir });
});

test('a user without XDG directories must name the runtime directory', () => {
  expect(refusal(() => load('', { HOME: '/h' }))).toBe(
    'DIR/proxy.toml: server.runtime_dir: required; neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set',
  );
});

test('a listener has a socket of its own and reaches every provider by default', () => {
  expect(load(API + LISTENER).listeners[0]).toEqual({
    name: 'agent-1',
    address: { kind: 'unix', path: '/run/isoproxy/agent-1/isoproxy.sock', mode: 0o600, group: undefined },
    providers: ['api'],
    mount: undefined,
    networkProfile: undefined,
    allowOrigins: [],
    maxConcurrent: undefined,
    rate: undefined,
  });
});

test('a TCP listener', () => {
  const toml = `${API}${LISTENER}tcp = "[::1]:8787"\ntoken = { command = ["/usr/bin/pass", "x"] }\nhosts = ["Host.Docker.Internal"]\n`;
  expect(load(toml).listeners[0]?.address).toEqual({
    kind: 'tcp',
    hostname: '::1',
    port: 8787,
    token: { kind: 'command', argv: ['/usr/bin/pass', 'x'], ttlMs: 300_000, timeoutMs: 10_000 },
    hosts: ['host.docker.internal'],
  });
});

test.each([
  ['https://api.example', 'https://api.example', 'api.example', ''],
  ['https://API.example/', 'https://api.example', 'api.example', ''],
  ['https://api.example:443/v1/', 'https://api.example', 'api.example', '/v1'],
  ['https://api.example:8443/a/b', 'https://api.example:8443', 'api.example', '/a/b'],
  ['https://[2606:4700::1111]:8443', 'https://[2606:4700::1111]:8443', '2606:4700::1111', ''],
  ['https://xn--bcher-kva.example', 'https://xn--bcher-kva.example', 'xn--bcher-kva.example', ''],
])('base_url %s', (url, origin, hostname, basePath) => {
  expect(provider(API.replace('https://api.example', url))).toMatchObject({ origin, hostname, basePath });
});

test.each([
  ['https://api.example?x', 'no query'],
  ['https://api.example#x', 'no fragment'],
  ['https://', 'needs a host'],
  ['https://api.example.', 'final dot'],
  ['https://api.example\\\\@evil', 'printable ASCII'],
  ['https://ápi.example', 'printable ASCII'],
  ['https://api.example:65536', '1 to 65535'],
  ['https://0x7f.1', 'usual form'],
  ['https://127.1', 'usual form'],
  ['https://[::ffff:127.0.0.1]', 'usual form'],
  ['https://api.example//v1', 'plain segments'],
  ['https://api.example/%2e%2e', 'plain segments'],
])('base_url %s is refused', (url, why) => {
  expect(refusal(() => load(API.replace('https://api.example', url)))).toContain(why);
});

test('unsafe_allow_http serves literal loopback and an upstream socket', () => {
  const loopback = API.replace('https://api.example', 'http://127.0.0.1:9000');
  expect(provider(`${loopback}unsafe_allow_http = true\n`)).toMatchObject({
    origin: 'http://127.0.0.1:9000',
    allowPrivate: false,
  });
  const socket = API.replace('https://api.example', 'http://internal');
  expect(
    provider(`${socket}unsafe_allow_http = true\nupstream_socket = "/run/api.sock"\n`).upstreamSocket,
  ).toBe('/run/api.sock');
});

test('unsafe_allow_private serves a private address over https', () => {
  expect(
    provider(`${API.replace('api.example', '10.0.0.1')}unsafe_allow_private = true\n`).allowPrivate,
  ).toBe(true);
});

test.each(Object.keys(PRESETS))('the preset %s needs nothing but a source', (name) => {
  const config = provider(`[providers.x]\npreset = "${name}"\ncredential = { file = "/k" }\n`, 'x');
  expect(config.preset).toBe(name);
  expect(config.origin).toStartWith('https://');
  expect(config.credentials).toHaveLength(1);
  expect(config.rules.rules.length).toBeGreaterThan(0);
  expect(config.client.env.size).toBeGreaterThan(0);
});

test('what is written beats the preset; the credential keeps its place', () => {
  const config = provider(
    `[providers.x]
preset = "anthropic"
base_url = "https://gateway.example/anthropic"
credential = { file = "/k" }
endpoints = [{ methods = ["GET"], paths = ["/v1/models"] }]
extra_endpoints = [{ methods = ["POST"], paths = ["/v1/messages"] }]
headers = { X-Team = "a" }
strip_headers = ["X-Mine"]
client_env = { ANTHROPIC_BASE_URL = "{client_base_url}/x" }
`,
    'x',
  );
  expect(config).toMatchObject({ origin: 'https://gateway.example', basePath: '/anthropic' });
  expect(config.credentials[0]?.placement).toEqual({ kind: 'header', name: 'x-api-key', format: '{secret}' });
  expect(config.rules.rules.map((rule) => rule.name)).toEqual(['GET /v1/models', 'POST /v1/messages']);
  expect(config.headers.get('x-team')).toBe('a');
  expect(config.stripHeaders).toContain('x-mine');
  expect(config.stripHeaders).toContain('anthropic-workspace-id');
  expect(config.client.env.get('ANTHROPIC_BASE_URL')).toBe('{client_base_url}/x');
  expect(config.client.env.get('ANTHROPIC_API_KEY')).toBe('{placeholder}');
});

test('several credentials, each with its place', () => {
  const toml = API.replace(
    '"none"',
    '[{ header = "X-Auth-Key", file = "/k" }, { basic = "me", systemd = "b", unsafe_short_secret = true }]',
  );
  expect(provider(toml).credentials).toEqual([
    {
      placement: { kind: 'header', name: 'x-auth-key', format: '{secret}' },
      source: { kind: 'file', path: '/k' },
      unsafeShortSecret: false,
      publicPrefixes: [],
    },
    {
      placement: { kind: 'basic', user: 'me' },
      source: { kind: 'systemd', name: 'b' },
      unsafeShortSecret: true,
      publicPrefixes: [],
    },
  ]);
});

test("limits: default, then [limits], then the provider's own", () => {
  const toml = `${API}[providers.api.limits]\nmax_concurrent = 4\n[limits]\nmax_concurrent = 8\nidle_timeout = "5s"\n`;
  expect(provider(toml).limits).toMatchObject({
    maxConcurrent: 4,
    idleTimeoutMs: 5000,
    totalTimeoutMs: 3_600_000,
  });
});

test('included files: sorted, merged, and judged by their own lines', () => {
  workspace.write('d/20-b.toml', `${LISTENER.replace('agent-1', 'agent-3')}providers = ["api"]\n`);
  workspace.write('d/10-a.toml', `${LISTENER.replace('agent-1', 'agent-2')}providers = ["api"]\n`);
  workspace.write('d/.hidden.toml', 'nonsense');
  workspace.write('d/readme.txt', 'nonsense');
  const include = `include = ["${workspace.path('d/*.toml')}"]\n`;
  const config = load(`${include}${API}${LISTENER}providers = ["api"]\n`);
  expect(config.listeners.map((listener) => listener.name)).toEqual(['agent-1', 'agent-2', 'agent-3']);

  workspace.write(
    'd/10-a.toml',
    'include = []\n[log]\nlevel = "info"\n[providers.api]\ncredential = "none"\n[limits]\nwrong = 1\n',
  );
  expect(refusal(() => load(`${include}${API}[log]\nformat = "json"\n`))).toBe(
    'DIR/d/10-a.toml:7: limits.wrong: unknown key; known keys: max_request_body, max_response_body, first_byte_timeout, idle_timeout, total_timeout, request_body_timeout, min_body_rate, max_concurrent, rate, circuit',
  );
  workspace.write('d/10-a.toml', 'include = []\n');
  expect(refusal(() => load(`${include}${API}`))).toBe(
    'DIR/d/10-a.toml:1: include: an included file cannot include; list the files in the main file',
  );
  workspace.write('d/10-a.toml', `[log]\nlevel = "info"\n${API}`);
  expect(refusal(() => load(`${include}${API}[log]\nformat = "json"\n`))).toBe(
    [
      'DIR/d/10-a.toml:1: log: stands in DIR/proxy.toml too; keep it in one file',
      'DIR/d/10-a.toml:3: providers.api: stands in DIR/proxy.toml too; keep it in one file, or choose another name',
    ].join('\n'),
  );
  workspace.write('d/10-a.toml', '', 0o620);
  expect(refusal(() => load(`${include}${API}`))).toBe(
    'DIR/d/10-a.toml: is writable by its group or others (mode 0620); chmod go-w it; it is included by DIR/proxy.toml',
  );
});

test('a program that others may write is refused before it ever runs', () => {
  const program = workspace.write('print-key', '#!/bin/sh\n', 0o722);
  const toml = API.replace('"none"', `{ header = "x-api-key", command = ["${program}"] }`);
  expect(refusal(() => load(toml))).toBe(
    'DIR/proxy.toml:3: providers.api.credential.command: the program is writable by its group or others; chmod go-w it',
  );
});

test('all problems are reported at once, in the order of the file', () => {
  const toml = '[server]\nstate = 1\n[providers.api]\nbase_url = 1\nwrong = 1\n[log]\nlevel = "loud"\n';
  expect(
    refusal(() => load(toml))
      .split('\n')
      .map((line) => line.split(':')[1]),
  ).toEqual(['2', '4', '5', '7']);
});
