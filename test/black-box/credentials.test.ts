// Attack ids are explained in SECURITY.md. The credential goes to the one upstream it is meant for, by no other way, and into no text of ours.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import { testCerts } from '../support/certs.ts';
import { until } from '../support/deadline.ts';
import {
  type AccessRecord,
  createWorkspace,
  freePort,
  type Isoproxy,
  type RunResult,
  recorderAt,
  run,
  SECRET_FILE,
  type SimpleConfigOptions,
  simpleConfig,
  startIsoproxy,
  startSimple,
} from '../support/isoproxy.ts';
import { HIDDEN_REASON } from '../support/process.ts';
import { connect, type RawResponse, request } from '../support/raw-client.ts';
import { type Handler, type Recorder, startRecorder } from '../support/recorder.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

const canary = makeCanary();
/** Everything that came back to clients, for the last look. */
const answers: Buffer[] = [];
let up: Recorder;
/** A second origin that nobody configured. */
let second: Recorder;
let secondPlain: Recorder;
let proxy: Isoproxy;

const endpoints = ['POST /v1/messages', 'GET /v1/models/*', 'OPTIONS /v1/options'];
const options = (over: Partial<SimpleConfigOptions> = {}): SimpleConfigOptions => ({
  upstreamPort: up.port,
  ca: up.ca,
  canary,
  endpoints,
  ...over,
  top: { log: { level: 'debug' }, ...over.top },
});

beforeAll(async () => {
  [up, second, secondPlain] = await Promise.all([
    startRecorder(),
    startRecorder(),
    startRecorder({ tls: false }),
  ]);
  proxy = await startSimple(options());
  await works();
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await Promise.all([up, second, secondPlain].map((recorder) => recorder?.close()));
});

async function ask(of: Isoproxy = proxy, over: Parameters<typeof request>[1] = {}): Promise<RawResponse> {
  const answer = await request(of.socket(), { target: '/api/v1/models/a', ...over });
  answers.push(answer.rawHead, answer.rawBody);
  return answer;
}
const works = async (of: Isoproxy = proxy) => expect((await ask(of)).status).toBe(200);

const upstreamSide = () => ({ connections: up.connections.length, requests: up.requests.length });

function expectRefusal(answer: RawResponse, expected: string): void {
  expect(`${answer.status} ${answer.json().code}`).toBe(expected);
  expect(answer.header('x-isoproxy-error')).toBe(answer.json().code);
}

describe('C3 redirects', () => {
  const places: [string, () => string][] = [
    ['another origin', () => `https://localhost:${second.port}/v1/models/a`],
    ['the same host by address', () => `https://127.0.0.1:${second.port}/v1/models/a`],
    ['plain http', () => `http://localhost:${secondPlain.port}/v1/models/a`],
    ['a host without a scheme', () => `//localhost:${second.port}/v1/models/a`],
    ['a path of its own', () => '/v1/files'],
    ['a relative path', () => '../files'],
  ];
  for (const status of [301, 302, 303, 307, 308]) {
    test.each(places)(`a ${status} to %s passes through, and nobody follows it`, async (_, place) => {
      const before = up.requests.length;
      up.handle((_request, connection) => connection.reply(status, { Location: place() }, 'moved'));
      for (const method of ['GET', 'POST']) {
        const target = method === 'POST' ? '/api/v1/messages' : '/api/v1/models/a';
        const answer = await ask(proxy, { method, target, ...(method === 'POST' && { body: '{}' }) });
        expect([answer.status, answer.header('location'), answer.text()]).toEqual([status, place(), 'moved']);
      }
      up.reset();
      expect(before).toBeGreaterThanOrEqual(0);
      expect([second.connections.length, secondPlain.connections.length]).toEqual([0, 0]);
      await works();
      expect(up.requests.length).toBe(1);
    });
  }

  test('a Location that carries the credential is dropped, and other headers stay', async () => {
    up.handle((seen, connection) =>
      connection.reply(302, { Location: `https://evil.test/?k=${seen.header('x-api-key')}`, 'X-Kept': '1' }),
    );
    const answer = await ask();
    up.reset();
    expect([answer.status, answer.header('location'), answer.header('x-kept')]).toEqual([
      302,
      undefined,
      '1',
    ]);
  });

  test.each(['Refresh', 'Content-Location', 'Link', 'Alt-Svc'])(
    'a %s to another origin is not followed',
    async (name) => {
      up.handle((_, connection) =>
        connection.reply(200, { [name]: `0; url=https://localhost:${second.port}/` }, 'x'),
      );
      expect((await ask()).status).toBe(200);
      up.reset();
      expect(second.connections).toHaveLength(0);
    },
  );
});

describe('C4 methods that echo', () => {
  test('TRACE is refused, on every path', async () => {
    const before = upstreamSide();
    for (const target of ['/api/v1/messages', '/api/v1/models/a', '/', '/healthz', '/nobody']) {
      const answer = await ask(proxy, { method: 'TRACE', target });
      expectRefusal(answer, '405 method_not_supported');
      expect(answer.header('allow')).toBe('GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS');
    }
    expect(upstreamSide()).toEqual(before);
    await works();
  });

  test('OPTIONS is refused where it is not listed, and forwarded where it is', async () => {
    const before = upstreamSide();
    expectRefusal(await ask(proxy, { method: 'OPTIONS' }), '403 endpoint_not_allowed');
    expect(upstreamSide()).toEqual(before);
    expect((await ask(proxy, { method: 'OPTIONS', target: '/api/v1/options' })).status).toBe(200);
  });
});

describe('C5 the text of errors', () => {
  /** What an error text may not hold besides the credential: where we connect, what was asked, how we are built. */
  function expectConstant(answer: RawResponse, of: Isoproxy): void {
    const { request_id, ...body } = answer.json();
    const text = JSON.stringify(body);
    for (const word of [
      'localhost',
      '127.0.0.1',
      String(up.port),
      'models',
      of.workspace.dir,
      '.ts',
      '    at ',
      'ECONN',
      'ENOTFOUND',
      'bun',
      'fetch',
    ])
      expect(text.includes(word) && word).toBe(false);
    expect(request_id).toMatch(/^[0-9a-z-]{8,40}$/);
    texts.set(body.code, texts.get(body.code) ?? text);
    expect(text).toBe(texts.get(body.code)!);
    assertClean(canary, { answer: Buffer.concat([answer.rawHead, answer.rawBody]) });
  }
  /** What a record says of a failure: a phrase of ours or an error code, not the text of somebody else. */
  function expectFixed(record: AccessRecord): void {
    expect(record['error']).toMatch(/^[A-Za-z_ -]{1,60}$|^status outside 200-599$/);
    expect(record['error']).not.toMatch(/localhost|invalid$|canary/);
  }
  const texts = new Map<string, string>();

  const before: [string, Handler, string][] = [
    ['a reset before the head', (_, connection) => connection.reset(), '502 upstream_unreachable'],
    ['a cut before the head', (_, connection) => connection.cut(), '502 upstream_unreachable'],
    ['an end before the head', (_, connection) => connection.end(), '502 upstream_unreachable'],
    ['half a status line', (_, c) => c.write('HTTP/1.1 2').then(() => c.cut()), '502 upstream_unreachable'],
    [
      'half a head that holds the credential',
      (seen, c) => c.write(`HTTP/1.1 200 OK\r\nX: ${seen.header('x-api-key')}`).then(() => c.cut()),
      '502 upstream_unreachable',
    ],
    [
      'no HTTP',
      (seen, c) => c.write(`${seen.header('x-api-key')}\r\n\r\n`).then(() => c.end()),
      '502 upstream_invalid',
    ],
    [
      'a folded header with the credential',
      (seen, c) =>
        c
          .write(`HTTP/1.1 200 OK\r\nX: a\r\n ${seen.header('x-api-key')}\r\nContent-Length: 0\r\n\r\n`)
          .then(() => c.end()),
      '502 upstream_invalid',
    ],
    [
      'a bad length with the credential',
      (seen, c) =>
        c
          .write(`HTTP/1.1 200 OK\r\nContent-Length: ${seen.header('x-api-key')}\r\n\r\nx`)
          .then(() => c.end()),
      '502 upstream_invalid',
    ],
    [
      'a status of 999',
      (_, c) => c.write('HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n'),
      '502 upstream_invalid',
    ],
    [
      'a coding with the credential in it',
      (seen, c) => c.reply(200, { 'Content-Encoding': `gzip, ${seen.header('x-api-key')}` }, 'x'),
      '502 upstream_invalid',
    ],
    [
      'the credential in the body',
      (seen, c) => c.reply(500, {}, `bad key ${seen.header('x-api-key')}`),
      '502 credential_reflected',
    ],
    [
      'too large a body',
      (_, c) => c.reply(200, { 'Content-Length': '99999999999' }),
      '502 response_too_large',
    ],
    ['silence', (_, c) => c.gone, '504 upstream_timeout'],
  ];
  test.each(before)(
    '%s: fixed text, one record, no retry, nothing of the credential',
    async (_, handler, expected) => {
      await using slow = await startSimple(options({ limits: { first_byte_timeout: '300ms' } }));
      up.reset();
      up.handle(handler);
      const answer = await ask(slow, { method: 'POST', target: '/api/v1/messages', body: '{}' });
      const sent = up.requests.length;
      up.reset();
      expectRefusal(answer, expected);
      expectConstant(answer, slow);
      expect(sent).toBe(1);
      const [record] = await slow.recordCount(1);
      expect(record).toMatchObject({ reason: expected.split(' ')[1], decision: 'allow' });
      expectFixed(record!);
      await works(slow);
      expect(await slow.recordCount(2)).toHaveLength(2);
      assertClean(canary, slow.visible());
    },
  );

  const dead: [string, (dir: string) => Partial<SimpleConfigOptions>, string][] = [
    [
      'a name that does not resolve',
      () => ({ provider: { base_url: 'https://nowhere.invalid' } }),
      '502 upstream_unreachable',
    ],
    ['a port that is closed', () => ({ upstreamPort: 1 }), '502 upstream_unreachable'],
    [
      'a name that the certificate lacks',
      () => ({ provider: { base_url: `https://ip6-localhost.invalid:${up.port}` } }),
      '502 upstream_unreachable',
    ],
    ['a certificate of an unknown CA', () => ({ ca: otherCa }), '502 upstream_tls'],
  ];
  let otherCa = '';
  test.each(dead)('%s: fixed text, one record, nothing of the credential', async (_, over, expected) => {
    otherCa = (await testCerts()).otherCa;
    const before = up.requests.length;
    await using other = await startIsoproxy((dir) => simpleConfig(dir, options(over(dir))));
    const answer = await ask(other);
    expectRefusal(answer, expected);
    expectConstant(answer, other);
    expect(up.requests.length).toBe(before);
    expectFixed((await other.recordCount(1))[0]!);
    assertClean(canary, other.visible());
  });

  test.each(['expired', 'wrong-name', 'self-signed', 'unknown-ca'] as const)(
    'a certificate that is %s: 502 upstream_tls before a byte of the request',
    async (kind) => {
      await using bad = await startRecorder({ tls: kind });
      await using other = await startSimple(options({ upstreamPort: bad.port }));
      const answer = await ask(other);
      expectRefusal(answer, '502 upstream_tls');
      expectConstant(answer, other);
      expect([bad.connections.length > 0, bad.requests.length]).toEqual([true, 0]);
      expect(bad.connections.reduce((sum, { bytesIn }) => sum + bytesIn, 0)).toBe(0);
      bad.showCertificate('good');
      await works(other);
      assertClean(canary, other.visible());
    },
  );

  const handshakes: [string, (socket: Socket) => unknown, RegExp][] = [
    ['is reset', (socket) => socket.resetAndDestroy(), /^502 upstream_(tls|unreachable)$/],
    ['ends at once', (socket) => socket.end(), /^502 upstream_(tls|unreachable)$/],
    [
      'is answered in plain HTTP',
      (socket) => socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'),
      /^502 upstream_(tls|unreachable)$/,
    ],
    ['is never answered', () => {}, /^504 upstream_timeout$/],
  ];
  test.each(handshakes)(
    'a handshake that %s: fixed text, and nothing of the request',
    async (_, accept, expected) => {
      const received: (string | Uint8Array)[] = [];
      await using bad = await startRecorder({
        onAccept: (socket) => {
          socket.on('data', (bytes) => received.push(bytes));
          accept(socket);
          return true;
        },
      });
      await using other = await startSimple(
        options({ upstreamPort: bad.port, limits: { first_byte_timeout: '500ms' } }),
      );
      const answer = await ask(other);
      expect(`${answer.status} ${answer.json().code}`).toMatch(expected);
      expectConstant(answer, other);
      expect(bad.requests).toHaveLength(0);
      assertClean(canary, {
        ...other.visible(),
        wire: Buffer.concat(received.map((bytes) => Buffer.from(bytes as string))),
      });
    },
  );

  /** Writes a head and `part`, and breaks. */
  const breaking =
    (headers: Record<string, string>, end: (...args: Parameters<Handler>) => unknown): Handler =>
    async (seen, connection) => {
      await connection.head(200, headers);
      await connection.write(headers['Transfer-Encoding'] ? '4\r\npart\r\n' : 'part');
      await end(seen, connection);
    };
  const LENGTH = { 'Content-Length': '100' };
  const CHUNKED = { 'Transfer-Encoding': 'chunked' };
  const cuts: [string, Handler][] = [
    ['a reset', breaking(LENGTH, (_, c) => c.reset())],
    ['a short length', breaking(LENGTH, (_, c) => c.end())],
    ['a missing last chunk', breaking(CHUNKED, (_, c) => c.end())],
    [
      'a bad chunk that holds the credential',
      breaking(CHUNKED, (seen, c) => c.write(`${seen.header('x-api-key')}\r\n`)),
    ],
  ];
  test.each(cuts)('%s in the body is a broken body and no text', async (_, handler) => {
    up.reset();
    up.handle(handler);
    const answer = await ask();
    up.reset();
    // Before its head has gone out it may still be a 502; after that it is cut, be it within the head, and never looks whole.
    if (answer.status === 502) expectConstant(answer, proxy);
    else
      expect([answer.complete, answer.text()]).toEqual([
        false,
        expect.stringMatching(/^(HTTP\/1\.1 200 OK\r\n|part)?$/),
      ]);
    await works();
  });

  test('a credential that cannot be read any more: 503, fixed text, no connection', async () => {
    await using other = await startSimple(options());
    await works(other);
    other.workspace.write(SECRET_FILE, `${canary}\n${canary}`);
    const before = await until('the change to be noticed', async () => {
      const seen = upstreamSide();
      return (await ask(other)).status === 503 && seen;
    });
    const answer = await ask(other);
    expectRefusal(answer, '503 credential_unavailable');
    expectConstant(answer, other);
    expect(upstreamSide()).toEqual(before);
    assertClean(canary, other.visible());
    const next = makeCanary();
    other.workspace.write(SECRET_FILE, next);
    await until('the new credential', async () => (await ask(other)).status === 200);
    expect(up.requests.at(-1)!.headerAll('x-api-key')).toEqual([next]);
    assertClean(next, other.visible());
  });

  test.each<[string, string | undefined, RegExp]>([
    ['of two lines', `${canary}\nsecond`, /more than one line/],
    ['with a control byte', `${canary}\x07`, /control/],
    ['that is short', 'k3y-k3y', /shorter/],
    ['that is empty', '', /is empty/],
    ['that is a placeholder', 'your-api-key-goes-here', /placeholder/],
    ['that is no text', `${canary}\xff`, /control or non-ASCII/],
  ])('a credential %s is refused at start with 78, and not shown', async (_, secret, message) => {
    using workspace = createWorkspace();
    const { toml, files } = simpleConfig(workspace.dir, options({ canary: secret ?? '' }));
    for (const [name, content] of Object.entries(files)) workspace.write(name, content);
    const result = await run(['serve', '--config', workspace.write('proxy.toml', toml)], {
      dir: workspace.dir,
    });
    expect([result.code, result.stdout]).toEqual([78, '']);
    expect(result.stderr).toMatch(message);
    assertClean(canary, { stderr: result.stderr });
    if (secret) expect(result.stderr).not.toContain(secret);
  });

  test.each<[string, number]>([
    ['readable by all', 0o644],
    ['readable by its group', 0o640],
    ['writable by its group', 0o620],
  ])(
    'a credential file that is %s is refused at start with 78, unless it is root that owns a readable one',
    async (_, mode) => {
      using workspace = createWorkspace();
      const { toml, files } = simpleConfig(workspace.dir, options());
      for (const [name, content] of Object.entries(files)) workspace.write(name, content);
      workspace.write(SECRET_FILE, canary, mode);
      const config = workspace.write('proxy.toml', toml);
      const result = await run(['check', '--secrets', '--config', config], { dir: workspace.dir });
      const rootMayShare = mode === 0o640 && process.getuid?.() === 0;
      expect(result.code).toBe(rootMayShare ? 0 : 78);
      assertClean(canary, { stdout: result.stdout, stderr: result.stderr });
    },
  );
});

describe('C8 the environment', () => {
  /** A proxy, or anything else that accepts and only listens. */
  let trap: Server;
  let trapPort = 0;
  const trapped: (string | Uint8Array)[] = [];
  let trapConnections = 0;
  beforeAll(async () => {
    trap = createServer((socket) => {
      trapConnections++;
      socket.on('error', () => {}).on('data', (bytes) => trapped.push(bytes));
    });
    trapPort = await freePort();
    await new Promise<void>((done) => trap.listen(trapPort, '127.0.0.1', done));
  });
  afterAll(() => void trap.close());

  const url = () => `http://user:${canary}@127.0.0.1:${trapPort}`;
  const KEYLOG = join(tmpdir(), `isoproxy-never-made-${process.pid}.keylog`);
  const dropped: [string, () => Record<string, string>][] = [
    ['HTTPS_PROXY', () => ({ HTTPS_PROXY: url(), https_proxy: url() })],
    ['HTTP_PROXY', () => ({ HTTP_PROXY: url(), http_proxy: url() })],
    ['ALL_PROXY', () => ({ ALL_PROXY: url(), all_proxy: url(), NO_PROXY: 'x', no_proxy: 'x' })],
    ['npm proxies', () => ({ npm_config_https_proxy: url(), npm_config_proxy: url() })],
    ['SSLKEYLOGFILE', () => ({ SSLKEYLOGFILE: KEYLOG })],
    ['BUN_CONFIG_VERBOSE_FETCH', () => ({ BUN_CONFIG_VERBOSE_FETCH: 'curl' })],
    ['NODE_OPTIONS', () => ({ NODE_OPTIONS: '--require=/nowhere.js', NODE_DEBUG: 'http,tls,fetch,net' })],
    ['BUN_DEBUG', () => ({ BUN_DEBUG_QUIET_LOGS: '0', BUN_DEBUG: '1', BUN_JSC_useJIT: '1' })],
    ['a lower limit of requests', () => ({ BUN_CONFIG_MAX_HTTP_REQUESTS: '1' })],
    ['DENO_AUTH_TOKENS', () => ({ DENO_AUTH_TOKENS: `${canary}@localhost`, DENO_TLS_CA_STORE: 'system' })],
  ];
  if (!DENO)
    test.each(dropped)(
      `%s is dropped with one warning that names it, and changes nothing${HIDDEN_REASON ? ` (its environment not read: ${HIDDEN_REASON})` : ''}`,
      async (_, env) => {
        trapConnections = 0;
        await using other = await startSimple(options(), { env: env() });
        const before = up.requests.length;
        await works(other);
        expect([up.requests.length, trapConnections]).toEqual([before + 1, 0]);
        const warnings = other.child
          .stderr()
          .toString()
          .split('\n')
          .filter((line) => line.startsWith('isoproxy: warning: dropped'));
        const names = Object.keys(env()).filter((name) => !name.startsWith('npm_config_proxy'));
        expect(warnings).toHaveLength(1);
        for (const name of names) expect(warnings[0]).toContain(name);
        if (HIDDEN_REASON === undefined) {
          const left = readFileSync(`/proc/${other.child.pid}/environ`, 'latin1').split('\0');
          for (const name of names.filter((each) => each !== 'BUN_CONFIG_MAX_HTTP_REQUESTS'))
            expect(left.some((entry) => entry.startsWith(`${name}=`)) && name).toBe(false);
          expect(left).toContain('BUN_CONFIG_MAX_HTTP_REQUESTS=65535');
        }
        // One line per request and per event, and not what a runtime prints about a request.
        const odd = other.child
          .stderr()
          .toString()
          .split('\n')
          .filter((line) => line && !line.startsWith('{') && !line.startsWith('isoproxy: '));
        expect(odd).toEqual([]);
        assertClean(canary, other.visible());
        expect(existsSync(KEYLOG)).toBe(false);
      },
    );

  const trust: [string, () => Record<string, string>][] = [
    ['NODE_TLS_REJECT_UNAUTHORIZED=0', () => ({ NODE_TLS_REJECT_UNAUTHORIZED: '0' })],
    ['NODE_EXTRA_CA_CERTS', () => ({ NODE_EXTRA_CA_CERTS: 'CA' })],
    ['SSL_CERT_FILE', () => ({ SSL_CERT_FILE: 'CA', SSL_CERT_DIR: '/etc/ssl/certs' })],
    ['NODE_USE_SYSTEM_CA', () => ({ NODE_USE_SYSTEM_CA: '1', SSL_CERT_FILE: 'CA' })],
  ];
  if (!DENO)
    describe.each(trust)('%s', (_, env) => {
      // With and without a CA of the configuration: the built-in set must hold as well.
      test.each([
        ['with ca_file', {}],
        ['with the built-in CA set', { ca_file: undefined }],
      ])('makes no certificate good, %s', async (__, provider) => {
        await using bad = await startRecorder({ tls: 'unknown-ca' });
        using workspace = createWorkspace();
        const ca = workspace.write('trust/other-ca.pem', (await testCerts()).otherCa);
        const vars = Object.fromEntries(
          Object.entries(env()).map(([name, value]) => [name, value === 'CA' ? ca : value]),
        );
        await using other = await startSimple(options({ upstreamPort: bad.port, provider }), {
          workspace,
          env: vars,
        });
        expectRefusal(await ask(other), '502 upstream_tls');
        expect(bad.requests).toHaveLength(0);
        expect(
          other.child
            .stderr()
            .toString()
            .match(/warning: dropped/g),
        ).toHaveLength(1);
      });
    });

  const refusals: [string, Record<string, string>][] = [
    ['BUN_OPTIONS', { BUN_OPTIONS: '--smol' }],
    ['BUN_OPTIONS, empty', { BUN_OPTIONS: ' ' }],
    ['BUN_INSPECT', { BUN_INSPECT: '127.0.0.1:0' }],
    ['BUN_INSPECT_CONNECT_TO', { BUN_INSPECT_CONNECT_TO: 'unix:///nowhere' }],
    ['BUN_INSPECT_PRELOAD', { BUN_INSPECT_PRELOAD: '/nowhere.ts' }],
    ['BUN_INSPECT_NOTIFY', { BUN_INSPECT_NOTIFY: 'unix:///nowhere' }],
  ];
  if (!DENO)
    test.each(refusals)(
      '%s is refused with 78, before a secret is read or a socket is made',
      async (_, env) => {
        using workspace = createWorkspace();
        const { toml, files } = simpleConfig(workspace.dir, options());
        for (const [name, content] of Object.entries(files)) workspace.write(name, content);
        const config = workspace.write('proxy.toml', toml);
        const result: RunResult = await run(['serve', '--config', config], { dir: workspace.dir, env });
        expect([result.code, existsSync(workspace.path('agent-1'))]).toEqual([78, false]);
        expect(result.stderr).toContain(Object.keys(env)[0]!);
        assertClean(canary, { stderr: result.stderr, stdout: result.stdout });
      },
    );

  if (!DENO)
    test('BUN_BE_BUN does not serve: the program is then not isoproxy at all', async () => {
      using workspace = createWorkspace();
      const { toml, files } = simpleConfig(workspace.dir, options());
      for (const [name, content] of Object.entries(files)) workspace.write(name, content);
      const config = workspace.write('proxy.toml', toml);
      const result = await run(['serve', '--config', config], {
        dir: workspace.dir,
        env: { BUN_BE_BUN: '1' },
      });
      expect(result.code).not.toBe(0);
      expect(existsSync(workspace.path('agent-1'))).toBe(false);
      assertClean(canary, { stderr: result.stderr, stdout: result.stdout });
    });

  if (DENO)
    test.each([...dropped, ...trust])('%s is refused with 78: Deno would obey it', async (_, env) => {
      using workspace = createWorkspace();
      const { toml, files } = simpleConfig(workspace.dir, options());
      for (const [name, content] of Object.entries(files)) workspace.write(name, content);
      const config = workspace.write('proxy.toml', toml);
      const result = await run(['serve', '--config', config], { dir: workspace.dir, env: env() });
      expect([result.code, existsSync(workspace.path('agent-1'))]).toEqual([78, false]);
      assertClean(canary, { stderr: result.stderr, stdout: result.stdout });
    });

  test('a hostile working directory and a hostile home change nothing', async () => {
    using hostile = createWorkspace();
    const mark = hostile.path('preload-ran');
    const preload = hostile.write(
      'evil.ts',
      `require('node:fs').writeFileSync(${JSON.stringify(mark)}, 'x');\n`,
      0o644,
    );
    const bunfig = `preload = ["${preload}"]\n[run]\npreload = ["${preload}"]\n[serve]\nport = ${trapPort}\n[install]\nregistry = "http://127.0.0.1:${trapPort}"\n`;
    const dotenv = `HTTPS_PROXY=${url()}\nhttps_proxy=${url()}\nNODE_TLS_REJECT_UNAUTHORIZED=0\nBUN_CONFIG_VERBOSE_FETCH=curl\nISOPROXY_CONFIG=${hostile.path('proxy.toml')}\nPORT=1\n`;
    for (const name of ['.env', '.env.local', '.env.production', '.env.development', '.env.test'])
      hostile.write(name, dotenv, 0o644);
    for (const name of ['bunfig.toml', '.bunfig.toml', 'home/.bunfig.toml', 'home/.config/.bunfig.toml'])
      hostile.write(name, bunfig, 0o644);
    hostile.write(
      'tsconfig.json',
      JSON.stringify({ compilerOptions: { paths: { hono: [preload], '*': [preload] }, baseUrl: '.' } }),
      0o644,
    );
    hostile.write(
      'package.json',
      JSON.stringify({ type: 'commonjs', imports: { hono: './evil.ts' }, main: 'evil.ts' }),
      0o644,
    );
    hostile.write(
      'deno.json',
      JSON.stringify({ imports: { hono: './evil.ts' }, preload: ['./evil.ts'] }),
      0o644,
    );
    for (const module of ['hono', 'valibot', 'smol-toml', 'undici', 'ws'])
      hostile.write(`node_modules/${module}/index.js`, readFileSync(preload, 'utf8'), 0o644);
    hostile.write('proxy.toml', 'this is no configuration', 0o600);
    mkdirSync(hostile.path('home'), { recursive: true });
    trapConnections = 0;
    await using other = await startSimple(options(), {
      cwd: hostile.dir,
      env: { HOME: hostile.path('home'), XDG_CONFIG_HOME: hostile.path('home/.config') },
    });
    await works(other);
    expect([existsSync(mark), trapConnections]).toEqual([false, 0]);
    expect(other.child.stderr().toString()).not.toContain('dropped');
    expect(
      other.child
        .stderr()
        .toString()
        .split('\n')
        .filter((line) => line && !line.startsWith('{')),
    ).toEqual([]);
    await using bad = await startRecorder({ tls: 'self-signed' });
    await using strict = await startSimple(options({ upstreamPort: bad.port }), { cwd: hostile.dir });
    expectRefusal(await ask(strict), '502 upstream_tls');
    // Without --config, the one in the working directory is not even looked at.
    const found = await run(['check'], {
      dir: hostile.path('home'),
      cwd: hostile.dir,
      env: { XDG_CONFIG_HOME: hostile.path('home/nowhere') },
    });
    expect(found.code).toBe(78);
    expect(found.stderr).not.toContain(hostile.path('proxy.toml'));
    assertClean(canary, other.visible());
  });

  test('nothing ever came to the port to which the variables point', () => {
    expect(trapped).toEqual([]);
  });
});

describe('C9 two providers on one upstream address', () => {
  test('never mix their credentials, on whatever connections they share', async () => {
    const others = { two: makeCanary('two-'), three: makeCanary('three-') };
    await using mixed = await startIsoproxy((dir) => {
      const provider = (credential: unknown) => ({
        ...recorderAt(dir, up.port),
        credential,
        endpoints: [{ methods: ['GET', 'POST'], paths: ['/v1/models/*'] }],
      });
      return simpleConfig(
        dir,
        options({
          endpoints: [{ methods: ['GET', 'POST'], paths: ['/v1/models/*'] }],
          listener: { providers: undefined },
          files: { 'secrets/two': others.two, 'secrets/three': others.three },
          top: {
            providers: {
              two: provider({ header: 'x-api-key', file: join(dir, 'secrets/two') }),
              three: provider({
                header: 'authorization',
                format: 'Bearer {secret}',
                file: join(dir, 'secrets/three'),
              }),
              four: provider('none'),
            },
          },
        }),
      );
    });
    up.reset();
    const providers = ['api', 'two', 'three', 'four'];
    await Promise.all(
      Array.from({ length: 240 }, async (_, i) => {
        const target = `/${providers[i % 4]}/v1/models/${providers[i % 4]}-${i}`;
        const body = i % 3 === 0 ? { method: 'POST', body: 'x'.repeat(i * 10) } : {};
        expect((await request(mixed.socket(), { target, ...body })).status).toBe(200);
      }),
    );
    expect(up.requests).toHaveLength(240);
    const expected: Record<string, string[][]> = {
      api: [[canary], []],
      two: [[others.two], []],
      three: [[], [`Bearer ${others.three}`]],
      four: [[], []],
    };
    for (const seen of up.requests) {
      const provider = /models\/([a-z]+)-/.exec(seen.target)![1]!;
      expect([seen.headerAll('x-api-key'), seen.headerAll('authorization')]).toEqual(expected[provider]!);
    }
    // The runtime speaks HTTP/1.1 alone: no connection is shared by coalescing.
    expect(new Set(up.connections.map(({ tls }) => tls?.alpn))).not.toContain('h2');
    for (const secret of [canary, ...Object.values(others)]) assertClean(secret, mixed.visible());
  });
});

describe('C11 the token of a client', () => {
  test('a wrong token gets the same text however near it is, and is never an error of ours', async () => {
    const token = makeCanary('token-');
    const port = await freePort();
    await using tcp = await startIsoproxy((dir) =>
      simpleConfig(
        dir,
        options({
          listener: {
            name: 'tcp-1',
            socket: undefined,
            tcp: `127.0.0.1:${port}`,
            token: { file: join(dir, 'secrets/token') },
          },
          files: { 'secrets/token': token },
        }),
      ),
    );
    const wrong = [
      ...Array.from({ length: token.length }, (_, i) => token.slice(0, i)),
      `${token}x`,
      token + token,
      token.toUpperCase(),
      [...token].reverse().join(''),
      `${token.slice(0, -1)}\xff`,
      'x'.repeat(token.length),
      'x'.repeat(8000),
    ];
    const texts = new Set<string>();
    for (const [i, value] of wrong.entries()) {
      const headers = i % 2 ? { 'X-Api-Key': value } : { Authorization: `Bearer ${value}` };
      const answer = await request({ port }, { target: '/api/v1/models/a', headers });
      const { request_id, ...body } = answer.json();
      expect(request_id).toBeString();
      texts.add(
        JSON.stringify([answer.status, body, answer.headers.map(([name]) => name.toLowerCase()).sort()]),
      );
    }
    expect([...texts]).toHaveLength(1);
    expect([...texts][0]).toContain('client_unauthorized');
    assertClean(token, { ...tcp.visible(), texts: [...texts].join() });
    await tcp.recordCount(wrong.length);
    expect(tcp.records().every(({ decision, status }) => decision === 'deny' && status === 401)).toBe(true);
  });

  // A statistical test of the timing would be a flaky one on a shared machine: the code is looked at instead.
  test('tokens are compared as digests in constant time, and by nothing else', () => {
    const read = (name: string) => readFileSync(join(import.meta.dir, '../../src', name), 'utf8');
    const secret = read('credentials/secret.ts');
    expect(secret).toMatch(/this\.#digest \?\?= digest\(this\.#value\)/);
    expect(secret).toMatch(/timingSafeEqual\(digest\(text\), this\.#digest\)/);
    expect(secret).toMatch(/return hash\('sha256', text, 'buffer'\);/);
    const check = read('proxy/client-check.ts');
    expect(check).toMatch(/presented\.some\(\(value\) => value !== null && token\.isValue\(value\)\)/);
    expect(check).not.toMatch(/reveal\(\)|equals\(/);
  });
});

test('the credential is in nothing that clients, outputs or files have shown', async () => {
  using client = await connect(proxy.socket());
  await client.send('GET /api/v1/models/a HTTP/1.1\r\nHost: x\r\n\r\n');
  expect((await client.response()).status).toBe(200);
  expect([second.connections.length, secondPlain.connections.length]).toEqual([0, 0]);
  expect(answers.length).toBeGreaterThan(100);
  assertClean(canary, { answers: Buffer.concat(answers), ...proxy.visible() });
  expect(await proxy.stop()).toBe(0);
});
