// One socket per sandbox: what one client does, and what it can learn, stops at its own listener.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { lstatSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parse, stringify } from 'smol-toml';
import { assertClean, makeCanary } from '../support/canary.ts';
import { testCerts } from '../support/certs.ts';
import { until, within } from '../support/deadline.ts';
import {
  freePort,
  type Isoproxy,
  isoproxyCommand,
  type ProxyConfig,
  recorderAt,
  simpleConfig,
  startIsoproxy,
} from '../support/isoproxy.ts';
import { spawn } from '../support/process.ts';
import {
  connect,
  formatRequest,
  type RawClient,
  type RawResponse,
  type RequestOptions,
  request,
} from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';
import { createWorkspace } from '../support/workspace.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
const notDeno = test.skipIf(DENO);

setDefaultTimeout(20_000);

/** `theirs` and `others` have an upstream each, `shared` has one for all. */
const secrets = {
  theirs: makeCanary('theirs-'),
  others: makeCanary('others-'),
  shared: makeCanary('shared-'),
  'token-one': makeCanary('token-one-'),
  'token-two': makeCanary('token-two-'),
};
let up: Record<'theirs' | 'others' | 'shared', Recorder>;
let proxy: Isoproxy;
let tcpOne: number;
let tcpTwo: number;

/*
 * agent-first has the providers theirs and shared; agent-second is the sandbox that we are in: others and shared.
 * The rest differ from agent-second in one way each. A provider's cap is 4 where nothing else is said.
 */
const LISTENERS: Record<string, Record<string, unknown>> = {
  'agent-first': { providers: ['theirs', 'shared'], mode: '0666' },
  'agent-second': { providers: ['others', 'shared'], limits: { max_concurrent: 2 } },
  'agent-wide': { providers: ['others', 'shared'], limits: { max_concurrent: 400 } },
  'agent-mounted': { providers: ['others', 'shared'], mount: 'others', mode: '0660', group: '0' },
  'agent-bound': { providers: ['theirs', 'others', 'nowhere'], network_profile: 'first-only' },
};

function provider(dir: string, name: keyof typeof up, over: Record<string, unknown> = {}) {
  return {
    ...recorderAt(dir, up[name].port),
    credential: { header: 'x-api-key', file: join(dir, 'secrets', name) },
    endpoints: [
      { methods: ['*'], paths: ['/v1/*'] },
      { methods: ['GET'], paths: [`/only-${name}/*`], allow_encoded_slash: true },
    ],
    client_env: { [`${name.toUpperCase()}_URL`]: '{client_base_url}' },
    ...over,
  };
}

function config(dir: string): ProxyConfig {
  const tcp = (name: string, port: number, providers: string[]) => ({
    name: `tcp-${name}`,
    tcp: `127.0.0.1:${port}`,
    token: { file: join(dir, `secrets/token-${name}`) },
    providers,
  });
  const document = {
    server: { runtime_dir: dir, state_dir: join(dir, 'state') },
    listeners: [
      ...Object.entries(LISTENERS).map(([name, over]) => ({
        name,
        socket: join(dir, name, 'isoproxy.sock'),
        ...over,
      })),
      tcp('one', tcpOne, ['theirs']),
      tcp('two', tcpTwo, ['others']),
    ],
    network_profiles: { 'first-only': { allow: ['localhost'] } },
    providers: {
      theirs: provider(dir, 'theirs'),
      // By its address, so that a profile can tell it from the rest.
      others: provider(dir, 'others', { base_url: `https://127.0.0.1:${up.others.port}` }),
      shared: provider(dir, 'shared', {
        limits: { max_concurrent: 4, idle_timeout: '30s', request_body_timeout: '30s' },
      }),
      nowhere: provider(dir, 'theirs', { base_url: 'https://nowhere.invalid' }),
    },
  };
  const files = Object.entries(secrets).map(([name, secret]) => [`secrets/${name}`, secret]);
  return { toml: stringify(document), files: { 'ca.pem': up.theirs.ca, ...Object.fromEntries(files) } };
}

beforeAll(async () => {
  up = { theirs: await startRecorder(), others: await startRecorder(), shared: await startRecorder() };
  [tcpOne, tcpTwo] = [await freePort(), await freePort()];
  proxy = await startIsoproxy(config);
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  for (const recorder of Object.values(up ?? {})) await recorder.close();
});
afterEach(() => {
  for (const recorder of Object.values(up)) recorder.reset();
});

/** Everything that agent-second was ever told. */
const heard: Buffer[] = [];

async function ask(listener: string, options: RequestOptions) {
  const answer = await request(proxy.endpoint(listener), options);
  if (listener === 'agent-second') heard.push(answer.rawHead, answer.body);
  return answer;
}
const get = (listener: string, target: string) => ask(listener, { target });

/** What the upstreams have seen: a refusal changes nothing of it. */
const upstreamSide = () =>
  Object.values(up).map(({ connections, requests }) => [
    connections.length,
    requests.length,
    connections.reduce((sum, { bytesIn }) => sum + bytesIn, 0),
  ]);

const idOf = (answer: RawResponse): string => answer.json().request_id;

/** A whole answer as text, without what differs between any two answers of one kind. */
function comparable(answer: RawResponse): string {
  const text = Buffer.concat([answer.rawHead, answer.body]).toString('latin1');
  const id = answer.header('x-request-id');
  const plain = id === undefined ? text : text.replaceAll(id, 'ID');
  expect(answer.complete).toBe(true);
  return plain.replace(/^(Date|Content-Length): .*$/gim, '$1');
}

/** The record of a refusal. */
async function expectDenied(answer: RawResponse, listener: string, provider: string, reason: string) {
  expect([answer.json().code, answer.header('connection')]).toEqual([reason, 'close']);
  const id = idOf(answer);
  expect(await proxy.record(({ request_id }) => request_id === id)).toMatchObject({
    listener,
    provider,
    status: answer.status,
    decision: 'deny',
    reason,
  });
}

describe('one sandbox cannot reach the provider of another', () => {
  const percent = (text: string) => text.replace(/./g, (char) => `%${char.charCodeAt(0).toString(16)}`);
  type Spelling = (name: string, listener: string, dir: string) => string;
  const line = (target: string) => `GET ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  const lines = (target: string, more: string) => `GET ${target} HTTP/1.1\r\n${more}\r\n\r\n`;

  /** Each is sent with the names of the other sandbox and with names that nobody has. */
  const spellings: [string, Spelling][] = [
    ['its name', (name) => line(`/${name}/v1/x`)],
    ['its name alone', (name) => line(`/${name}`)],
    ['its name and a slash', (name) => line(`/${name}/`)],
    ['its name and a query', (name) => line(`/${name}?x=1`)],
    ['a path that only its provider has', (name) => line(`/${name}/only-theirs/x`)],
    ['a path that its provider denies', (name) => line(`/${name}/nowhere`)],
    ['an encoded slash that its provider keeps', (name) => line(`/${name}/only-theirs/a%2Fb`)],
    ['an own route below it', (name) => line(`/${name}/healthz`)],
    ['capitals', (name) => line(`/${name.toUpperCase()}/v1/x`)],
    ['a capital', (name) => line(`/${name[0]!.toUpperCase()}${name.slice(1)}/v1/x`)],
    ['its first letter encoded', (name) => line(`/${percent(name[0]!)}${name.slice(1)}/v1/x`)],
    ['all letters encoded', (name) => line(`/${percent(name)}/v1/x`)],
    ['all letters encoded, in capitals', (name) => line(`/${percent(name.toUpperCase())}/v1/x`)],
    ['all letters encoded twice', (name) => line(`/${percent(percent(name))}/v1/x`)],
    ['an encoded slash before it', (name) => line(`/%2F${name}/v1/x`)],
    ['an encoded slash after it', (name) => line(`/${name}%2Fv1/x`)],
    ['an encoded slash after an own one', (name) => line(`/others%2F${name}/v1/x`)],
    ['two slashes', (name) => line(`//${name}/v1/x`)],
    ['a backslash', (name) => line(`/\\${name}/v1/x`)],
    ['a backslash after an own one', (name) => line(`/others\\..\\${name}/v1/x`)],
    ['a parameter', (name) => line(`/${name};x/v1/x`)],
    ['a parameter of an own one', (name) => line(`/others;/../${name}/v1/x`)],
    ['a dot after it', (name) => line(`/${name}./v1/x`)],
    ['a space after it', (name) => line(`/${name}%20/v1/x`)],
    ['a NUL after it', (name) => line(`/${name}%00/v1/x`)],
    ['a zero-width space in it', (name) => line(`/${name}%E2%80%8B/v1/x`)],
    ['a dot segment before it', (name) => line(`/./${name}/v1/x`)],
    ['dot segments out of an own one', (name) => line(`/others/../${name}/v1/x`)],
    ['dot segments out of an allowed path', (name) => line(`/others/v1/x/../../../${name}/v1/x`)],
    ['encoded dot segments', (name) => line(`/others/%2e%2e/${name}/v1/x`)],
    ['half-encoded dot segments', (name) => line(`/others/.%2e/${name}/v1/x`)],
    ['dot segments with an encoded slash', (name) => line(`/others/..%2F${name}/v1/x`)],
    ['dot segments with a parameter', (name) => line(`/others/..;/${name}/v1/x`)],
    ['dot segments out of an own route', (name) => line(`/healthz/../${name}/v1/x`)],
    ['dot segments out of the discovery', (name) => line(`/.well-known/isoproxy/../../${name}/v1/x`)],
    ['the discovery of it', (name) => line(`/.well-known/isoproxy/${name}`)],
    ['a fragment', (name) => line(`/#/${name}/v1/x`)],
    ['absolute form', (name) => line(`http://localhost/${name}/v1/x`)],
    ['absolute form with it as host', (name) => line(`http://${name}/only-theirs/x`)],
    ['absolute form with its listener as host', (name, other) => line(`http://${other}/${name}/v1/x`)],
    ['absolute form with user info', (name, other) => line(`http://${other}@localhost/${name}/v1/x`)],
    ['absolute form over https', (name, other) => line(`https://${other}/${name}/v1/x`)],
    ['absolute form over unix', (name, other, dir) => line(`unix:${dir}/${other}/isoproxy.sock:/${name}/x`)],
    ['no slash at all', (name) => line(`${name}/v1/x`)],
    ['its authority', (name) => line(`${name}:443`)],
    ['a tunnel', (name) => `CONNECT ${name}:443 HTTP/1.1\r\nHost: ${name}:443\r\n\r\n`],
    ['its listener as Host', (name, other) => lines(`/${name}/v1/x`, `Host: ${other}`)],
    ['its own name as Host', (name) => lines('/only-theirs/x', `Host: ${name}`)],
    ['two Hosts', (name, other) => lines(`/${name}/v1/x`, `Host: localhost\r\nHost: ${other}`)],
    ['a path in Host', (name) => lines('/v1/x', `Host: localhost/${name}`)],
    ['its listener and provider as segments', (name, other) => line(`/${other}/${name}/v1/x`)],
    [
      'headers that rewrite a path',
      (name) =>
        lines('/nobody/v1/x', `Host: h\r\nX-Original-URL: /${name}/v1/x\r\nX-Rewrite-URL: /${name}/v1/x`),
    ],
    [
      'headers of ours',
      (name, other) =>
        lines(`/${name}/v1/x`, `Host: h\r\nX-Isoproxy-Listener: ${other}\r\nX-Isoproxy-Provider: ${name}`),
    ],
    ['HTTP/1.0', (name) => `GET /${name}/v1/x HTTP/1.0\r\nHost: localhost\r\n\r\n`],
    ['HEAD', (name) => `HEAD /${name}/v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n`],
    ['OPTIONS', (name) => `OPTIONS /${name}/v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n`],
    ['an upgrade', (name) => lines(`/${name}/v1/x`, 'Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket')],
    ['a body', (name) => `POST /${name}/v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello`],
    [
      'a chunked body',
      (name) =>
        `POST /${name}/v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`,
    ],
  ];

  async function exchange(listener: string, bytes: string): Promise<RawResponse> {
    using client = await connect(proxy.endpoint(listener));
    await client.send(Buffer.from(bytes));
    const answer = await client.response({ method: bytes.split(' ', 1)[0]! });
    if (listener === 'agent-second') heard.push(answer.rawHead, answer.body);
    return answer;
  }

  describe.each(['agent-second', 'agent-mounted'])('%s', (listener) => {
    test.each(spellings)('by %s: the answer is the one for a name that nobody has', async (_, spell) => {
      const before = upstreamSide();
      const dir = proxy.workspace.dir;
      const answer = await exchange(listener, spell('theirs', 'agent-first', dir));
      const nobody = await exchange(listener, spell('nobody', 'agent-never', dir));
      // Bun's parser hangs up on some, Deno's says 505 to HTTP/1.0.
      expect([400, 403, 404, 405, 505]).toContain(answer.status);
      expect(comparable(answer)).toBe(comparable(nobody));
      expect(upstreamSide()).toEqual(before);

      const id = answer.header('x-request-id');
      // What the runtime's own parser refuses has no record.
      if (id === undefined) return;
      const { reason, ...record } = await proxy.record(({ request_id }) => request_id === id);
      const found = reason === 'endpoint_not_allowed' && listener === 'agent-mounted' ? 'others' : '';
      expect(record).toMatchObject({ listener, provider: found, decision: 'deny', status: answer.status });
      expect(reason).toBe(answer.header('x-isoproxy-error')!);
      const other = nobody.header('x-request-id');
      const { reason: same, ...second } = await proxy.record(({ request_id }) => request_id === other);
      expect([second.listener, second.provider, same]).toEqual([listener, found, reason]);
    });
  });

  test('a name in the query or in headers changes nothing of an own request', async () => {
    const answer = await ask('agent-second', {
      target: '/others/v1/x?/../../theirs/v1/x&provider=theirs',
      headers: {
        Host: 'theirs.agent-first',
        'X-Original-URL': '/theirs/v1/x',
        'X-Forwarded-Host': 'theirs',
        'X-Isoproxy-Listener': 'agent-first',
        Forwarded: 'host=theirs',
      },
    });
    expect(answer.status).toBe(200);
    expect(up.others.requests.map((seen) => [seen.target, seen.header('x-api-key')])).toEqual([
      ['/v1/x?/../../theirs/v1/x&provider=theirs', secrets.others],
    ]);
    expect([up.theirs.connections.length, up.shared.connections.length]).toEqual([0, 0]);
  });

  test('what is spelled so reaches nothing either when it is a second request on a connection', async () => {
    using client = await connect(proxy.socket('agent-second'));
    await client.send(formatRequest({ target: '/others/v1/x', headers: { Host: 'agent-second' } }));
    expect((await client.response()).status).toBe(200);
    await client.send(formatRequest({ target: '/theirs/v1/x', headers: { Host: 'agent-first' } }));
    const answer = await client.response();
    await expectDenied(answer, 'agent-second', '', 'unknown_provider');
    expect(up.theirs.connections).toEqual([]);
  });
});

describe('one sandbox cannot learn of another', () => {
  interface Document {
    listeners: { name: string }[];
    providers: Record<string, object>;
  }

  test('its discovery holds its own listener and providers, to the byte as if there were no other', async () => {
    await using alone = await startIsoproxy((dir) => {
      const { toml, files } = config(dir);
      const { listeners, providers, ...rest } = parse(toml) as unknown as Document;
      const own = listeners.filter(({ name }) => name === 'agent-second');
      const { others, shared } = providers;
      return { toml: stringify({ ...rest, listeners: own, providers: { others, shared } }), files };
    });
    for (const target of ['/.well-known/isoproxy', '/healthz', '/theirs/v1/x', '/others/no', '/', '//']) {
      const here = await get('agent-second', target);
      const there = await request(alone.socket('agent-second'), { target });
      expect(comparable(here)).toBe(comparable(there));
    }
    const known = (await get('agent-second', '/.well-known/isoproxy')).json();
    expect([known.listener, Object.keys(known.providers)]).toEqual(['agent-second', ['others', 'shared']]);
    expect(known.providers.others.client_env).toEqual({ OTHERS_URL: '{client_base_url}' });
    for (const path of ['/.well-known/isoproxy', '/healthz']) {
      const record = await proxy.record((each) => each.path === path && each.listener === 'agent-second');
      expect(record).toMatchObject({ provider: '', decision: 'own', status: 200 });
    }
  });

  test('the ids of its requests do not count what others ask', async () => {
    const number = async () => {
      const id = idOf(await get('agent-second', '/theirs/x'));
      return Number.parseInt(id.slice(id.lastIndexOf('-') + 1), 36);
    };
    const before = await number();
    const ids = new Set<string>();
    for (let i = 0; i < 30; i++) ids.add(idOf(await get('agent-first', '/theirs/denied')));
    expect(ids.size).toBe(30);
    expect(await number()).toBe(before + 1);
  });

  test('a credential that cannot be read, and a full cap, of another are nothing that it sees', async () => {
    const first = comparable(await get('agent-second', '/theirs/v1/x'));
    const release = Promise.withResolvers<void>();
    up.theirs.handle(async (_, connection) => {
      await Promise.race([release.promise, connection.gone]);
      await connection.reply(200, {}, 'late');
    });
    const held = get('agent-first', '/theirs/v1/x');
    await up.theirs.request();
    expect(comparable(await get('agent-second', '/theirs/v1/x'))).toBe(first);
    release.resolve();
    expect((await held).status).toBe(200);
    proxy.workspace.write('secrets/theirs', '');
    await until(
      'the emptied credential to be noticed',
      async () => (await get('agent-first', '/theirs/v1/x')).status === 503,
    );
    expect(comparable(await get('agent-second', '/theirs/v1/x'))).toBe(first);
    expect((await get('agent-second', '/others/v1/x')).status).toBe(200);
    proxy.workspace.write('secrets/theirs', secrets.theirs);
    await until(
      'the credential to be back',
      async () => (await get('agent-first', '/theirs/v1/x')).status === 200,
    );
  });
});

describe('one sandbox cannot slow another', () => {
  /** Lets the shared upstream answer only after `release()`; says how many requests it holds. */
  function hang() {
    const gate = Promise.withResolvers<void>();
    up.shared.handle(async (_, connection) => {
      await Promise.race([gate.promise, connection.gone]);
      await connection.reply(200, {}, 'late');
    });
    return { release: () => gate.resolve() };
  }
  const holding = (count: number) =>
    until(
      () => `${count} requests upstream, not ${up.shared.requests.length}`,
      () => up.shared.requests.length === count,
    );
  const hold = (listener: string, count: number, path = 'hold') =>
    Array.from({ length: count }, () => ask(listener, { target: `/shared/v1/${path}`, ms: 15_000 }));
  const statuses = async (answers: Promise<RawResponse>[]) =>
    (await Promise.all(answers)).map(({ status }) => status);

  /** agent-first is served by both its providers, on new connections. */
  async function expectServed(count = 1) {
    for (let i = 0; i < count; i++)
      for (const target of ['/theirs/v1/served', '/shared/v1/served'])
        expect((await get('agent-first', target)).status).toBe(200);
  }

  test('a full cap on a provider that hangs is 503 at once for its listener, and every other is served', async () => {
    const hung = hang();
    const held = hold('agent-second', 2, 'counted');
    await holding(2);
    for (let i = 0; i < 5; i++) {
      const answer = await ask('agent-second', { method: 'POST', target: '/shared/v1/x', body: '{}' });
      expect([answer.status, answer.header('retry-after')]).toEqual([503, '1']);
      await expectDenied(answer, 'agent-second', 'shared', 'overloaded');
    }
    expect(up.shared.requests.length).toBe(2);
    // Its other provider has a count of its own, and so has every other listener with the same provider.
    expect((await get('agent-second', '/others/v1/x')).status).toBe(200);
    expect((await get('agent-first', '/theirs/v1/x')).status).toBe(200);
    const first = hold('agent-first', 4, 'counted');
    await holding(6);
    await expectDenied(await get('agent-first', '/shared/v1/x'), 'agent-first', 'shared', 'overloaded');
    expect((await get('agent-second', '/shared/v1/x')).status).toBe(503);
    up.shared.handle((_, connection) => connection.reply(200, {}, 'ok'));
    hung.release();
    expect(await statuses([...held, ...first])).toEqual([200, 200, 200, 200, 200, 200]);
    await expectServed();
    expect((await get('agent-second', '/shared/v1/x')).status).toBe(200);
    const records = () => proxy.records().filter(({ path }) => path === '/shared/v1/counted');
    await until('the records of all six', () => records().length === 6);
    expect(
      records()
        .map(({ listener }) => listener)
        .sort(),
    ).toEqual([...Array(4).fill('agent-first'), ...Array(2).fill('agent-second')]);
  });

  test('the cap of a listener replaces that of the provider, downwards and upwards, for this listener alone', async () => {
    const hung = hang();
    // The provider's 4, the 2 and the 400 of the listeners: all three at the same time.
    const held = [...hold('agent-first', 4), ...hold('agent-second', 2), ...hold('agent-wide', 20)];
    await holding(26);
    expect((await get('agent-first', '/shared/v1/x')).status).toBe(503);
    expect((await get('agent-second', '/shared/v1/x')).status).toBe(503);
    held.push(...hold('agent-wide', 1));
    await holding(27);
    // The others provider has no limit in the file: 2 hold for agent-second there too.
    const gate = Promise.withResolvers<void>();
    up.others.handle(async (_, connection) => {
      await Promise.race([gate.promise, connection.gone]);
      await connection.reply(200, {}, 'late');
    });
    const others = [get('agent-second', '/others/v1/x'), get('agent-second', '/others/v1/x')];
    await until('two at the other upstream', () => up.others.requests.length === 2);
    await expectDenied(await get('agent-second', '/others/v1/x'), 'agent-second', 'others', 'overloaded');
    others.push(get('agent-mounted', '/v1/x'));
    await until('three at the other upstream', () => up.others.requests.length === 3);
    gate.resolve();
    hung.release();
    expect(new Set(await statuses(held))).toEqual(new Set([200]));
    expect(await statuses(others)).toEqual([200, 200, 200]);
  });

  test('clients that leave give places back to their own listener', async () => {
    const hung = hang();
    const first = hold('agent-first', 4);
    await holding(4);
    for (let round = 1; round <= 3; round++) {
      const clients = await Promise.all([1, 2].map(() => connect(proxy.socket('agent-second'))));
      for (const client of clients) await client.send(formatRequest({ target: '/shared/v1/left' }));
      await holding(4 + 2 * round);
      expect((await get('agent-second', '/shared/v1/x')).status).toBe(503);
      for (const client of clients) client.close();
      await until('two places', () => {
        const left = proxy.records().filter(({ path }) => path === '/shared/v1/left');
        return left.length === 2 * round && left.every((record) => record.listener === 'agent-second');
      });
      expect((await get('agent-first', '/shared/v1/x')).status).toBe(503);
    }
    hung.release();
    expect(await statuses(first)).toEqual([200, 200, 200, 200]);
  });

  /** Connections of agent-wide, which may have 400 requests in flight for each provider. */
  type Load = [string, number, (client: RawClient) => Promise<unknown> | undefined];
  const post = (target: string, headers: Record<string, string>) =>
    formatRequest({ method: 'POST', target, headers, body: 'x' });
  const loads: Load[] = [
    ['do nothing', 300, () => undefined],
    ['send half a request line', 300, (client) => client.send('GET /others/v1')],
    ['send half a head', 300, (client) => client.send('GET /others/v1/x HTTP/1.1\r\nHost: h\r\nX-A: ')],
    [
      'send half a second head',
      300,
      async (client) => {
        await client.send(formatRequest({ target: '/others/v1/x' }));
        expect((await client.response()).status).toBe(200);
        await client.send('GET /others/v1/x HTTP/1.1\r\nX-A: ');
      },
    ],
    [
      'send a small body slowly',
      300,
      (client) => client.send(post('/shared/v1/x', { 'Content-Length': '60000' })),
    ],
    [
      'send a big body slowly',
      200,
      (client) => client.send(post('/shared/v1/x', { 'Content-Length': '900000' })),
    ],
    [
      'send a chunked body slowly',
      200,
      (client) =>
        client.send('PUT /shared/v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel'),
    ],
  ];
  test.each(loads)('while its clients %s on many connections, another is served', async (_, count, start) => {
    const clients = await Promise.all(
      Array.from({ length: count }, async () => {
        const client = await connect(proxy.socket('agent-wide'));
        await start(client);
        return client;
      }),
    );
    try {
      using kept = await connect(proxy.socket('agent-first'));
      for (let i = 0; i < 10; i++) {
        await kept.send(formatRequest({ target: '/shared/v1/kept' }));
        expect((await kept.response()).status).toBe(200);
        await expectServed();
      }
      // The load was there all the time.
      expect(clients.filter(({ closed }) => closed === undefined).length).toBe(count);
    } finally {
      for (const client of clients) client.close();
    }
    await until(
      'what they had begun to end',
      async () => (await get('agent-wide', '/shared/v1/x')).status === 200,
    );
    up.shared.problems.length = 0;
  });

  test('while its clients do not read their answers, another is served, also a large answer whole', async () => {
    const part = Buffer.alloc(1 << 16);
    const parts = 128;
    up.shared.handle(async (seen, connection) => {
      if (!seen.target.endsWith('/big')) return connection.reply(200, {}, 'ok');
      await connection.head(200, { 'Content-Length': String(parts * part.length) });
      for (let i = 0; i < parts; i++) if (!(await connection.write(part))) return;
    });
    const ended = () => proxy.records().filter(({ path }) => path === '/shared/v1/big');
    const clients: RawClient[] = [];
    try {
      for (let i = 0; i < 40; i++) {
        const client = await connect(proxy.socket('agent-wide'), { keep: false });
        clients.push(client);
        client.pause();
        await client.send(formatRequest({ target: '/shared/v1/big' }));
      }
      await until('all of them upstream', () => up.shared.requests.length >= 40);
      await expectServed(10);
      const big = await ask('agent-first', { target: '/shared/v1/big', hashOnly: true });
      expect([big.status, big.complete, big.bodyBytes]).toEqual([200, true, parts * part.length]);
      // Theirs are still on their way.
      await until('the record of the large answer', () => ended().length > 0);
      expect(ended().map(({ listener }) => listener)).toEqual(['agent-first']);
    } finally {
      for (const client of clients) client.close();
    }
    await until('the records of all', () => ended().length === 41);
    expect(ended().filter(({ reason }) => reason === 'client_closed').length).toBe(40);
    up.shared.problems.length = 0;
  });

  test('while its clients are refused by the hundred, another is served, and each request is on record', async () => {
    let refused = 0;
    let stopped = false;
    const flood = Array.from({ length: 20 }, async () => {
      while (!stopped) {
        expect((await request(proxy.socket('agent-wide'), { target: '/theirs/v1/flood' })).status).toBe(404);
        refused++;
      }
    });
    const paths: string[] = [];
    for (let i = 0; i < 50 || refused < 400; i++) {
      const answer = await get('agent-first', `/shared/v1/among-${i}`);
      expect(answer.status).toBe(200);
      paths.push(`/shared/v1/among-${i}`);
    }
    stopped = true;
    await Promise.all(flood);
    const flooded = () => proxy.records().filter(({ path }) => path === '/theirs/v1/flood');
    await until('the records of the flood', () => flooded().length === refused);
    expect(new Set(flooded().map(({ listener, provider }) => `${listener} ${provider}`))).toEqual(
      new Set(['agent-wide ']),
    );
    const among = () => proxy.records().filter(({ path }) => path.startsWith('/shared/v1/among-'));
    await until('the records of the other', () => among().length === paths.length);
    expect(
      among()
        .map(({ path }) => path)
        .sort(),
    ).toEqual(paths.sort());
    expect(new Set(among().map(({ listener }) => listener))).toEqual(new Set(['agent-first']));
    expect(up.theirs.connections).toEqual([]);
  }, 30_000);

  const hoards: [string, number, (client: RawClient) => Promise<unknown>][] = [
    [
      'slow bodies that are refused',
      400,
      (client) => client.send(post('/nobody/x', { 'Content-Length': '1000' })),
    ],
    [
      'slow bodies beyond its cap',
      400,
      (client) => client.send(post('/api/v1/messages', { 'Content-Length': '1000' })),
    ],
    [
      'connections kept after an answer',
      150,
      async (client) => {
        await client.send(formatRequest({ target: '/healthz' }));
        await client.response();
      },
    ],
  ];
  // Deno raises its own limit at start, so that none can be set for it.
  for (const [what, count, start] of hoards)
    notDeno(
      `more connections than half of the descriptors, with ${what}: another is served again`,
      async () => {
        using workspace = createWorkspace();
        const names = ['agent-1', 'agent-2'];
        const { toml, files } = simpleConfig(workspace.dir, {
          upstreamPort: up.shared.port,
          ca: up.shared.ca,
          canary: secrets.shared,
          limits: { max_concurrent: 10 },
          top: {
            listeners: names.map((name) => ({
              name,
              socket: workspace.path(`${name}/isoproxy.sock`),
              providers: ['api'],
            })),
          },
        });
        for (const [name, content] of Object.entries(files)) workspace.write(name, content);
        const command = ['serve', '--config', workspace.write('proxy.toml', toml)];
        const shell = ['/bin/sh', '-c', 'ulimit -n 200; exec "$@"', 'sh'];
        const child = spawn([...shell, ...isoproxyCommand(workspace.dir), ...command], workspace.dir);
        const clients: RawClient[] = [];
        try {
          const [first, second] = names.map((name) => workspace.path(`${name}/isoproxy.sock`));
          const isServed = async (socket: string) => {
            const answer = await request(socket, { target: '/api/v1/models/a', ms: 1500 }).catch(
              () => undefined,
            );
            return answer?.status === 200;
          };
          await until('both to serve', async () => (await isServed(first!)) && (await isServed(second!)));
          for (let i = 0; i < count; i++) {
            // The hoarder may be cut for what it does: that is its own affair.
            const client = await connect(second!).catch(() => undefined);
            if (client === undefined) continue;
            clients.push(client);
            await within('its part', start(client)).catch(() => {});
          }
          await until('the first to be served', () => isServed(first!), 10_000);
          for (let i = 0; i < 10; i++) expect(await isServed(first!)).toBe(true);
          expect(child.code).toBeUndefined();
        } finally {
          for (const client of clients) client.close();
          child.kill('SIGKILL');
          await child.exited;
        }
        up.shared.problems.length = 0;
      },
    );
});

describe('upstream connections', () => {
  test('requests of two sandboxes to one host at the same time carry each its own credential and answer', async () => {
    await using both = await startIsoproxy((dir) => {
      const own = (name: 'theirs' | 'others') => ({
        ...provider(dir, 'shared'),
        credential: { header: 'x-api-key', file: join(dir, 'secrets', name) },
      });
      const listeners = ['theirs', 'others'].map((name) => ({
        name: `agent-${name}`,
        socket: join(dir, `agent-${name}`, 'isoproxy.sock'),
        providers: [name],
      }));
      const providers = { theirs: own('theirs'), others: own('others') };
      const toml = stringify({
        server: { runtime_dir: dir, state_dir: join(dir, 'state') },
        listeners,
        providers,
      });
      return { ...config(dir), toml };
    });
    up.shared.handle((seen, connection) =>
      connection.reply(200, {}, `${seen.target} ${seen.header('x-mark')}`),
    );
    const rounds = Array.from({ length: 100 }, (_, i) => (i % 2 ? 'theirs' : 'others'));
    await Promise.all(
      rounds.map(async (name, i) => {
        const headers = {
          'X-Mark': `${name}-${i}`,
          'X-Api-Key': secrets[name === 'theirs' ? 'others' : 'theirs'],
        };
        const options = { target: `/${name}/v1/${name}-${i}`, headers };
        const answer = await request(both.socket(`agent-${name}`), options);
        expect(answer.text()).toBe(`/v1/${name}-${i} ${name}-${i}`);
      }),
    );
    expect(up.shared.requests.length).toBe(100);
    for (const seen of up.shared.requests)
      expect(seen.headerAll('x-api-key')).toEqual([
        secrets[seen.target.includes('theirs') ? 'theirs' : 'others'],
      ]);
  });

  test('a connection made with a client certificate, or verified by another CA, is not shared', async () => {
    const certs = await testCerts();
    await using asking = await startRecorder({ clientCert: 'request' });
    const names = ['known', 'plain', 'wary'];
    await using apart = await startIsoproxy((dir) => {
      const one = (over: Record<string, unknown>) =>
        provider(dir, 'shared', { base_url: `https://localhost:${asking.port}`, ...over });
      const listeners = names.map((name) => ({
        name: `agent-${name}`,
        socket: join(dir, `agent-${name}`, 'isoproxy.sock'),
        providers: [name],
      }));
      const providers = {
        known: one({ client_cert: join(dir, 'secrets/crt'), client_key: join(dir, 'secrets/key') }),
        plain: one({}),
        wary: one({ ca_file: join(dir, 'other.pem') }),
      };
      const toml = stringify({
        server: { runtime_dir: dir, state_dir: join(dir, 'state') },
        listeners,
        providers,
      });
      const { cert, key } = certs.client;
      const files = { 'secrets/crt': cert, 'secrets/key': key, 'other.pem': certs.otherCa };
      return { toml, files: { ...config(dir).files, ...files } };
    });
    for (let i = 0; i < 3; i++) {
      const answers: string[] = [];
      for (const name of names) {
        const answer = await request(apart.socket(`agent-${name}`), { target: `/${name}/v1/${name}` });
        answers.push(`${answer.status} ${answer.header('x-isoproxy-error') ?? ''}`);
      }
      expect(answers).toEqual(['200 ', '200 ', '502 upstream_tls']);
    }
    const clientOf = (id: number) => asking.connections.find((each) => each.id === id)?.tls?.clientName;
    expect(asking.requests.map((seen) => `${seen.target} ${clientOf(seen.connection) ?? ''}`)).toEqual(
      Array(3).fill(['/v1/known isoproxy-client', '/v1/plain ']).flat(),
    );
  });
});

describe('the network profile of a listener', () => {
  test('profile and endpoint must both allow, whatever the other providers of the listener may do', async () => {
    expect((await get('agent-bound', '/theirs/v1/x')).status).toBe(200);
    const before = upstreamSide();
    const only = await get('agent-bound', '/theirs/denied');
    await expectDenied(only, 'agent-bound', 'theirs', 'endpoint_not_allowed');
    await expectDenied(await get('agent-bound', '/others/v1/x'), 'agent-bound', 'others', 'profile_denied');
    await expectDenied(await get('agent-bound', '/others/denied'), 'agent-bound', 'others', 'profile_denied');
    // A host that does not exist would be 502 if it were so much as looked up.
    await expectDenied(await get('agent-bound', '/nowhere/v1/x'), 'agent-bound', 'nowhere', 'profile_denied');
    await expectDenied(await get('agent-bound', '/shared/v1/x'), 'agent-bound', '', 'unknown_provider');
    expect(upstreamSide()).toEqual(before);
    // It binds no other listener.
    expect((await get('agent-second', '/others/v1/x')).status).toBe(200);
  });

  test('the Host that a client sends has no part in it', async () => {
    for (const target of ['/others/v1/x', `http://localhost:${up.theirs.port}/others/v1/x`]) {
      const headers = { Host: `localhost:${up.theirs.port}`, 'X-Forwarded-Host': 'localhost' };
      const answer = await ask('agent-bound', { target, headers });
      const rawAbsolute = DENO && target.startsWith('http');
      const expected = rawAbsolute ? 'bad_target' : 'profile_denied';
      await expectDenied(answer, 'agent-bound', rawAbsolute ? '' : 'others', expected);
    }
    expect(upstreamSide().flat()).toEqual(Array(9).fill(0));
  });
});

test('each socket has the mode of its listener, and a directory to match', () => {
  const mode = (path: string) => (lstatSync(path).mode & 0o777).toString(8);
  const modes = Object.keys(LISTENERS).map((name) => {
    const path = proxy.socket(name);
    return `${name} ${mode(path)} in ${mode(dirname(path))}`;
  });
  expect(modes).toEqual([
    'agent-first 666 in 755',
    'agent-second 600 in 700',
    'agent-wide 600 in 700',
    'agent-mounted 660 in 755',
    'agent-bound 600 in 700',
  ]);
});

describe('TCP listeners with tokens', () => {
  const one = { Authorization: `Bearer ${secrets['token-one']}` };
  const two = { Authorization: `Bearer ${secrets['token-two']}` };

  test('each takes its own token, and answers that of the other like any wrong one', async () => {
    expect((await ask('tcp-one', { target: '/theirs/v1/x', headers: one })).status).toBe(200);
    expect((await ask('tcp-two', { target: '/others/v1/x', headers: two })).status).toBe(200);
    const served = upstreamSide();
    const wrong = makeCanary('token-one-');
    for (const target of ['/others/v1/x', '/theirs/v1/x', '/healthz', '/.well-known/isoproxy', '/nobody/x']) {
      for (const present of [
        (token: string) => ({ Authorization: `Bearer ${token}` }),
        (token: string) => ({ 'X-Api-Key': token }),
        (token: string) => ({
          'X-Api-Key': token,
          Authorization: `Bearer ${token}`,
          Host: `127.0.0.1:${tcpOne}`,
        }),
      ]) {
        const answer = await ask('tcp-two', { target, headers: present(secrets['token-one']) });
        const other = await ask('tcp-two', { target, headers: present(wrong) });
        expect([answer.status, comparable(answer)]).toEqual([401, comparable(other)]);
        await expectDenied(answer, 'tcp-two', '', 'client_unauthorized');
      }
    }
    expect(upstreamSide()).toEqual(served);
    assertClean(secrets['token-one'], proxy.visible());
  });

  test('the right token of one reaches its own providers and none of the unix or TCP listeners beside it', async () => {
    const before = upstreamSide();
    for (const provider of ['theirs', 'shared', 'nowhere']) {
      for (const suffix of ['', '/v1/x', '/denied']) {
        const answer = await ask('tcp-two', { target: `/${provider}${suffix}`, headers: two });
        const nobody = await ask('tcp-two', { target: `/nobody${suffix}`, headers: two });
        expect(comparable(answer)).toBe(comparable(nobody));
        await expectDenied(answer, 'tcp-two', '', 'unknown_provider');
      }
    }
    expect(upstreamSide()).toEqual(before);
    const known = await ask('tcp-two', { target: '/.well-known/isoproxy', headers: two });
    expect([known.json().listener, Object.keys(known.json().providers)]).toEqual(['tcp-two', ['others']]);
    for (const word of ['theirs', 'shared', 'agent-', 'tcp-one', proxy.workspace.dir])
      expect(known.text()).not.toContain(word);
  });

  test('a token opens nothing on a socket, and goes no further there', async () => {
    const answer = await ask('agent-second', { target: '/theirs/v1/x', headers: one });
    await expectDenied(answer, 'agent-second', '', 'unknown_provider');
    const headers = { ...one, 'X-Api-Key': secrets['token-one'] };
    expect((await ask('agent-second', { target: '/others/v1/x', headers })).status).toBe(200);
    const seen = up.others.requests.at(-1)!;
    assertClean(secrets['token-one'], { upstream: seen.rawHead });
    expect(seen.headerAll('x-api-key')).toEqual([secrets.others]);
  });
});

test('nothing that a sandbox was told, and nothing on record, names what is not its own', async () => {
  const told = Buffer.concat(heard).toString('latin1');
  expect(told.length).toBeGreaterThan(10_000);
  const ports = [up.theirs.port, tcpOne, tcpTwo].map((port) => `:${port}`);
  const names = [
    'theirs',
    'THEIRS',
    'agent-first',
    'agent-wide',
    'agent-bound',
    'tcp-one',
    'nowhere',
    'first-only',
  ];
  for (const word of [...names, ...ports, proxy.workspace.dir, 'isoproxy.sock', 'secrets/'])
    expect(`${word} ${told.includes(word)}`).toBe(`${word} false`);
  for (const secret of Object.values(secrets)) assertClean(secret, { told, ...proxy.visible() });
  for (const record of proxy.records()) {
    const own = parse(config(proxy.workspace.dir).toml) as {
      listeners: { name: string; providers: string[] }[];
    };
    const listener = own.listeners.find(({ name }) => name === record.listener);
    expect(['', ...(listener?.providers ?? [])]).toContain(record.provider);
  }
  for (const recorder of Object.values(up)) expect(recorder.problems).toEqual([]);
  expect(await proxy.stop()).toBe(0);
});
