// Everything an upstream can do wrong: each fault ends in bounded time, visibly, with the right record, and leaves no trace.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { assertClean, makeCanary } from '../support/canary.ts';
import type { LeafKind } from '../support/certs.ts';
import { until } from '../support/deadline.ts';
import { freePort, type Isoproxy, recorderAt, simpleConfig, startIsoproxy } from '../support/isoproxy.ts';
import { connect, formatRequest, type RequestOptions, request } from '../support/raw-client.ts';
import { type Handler, type Recorder, type RecorderConnection, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(20_000);

const isDeno = process.env['ISOPROXY_RUNTIME'] === 'deno';
/** The reason of a cut for malformed chunks: Deno does not say what broke a body. */
const BROKEN_CHUNK = isDeno ? 'upstream_unreachable' : 'upstream_invalid';
const canary = makeCanary();
const LEAVES: LeafKind[] = ['expired', 'wrong-name', 'self-signed', 'unknown-ca'];
const KIB = 1024;

let up: Recorder;
/** By provider name. */
const others = new Map<string, Recorder>();
let proxy: Isoproxy;
let swap: Recorder;

beforeAll(async () => {
  up = await startRecorder();
  swap = await startRecorder();
  for (const leaf of LEAVES) others.set(leaf, await startRecorder({ tls: leaf }));
  others.set('plain', await startRecorder({ tls: false }));
  others.set(
    'chatty',
    await startRecorder({ onAccept: (socket) => socket.write('SSH-2.0-OpenSSH_9.2\r\n') || true }),
  );
  others.set('silent', await startRecorder({ onAccept: () => true }));
  others.set('slammed', await startRecorder({ onAccept: (socket) => socket.resetAndDestroy() }));
  others.set('closed', await startRecorder({ onAccept: (socket) => socket.end() }));
  const ports = new Map([...others].map(([name, recorder]): [string, number] => [name, recorder.port]));
  ports.set('down', await freePort());
  ports.set('swap', swap.port);
  const limits = {
    first_byte_timeout: '700ms',
    idle_timeout: '700ms',
    total_timeout: '1500ms',
    max_response_body: '256KiB',
  };
  proxy = await startIsoproxy((dir) => {
    const provider = (port: number) => ({
      ...recorderAt(dir, port),
      credential: { header: 'x-api-key', file: join(dir, 'secrets/api.key') },
      endpoints: [{ methods: ['*'], paths: ['/x'] }],
    });
    return simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      listener: { providers: undefined },
      limits,
      endpoints: [
        { methods: ['*'], paths: ['/x'] },
        { methods: ['*'], paths: ['/open'], unsafe_allow_unframed_response: true },
        ...(isDeno ? [] : [{ methods: ['*'], paths: ['/encoded'], unsafe_allow_encoded_response: true }]),
      ],
      top: { providers: Object.fromEntries([...ports].map(([name, port]) => [name, provider(port)])) },
    });
  });
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  for (const recorder of [up, swap, ...others.values()]) await recorder?.close();
});

interface Fault {
  /** Default `api`, whose upstream runs `handler`. */
  provider?: string;
  handler?: Handler;
  method?: string;
  path?: string;
  /** Expected status; several where HTTP leaves a choice. */
  status: number | number[];
  /** Expected code in the record, and on an own error in its header. */
  reason: string | string[];
  /** The head went out, and the body must be seen as broken. */
  cut?: boolean;
  /** The exact body, or of a cut one the most that may arrive. */
  body?: string | Buffer;
  /** Requests that may reach the upstream. */
  requests?: number;
  within?: number;
}

const raw = (bytes: string | Uint8Array, then?: (connection: RecorderConnection) => void): Handler => {
  return async (_, connection) => {
    await connection.write(bytes);
    then?.(connection);
  };
};
const hang: Handler = (_, connection) => connection.gone;
const end = (connection: RecorderConnection) => connection.end();
const cutTls = (connection: RecorderConnection) => connection.cut();
const reset = (connection: RecorderConnection) => connection.reset();
/** Writes one piece again and again until the peer leaves. */
const forever = (start: string, piece: string | Buffer, everyMs = 0): Handler => {
  return async (_, connection) => {
    await connection.write(start);
    let left = false;
    void connection.gone.then(() => (left = true));
    while (!left && (await connection.write(piece))) await new Promise((next) => setTimeout(next, everyMs));
  };
};
const OK = 'HTTP/1.1 200 OK\r\n';
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;

const faults: [string, Fault][] = [
  // Before a head.
  [
    'refuses the connection',
    { provider: 'down', status: 502, reason: 'upstream_unreachable', requests: 0, within: 500 },
  ],
  [
    'accepts and closes',
    {
      provider: 'closed',
      status: 502,
      reason: ['upstream_unreachable', 'upstream_tls'],
      requests: 0,
      within: 500,
    },
  ],
  [
    'accepts and resets',
    {
      provider: 'slammed',
      status: 502,
      reason: ['upstream_unreachable', 'upstream_tls'],
      requests: 0,
      within: 500,
    },
  ],
  ['accepts and says nothing', { provider: 'silent', status: 504, reason: 'upstream_timeout', requests: 0 }],
  [
    'speaks another protocol before TLS',
    { provider: 'chatty', status: 502, reason: 'upstream_tls', requests: 0, within: 500 },
  ],
  [
    'speaks plain HTTP on the TLS port',
    {
      provider: 'plain',
      status: [502, 504],
      reason: ['upstream_tls', 'upstream_unreachable', 'upstream_timeout'],
      requests: 0,
    },
  ],
  ...LEAVES.map((leaf): [string, Fault] => [
    `shows a certificate that is ${leaf}`,
    { provider: leaf, status: 502, reason: 'upstream_tls', requests: 0, within: 500 },
  ]),
  [
    'resets before the head',
    { handler: raw('', reset), status: 502, reason: 'upstream_unreachable', within: 500 },
  ],
  [
    'closes in order before the head',
    { handler: raw('', end), status: 502, reason: 'upstream_unreachable', within: 500 },
  ],
  [
    'cuts TLS before the head',
    { handler: raw('', cutTls), status: 502, reason: 'upstream_unreachable', within: 500 },
  ],
  ['hangs before the head', { handler: hang, status: 504, reason: 'upstream_timeout' }],
  [
    'hangs in the midst of the head',
    { handler: raw(`${OK}X-A: b\r\nX-`), status: 504, reason: 'upstream_timeout' },
  ],
  [
    'closes in the midst of the head',
    {
      handler: raw(`${OK}X-A: b\r\nX-`, end),
      status: 502,
      reason: ['upstream_unreachable', 'upstream_invalid'],
      within: 500,
    },
  ],
  [
    'resets in the midst of the head',
    {
      handler: raw(`${OK}X-A: b\r\nX-`, reset),
      status: 502,
      reason: ['upstream_unreachable', 'upstream_invalid'],
      within: 500,
    },
  ],
  [
    'drips its head, a line at a time',
    { handler: forever(OK, 'X-A: b\r\n', 50), status: 504, reason: 'upstream_timeout' },
  ],
  [
    'sends 1xx without end',
    {
      handler: forever('', 'HTTP/1.1 103 Early\r\nX-A: b\r\n\r\n', 1),
      status: [502, 504],
      reason: ['upstream_timeout', 'upstream_invalid'],
    },
  ],
  // A head that is none.
  ['sends garbage', { handler: raw(randomBytes(300)), status: 502, reason: 'upstream_invalid', within: 500 }],
  [
    'sends text that is no HTTP',
    { handler: raw('SSH-2.0-OpenSSH_9.2\r\n\r\n'), status: 502, reason: 'upstream_invalid', within: 500 },
  ],
  [
    'sends too little to be anything',
    { handler: raw('garbage\r\n\r\n'), status: [502, 504], reason: ['upstream_invalid', 'upstream_timeout'] },
  ],
  [
    'sends status 101 unasked',
    {
      handler: raw('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello'),
      status: 502,
      reason: 'upstream_invalid',
      within: 500,
    },
  ],
  ...['600 Six', '999 Nine', '099 Low', '000 Zero', '20 Short', '2000 Long', '-20 Minus', 'abc Text'].map(
    (line): [string, Fault] => [
      `sends status ${line}`,
      {
        handler: raw(`HTTP/1.1 ${line}\r\nContent-Length: 2\r\n\r\nhi`),
        status: 502,
        reason: 'upstream_invalid',
      },
    ],
  ),
  [
    'sends a head without end',
    {
      handler: forever(OK, `X-A: ${'v'.repeat(8000)}\r\n`),
      status: [502, 504],
      reason: ['upstream_invalid', 'upstream_timeout'],
    },
  ],
  [
    'sends 2,000 header fields',
    {
      handler: raw(
        `${OK}${Array.from({ length: 2000 }, (_, i) => `X-${i}: v\r\n`).join('')}Content-Length: 2\r\n\r\nhi`,
      ),
      status: 502,
      reason: 'upstream_invalid',
      within: 500,
    },
  ],
  [
    'sends NUL in a header',
    {
      handler: raw(`${OK}X-A: a\0b\r\nContent-Length: 2\r\n\r\nhi`),
      status: 502,
      reason: 'upstream_invalid',
      within: 500,
    },
  ],
  [
    'sends a header line without colon',
    {
      handler: raw(`${OK}nonsense\r\nContent-Length: 2\r\n\r\nhi`),
      status: 502,
      reason: 'upstream_invalid',
      within: 500,
    },
  ],
  [
    'sends a folded header',
    {
      handler: raw(`${OK}X-A: a\r\n b\r\nContent-Length: 2\r\n\r\nhi`),
      status: 502,
      reason: 'upstream_invalid',
      within: 500,
    },
  ],
  // Framing.
  [
    'sends two lengths that differ',
    {
      handler: raw(`${OK}Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!`),
      status: 502,
      reason: 'upstream_invalid',
    },
  ],
  ...['-1', '+2', '0x2', '2,3', 'two', '2 2', '99999999999999999999', ''].map((length): [string, Fault] => [
    `sends Content-Length ${JSON.stringify(length)}`,
    { handler: raw(`${OK}Content-Length: ${length}\r\n\r\nhi`), status: 502, reason: 'upstream_invalid' },
  ]),
  [
    'sends a length and chunks: the chunks count',
    {
      handler: raw(`${OK}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`),
      status: 200,
      reason: '',
      body: 'hi',
    },
  ],
  [
    'sends a coding besides chunked',
    {
      handler: raw(`${OK}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`),
      status: 502,
      reason: 'upstream_invalid',
    },
  ],
  [
    'sends a coding that is not chunked',
    { handler: raw(`${OK}Transfer-Encoding: gzip\r\n\r\nhi`, end), status: 502, reason: 'upstream_invalid' },
  ],
  [
    'sends a body that the close ends',
    { handler: raw(`${OK}X-A: b\r\n\r\nhello`, end), status: 502, reason: 'upstream_invalid' },
  ],
  [
    'answers in HTTP/1.0 with a body that the close ends',
    { handler: raw('HTTP/1.0 200 OK\r\n\r\nhello', end), status: 502, reason: 'upstream_invalid' },
  ],
  [
    'sends a body that the close ends, where that is allowed',
    { path: '/open', handler: raw(`${OK}X-A: b\r\n\r\nhello`, end), status: 200, reason: '', body: 'hello' },
  ],
  // In the body.
  [
    'sends less than its length and closes',
    {
      handler: raw(`${OK}Content-Length: 10\r\n\r\nhello`, end),
      // A small answer is read whole first, so that this can still be told as what it is.
      status: 502,
      reason: 'upstream_unreachable',
      within: 500,
    },
  ],
  [
    'sends less than its length and cuts TLS',
    {
      handler: raw(`${OK}Content-Length: 10\r\n\r\nhello`, cutTls),
      // A small answer is read whole first, so that this can still be told as what it is.
      status: 502,
      reason: 'upstream_unreachable',
      within: 500,
    },
  ],
  [
    'sends less than its length and hangs',
    {
      handler: raw(`${OK}Content-Length: 10\r\n\r\nhello`),
      // A small answer is read whole first, so that this can still be told as what it is.
      status: 504,
      reason: 'upstream_timeout',
    },
  ],
  [
    'sends more than its length',
    {
      handler: raw(`${OK}Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil`),
      status: 200,
      reason: '',
      body: 'hello',
    },
  ],
  [
    'closes between chunks without the last',
    {
      handler: raw(`${CHUNKED}5\r\nhello\r\n`, end),
      status: 200,
      reason: 'upstream_unreachable',
      cut: true,
      body: 'hello',
      within: 500,
    },
  ],
  [
    'cuts TLS between chunks',
    {
      handler: raw(`${CHUNKED}5\r\nhello\r\n`, cutTls),
      status: 200,
      reason: 'upstream_unreachable',
      cut: true,
      body: 'hello',
      within: 500,
    },
  ],
  [
    'resets in the midst of a chunk',
    {
      handler: raw(`${CHUNKED}5\r\nhello\r\n9\r\nwor`, reset),
      // A reset may overtake the bytes before it.
      status: [200, 502],
      reason: 'upstream_unreachable',
      cut: true,
      body: 'hellowor',
      within: 500,
    },
  ],
  [
    'hangs between chunks',
    {
      handler: raw(`${CHUNKED}5\r\nhello\r\n`),
      status: 200,
      reason: 'upstream_timeout',
      cut: true,
      body: 'hello',
    },
  ],
  [
    'hangs in the midst of the last chunk',
    {
      handler: raw(`${CHUNKED}5\r\nhello\r\n0\r\n`),
      status: 200,
      reason: 'upstream_timeout',
      cut: true,
      body: 'hello',
    },
  ],
  ...['g', '-5', '0x5', '5 5', 'fffffffffffffffff', ''].map((size): [string, Fault] => [
    `sends the chunk size ${JSON.stringify(size)}`,
    {
      handler: raw(`${CHUNKED}5\r\nhello\r\n${size}\r\nworld\r\n0\r\n\r\n`),
      status: [200, 502],
      reason: BROKEN_CHUNK,
      cut: true,
      body: 'hello',
      within: 500,
    },
  ]),
  [
    'sends a chunk longer than its size',
    {
      handler: raw(`${CHUNKED}5\r\nhello world\r\n0\r\n\r\n`),
      status: [200, 502],
      reason: BROKEN_CHUNK,
      cut: true,
      body: 'hello',
      within: 500,
    },
  ],
  [
    'drips its body past total_timeout',
    {
      handler: forever(CHUNKED, '1\r\nx\r\n', 100),
      status: 200,
      reason: 'upstream_timeout',
      cut: true,
      within: 2600,
    },
  ],
  // What it may not send.
  [
    'sends gzip that nobody asked for',
    {
      handler: (_, connection) => connection.reply(200, { 'Content-Encoding': 'gzip' }, gzipSync('hello')),
      status: 502,
      reason: 'upstream_invalid',
    },
  ],
  [
    'sends gzip in layers',
    {
      handler: (_, connection) =>
        connection.reply(200, { 'Content-Encoding': 'gzip, gzip' }, gzipSync(gzipSync('hello'))),
      status: 502,
      reason: 'upstream_invalid',
    },
  ],
  [
    'declares a body over the limit',
    {
      handler: raw(`${OK}Content-Length: 262145\r\n\r\n`),
      status: 502,
      reason: 'response_too_large',
      within: 500,
    },
  ],
  [
    'sends a body over the limit in chunks',
    {
      handler: forever(CHUNKED, `2000\r\n${'x'.repeat(0x2000)}\r\n`),
      status: 200,
      reason: 'response_too_large',
      cut: true,
      within: 1500,
    },
  ],
  // Statuses and methods without a body, sent with one.
  [
    'sends 204 with a body',
    {
      handler: raw('HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello'),
      status: [204, 502],
      reason: ['', 'upstream_invalid'],
    },
  ],
  [
    'sends 205 with a body',
    {
      handler: raw('HTTP/1.1 205 Reset\r\nContent-Length: 5\r\n\r\nhello'),
      status: [205, 502],
      reason: ['', 'upstream_invalid'],
    },
  ],
  [
    'sends 205 and a body without end',
    {
      handler: forever('HTTP/1.1 205 Reset\r\nTransfer-Encoding: chunked\r\n\r\n', '5\r\nhello\r\n', 20),
      status: [205, 502],
      reason: ['', 'upstream_invalid'],
    },
  ],
  [
    'answers HEAD with a body',
    {
      method: 'HEAD',
      handler: raw(`${OK}Content-Length: 5\r\n\r\nhello`),
      status: 200,
      reason: '',
      body: '',
    },
  ],
  [
    'redirects elsewhere',
    {
      handler: (_, connection) => connection.reply(307, { Location: 'http://127.0.0.1:1/x' }, 'moved'),
      status: 307,
      reason: '',
      body: 'moved',
    },
  ],
];
if (!isDeno) {
  const body = gzipSync('hello');
  faults.push([
    'sends gzip where that is allowed',
    {
      path: '/encoded',
      handler: (_, connection) => connection.reply(200, { 'Content-Encoding': 'gzip' }, body),
      status: 200,
      reason: '',
      body,
    },
  ]);
}

const anyOf = <T>(value: T | T[]): T[] => (Array.isArray(value) ? value : [value]);

/** Requests sent so far: each has one record, in the same order. */
let sent = 0;
function send(options: RequestOptions) {
  sent += 1;
  return request(proxy.socket(), options);
}
const lastRecord = async () => (await proxy.recordCount(sent))[sent - 1]!;

async function honest(): Promise<void> {
  up.handle((_, connection) => connection.reply(200, {}, 'honest'));
  const answer = await send({ method: 'POST', target: '/api/x', body: '{}' });
  expect((await lastRecord()).status).toBe(200);
  expect([answer.status, answer.text()]).toEqual([200, 'honest']);
}

describe('an upstream that', () => {
  test.each(faults)('%s', async (_, fault) => {
    await honest();
    const { provider = 'api', method = 'POST', path = '/x', within = 1600 } = fault;
    const upstream = others.get(provider) ?? up;
    const fds = proxy.fds();
    upstream.requests.length = upstream.connections.length = 0;
    if (fault.handler) up.handle(fault.handler);
    const started = performance.now();
    const answer = await send({
      method,
      target: `/${provider}${path}`,
      ...(method === 'POST' && { body: '{"a":1}' }),
    });
    const took = performance.now() - started;
    const record = await lastRecord();

    // A cut so early that the client saw no whole head is a cut as well.
    const torn = fault.cut === true && answer.status === 0;
    const status = torn ? record.status : answer.status;
    // A cut that comes with the first bytes may still be told as what it is.
    expect([...anyOf(fault.status), ...(fault.cut ? [502] : [])]).toContain(status);
    expect([record.reason, record.error, anyOf(fault.reason).includes(record.reason)]).toEqual([
      record.reason,
      record.error,
      true,
    ]);
    expect([record.status, record.decision, record.provider]).toEqual([status, 'allow', provider]);
    expect(took).toBeLessThan(within);
    const own = answer.header('x-isoproxy-error');
    if (answer.status >= 500 && record.reason !== '') {
      expect(own).toBe(record.reason);
      expect(answer.complete).toBe(true);
    } else {
      expect(own).toBeUndefined();
      expect(answer.complete).toBe(!fault.cut);
      const body = Buffer.from((fault.body ?? answer.body) as string);
      if (torn) expect(answer.complete).toBe(false);
      else if (fault.cut) expect(body.indexOf(answer.body)).toBe(0);
      else expect(answer.body.equals(body)).toBe(true);
    }
    expect(upstream.requests.length).toBe(fault.requests ?? 1);
    if (fault.requests === 0) expect(upstream.connections.every((seen) => seen.requests === 0)).toBe(true);

    await honest();
    // A broken connection is not kept, and nothing of it stays open; one idle one may be.
    await until(
      () => `descriptors back to ${fds}, not ${proxy.fds()}`,
      () => proxy.fds() <= fds + 1,
    );
    assertClean(canary, { answer: Buffer.concat([answer.rawHead, answer.rawBody]) });
  });

  test('changes to a bad certificate gets no further request', async () => {
    const post = () => send({ method: 'POST', target: '/swap/x', body: '{}' });
    expect((await post()).status).toBe(200);
    swap.showCertificate('expired');
    swap.dropConnections('fin');
    await until('the connection to close', () => swap.connections.every((seen) => seen.state === 'closed'));
    const before = swap.requests.length;
    const answer = await post();
    expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'upstream_tls']);
    expect(swap.requests.length).toBe(before);
    swap.showCertificate('good');
    expect((await post()).status).toBe(200);
  });

  test('dies while its connection is idle costs a POST at most an error, never a second delivery', async () => {
    await honest();
    up.requests.length = 0;
    up.handle((_, connection) => connection.reset());
    const answer = await send({ method: 'POST', target: '/api/x', body: '{}' });
    expect(answer.status).toBe(502);
    expect(up.requests.length).toBe(1);
    for (const method of ['PUT', 'PATCH', 'DELETE']) {
      await honest();
      up.requests.length = 0;
      up.handle((_, connection) => connection.reset());
      expect((await send({ method, target: '/api/x' })).status).toBe(502);
      expect([method, up.requests.length]).toEqual([method, 1]);
    }
  });

  test('sends more than its length poisons no later answer', async () => {
    const extra = `${OK}Content-Length: 2\r\n\r\nhi${OK}Content-Length: 4\r\nX-Evil: 1\r\n\r\nevil`;
    up.handle(async (_, connection) => {
      await connection.write(extra);
    });
    using client = await connect(proxy.socket());
    sent += 5;
    for (let i = 0; i < 5; i++) {
      await client.send(formatRequest({ target: '/api/x' }));
      const answer = await client.response();
      expect([answer.status, answer.text(), answer.header('x-evil')]).toEqual([200, 'hi', undefined]);
    }
  });

  test("breaks right after the head is the upstream's fault, never an internal error", async () => {
    for (const how of [end, cutTls, reset]) {
      up.handle(raw(`${OK}Content-Length: 10\r\n\r\nhello`, how));
      for (let i = 0; i < 40; i++) {
        await send({ method: 'POST', target: '/api/x', body: '{}' });
        expect((await lastRecord()).reason).toBe('upstream_unreachable');
      }
    }
  });

  test('faults leave memory as it was', async () => {
    const before = proxy.rss();
    up.handle(forever(OK, `X-A: ${'v'.repeat(60 * KIB)}\r\n`));
    await send({ method: 'POST', target: '/api/x', body: '{}' });
    expect(proxy.rss() - before).toBeLessThan(64 * KIB * KIB);
  });
});
