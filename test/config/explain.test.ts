// `isoproxy explain`: verdict, rule, nearest rules, and a line that really allows the request.

import { afterAll, expect, test } from 'bun:test';
import { canonicalTarget, judge } from '../../src/cli/verdict.ts';
import { loadConfig } from '../../src/config/load.ts';
import { createWorkspace } from '../support/workspace.ts';
import { runCommand } from './command-io.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };

const CONFIG = `
[[listeners]]
name = "one"
providers = ["api", "open"]
[[listeners]]
name = "two"
providers = ["open"]
network_profile = "narrow"
[[listeners]]
name = "three"
providers = ["api"]
mount = "api"
[network_profiles.narrow]
allow = ["elsewhere.example"]
[providers.api]
base_url = "https://api.example/base"
credential = { query = "key", file = "/k" }
endpoints = [
  { methods = ["POST"], paths = ["/v1/messages"] },
  { methods = ["GET"], paths = ["/v1/models/*"], query = ["page"] },
]
[providers.open]
base_url = "https://open.example"
credential = "none"
endpoints = [{ methods = ["*"], paths = ["/*"], allow_encoded_slash = true }]
`;

const config = loadConfig({ file: workspace.write('proxy.toml', CONFIG), env: ENV });
const listener = (name: string) =>
  config.listeners.find((each) => each.name === name) as (typeof config.listeners)[number];
const ask = (name: string, method: string, path: string) =>
  judge(config, listener(name), method, canonicalTarget(path));

test.each([
  ['one', 'POST', '/api/v1/messages', 'entry 1 allows it', 'POST https://api.example/base/v1/messages'],
  ['one', 'POST', '/api/v1/x/../messages', 'entry 1 allows it', 'POST https://api.example/base/v1/messages'],
  [
    'one',
    'GET',
    '/api/v1/models/a?page=2',
    'entry 2 allows it',
    'GET https://api.example/base/v1/models/a?page=2',
  ],
  [
    'one',
    'GET',
    '/api/v1/models/a?key=mine&page=2',
    'entry 2 allows it',
    'GET https://api.example/base/v1/models/a?page=2',
  ],
  ['one', 'DELETE', '/open/a%2Fb', 'entry 1 allows it', 'DELETE https://open.example/a%2Fb'],
  ['three', 'POST', '/v1/messages', 'entry 1 allows it', 'POST https://api.example/base/v1/messages'],
  ['one', 'GET', '/healthz', 'answered by isoproxy itself', undefined],
  ['one', 'GET', '/.well-known/isoproxy', 'answered by isoproxy itself', undefined],
])('%s: %s %s is allowed', (name, method, path, reason, sent) => {
  expect(ask(name, method, path)).toMatchObject({
    result: 'allow',
    reason,
    ...(sent === undefined ? {} : { sent }),
  });
});

test.each([
  ['one', 'TRACE', '/api/v1/messages', '405 method_not_supported: this method is never forwarded'],
  ['one', 'POST', '/api//v1/messages', '400 bad_target: empty segment'],
  ['one', 'POST', '/api/v1/messages#x', '400 bad_target: byte outside RFC 3986 pchar'],
  [
    'one',
    'GET',
    '/api/v1/models/a%2Fb',
    '400 bad_target: an entry has this method and path, but does not keep %2F',
  ],
  ['one', 'POST', '/apo/v1/messages', '404 unknown_provider: no such provider; did you mean /api/…?'],
  ['one', 'POST', '/healthz', '404 unknown_provider: no such provider; paths begin with /api/…, /open/…'],
  ['two', 'POST', '/api/v1/messages', '404 unknown_provider: this listener does not reach that provider'],
  ['two', 'GET', '/open/x', '403 profile_denied: network profile narrow does not permit open.example'],
  [
    'one',
    'GET',
    '/api/v1/messages',
    '403 endpoint_not_allowed: an entry has this path, but not with this method',
  ],
  ['one', 'POST', '/api/v1/messages/batches', '403 endpoint_not_allowed: no entry has this path'],
  [
    'one',
    'GET',
    '/api/v1/models/a?size=2',
    '403 endpoint_not_allowed: an entry has this method and path, but not a query parameter of that name',
  ],
  [
    'one',
    'GET',
    '/api',
    '403 endpoint_not_allowed: nothing stands after /api; the path of the API follows it',
  ],
  ['three', 'POST', '/api/v1/messages', '403 endpoint_not_allowed: no entry has this path'],
])('%s: %s %s is denied', (name, method, path, reason) => {
  expect(ask(name, method, path)).toMatchObject({ result: 'deny', reason });
});

test('a websocket entry is for WebSockets only, and other entries take an upgrade as a plain request', () => {
  const text = `
[[listeners]]
name = "one"
[providers.api]
base_url = "https://api.example/base"
credential = "none"
endpoints = [
  { methods = ["GET"], paths = ["/v1/realtime"], websocket = true },
  { methods = ["GET"], paths = ["/v1/models"] },
]
`;
  const live = loadConfig({ file: workspace.write('live.toml', text), env: ENV });
  const asked = (path: string, webSocket: boolean) =>
    judge(live, live.listeners[0] as (typeof live.listeners)[number], 'GET', path, webSocket);
  const denied = asked('/api/v1/realtime', false);
  expect(denied).toMatchObject({
    result: 'deny',
    reason:
      '403 endpoint_not_allowed: an entry has this method and path, but for WebSocket upgrades only (explain --websocket)',
    nearest: [{ name: 'GET /v1/realtime' }],
  });
  expect(denied.fix).toBeUndefined();
  expect(asked('/api/v1/realtime', true)).toMatchObject({
    result: 'allow',
    reason: 'entry 1 allows it as a WebSocket',
    sent: 'GET wss://api.example/base/v1/realtime',
  });
  expect(asked('/api/v1/models', true)).toMatchObject({
    result: 'allow',
    reason: 'entry 2 allows it as a plain request: it is no websocket entry, so the upgrade stays here',
    sent: 'GET https://api.example/base/v1/models',
  });
  expect(asked('/api/v1/other', true).fix?.toml).toBe(
    'extra_endpoints = [{ methods = ["GET"], paths = ["/v1/other"], websocket = true }]',
  );
});

test('the nearest rules come first', () => {
  const nearest = ask('one', 'POST', '/api/v1/mesages').nearest?.map((rule) => rule.name);
  expect(nearest).toEqual(['POST /v1/messages', 'GET /v1/models/*']);
});

test.each([
  ['POST', '/api/v1/messages/batches'],
  ['GET', '/api/v1/messages'],
  ['GET', '/api/a%2Fb/c'],
  ['GET', '/api/a/%c3%a9/c'],
  ['GET', '/api/a/b*c/d'],
])('the line for %s %s, added to the provider, allows it', (method, path) => {
  const { fix } = ask('one', method, path);
  expect(fix?.where).toBe('[providers.api], or the entry to its list');
  const toml = CONFIG.replace('[providers.open]', () => `${fix?.toml}\n[providers.open]`);
  const changed = loadConfig({ file: workspace.write('changed.toml', toml), env: ENV });
  expect(
    judge(changed, changed.listeners[0] as (typeof changed.listeners)[number], method, path).result,
  ).toBe('allow');
});

test('what no entry can allow gets no line', () => {
  expect(ask('one', 'GET', '/api').fix).toBeUndefined();
  expect(ask('one', 'TRACE', '/api/x').fix).toBeUndefined();
});

const explain = (...args: string[]) =>
  runCommand(['explain', '--config', workspace.path('proxy.toml'), ...args], ENV);

test('one verdict for each listener; exit 0 only if all allow', async () => {
  const { code, out } = await explain('POST', '/api/v1/./messages');
  expect(code).toBe(1);
  expect(out).toBe(
    `judged as POST /api/v1/messages
one: allowed: entry 1 allows it
  rule     POST /v1/messages  (providers.api, entry 1)
  sent as  POST https://api.example/base/v1/messages
two: denied: 404 unknown_provider: this listener does not reach that provider
  to allow it, add to providers of listener two:
    "api"
three: denied: 403 endpoint_not_allowed: no entry has this path
  nearest  POST /v1/messages  (providers.api, entry 1)
  nearest  GET /v1/models/*  (providers.api, entry 2)
  to allow it, add to [providers.api], or the entry to its list:
    extra_endpoints = [{ methods = ["POST"], paths = ["/api/v1/messages"] }]
`,
  );
  expect((await explain('--listener', 'one', 'POST', '/api/v1/messages')).code).toBe(0);
});

test('--json has the documented shape', async () => {
  const { code, out } = await explain('--json', '--listener', 'one', 'GET', '/api/v1/models/a?size=1');
  expect(code).toBe(1);
  expect(JSON.parse(out)).toEqual({
    method: 'GET',
    target: '/api/v1/models/a?size=1',
    verdicts: [
      {
        listener: 'one',
        result: 'deny',
        reason:
          '403 endpoint_not_allowed: an entry has this method and path, but not a query parameter of that name',
        code: 'endpoint_not_allowed',
        provider: 'api',
        rule: null,
        entry: null,
        sent: null,
        rate: [],
        circuit: null,
        nearest: ['GET /v1/models/*'],
        fix: { where: 'query of entry 2 of [providers.api]', toml: '"size"' },
      },
    ],
  });
});

test('what counts the request is told: its buckets and its circuits', async () => {
  const limits = (of: string, text: string) => [of, `${of}\nlimits = { ${text} }`] as const;
  const text = CONFIG.replace(...limits('name = "one"', 'rate = { requests = 60, per = "1m", burst = 10 }'))
    .replace(...limits('[providers.api]', 'circuit = { failures = 5, open = "30s" }'))
    .replace(...limits('[providers.open]', 'rate = { requests = 9, per = "1s" }'));
  const pair = 'limits = { rate = { requests = 5, per = "1h", burst = 7 } }\n';
  const file = workspace.write('guards.toml', pair + text);
  const ask = (...args: string[]) =>
    runCommand(['explain', '--config', file, '--listener', 'one', ...args], ENV);
  expect((await ask('POST', '/api/v1/messages')).out).toBe(`one: allowed: entry 1 allows it
  rule     POST /v1/messages  (providers.api, entry 1)
  sent as  POST https://api.example/base/v1/messages
  rate     listener one: 60 requests per 1m, burst 10
  rate     pair one api: 5 requests per 1h, burst 7
  circuit  api, and one api: opens after 5 failures in a row, for 30s to 5m
`);
  const json = async (path: string) => JSON.parse((await ask('--json', 'POST', path)).out).verdicts[0];
  expect(await json('/open/x')).toMatchObject({
    rate: [
      { bucket: 'listener one', requests: 60, per: 60_000, burst: 10 },
      { bucket: 'provider open', requests: 9, per: 1000, burst: 9 },
      { bucket: 'pair one open', requests: 5, per: 3_600_000, burst: 7 },
    ],
    circuit: null,
  });
  expect(await json('/api/v1/messages')).toMatchObject({
    circuit: { of: ['api', 'one api'], failures: 5, open: 30_000, max_open: 300_000 },
  });
});

test.each([
  [['GET'], 'explain wants METHOD and URL-PATH'],
  [['GET', 'api/x'], 'URL-PATH begins with "/"'],
  [['--listener', 'oen', 'GET', '/api/x'], 'did you mean "one"?'],
])('usage: %p', async (args, text) => {
  const { code, err } = await explain(...args);
  expect(code).toBe(64);
  expect(err).toContain(text);
});
