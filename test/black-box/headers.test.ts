// Attack ids are explained in SECURITY.md. What a client writes into a header (or a query) can neither be, double, remove nor redirect a credential.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { join } from 'node:path';
import {
  CREDENTIAL_NAMES,
  HOP_BY_HOP,
  REMOVED_PREFIXES,
  ROUTING_NAMES,
} from '../../src/proxy/header-names.ts';
import { assertClean, makeCanary } from '../support/canary.ts';
import { type Isoproxy, recorderAt, simpleConfig, startIsoproxy } from '../support/isoproxy.ts';
import { connect, type RawResponse, request } from '../support/raw-client.ts';
import { type RecordedRequest, type Recorder, startRecorder } from '../support/recorder.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

const secrets = {
  api: makeCanary('api-'),
  bearer: makeCanary('bearer-'),
  basic: makeCanary('basic-'),
  // Bytes that a query must escape, and that a replacement pattern would read as one.
  inquery: `${makeCanary('q-')}&=+%/ $&$1`,
  pair: makeCanary('pair-'),
  pairQuery: makeCanary('pq-'),
  openai: makeCanary('sk-proj-'),
  google: makeCanary('AIza'),
  github: makeCanary('ghp_'),
};
const endpoints = [{ methods: ['GET', 'POST'], paths: ['/v1/x'] }];

/** Everything that came back to clients, for the last look. */
const answers: Buffer[] = [];
let up: Recorder;
let proxy: Isoproxy;

beforeAll(async () => {
  up = await startRecorder();
  proxy = await startIsoproxy((dir) => {
    const file = (name: keyof typeof secrets) => ({ file: join(dir, `secrets/${name}`) });
    const provider = (over: object) => ({
      ...recorderAt(dir, up.port),
      endpoints,
      ...over,
    });
    return simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary: secrets.api,
      endpoints,
      provider: {
        strip_headers: ['x-my-account'],
        headers: { 'X-Fixed': 'from the operator', 'x-version': '1' },
        default_headers: { 'x-default': 'of the operator', accept: 'application/json' },
      },
      listener: { providers: undefined },
      files: Object.fromEntries(Object.entries(secrets).map(([name, value]) => [`secrets/${name}`, value])),
      top: {
        providers: {
          bearer: provider({
            credential: { header: 'Authorization', format: 'Bearer {secret}', ...file('bearer') },
          }),
          basic: provider({ credential: { basic: 'robot', ...file('basic') } }),
          inquery: provider({
            credential: { query: 'key', ...file('inquery') },
            endpoints: [
              { methods: ['GET'], paths: ['/v1/x'] },
              { methods: ['GET'], paths: ['/v1/listed'], query: ['a', 'b'] },
            ],
          }),
          pair: provider({
            credential: [
              { header: 'x-app-key', ...file('pair') },
              { query: 'app_key', ...file('pairQuery') },
            ],
          }),
          none: provider({ credential: 'none' }),
          openai: provider({ preset: 'openai', credential: file('openai') }),
          google: provider({ preset: 'google', credential: file('google') }),
          github: provider({ preset: 'github', credential: file('github') }),
        },
      },
    });
  });
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});

/** Sends a GET with these header lines (CRLF is added), and gives what the upstream saw of it. */
async function pass(
  lines: string[],
  provider = 'api',
  target = '/v1/x',
): Promise<RecordedRequest & { answer: RawResponse }> {
  const before = up.requests.length;
  using client = await connect(proxy.socket());
  const host = lines.some((line) => /^host:/i.test(line)) ? [] : ['Host: x'];
  await client.send(`GET /${provider}${target} HTTP/1.1\r\n${[...host, ...lines].join('\r\n')}\r\n\r\n`);
  const answer = await client.response();
  answers.push(client.received());
  expect(answer.status).toBe(200);
  expect(up.requests).toHaveLength(before + 1);
  return Object.assign(up.requests.at(-1)!, { answer });
}

/** Header lines that the upstream saw, with lower-case names, but for those that the runtime makes. */
function seenHeaders(seen: RecordedRequest): Record<string, string> {
  const made = ['host', 'connection', 'accept-encoding'];
  return Object.fromEntries(
    seen.headers
      .map(([name, value]) => [name.toLowerCase(), value])
      .filter(([name]) => !made.includes(name!)),
  );
}

const title = (name: string) => name.replace(/(^|-)[a-z]/g, (text) => text.toUpperCase());
const twin = (name: string) => name.toUpperCase().replaceAll('-', '_');
const dotted = (name: string) => title(name).replaceAll('-', '.');

describe('H1 to H7 names that never go up', () => {
  const marker = 'marker-that-must-not-arrive';
  // Framing itself: only its twins can be sent without being the framing (framing.test.ts has the rest).
  const framing = ['transfer-encoding', 'content-length', 'host', 'expect'];
  const listed = [...HOP_BY_HOP, ...CREDENTIAL_NAMES, ...ROUTING_NAMES].filter(
    (name) => !framing.includes(name),
  );
  const prefixed = REMOVED_PREFIXES.flatMap((prefix) => [`${prefix}x`, `${prefix}authorization`]);
  const named = [...listed, ...prefixed, 'x-my-account', 'accept-encoding'];
  // The promised list by itself, so that a name lost from the code is missed here.
  const promised = [
    ...[
      'authorization',
      'proxy-authorization',
      'cookie',
      'x-api-key',
      'api-key',
      'x-goog-api-key',
      'private-token',
    ],
    ...['job-token', 'x-auth-token', 'x-auth-key', 'x-access-token', 'x-amz-security-token'],
    ...[
      'ocp-apim-subscription-key',
      'x-functions-key',
      'x-vault-token',
      'forwarded',
      'x-forwarded-for',
      'x-forwarded-host',
    ],
    ...[
      'x-forwarded-uri',
      'x-forwarded-proto',
      'x-real-ip',
      'x-original-url',
      'x-rewrite-url',
      'x-http-method-override',
    ],
    ...[
      'x-method-override',
      'proxy',
      'x-isoproxy-anything',
      'te',
      'trailer',
      'upgrade',
      'keep-alive',
      'connection',
    ],
  ];

  test.each([...new Set([...named, ...promised])].map((name) => [name]))(
    '%s goes up in no spelling',
    async (name) => {
      const before = up.connections.length;
      const seen = await pass(
        [name, title(name), twin(name), dotted(name)].map((spelling) => `${spelling}: ${marker}`),
      );
      expect(seen.rawHead.toString('latin1')).not.toContain(marker);
      expect(seen.headerAll('x-api-key')).toEqual([secrets.api]);
      expect(up.connections.length - before).toBeLessThanOrEqual(1);
    },
  );

  test.each(framing.map((name) => [name]))('the twins of %s go up in no spelling', async (name) => {
    const seen = await pass([
      `${title(name)
        .replaceAll('-', '_')
        .concat(name.includes('-') ? '' : '_')}: ${marker}`,
      ...(name.includes('-') ? [`${twin(name)}: ${marker}`, `${dotted(name)}: ${marker}`] : []),
    ]);
    // "Host_" and "Expect_" are names of their own: they may pass, but never as the header that they resemble.
    if (name.includes('-')) expect(seen.rawHead.toString('latin1')).not.toContain(marker);
    expect(seen.headerAll('host')).toEqual([`localhost:${up.port}`]);
    expect(seen.headerAll('expect')).toEqual([]);
  });

  test('H1 every placeholder of a client at once leaves exactly one credential line', async () => {
    const lines = [
      ...[
        'Authorization: Bearer evil',
        'AUTHORIZATION: b',
        'authorization: Basic ZXZpbDpldmls',
        'x-api-key: evil',
        'X-Api-Key: d',
      ],
      ...[
        'X-API-KEY: e',
        'x_api_key: f',
        'x.api.key: g',
        'Proxy-Authorization: h',
        'Cookie: evil=1',
        'api-key: i',
        'Api_Key: j',
      ],
    ];
    const seen = await pass(lines);
    expect(seenHeaders(seen)).toMatchObject({ 'x-api-key': secrets.api });
    expect(seen.headers.filter(([name]) => /key|auth|cookie/i.test(name))).toEqual([
      ['x-api-key', secrets.api],
    ]);
    const bearer = await pass(lines, 'bearer');
    expect(
      bearer.headers.filter(([name]) => /key|auth|cookie/i.test(name)).map(([, value]) => value),
    ).toEqual([`Bearer ${secrets.bearer}`]);
  });

  test('H1 a provider without a credential does not pass on the one of the client', async () => {
    const seen = await pass(['Authorization: Bearer mine', 'X-Api-Key: mine', 'Cookie: mine=1'], 'none');
    expect(seen.rawHead.toString('latin1')).not.toContain('mine');
  });

  test('H2 a twin of the injected name does not stand beside it', async () => {
    const seen = await pass(
      ['x_app_key: evil', 'X.App.Key: evil', 'X-APP_KEY: evil', 'x-app-key: evil'],
      'pair',
    );
    expect(seen.headers.filter(([name]) => /app.key/i.test(name))).toEqual([['x-app-key', secrets.pair]]);
  });
});

describe('H3 names that Connection nominates', () => {
  test.each<[string, string[]]>([
    [
      'in one line',
      [
        'Connection: close, x-api-key, authorization, content-length, host, transfer-encoding, accept-encoding',
      ],
    ],
    ['in several lines', ['Connection: x-api-key', 'connection: host', 'CONNECTION: keep-alive, X-API-KEY']],
    ['in other spellings', ['Connection: X_Api_Key, X.API.KEY, HOST']],
    ['with the headers of the operator', ['Connection: x-fixed, x-version, x-default, accept']],
    ['with nothing but commas', ['Connection: , ,, x-api-key ,']],
  ])('cannot remove what the proxy sets: %s', async (_, lines) => {
    const seen = await pass([...lines, 'X-Api-Key: evil']);
    expect(seen.headerAll('x-api-key')).toEqual([secrets.api]);
    expect(seen.headerAll('host')).toEqual([`localhost:${up.port}`]);
    expect(seen.headerAll('accept-encoding')).toEqual(['identity']);
    expect(seenHeaders(seen)).toMatchObject({
      'x-fixed': 'from the operator',
      'x-version': '1',
      'x-default': 'of the operator',
    });
    // Deno's fetch sends none, which in HTTP/1.1 means keep-alive.
    expect(seen.header('connection') ?? (DENO ? 'keep-alive' : '')).toMatch(/^(keep-alive|close)$/i);
  });

  test('cannot remove a bearer, a basic or a query credential', async () => {
    const lines = ['Connection: authorization, key', 'Authorization: evil'];
    expect((await pass(lines, 'bearer')).headerAll('authorization')).toEqual([`Bearer ${secrets.bearer}`]);
    const basic = `Basic ${Buffer.from(`robot:${secrets.basic}`).toString('base64')}`;
    expect((await pass(lines, 'basic')).headerAll('authorization')).toEqual([basic]);
    const query = await pass(lines, 'inquery');
    expect(new URLSearchParams(query.target.split('?')[1]).getAll('key')).toEqual([secrets.inquery]);
  });

  test('are removed when they are end-to-end otherwise, whatever their case', async () => {
    const seen = await pass([
      'Connection: X-Mine, x-other',
      'x-mine: 1',
      'X-OTHER: 2',
      'X-Stays: 3',
      'Connection: X_Third',
      'x-third: 4',
    ]);
    const { 'x-mine': mine, 'x-other': other, 'x-stays': stays, 'x-third': third } = seenHeaders(seen);
    expect([mine, other, stays, third]).toEqual([undefined, undefined, '3', undefined]);
  });

  test('cannot change the framing of a body', async () => {
    const before = up.requests.length;
    const answer = await request(proxy.socket(), {
      method: 'POST',
      target: '/api/v1/x',
      headers: {
        Connection: 'content-length, content-type, transfer-encoding',
        'Content-Type': 'text/plain',
      },
      body: 'hello',
    });
    expect(answer.status).toBe(200);
    const seen = up.requests[before]!;
    expect([seen.body.toString(), seen.headerAll('content-length')]).toEqual(['hello', ['5']]);
  });
});

test('H4 Host and SNI are those of the configuration, whatever Host the client sends', async () => {
  const before = up.connections.length;
  for (const host of ['evil.test', 'evil.test:443', 'LOCALHOST', '[::1]:1', '127.0.0.1'])
    expect((await pass([`Host: ${host}`])).headerAll('host')).toEqual([`localhost:${up.port}`]);
  const names = up.connections
    .slice(before > 0 ? before - 1 : 0)
    .map((connection) => connection.tls?.servername);
  expect(names.every((name) => name === 'localhost')).toBe(true);
});

describe('H8 account switches of presets', () => {
  test.each<[string, string[]]>([
    ['openai', ['OpenAI-Organization', 'OpenAI-Project', 'openai_organization', 'ChatGPT-Account-Id']],
    ['google', ['X-Goog-User-Project', 'x_goog_user_project', 'X-Goog-Quota-User']],
    ['github', ['X-GitHub-OTP', 'x_github_otp']],
  ])('do not go up with %s', async (provider, names) => {
    const seen = await pass(
      names.map((name) => `${name}: other`),
      provider,
    );
    expect(seen.rawHead.toString('latin1')).not.toContain('other');
  });
});

describe('H9 and end-to-end headers pass exactly', () => {
  test('values keep every byte: inner spaces, tabs, quotes, commas, bytes above ASCII, nothing', async () => {
    const sent: Record<string, string> = {
      'X-Spaces': 'a  b\t c',
      'X-Quotes': '"a,b", c; d="e"',
      'X-Latin': 'a\xe9\xff\x80b',
      'X-Utf8': 'a\xc3\xa9b',
      'X-Empty': '',
      'X-Symbols': "!#$&'*+-.^_`|~:/?[]@()<>{}\\%00%0d",
      X_Under_Score: 'kept',
      'X.Dot': 'kept',
      'X-Long': 'y'.repeat(8000),
      'User-Agent': 'client/1 (odd; agent)',
      'Content-Type': 'text/plain; charset=x',
      'Accept-Language': 'de;q=0.5, *',
      Range: `bytes=${'0-,'.repeat(500)}0-`,
      'If-Range': '"x"',
      'If-None-Match': 'W/"a", "b"',
      'Cache-Control': 'no-cache, max-age=0',
      'Anthropic-Version': '2023-06-01',
      'Anthropic-Beta': 'a,b',
      'Idempotency-Key': 'k-1',
      'X-Request-Id': 'mine',
      Traceparent: '00-1-2-00',
      'Content-Encoding': 'gzip',
      Referer: 'http://x/?y',
      'X-Stainless-Lang': 'js',
    };
    const seen = await pass(Object.entries(sent).map(([name, value]) => `${name}: ${value}`));
    const expected = Object.fromEntries(
      Object.entries(sent).map(([name, value]) => [name.toLowerCase(), value]),
    );
    expect(seenHeaders(seen)).toEqual({
      ...expected,
      accept: 'application/json',
      'x-fixed': 'from the operator',
      'x-version': '1',
      'x-default': 'of the operator',
      'x-api-key': secrets.api,
    });
  });

  test('repeated fields are joined in their order', async () => {
    const seen = await pass(['X-A: 1', 'x-a: 2', 'X-A: "3, 4"']);
    expect(seen.headerAll('x-a').join(', ')).toBe('1, 2, "3, 4"');
  });

  test('nothing is kept for a second client: each request goes up anew', async () => {
    const before = up.requests.length;
    for (let i = 0; i < 3; i++) await pass(['Cache-Control: max-age=9999', 'If-None-Match: "x"']);
    expect(up.requests.length).toBe(before + 3);
  });
});

describe('headers of the operator', () => {
  test('`headers` win over the client, also over its other spellings', async () => {
    const seen = await pass(['X-Fixed: evil', 'x_fixed: evil', 'X.Fixed: evil', 'X-Version: 2']);
    expect(
      seen.headers
        .filter(([name]) => /fixed|version/i.test(name))
        .map(([name, value]) => [name.toLowerCase(), value]),
    ).toEqual([
      ['x-fixed', 'from the operator'],
      ['x-version', '1'],
    ]);
  });

  test('`default_headers` are set only where the client sent none', async () => {
    expect(seenHeaders(await pass([]))).toMatchObject({
      'x-default': 'of the operator',
      accept: 'application/json',
    });
    expect(seenHeaders(await pass(['X-DEFAULT: mine', 'Accept: a/b']))).toMatchObject({
      'x-default': 'mine',
      accept: 'a/b',
    });
  });

  test('`strip_headers` go up in no spelling', async () => {
    const seen = await pass([
      'X-My-Account: evil',
      'x_my_account: evil',
      'X.MY.ACCOUNT: evil',
      'X-My-Accounts: mine',
    ]);
    expect(seen.rawHead.toString('latin1')).not.toContain('evil');
    expect(seen.header('x-my-accounts')).toBe('mine');
  });
});

describe('credentials by placement', () => {
  test('basic: user and secret in base64, once, and not the one of the client', async () => {
    const seen = await pass([`Authorization: Basic ${btoa('evil:evil')}`], 'basic');
    expect(seen.headerAll('authorization')).toEqual([
      `Basic ${Buffer.from(`robot:${secrets.basic}`).toString('base64')}`,
    ]);
  });

  test('two credentials of one provider arrive both, each in its place', async () => {
    const seen = await pass(['X-App-Key: evil'], 'pair', '/v1/x?app_key=evil&APP_KEY=evil&a=1');
    expect(seen.headerAll('x-app-key')).toEqual([secrets.pair]);
    expect(seen.target).toBe(`/v1/x?a=1&app_key=${encodeURIComponent(secrets.pairQuery)}`);
  });

  const mine = `key=${encodeURIComponent(secrets.inquery)}`;
  test.each<[string, string, string]>([
    ['no query', '', `?${mine}`],
    ['an empty query', '?', `?${mine}`],
    ['other parameters', '?a=1&b=%2F%20+x', `?a=1&b=%2F%20+x&${mine}`],
    ['the name', '?key=evil', `?${mine}`],
    ['the name in capitals', '?KEY=evil&a=1', `?a=1&${mine}`],
    ['the name, escaped', '?k%65y=evil&a=1', `?a=1&${mine}`],
    ['the name, escaped in capitals', '?%4BE%59=evil', `?${mine}`],
    ['the name without a value', '?a=1&key', `?a=1&${mine}`],
    ['the name with an empty value', '?key=&a=1', `?a=1&${mine}`],
    ['the name twice', '?key=evil&a=1&key=evil', `?a=1&${mine}`],
    ['the name behind a semicolon', '?a=1;key=evil', `?a=1&${mine}`],
    ['the name before a semicolon', '?key=evil;a=1', `?a=1&${mine}`],
    ['the name beside a broken escape', '?key=%zz&%zz=1', `?%zz=1&${mine}`],
    ['a longer name', '?keys=1&xkey=2', `?keys=1&xkey=2&${mine}`],
    ['the name as a value', '?a=key=1', `?a=key=1&${mine}`],
    ['empty parameters', '?&&a=1&', `?&&a=1&${mine}`],
  ])('query: a client that sends %s', async (_, query, expected) => {
    const seen = await pass([], 'inquery', `/v1/x${query}`);
    expect(seen.target).toBe(`/v1/x${expected}`);
    expect(new URLSearchParams(seen.target.split('?')[1]).getAll('key')).toEqual([secrets.inquery]);
  });

  test('query: the rule sees the parameters without the credential of the client', async () => {
    expect((await pass([], 'inquery', '/v1/listed?a=1&key=evil')).target).toBe(`/v1/listed?a=1&${mine}`);
    const refused = await request(proxy.socket(), { target: '/inquery/v1/listed?c=1' });
    expect([refused.status, refused.json().code]).toEqual([403, 'endpoint_not_allowed']);
  });

  test('query: the parameters of a preset are cut out in every spelling', async () => {
    const google = await pass(
      [],
      'google',
      '/v1/x?key=evil&%24httpMethod=DELETE&a=1&$httpHeaders=evil&ACCESS_TOKEN=evil',
    );
    expect([google.target, google.headerAll('x-goog-api-key')]).toEqual(['/v1/x?a=1', [secrets.google]]);
    const github = await pass([], 'github', '/v1/x?access_token=evil&Access%5FToken=evil&page=2');
    expect([github.target, github.headerAll('authorization').length]).toEqual(['/v1/x?page=2', 1]);
  });

  test('a header of the placement of another provider is not injected here', async () => {
    const seen = await pass([], 'basic');
    for (const [name, secret] of Object.entries(secrets))
      if (name !== 'basic') assertClean(secret, { [name]: Buffer.concat([seen.rawHead, seen.body]) });
  });
});

test('answers lose what is ours or of this hop, and keep the rest exactly', async () => {
  up.handle((_, connection) =>
    connection.reply(
      200,
      [
        ...([
          'Connection: x-nominated',
          'X-Nominated: evil',
          'Keep-Alive: evil',
          'Proxy-Authenticate: evil',
          'Upgrade: evil',
        ] as const),
        ...([
          'X-Isoproxy-Error: evil',
          'x_isoproxy_error: evil',
          'Alt-Svc: evil',
          'Set-Cookie: evil=1',
          'Trailer: evil',
        ] as const),
        ...([
          'ETag: "a  b"',
          'X-Latin: a\xe9\xff',
          'X-Empty:',
          'Link: <a>',
          'Link: <b>',
          'X-RateLimit-Left: 3',
        ] as const),
      ].map((line): [string, string] => [
        line.slice(0, line.indexOf(':')),
        line.slice(line.indexOf(':') + 1).trim(),
      ]),
      'ok',
    ),
  );
  const { answer } = await pass([]);
  up.reset();
  expect(answer.rawHead.toString('latin1')).not.toContain('evil');
  const kept = Object.fromEntries(answer.headers.map(([name, value]) => [name.toLowerCase(), value]));
  expect(kept).toMatchObject({
    etag: '"a  b"',
    'x-latin': 'a\xe9\xff',
    'x-empty': '',
    link: '<a>, <b>',
    'x-ratelimit-left': '3',
  });
});

test('a refusal carries no header of the client back, and no upstream sees it', async () => {
  const before = up.requests.length;
  const answer = await request(proxy.socket(), {
    target: '/api/v1/denied',
    headers: { 'X-Request-Id': 'mine-1', Cookie: 'mine=1', Accept: 'text/mine' },
  });
  expect([answer.status, answer.json().code]).toEqual([403, 'endpoint_not_allowed']);
  expect(Buffer.concat([answer.rawHead, answer.body]).toString('latin1')).not.toContain('mine');
  expect(up.requests.length).toBe(before);
  await pass([]);
  const id = answer.json().request_id;
  expect(await proxy.record((record) => record.request_id === id)).toMatchObject({
    decision: 'deny',
    status: 403,
  });
  expect(proxy.records().filter((record) => record.request_id === id)).toHaveLength(1);
});

test('no credential is in anything that clients, outputs or files have shown', async () => {
  expect(answers.length).toBeGreaterThan(100);
  const everything = { answers: Buffer.concat(answers), ...proxy.visible() };
  for (const secret of Object.values(secrets)) assertClean(secret, everything);
  for (const word of ['marker-that', 'evil', '?', 'key='])
    expect(JSON.stringify(proxy.records())).not.toContain(word);
  expect(await proxy.stop()).toBe(0);
});
