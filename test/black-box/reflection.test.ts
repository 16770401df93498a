// A credential that the upstream echoes, in whatever form and place, does not reach the client.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { join } from 'node:path';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { assertClean, leakedPrefix, makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import { type Isoproxy, recorderAt, simpleConfig, startIsoproxy } from '../support/isoproxy.ts';
import { connect, formatRequest, type RawResponse, request } from '../support/raw-client.ts';
import { type Handler, type Recorder, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(20_000);

/** With a public prefix, as the anthropic preset knows it. */
const PREFIX = 'sk-ant-api03-';
const key = makeCanary(PREFIX);
const plain = makeCanary('');
const second = makeCanary('');
const password = makeCanary('');
const odd = `${makeCanary('')}/+"=\\~`;

let up: Recorder;
let proxy: Isoproxy;

beforeAll(async () => {
  up = await startRecorder();
  proxy = await startIsoproxy((dir) => {
    const file = (name: string) => join(dir, 'secrets', name);
    const provider = (credential: unknown, more = {}) => ({
      ...recorderAt(dir, up.port),
      credential,
      endpoints: [{ methods: ['*'], paths: ['/x'] }],
      ...more,
    });
    return simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary: plain,
      endpoints: [{ methods: ['*'], paths: ['/x'] }],
      listener: { providers: undefined },
      files: {
        'secrets/key': key,
        'secrets/second': second,
        'secrets/password': password,
        'secrets/odd': odd,
      },
      top: {
        providers: {
          preset: provider({ file: file('key') }, { preset: 'anthropic' }),
          two: provider([
            { header: 'x-api-key', file: file('api.key') },
            { header: 'x-second', file: file('second') },
          ]),
          basic: provider({ basic: 'user', file: file('password') }),
          odd: provider({ header: 'x-api-key', file: file('odd') }),
          cookies: provider({ header: 'x-api-key', file: file('api.key') }, { allow_set_cookie: true }),
        },
      },
    });
  });
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});
afterEach(() => {
  const wrong = [...up.problems];
  up.reset();
  expect(wrong).toEqual([]);
  for (const secret of [key, plain, second, password, odd])
    assertClean(secret, { stderr: proxy.child.stderr() });
});

const post = (provider = 'api') =>
  request(proxy.socket(), { method: 'POST', target: `/${provider}/x`, body: '{}' });
const latin1 = (text: string) => Buffer.from(text, 'latin1');

/** Sends pieces as chunks; with a pause after each, so that the runtime hands them over one by one. */
const inPieces = (pieces: readonly Buffer[]): Handler => {
  return async (_, connection) => {
    await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
    for (const [i, piece] of pieces.entries()) {
      if (!(await connection.chunk(piece))) return;
      // The first one goes out before the cut: a cut that comes with it may take the head along.
      await Bun.sleep(i === 0 ? 10 : 2);
    }
    await connection.lastChunk();
  };
};

/** Everything that the client got, searched whole. */
function assertWithheld(answer: RawResponse, secrets: string[]): void {
  for (const secret of secrets)
    assertClean(secret, { head: answer.rawHead, body: answer.body, wire: answer.rawBody });
}
const jsonEscape = (text: string, every: number) =>
  [...text].map((c, i) => (i % every ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)).join('');
const percent = (text: string, every: number, upper = false) =>
  [...text]
    .map((c, i) => {
      const hex = c.charCodeAt(0).toString(16).padStart(2, '0');
      return i % every ? c : `%${upper ? hex.toUpperCase() : hex}`;
    })
    .join('');

/** How an upstream may write a secret. */
const forms = (secret: string): [string, string][] => [
  ['as it is', secret],
  ['base64, first alignment', Buffer.from(`abc${secret}tail`).toString('base64')],
  ['base64, second alignment', Buffer.from(`a${secret}tail`).toString('base64')],
  ['base64, third alignment', Buffer.from(`ab${secret}tail`).toString('base64')],
  ['base64url', Buffer.from(`x${secret}~~`).toString('base64url')],
  ['hexadecimal', Buffer.from(secret).toString('hex')],
  ['upper-case hexadecimal', Buffer.from(secret).toString('hex').toUpperCase()],
  ['percent escapes throughout', percent(secret, 1)],
  ['percent escapes in places', percent(secret, 3, true)],
  ['encodeURIComponent', encodeURIComponent(secret)],
  ['JSON escapes throughout', jsonEscape(secret, 1)],
  ['JSON escapes in places', jsonEscape(secret, 4)],
  ['JSON.stringify', JSON.stringify(secret)],
  ['escaped slashes', secret.replaceAll('/', '\\/')],
];

describe('a small declared answer that holds the credential is 502 instead', () => {
  for (const provider of ['api', 'odd'] as const) {
    const secret = provider === 'api' ? plain : odd;
    test.each(forms(secret))(`${provider}: %s`, async (_, text) => {
      up.handle((__, connection) =>
        connection.reply(200, { 'Content-Type': 'application/json' }, `{"auth":"${text}"}`),
      );
      const answer = await post(provider);
      expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'credential_reflected']);
      assertWithheld(answer, [secret]);
      expect(await proxy.record((record) => record.request_id === answer.json().request_id)).toMatchObject({
        status: 502,
        decision: 'allow',
        reason: 'credential_reflected',
      });
    });
  }

  test.each([400, 401, 403, 500, 503])('an error of the upstream, status %d', async (status) => {
    up.handle((_, connection) =>
      connection.json(status, { error: { message: `invalid x-api-key: ${plain}` } }),
    );
    const answer = await post();
    expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'credential_reflected']);
    assertWithheld(answer, [plain]);
  });

  test('each of two credentials, and a Basic value with and without its user', async () => {
    const echoes: [string, string][] = [
      ['two', plain],
      ['two', second],
      ['basic', password],
      ['basic', Buffer.from(`user:${password}`).toString('base64')],
      ['basic', `Authorization: Basic ${Buffer.from(`user:${password}`).toString('base64')}`],
    ];
    for (const [provider, text] of echoes) {
      up.handle((_, connection) => connection.reply(200, {}, `you sent ${text}.`));
      const answer = await post(provider);
      expect([provider, answer.status, answer.header('x-isoproxy-error')]).toEqual([
        provider,
        502,
        'credential_reflected',
      ]);
      assertWithheld(answer, [plain, second, password]);
    }
  });

  test('compressed although identity was asked: refused unread, with the credential in it', async () => {
    for (const [encoding, body] of [
      ['gzip', gzipSync(plain)],
      ['deflate', deflateSync(plain)],
      ['br', brotliCompressSync(plain)],
      ['gzip, gzip', gzipSync(gzipSync(plain))],
    ] as const) {
      up.handle((_, connection) => connection.reply(200, { 'Content-Encoding': encoding }, body));
      const answer = await post();
      expect([encoding, answer.status, answer.header('x-isoproxy-error')]).toEqual([
        encoding,
        502,
        'upstream_invalid',
      ]);
      expect(answer.rawBody.includes(body)).toBe(false);
    }
  });

  test('an upstream that echoes every request header, as debug endpoints do', async () => {
    up.handle((seen, connection) => connection.json(200, Object.fromEntries(seen.headers)));
    for (const provider of ['api', 'preset', 'two', 'basic', 'odd', 'cookies']) {
      const answer = await post(provider);
      expect([provider, answer.status, answer.header('x-isoproxy-error')]).toEqual([
        provider,
        502,
        'credential_reflected',
      ]);
      assertWithheld(answer, [key, plain, second, password, odd]);
    }
  });
});

describe('a stream that holds the credential is cut', () => {
  test.each(forms(plain))('%s, in one piece after clean ones', async (_, text) => {
    up.handle(inPieces([latin1('data: clean\n\n'), latin1(`data: ${text}\n\n`), latin1('data: after\n\n')]));
    const answer = await post();
    expect([answer.status, answer.complete]).toEqual([200, false]);
    expect(answer.text().startsWith('data: clean\n\n')).toBe(true);
    expect(answer.text()).not.toContain('after');
    assertWithheld(answer, [plain]);
    expect(leakedPrefix(answer.body, plain)).toBeLessThanOrEqual(15);
    await proxy.record((record) => record.reason === 'credential_reflected' && record.status === 200);
  });

  test('split in two at every offset', async () => {
    for (let at = 1; at < plain.length; at++) {
      up.handle(
        inPieces([latin1(`data: ${plain.slice(0, at)}`), latin1(`${plain.slice(at)}\n\n`), latin1('more')]),
      );
      const answer = await post();
      expect([at, answer.complete, leakedPrefix(answer.body, plain) <= 15]).toEqual([at, false, true]);
    }
  });

  test.each([1, 2, 3, 5, 7, 16, 17])('in pieces of %d bytes', async (size) => {
    for (const text of [
      plain,
      Buffer.from(`ab${plain}c`).toString('base64'),
      percent(plain, 1),
      jsonEscape(plain, 2),
    ]) {
      const all = latin1(`data: ${text}\n\n`);
      const pieces = Array.from({ length: Math.ceil(all.length / size) }, (_, i) =>
        all.subarray(i * size, (i + 1) * size),
      );
      up.handle(async (_, connection) => {
        await connection.head(200, { 'Transfer-Encoding': 'chunked' });
        for (const piece of pieces) await connection.chunk(piece);
        await connection.lastChunk();
      });
      const answer = await post();
      // Found before anything went out, it is a 502 that says so; later it is a cut.
      if (answer.status === 502) expect(answer.json().code).toBe('credential_reflected');
      else expect([size, answer.complete]).toEqual([size, false]);
      assertWithheld(answer, [plain]);
      expect(leakedPrefix(answer.body, plain)).toBeLessThanOrEqual(15);
    }
  });

  test('beyond its public prefix at most 15 bytes go out', async () => {
    for (let at = PREFIX.length + 1; at < key.length; at += 3) {
      up.handle(
        inPieces([latin1(`data: ${key.slice(0, at)}`), latin1(`${key.slice(at)}\n\n`), latin1('more')]),
      );
      const answer = await post('preset');
      expect([at, answer.complete]).toEqual([at, false]);
      expect(leakedPrefix(answer.body, key)).toBeLessThanOrEqual(PREFIX.length + 15);
    }
  });

  test('a large declared answer is cut as well', async () => {
    up.handle((_, connection) =>
      connection.reply(
        200,
        {},
        // More than one piece can hold: a credential in the first would be a 502 before the head.
        Buffer.concat([Buffer.alloc(4_000_000, 120), latin1(plain), Buffer.alloc(200_000, 121)]),
      ),
    );
    const answer = await post();
    expect([answer.status, answer.complete, answer.body.includes('y')]).toEqual([200, false, false]);
    assertWithheld(answer, [plain]);
  });

  test('after megabytes of near misses', async () => {
    const near = latin1(`${plain.slice(0, -1)}!`.repeat(20_000));
    up.handle((_, connection) => connection.chunked(200, {}, [near, latin1(plain), latin1('zzz')]));
    const answer = await post();
    expect([answer.complete, answer.text().endsWith('zzz')]).toEqual([false, false]);
    assertWithheld(answer, [plain]);
  });
});

describe('a header that holds the credential is dropped', () => {
  test.each(forms(plain).filter(([, text]) => !/[\r\n]/.test(text)))('%s', async (_, text) => {
    const headers: [string, string][] = [
      ['X-Debug', `auth=${text}`],
      ['Location', `https://other.example/?key=${text}`],
      ['WWW-Authenticate', `Bearer realm="${text}"`],
      ['Content-Disposition', `attachment; filename="${text}"`],
      ['Link', `<https://x.example/${text}>; rel="next"`],
      ['X-Clean', 'kept'],
    ];
    up.handle((__, connection) => connection.reply(302, headers, 'body'));
    const answer = await post();
    expect([answer.status, answer.text(), answer.header('x-clean')]).toEqual([302, 'body', 'kept']);
    assertWithheld(answer, [plain]);
    expect(headers.slice(0, 5).filter(([name]) => answer.header(name) !== undefined)).toEqual([]);
  });

  test('Set-Cookie, also where cookies pass, and only the one that holds it', async () => {
    up.handle((_, connection) =>
      connection.reply(
        200,
        [
          ['Set-Cookie', `key=${plain}`],
          ['Set-Cookie', 'clean=1'],
          ['Set-Cookie', `b=${Buffer.from(plain).toString('base64')}`],
        ],
        'ok',
      ),
    );
    const answer = await post('cookies');
    expect([answer.status, answer.headerAll('set-cookie')]).toEqual([200, ['clean=1']]);
    assertWithheld(answer, [plain]);
  });

  test('the reason phrase', async () => {
    up.handle((_, connection) => connection.write(`HTTP/1.1 200 ${plain}\r\nContent-Length: 2\r\n\r\nok`));
    const answer = await post();
    expect([answer.status, answer.text()]).toEqual([200, 'ok']);
    assertClean(plain, { head: answer.rawHead });
  });

  test('a header name, which the runtime writes in lower case', async () => {
    up.handle((_, connection) =>
      connection.write(`HTTP/1.1 200 OK\r\n${plain}: 1\r\nX-Clean: kept\r\nContent-Length: 2\r\n\r\nok`),
    );
    const answer = await post();
    expect([answer.status, answer.text(), answer.header('x-clean')]).toEqual([200, 'ok', 'kept']);
    assertClean(plain.toLowerCase(), { head: answer.rawHead.toString('latin1').toLowerCase() });
  });

  test('of HEAD, of 204 and of 304', async () => {
    for (const [method, status] of [
      ['HEAD', 200],
      ['GET', 204],
      ['GET', 304],
    ] as const) {
      up.handle((_, connection) =>
        connection.head(status, {
          'X-Debug': plain,
          ETag: `"${plain}"`,
          ...(method === 'HEAD' && { 'Content-Length': '3' }),
        }),
      );
      const answer = await request(proxy.socket(), { method, target: '/api/x' });
      expect([answer.status, answer.header('x-debug'), answer.header('etag')]).toEqual([
        status,
        undefined,
        undefined,
      ]);
    }
  });

  test('a trailer never reaches the client', async () => {
    up.handle(async (_, connection) => {
      await connection.head(200, { 'Transfer-Encoding': 'chunked', Trailer: 'X-Debug' });
      await connection.chunk('body');
      await connection.lastChunk({ 'X-Debug': plain });
    });
    const answer = await post();
    expect([answer.text(), answer.complete, answer.trailers]).toEqual(['body', true, []]);
  });

  test('1xx answers that hold it do not pass', async () => {
    up.handle(async (_, connection) => {
      await connection.head(103, { Link: `<${plain}>` });
      await connection.reply(200, {}, 'ok');
    });
    using client = await connect(proxy.socket());
    await client.send(formatRequest({ method: 'POST', target: '/api/x', body: '{}' }));
    expect((await client.response()).text()).toBe('ok');
    assertClean(plain, { all: client.received() });
  });
});

describe('what only looks like the credential passes unchanged', () => {
  const near: [string, string][] = [
    ['all but the last character', plain.slice(0, -1)],
    ['all but the first character', plain.slice(1)],
    ['one character changed', `${plain.slice(0, 20)}!${plain.slice(21)}`],
    ['the beginning, twice', plain.slice(0, 30) + plain.slice(0, 30)],
    ['reversed', [...plain].reverse().join('')],
    ['most of its base64', Buffer.from(plain).toString('base64').slice(0, -6)],
    ['half of its percent escapes', percent(plain.slice(0, 20), 1)],
    ['broken escapes', `%${plain.slice(0, 18)}%4%zz\\u00\\u12\\`],
    ['a backslash and a percent at the end', `${plain.slice(0, 25)}\\%`],
    ['an escape at the end', `${plain.slice(0, 25)}%4`],
    ['another key of the same kind', makeCanary('')],
  ];
  test.each(near)('%s, whole, in chunks and as a header', async (_, text) => {
    up.handle((__, connection) => connection.reply(200, { 'X-Near': text }, text));
    const whole = await post();
    expect([whole.status, whole.text(), whole.header('x-near')]).toEqual([200, text, text]);
    for (const size of [1, 9, 20]) {
      const pieces = Array.from({ length: Math.ceil(text.length / size) }, (_, i) =>
        latin1(text.slice(i * size, (i + 1) * size)),
      );
      up.handle((__, connection) => connection.chunked(200, {}, pieces));
      const chunked = await post();
      expect([chunked.status, chunked.text(), chunked.complete]).toEqual([200, text, true]);
    }
  });

  test('the public prefix alone, and a key with the same prefix', async () => {
    for (const text of [PREFIX, `${PREFIX}...`, makeCanary(PREFIX)]) {
      up.handle(inPieces([latin1(text.slice(0, 9)), latin1(text.slice(9))]));
      const answer = await post('preset');
      expect([answer.text(), answer.complete]).toEqual([text, true]);
    }
  });

  test('the credential of another provider', async () => {
    up.handle((_, connection) => connection.reply(200, {}, second));
    expect((await post('api')).text()).toBe(second);
  });

  test('a tail of fewer than 16 matching bytes goes out at once, so that nothing can be learned from a delay', async () => {
    const go = Promise.withResolvers<void>();
    up.handle(async (_, connection) => {
      await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      await connection.chunk(`data: ${plain.slice(0, 15)}`);
      await go.promise;
      await connection.chunk('?\n\n');
      await connection.lastChunk();
    });
    using client = await connect(proxy.socket());
    await client.send(formatRequest({ method: 'POST', target: '/api/x', body: '{}' }));
    try {
      await client.waitFor(plain.slice(0, 15), 2000);
    } finally {
      go.resolve();
    }
    expect((await client.response()).text()).toBe(`data: ${plain.slice(0, 15)}?\n\n`);
  });

  test('a tail of 16 matching bytes waits, and goes out when it turns out to be something else', async () => {
    const go = Promise.withResolvers<void>();
    up.handle(async (_, connection) => {
      await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      await connection.chunk('first ');
      await connection.chunk(`data: ${plain.slice(0, 16)}`);
      await go.promise;
      await connection.lastChunk();
    });
    using client = await connect(proxy.socket());
    await client.send(formatRequest({ method: 'POST', target: '/api/x', body: '{}' }));
    await client.waitFor('data: ');
    await until('a moment', () => up.requests[0]?.state === 'complete');
    expect(client.received().includes(plain.slice(0, 16))).toBe(false);
    go.resolve();
    expect((await client.response()).text()).toBe(`first data: ${plain.slice(0, 16)}`);
  });
});
