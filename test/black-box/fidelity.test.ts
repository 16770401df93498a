// What is forwarded is forwarded as it came and as it arrives, both ways: bytes, values, order in time.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { randomBytes } from 'node:crypto';
import { makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import { type Isoproxy, recorderAt, simpleConfig, startIsoproxy } from '../support/isoproxy.ts';
import { connect, formatRequest, type RequestOptions, request } from '../support/raw-client.ts';
import {
  type RecordedRequest,
  type Recorder,
  type RecorderConnection,
  startRecorder,
} from '../support/recorder.ts';

setDefaultTimeout(20_000);

const canary = makeCanary();
let up: Recorder;
let proxy: Isoproxy;
/** Called at the head of a request, before its body is read. */
let atHead: ((request: RecordedRequest, connection: RecorderConnection) => unknown) | undefined;

beforeAll(async () => {
  up = await startRecorder({ onHead: (seen, connection) => atHead?.(seen, connection) });
  const endpoints = [{ methods: ['*'], paths: ['/x/*'] }];
  proxy = await startIsoproxy((dir) =>
    simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      endpoints,
      listener: { providers: ['api', 'cookies'] },
      // The first byte is due long before an idle stream is over.
      limits: { first_byte_timeout: '1s', idle_timeout: '8s' },
      top: {
        providers: {
          cookies: {
            ...recorderAt(dir, up.port),
            credential: 'none',
            endpoints,
            allow_set_cookie: true,
          },
        },
      },
    }),
  );
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});
afterEach(() => {
  const { problems } = up;
  const wrong = [...problems];
  atHead = undefined;
  up.reset();
  expect(wrong).toEqual([]);
});

/** One request through the proxy, its answer, and what the upstream saw of it. */
async function send(options: RequestOptions) {
  up.requests.length = 0;
  const answer = await request(proxy.socket(), { target: '/api/x/y', ...options });
  expect(up.requests.length).toBe(1);
  return { answer, seen: up.requests[0]! };
}

function inChunks(body: Buffer, sizes: number[]): Buffer {
  const parts: Buffer[] = [];
  let at = 0;
  for (let i = 0; at < body.length; i++) {
    const part = body.subarray(at, at + sizes[i % sizes.length]!);
    parts.push(Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from('\r\n'));
    at += part.length;
  }
  return Buffer.concat([...parts, Buffer.from('0\r\n\r\n')]);
}

const KIB64 = 64 * 1024;
const everyByte = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const bodies: [string, Buffer][] = [
  ['JSON with duplicate keys', Buffer.from('{"a":1,"a":2,"b":{"a":3,"a":4}}')],
  ['JSON numbers in odd spellings', Buffer.from('{"n":1e2,"m":1.0,"big":12345678901234567890,"z":-0.0}')],
  ['JSON with odd white space and a BOM', Buffer.from('\ufeff{\r\n\t"a" :  1 ,\n\n"b":\t2}\r\n\0 ')],
  ['UTF-8 of four bytes and escaped surrogates', Buffer.from('{"s":"\u{1f600}\\ud83d\\ude00\u00e9"}')],
  ['bytes that are no UTF-8', Buffer.from([0xff, 0xfe, 0xc0, 0x80, 0xed, 0xa0, 0x80])],
  ['every byte', everyByte],
  ['what looks like chunked framing', Buffer.from('5\r\nhello\r\n0\r\n\r\n')],
  ['one byte', Buffer.from('x')],
  ['64 KiB less one', randomBytes(KIB64 - 1)],
  ['64 KiB', randomBytes(KIB64)],
  ['64 KiB and one', randomBytes(KIB64 + 1)],
  ['1 MiB', randomBytes(1 << 20)],
];

describe('request bodies reach the upstream byte for byte', () => {
  test.each(bodies)('%s, by length', async (_, body) => {
    const { answer, seen } = await send({ method: 'POST', body });
    expect([answer.status, seen.state]).toEqual([200, 'complete']);
    expect(seen.body.equals(body)).toBe(true);
    expect([seen.headerAll('content-length'), seen.headerAll('transfer-encoding')]).toEqual([
      [String(body.length)],
      [],
    ]);
  });

  test.each(bodies)('%s, in chunks of odd sizes', async (_, body) => {
    const { answer, seen } = await send({
      method: 'POST',
      headers: { 'Transfer-Encoding': 'chunked' },
      body: inChunks(body, [1, 7, 4096, 3, 60_000]),
    });
    expect([answer.status, seen.state]).toEqual([200, 'complete']);
    expect(seen.body.equals(body)).toBe(true);
    expect(seen.headerAll('content-length').length + seen.headerAll('transfer-encoding').length).toBe(1);
  });

  test.each(['PUT', 'PATCH', 'DELETE', 'OPTIONS'])(
    '%s with a body, by length and in chunks',
    async (method) => {
      for (const [name, body] of bodies.slice(-4)) {
        const whole = await send({ method, body });
        expect([name, whole.answer.status, whole.seen.method]).toEqual([name, 200, method]);
        expect(whole.seen.body.equals(body)).toBe(true);
        expect(whole.seen.headerAll('content-length')).toEqual([String(body.length)]);
        const chunked = await send({
          method,
          headers: { 'Transfer-Encoding': 'chunked' },
          body: inChunks(body, [50_000]),
        });
        expect([name, chunked.answer.status]).toEqual([name, 200]);
        expect(chunked.seen.body.equals(body)).toBe(true);
      }
    },
  );

  test.each(['POST', 'PUT', 'PATCH'])('%s with an empty body, by length and in chunks', async (method) => {
    const empty = await send({ method, body: '' });
    expect([empty.answer.status, empty.seen.bodyBytes, empty.seen.state]).toEqual([200, 0, 'complete']);
    const chunked = await send({ method, headers: { 'Transfer-Encoding': 'chunked' }, body: '0\r\n\r\n' });
    expect([chunked.answer.status, chunked.seen.bodyBytes, chunked.seen.state]).toEqual([200, 0, 'complete']);
  });

  test('a client that leaves in the midst of its body is no complete request upstream', async () => {
    for (const headers of [{ 'Content-Length': '200000' }, { 'Transfer-Encoding': 'chunked' }]) {
      up.requests.length = 0;
      using client = await connect(proxy.socket());
      const part = 'Content-Length' in headers ? 'x'.repeat(100_000) : `186a0\r\n${'x'.repeat(100_000)}\r\n`;
      await client.send(formatRequest({ method: 'POST', target: '/api/x/y', headers, body: part }));
      const seen = await up.request((seen) => seen.bodyBytes === 100_000);
      client.close();
      await until('the upstream to see the cut', () => seen.state !== 'reading');
      expect(seen.state).toBe('cut');
    }
    // The recorder counts a cut chunk as malformed or cut, depending on where it ends.
    up.problems.length = 0;
  });

  test('a body goes up while it arrives', async () => {
    using client = await connect(proxy.socket());
    await client.send('POST /api/x/y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n');
    for (let i = 1; i <= 5; i++) {
      await client.send('3\r\nabc\r\n');
      await until(`piece ${i} upstream`, () => up.requests[0]?.bodyBytes === i * 3);
    }
    await client.send('0\r\n\r\n');
    expect((await client.response()).status).toBe(200);
  });
});

describe('methods and targets', () => {
  test.each(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])(
    '%s keeps its name',
    async (method) => {
      const { answer, seen } = await send({ method });
      expect([answer.status, seen.method, seen.target, seen.bodyBytes]).toEqual([200, method, '/x/y', 0]);
      expect((await proxy.record((record) => record.method === method)).decision).toBe('allow');
    },
  );

  const queries = [
    '?a=1&b=2&a=3',
    '?b=2&a=1',
    '?',
    '?&',
    '?&&a=1&&',
    '?=',
    '?a',
    '?a=',
    '?=b',
    '?a=+&b=%20',
    '?b=%2B%26%3D%3F%23',
    '?q=%E2%82%AC&r=%e2%82%ac',
    '?q=a/b?c:d@e!f$g(h)*i,j;k',
    '?a[]=1&a[]=2&b%5B%5D=3',
    '?%61=%7E~',
    '?q=a%2fb%2Fc',
    '?a=1&a=1&a=1',
    '?path=../../x&u=https://other.example//y',
    `?long=${'v'.repeat(4000)}`,
  ];
  test.each(queries.map((query) => [query]))('the query %p is kept to the byte', async (query) => {
    const { answer, seen } = await send({ target: `/api/x/y${query}` });
    expect([answer.status, seen.target]).toEqual([200, `/x/y${query}`]);
  });

  const paths = [
    '/x/a%20b',
    '/x/~a.b-c_d',
    '/x/a;v=1,2',
    '/x/@u:1',
    '/x/%E2%82%AC',
    '/x/%e2%82%ac',
    "/x/!$&()*+,=:@'",
  ];
  test.each(paths.map((path) => [path]))('the path %p is kept to the byte', async (path) => {
    const { answer, seen } = await send({ target: `/api${path}` });
    expect([answer.status, seen.target]).toEqual([200, path]);
  });
});

describe('headers', () => {
  const requestHeaders: [string, string][] = [
    ['Accept', 'text/event-stream, */*;q=0.1'],
    ['Accept-Language', 'de-CH;q=0.5, *'],
    ['User-Agent', 'agent/1.0 (x; y) "z"'],
    ['Content-Type', 'application/json; charset="utf-8"'],
    ['Content-Language', 'de'],
    ['Content-Encoding', 'gzip'],
    ['If-None-Match', 'W/"x", "y"'],
    ['If-Modified-Since', 'Sun, 06 Nov 1994 08:49:37 GMT'],
    ['Range', 'bytes=0-99, -5'],
    ['Date', 'Sun, 06 Nov 1994 08:49:37 GMT'],
    ['Cache-Control', 'no-cache'],
    ['Pragma', 'no-cache'],
    ['Referer', 'https://app.example/?a=b'],
    ['anthropic-version', '2023-06-01'],
    ['anthropic-beta', 'one-2024,two-2025'],
    ['OpenAI-Organization', 'org-1'],
    ['Idempotency-Key', '"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
    ['traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'],
    ['X-Stainless-Retry-Count', '0'],
    ['X-Inner-Space', 'a  b \t c'],
    ['X-Quotes', '"a, b"; q="\\"" \\ {x} [y] <z>'],
    ['X-Percent', '%41 %zz %'],
    ['X-Empty', ''],
    ['X-Long', 'v'.repeat(6000)],
    ['1', 'a name of one digit'],
    ["x!#$%&'*+-.^_`|~z", 'a name of every token character'],
  ];
  test('every end-to-end request header keeps its value', async () => {
    const { seen } = await send({ method: 'POST', headers: requestHeaders, body: '{}' });
    expect(requestHeaders.map(([name]) => [name, seen.header(name)])).toEqual(requestHeaders);
  });

  test('repeated request headers keep every value in order', async () => {
    const { seen } = await send({
      headers: [
        ['X-Many', 'b'],
        ['x-many', 'a'],
        ['X-MANY', '"c, d"'],
      ],
    });
    expect(seen.headerAll('x-many').join(', ')).toBe('b, a, "c, d"');
  });

  test('bytes above 0x7f in a header value stay as they are, both ways', async () => {
    const value = 'caf\xe9 \xff\xa0\xe2\x82\xac';
    up.handle((_, connection) =>
      connection.write(`HTTP/1.1 200 OK\r\nX-Bytes: ${value}\r\nContent-Length: 0\r\n\r\n`),
    );
    const { answer, seen } = await send({ headers: [['X-Bytes', value]] });
    expect(seen.header('x-bytes')).toBe(value);
    expect(answer.header('x-bytes')).toBe(value);
  });

  test('nothing is added to a request but what HTTP or the contract names', async () => {
    const { seen } = await send({ method: 'POST', body: 'x' });
    const added = seen.headers.map(([name]) => name.toLowerCase()).sort();
    const known = [
      'accept',
      'accept-encoding',
      'accept-language',
      'connection',
      'content-length',
      'content-type',
    ];
    const allowed = new Set([...known, 'host', 'user-agent', 'x-api-key', 'date']);
    expect(added.filter((name) => !allowed.has(name))).toEqual([]);
    expect(seen.headerAll('host')).toEqual([`localhost:${up.port}`]);
    expect(seen.header('accept-encoding')).toBe('identity');
  });

  const responseHeaders: [string, string][] = [
    ['Content-Type', 'application/json;charset=UTF-8'],
    ['Content-Language', 'de'],
    ['Content-Disposition', 'attachment; filename="a b.txt"'],
    ['Content-Location', '/y'],
    ['Cache-Control', 'max-age=0, private'],
    ['Date', 'Sun, 06 Nov 1994 08:49:37 GMT'],
    ['Last-Modified', 'Sun, 06 Nov 1994 08:49:37 GMT'],
    ['Expires', '-1'],
    ['ETag', 'W/"x"'],
    ['Vary', 'Accept, Origin'],
    ['Server', 'up/1'],
    ['Location', '/elsewhere?a=b#c'],
    ['Link', '<https://api.example/?page=2>; rel="next"'],
    ['Retry-After', '30'],
    ['request-id', 'req_1'],
    ['X-Request-Id', 'up-1'],
    ['anthropic-ratelimit-tokens-reset', '2026-01-01T00:00:00Z'],
    ['x-ratelimit-remaining', '0'],
    ['x-should-retry', 'true'],
    ['WWW-Authenticate', 'Bearer realm="x", error="y"'],
    ['Strict-Transport-Security', 'max-age=1'],
    ['X-Inner-Space', 'a  b \t c'],
    ['X-Empty', ''],
    ['X-Long', 'v'.repeat(6000)],
  ];
  test('every end-to-end response header keeps its value', async () => {
    up.handle((_, connection) => connection.reply(200, responseHeaders, '{}'));
    const { answer } = await send({});
    expect(responseHeaders.map(([name]) => [name, answer.header(name)])).toEqual(responseHeaders);
    expect(answer.text()).toBe('{}');
  });

  test('hop-by-hop, nominated, Alt-Svc, own and cookie headers of the upstream are dropped', async () => {
    const dropped: [string, string][] = [
      ['Connection', 'keep-alive, X-Hop'],
      ['X-Hop', '1'],
      ['Keep-Alive', 'timeout=5'],
      ['Proxy-Connection', 'keep-alive'],
      ['Proxy-Authenticate', 'Basic'],
      ['Upgrade', 'h2c'],
      ['Trailer', 'X-T'],
      ['Alt-Svc', 'h3=":443"'],
      ['X-Isoproxy-Error', 'halted'],
      ['X-Isoproxy-Other', '1'],
      ['Set-Cookie', 'session=1'],
      ['Set-Cookie', 'other=2'],
    ];
    up.handle((_, connection) => connection.reply(200, [...dropped, ['X-Kept', '1']], 'ok'));
    const { answer } = await send({});
    const names = new Set(answer.headers.map(([name]) => name.toLowerCase()));
    expect(dropped.filter(([name]) => name !== 'Connection' && names.has(name.toLowerCase()))).toEqual([]);
    expect(answer.headerAll('connection').join()).not.toMatch(/x-hop/i);
    expect(answer.header('x-kept')).toBe('1');
  });

  test('Set-Cookie passes, each on its own line, where allow_set_cookie is set', async () => {
    const cookies = ['a=1; Path=/; Expires=Sun, 06 Nov 2044 08:49:37 GMT', 'b=2; HttpOnly', 'a=3'];
    up.handle((_, connection) =>
      connection.reply(
        200,
        cookies.map((value): [string, string] => ['Set-Cookie', value]),
        'ok',
      ),
    );
    const { answer } = await send({ target: '/cookies/x/y' });
    expect(answer.headerAll('set-cookie')).toEqual(cookies);
  });
});

describe('answers', () => {
  const statuses = [
    200, 201, 202, 203, 206, 207, 226, 299, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404,
  ];
  const more = [405, 408, 409, 410, 413, 418, 422, 429, 431, 451, 499, 500, 501, 502, 503, 504, 529, 599];
  test.each([...statuses, ...more])('status %d passes with its body', async (status) => {
    up.handle((_, connection) => connection.json(status, { status }, { Location: 'https://other.example/' }));
    const { answer } = await send({ method: 'POST', body: '{}' });
    expect([answer.status, answer.json(), answer.header('location')]).toEqual([
      status,
      { status },
      'https://other.example/',
    ]);
    expect(answer.header('x-isoproxy-error')).toBeUndefined();
  });

  const sizes = [0, 1, 1000, 16_384, KIB64 - 1, KIB64, KIB64 + 1, 1_000_000];
  test.each(sizes)('a body of %d bytes arrives byte for byte, by length and in chunks', async (size) => {
    const body = randomBytes(size);
    up.handle((_, connection) => connection.reply(200, {}, body));
    const whole = await send({});
    expect([whole.answer.complete, whole.answer.bodyBytes]).toEqual([true, size]);
    expect(whole.answer.body.equals(body)).toBe(true);
    up.handle((_, connection) =>
      connection.chunked(
        200,
        {},
        [body.subarray(0, 1), body.subarray(1, 700), body.subarray(700)].filter((part) => part.length > 0),
      ),
    );
    const chunked = await send({ method: 'POST', body: '{}' });
    expect([chunked.answer.complete, chunked.answer.bodyBytes]).toEqual([true, size]);
    expect(chunked.answer.body.equals(body)).toBe(true);
  });

  test.each([0, 1, 1000, 10_000])('an answer of %d bytes at once keeps its Content-Length', async (size) => {
    up.handle((_, connection) => connection.reply(200, { 'Content-Type': 'text/plain' }, 'x'.repeat(size)));
    const { answer } = await send({ method: 'POST', body: '{}' });
    expect([answer.headerAll('content-length'), answer.framing]).toEqual([[String(size)], 'length']);
  });

  test('HEAD keeps the headers of the answer, its Content-Length too, and has no body', async () => {
    up.handle((_, connection) => connection.head(200, { 'Content-Length': '12345', 'X-A': 'b' }));
    using client = await connect(proxy.socket());
    for (let i = 0; i < 2; i++) {
      await client.send(formatRequest({ method: 'HEAD', target: '/api/x/y' }));
      const answer = await client.response({ method: 'HEAD' });
      expect([answer.status, answer.header('content-length'), answer.header('x-a')]).toEqual([
        200,
        '12345',
        'b',
      ]);
    }
  });

  test.each([204, 304])('%d has no body and leaves the connection usable', async (status) => {
    up.handle((_, connection) => connection.head(status, { ETag: '"x"' }));
    using client = await connect(proxy.socket());
    for (let i = 0; i < 2; i++) {
      await client.send(formatRequest({ target: '/api/x/y' }));
      const answer = await client.response();
      expect([answer.status, answer.header('etag'), answer.bodyBytes]).toEqual([status, '"x"', 0]);
      expect(answer.headerAll('transfer-encoding')).toEqual([]);
    }
  });

  test('1xx answers of the upstream do not disturb the final one', async () => {
    up.handle(async (_, connection) => {
      await connection.head(102);
      await connection.head(103, { Link: '</a>; rel=preload' });
      await connection.reply(200, {}, 'final');
    });
    const { answer } = await send({});
    expect([answer.status, answer.text()]).toEqual([200, 'final']);
  });

  test('requests on one kept-alive connection are answered one after the other', async () => {
    up.handle((seen, connection) => connection.reply(200, {}, seen.target));
    using client = await connect(proxy.socket());
    for (let i = 0; i < 10; i++) {
      await client.send(formatRequest({ target: `/api/x/${i}` }));
      expect((await client.response()).text()).toBe(`/x/${i}`);
    }
    expect(client.closed).toBeUndefined();
  });

  test('pipelined requests are answered in order, or the connection ends: never out of order, never mixed', async () => {
    up.handle((seen, connection) => connection.reply(200, {}, seen.target));
    using client = await connect(proxy.socket());
    const targets = Array.from({ length: 5 }, (_, i) => `/x/${i}`);
    await client.send(Buffer.concat(targets.map((path) => formatRequest({ target: `/api${path}` }))));
    for (const path of targets) {
      const answer = await client.response();
      if (answer.status === 0) break;
      expect([answer.status, answer.text()]).toEqual([200, path]);
    }
    up.problems.length = 0;
  });
});

describe('streams', () => {
  /** An answer whose next piece is sent only when the client has confirmed the one before. */
  function confirmed(pieces: readonly string[], type = 'text/event-stream') {
    const receipts = pieces.map(() => Promise.withResolvers<void>());
    up.handle(async (_, connection) => {
      await connection.head(200, { 'Content-Type': type, 'Transfer-Encoding': 'chunked' });
      for (const [i, piece] of pieces.entries()) {
        await connection.chunk(piece);
        await receipts[i]!.promise;
      }
      await connection.lastChunk();
    });
    return (i: number) => receipts[i]!.resolve();
  }

  test('no event is held back or merged: the upstream sends the next one only after the receipt', async () => {
    const events = Array.from({ length: 50 }, (_, i) => `id: ${i}\ndata: {"n":${i}}\n\n`);
    const confirm = confirmed(events);
    using client = await connect(proxy.socket());
    await client.send(formatRequest({ method: 'POST', target: '/api/x/y', body: '{"stream":true}' }));
    for (const [i, event] of events.entries()) {
      await client.waitFor(event);
      confirm(i);
    }
    const answer = await client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([200, true, events.join('')]);
    const chunks = answer.rawBody
      .toString()
      .split(/\r\n/)
      .filter((_, i) => i % 2 === 1);
    expect(chunks.filter(Boolean)).toEqual(events);
  });

  test('half an event, and single bytes, go out as they come', async () => {
    const pieces = ['da', 'ta: {"te', 'xt":"\\u00', 'e9', '"}', '\n', '\n', ':', '\n\n', '%', '\\', 'x'];
    const confirm = confirmed(pieces);
    using client = await connect(proxy.socket());
    await client.send(formatRequest({ target: '/api/x/y' }));
    let expected = '';
    for (const [i, piece] of pieces.entries()) {
      expected += piece;
      await client.waitFor((bytes) => bodyOf(bytes) === expected);
      confirm(i);
    }
    expect((await client.response()).text()).toBe(expected);
  });

  // Bun.serve completes a head only with the first byte of the body, so the proxy waits for that byte too
  // and can still tell a failure before it (README, "What happens to a request").
  test('an upstream that breaks between its head and its first byte is a 502, not a cut', async () => {
    up.handle(async (_, connection) => {
      await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
      await connection.cut();
    });
    const answer = await request(proxy.socket(), { target: '/api/x/y' });
    expect([answer.status, answer.json().code]).toEqual([502, 'upstream_unreachable']);
  });

  test('an answer may begin while the upload goes on, and end after it', async () => {
    atHead = async (_, connection) => {
      await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      await connection.chunk('early');
    };
    up.handle(async (seen, connection) => {
      await connection.chunk(` late ${seen.bodyBytes}`);
      await connection.lastChunk();
    });
    using client = await connect(proxy.socket());
    await client.send(
      formatRequest({
        method: 'POST',
        target: '/api/x/y',
        headers: { 'Content-Length': '200000' },
        body: 'x'.repeat(100_000),
      }),
    );
    await client.waitFor('early');
    await client.send('x'.repeat(100_000));
    const answer = await client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([200, true, 'early late 200000']);
    expect(up.requests[0]?.state).toBe('complete');
  });

  test('a stream that began before the upload ended may then be quiet for longer than first_byte_timeout', async () => {
    const sentAt = Promise.withResolvers<number>();
    atHead = async (_, connection) => {
      await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      await connection.chunk('begun, ');
    };
    up.handle(async (_, connection) => {
      sentAt.resolve(performance.now());
      await Promise.race([
        connection.gone,
        until('1.6 s', async () => performance.now() - (await sentAt.promise) > 1600),
      ]);
      await connection.chunk('after a pause');
      await connection.lastChunk();
    });
    using client = await connect(proxy.socket());
    await client.send(
      formatRequest({
        method: 'POST',
        target: '/api/x/y',
        headers: { 'Content-Length': '200000' },
        body: 'x'.repeat(100_000),
      }),
    );
    await client.waitFor('200 OK');
    await client.send('x'.repeat(100_000));
    const answer = await client.response();
    expect([answer.status, answer.problem, answer.text()]).toEqual([200, undefined, 'begun, after a pause']);
  });

  test('a whole answer during the upload reaches the client, and the rest of the body is never taken for a request', async () => {
    atHead = async (seen, connection) =>
      seen.method === 'POST' &&
      (await connection.reply(403, { Connection: 'close' }, 'early no')) &&
      'answered';
    const smuggled = 'GET /api/x/smuggled HTTP/1.1\r\nHost: h\r\n\r\n';
    using client = await connect(proxy.socket());
    const length = 100_000 + smuggled.length;
    await client.send(
      formatRequest({
        method: 'POST',
        target: '/api/x/y',
        headers: { 'Content-Length': String(length) },
        body: 'x'.repeat(100_000),
      }),
    );
    const answer = await client.response();
    expect([answer.status, answer.text()]).toEqual([403, 'early no']);
    await client.send(smuggled);
    await client.send(formatRequest({ target: '/api/x/after' }));
    await until(
      'the next answer, or the end of the connection',
      () => client.closed || client.received().includes('HTTP/1.1 200'),
    );
    expect(up.requests.filter((seen) => seen.target.includes('smuggled'))).toEqual([]);
    up.problems.length = 0;
  });
});

/** The chunked body that a client has received so far. */
function bodyOf(received: Buffer): string {
  const text = received.toString('latin1');
  const at = text.indexOf('\r\n\r\n');
  let rest = at < 0 ? '' : text.slice(at + 4);
  let body = '';
  for (let match = /^([0-9a-f]+)\r\n/i.exec(rest); match; match = /^([0-9a-f]+)\r\n/i.exec(rest)) {
    const size = Number.parseInt(match[1]!, 16);
    if (size === 0) break;
    body += rest.slice(match[0].length, match[0].length + size);
    rest = rest.slice(match[0].length + size + 2);
  }
  return body;
}
