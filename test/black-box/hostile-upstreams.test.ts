// Attack ids are explained in SECURITY.md. S13: an upstream that is hostile or broken down to the byte, and all that a
// client may see of it. upstream-faults.test.ts holds what ends in a timeout, a cut or a bad certificate.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { deflateSync, gzipSync } from 'node:zlib';
import { assertClean, makeCanary } from '../support/canary.ts';
import { within } from '../support/deadline.ts';
import { type Isoproxy, startSimple } from '../support/isoproxy.ts';
import { connect, formatRequest, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(20_000);

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
const MIB = 1024 * 1024;
const canary = makeCanary();

/** `¶` stands for CRLF. */
const bytes = (raw: string): Buffer => Buffer.from(raw.replaceAll('¶', '\r\n'), 'latin1');
const OK = 'HTTP/1.1 200 OK¶';
const HI = 'Content-Length: 2¶¶hi';
const CHUNKED = `${OK}Transfer-Encoding: chunked¶¶`;
const EVIL = 'HTTP/1.1 200 OK¶Content-Length: 4¶X-Evil: 1¶¶evil';

/** What the client sees: 502 with this code; or an answer with this status, body and these headers, and none of `not`. */
type Verdict =
  | { own: string[] }
  | {
      status: number;
      body: string;
      has?: Record<string, string>;
      not?: string[];
      cut?: boolean;
      reason?: string;
    };
const own = (...codes: string[]): Verdict => ({ own: codes });
const INVALID = own('upstream_invalid');
const passes = (body = 'hi', more: Partial<Extract<Verdict, { status: number }>> = {}): Verdict => ({
  status: 200,
  body,
  ...more,
});
type Row = [name: string, raw: string, verdict: Verdict, deno?: Verdict];
const head = (line: string) => `${OK}${line}¶${HI}`;
const coding = (value: string) => `${OK}Transfer-Encoding:${value}¶¶2¶hi¶0¶¶`;

const rows: Row[] = [
  // RFC 9112 11.1, response splitting and header injection.
  ['a CR in a value, and a cookie behind it', head('X-A: a\rSet-Cookie: b=c'), INVALID],
  // RFC 9112 2.2 lets a recipient take a lone LF for a line's end: then it is a field like any other.
  [
    'an LF in a value, and a cookie behind it',
    head('X-A: a\nSet-Cookie: b=c'),
    passes('hi', { has: { 'x-a': 'a' }, not: ['set-cookie'] }),
  ],
  ['lines that end with LF', 'HTTP/1.1 200 OK\nContent-Length: 2\n\nhi', passes()],
  ['an LF in a value, and a length behind it', head('X-A: a\nContent-Length: 9'), INVALID],
  ['a CR in the reason', `HTTP/1.1 200 O\rX-A: b¶${HI}`, INVALID],
  ['a NUL in the reason', `HTTP/1.1 200 O\0K¶${HI}`, INVALID],
  ['a control byte in a value', head('X-A: a\x01b'), INVALID],
  ['a DEL in a value', head('X-A: a\x7fb'), INVALID],
  ['bytes above ASCII in a value', head('X-A: \xff\xfe'), passes('hi', { has: { 'x-a': '\xff\xfe' } })],
  ['white space before a colon', head('X-A : b'), INVALID],
  ['white space before the colon of a length', `${OK}Content-Length : 2¶¶hi`, INVALID],
  ['white space before the first field', `${OK} X-A: b¶${HI}`, INVALID],
  ['a field without a name', head(': b'), INVALID],
  ['a bracket in a name', head('X(A): b'), INVALID],
  // RFC 9112 4, the status line.
  ['no reason', `HTTP/1.1 200¶${HI}`, passes()],
  ['an empty reason', `HTTP/1.1 200 ¶${HI}`, passes()],
  ['a version in lower case', `http/1.1 200 OK¶${HI}`, INVALID],
  ['HTTP/2.0 in text', `HTTP/2.0 200 OK¶${HI}`, INVALID],
  ['HTTP/9.9', `HTTP/9.9 200 OK¶${HI}`, INVALID],
  ['an empty line before it', `¶¶${OK}${HI}`, INVALID, passes()],
  ['two status lines', `${OK}HTTP/1.1 404 No¶${HI}`, INVALID],
  ['a status of four digits', `HTTP/1.1 1000 X¶${HI}`, INVALID],
  ['a status with an exponent', `HTTP/1.1 2e2 X¶${HI}`, INVALID],
  ['a status with a zero before it', `HTTP/1.1 0200 X¶${HI}`, INVALID],
  // RFC 9112 6, framing.
  ['the coding identity', coding(' identity'), INVALID],
  ['the coding xchunked', coding(' xchunked'), INVALID],
  ['chunked twice in a list', coding(' chunked, chunked'), INVALID],
  ['chunked before identity', coding(' chunked, identity'), INVALID],
  ['chunked behind a vertical tab', coding(' \x0bchunked'), INVALID],
  [
    'two fields that say chunked',
    `${OK}Transfer-Encoding: chunked¶${coding(' chunked').slice(OK.length)}`,
    INVALID,
  ],
  ['CHUNKED in capitals', coding(' CHUNKED'), passes()],
  ['an unknown coding and a length', `${OK}Transfer-Encoding: x¶${HI}`, INVALID],
  ['two equal lengths', `${OK}Content-Length: 2¶${HI}`, INVALID],
  ['two equal lengths in a list', `${OK}Content-Length: 2, 2¶¶hi`, INVALID],
  ['a length that no number holds', `${OK}Content-Length: 9007199254740993¶¶hi`, INVALID],
  [
    'a length and chunks that hide an answer',
    `${OK}Content-Length: 60¶Transfer-Encoding: chunked¶¶0¶¶${EVIL}`,
    passes('', { not: ['x-evil', 'content-length'] }),
  ],
  [
    'a length of zero and bytes behind it',
    `${OK}Content-Length: 0¶¶${EVIL}`,
    passes('', { not: ['x-evil'] }),
  ],
  ['an answer behind the last chunk', `${CHUNKED}2¶hi¶0¶¶${EVIL}`, passes('hi', { not: ['x-evil'] })],
  ['an answer behind the length', `${OK}${HI}${EVIL}`, passes('hi', { not: ['x-evil'] })],
  ['chunked in HTTP/1.0', coding(' chunked').replace('1.1', '1.0'), passes(), INVALID],
  // RFC 9112 7, chunks.
  ['a chunk extension', `${CHUNKED}2;a="b"¶hi¶0;c¶¶`, passes()],
  ['an LF in a chunk extension', `${CHUNKED}2;a\nhi¶0¶¶`, INVALID, own('upstream_unreachable')],
  [
    'a chunk extension of 100 kB',
    `${CHUNKED}2;${'a'.repeat(100_000)}¶hi¶0¶¶`,
    passes(),
    own('upstream_unreachable'),
  ],
  ['chunk lines that end with LF', `${CHUNKED}2\nhi\n0\n\n`, INVALID, own('upstream_unreachable')],
  ['a chunk size of 17 digits', `${CHUNKED}00000000000000002¶hi¶0¶¶`, INVALID, passes()],
  ['a chunk size in capitals', `${CHUNKED}A¶0123456789¶0¶¶`, passes('0123456789')],
  [
    'a chunk without its end',
    `${CHUNKED}2¶hi0¶¶`,
    INVALID,
    passes('hi', { cut: true, reason: 'upstream_unreachable' }),
  ],
  [
    'no end behind the last chunk',
    `${CHUNKED}2¶hi¶0¶XX`,
    passes('hi', { cut: true, reason: 'upstream_timeout' }),
  ],
  // RFC 9112 7.1.2, trailers: dropped, and never taken for fields of the head.
  [
    'a cookie as trailer',
    `${CHUNKED}2¶hi¶0¶X-T: 1¶Set-Cookie: a=b¶¶`,
    passes('hi', { not: ['x-t', 'set-cookie'] }),
  ],
  ['a length as trailer', `${CHUNKED}2¶hi¶0¶Content-Length: 99¶¶`, passes('hi', { not: ['content-length'] })],
  [
    'a trailer without a colon',
    `${CHUNKED}2¶hi¶0¶bad trailer¶¶`,
    passes(),
    passes('hi', { cut: true, reason: 'upstream_unreachable' }),
  ],
  [
    'trailers of 300 kB',
    `${CHUNKED}2¶hi¶0¶${`X: ${'y'.repeat(1000)}¶`.repeat(300)}¶`,
    passes('hi', { not: ['x'] }),
    passes('hi', { cut: true, reason: 'upstream_unreachable' }),
  ],
  // RFC 9110 15.2, answers before the answer.
  ['a hundred 103', `${'HTTP/1.1 103 E¶Link: <x>¶¶'.repeat(100)}${OK}${HI}`, passes('hi', { not: ['link'] })],
  ['ten thousand 100', `${'HTTP/1.1 100 C¶¶'.repeat(10_000)}${OK}${HI}`, passes()],
  ['103 with a body', `HTTP/1.1 103 E¶Content-Length: 5¶¶hello${OK}${HI}`, INVALID],
  ['an unknown 199', `HTTP/1.1 199 X¶¶${OK}${HI}`, passes()],
  [
    'a WebSocket that nobody asked for',
    'HTTP/1.1 101 S¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Accept: x¶¶\x81\x02hi',
    INVALID,
  ],
  [
    'Upgrade in an ordinary answer',
    head('Upgrade: h2c¶Connection: upgrade'),
    passes('hi', { not: ['upgrade'] }),
  ],
  // RFC 9110 7.6.1, and what is between the upstream and us only.
  [
    'nominated fields',
    head('Connection: X-Hop, Content-Type¶X-Hop: 1¶Content-Type: text/html'),
    passes('hi', { not: ['x-hop'] }),
  ],
  [
    'fields of this hop',
    head('Keep-Alive: timeout=9¶Proxy-Connection: x¶Proxy-Authenticate: Basic¶TE: x¶Trailer: X'),
    passes('hi', { not: ['keep-alive', 'proxy-connection', 'proxy-authenticate', 'te', 'trailer'] }),
  ],
  ['a way past the proxy', head('Alt-Svc: h3="evil.test:443"'), passes('hi', { not: ['alt-svc'] })],
  ['a session', head('Set-Cookie: a=b'), passes('hi', { not: ['set-cookie'] })],
  ['an error of ours', head('X-Isoproxy-Error: halted'), passes('hi', { not: ['x-isoproxy-error'] })],
  [
    'an underscored error of ours',
    head('X_Isoproxy_Error: halted'),
    passes('hi', { not: ['x-isoproxy-error', 'x_isoproxy_error'] }),
  ],
  // RFC 9110 8.4: identity was asked for.
  ['an unknown encoding', head('Content-Encoding: aes128gcm'), INVALID],
  ['an empty encoding', head('Content-Encoding:'), INVALID],
  ['an encoding in capitals', head('Content-Encoding: BR'), INVALID],
  [
    'identity, and gzip in a second field',
    head('Content-Encoding: identity¶Content-Encoding: gzip'),
    INVALID,
  ],
  ['identity', head('Content-Encoding: identity'), passes('hi', { has: { 'content-encoding': 'identity' } })],
  // Bodies where there are none.
  ['chunks of a 204', 'HTTP/1.1 204 N¶Transfer-Encoding: chunked¶¶2¶hi¶0¶¶', { status: 204, body: '' }],
  [
    'a length of a 304',
    'HTTP/1.1 304 N¶Content-Length: 100¶ETag: "x"¶¶',
    { status: 304, body: '', has: { etag: '"x"' } },
  ],
  // Size.
  ['a field of 100 kB', head(`X-A: ${'v'.repeat(100_000)}`), passes()],
  ['a name of 20 kB', head(`X-${'a'.repeat(20_000)}: v`), passes()],
  [
    'two hundred fields of one name',
    head('X-A: v¶'.repeat(200).slice(0, -1)),
    passes('hi', { has: { 'x-a': 'v, '.repeat(200).slice(0, -2) } }),
    INVALID,
  ],
];

let up: Recorder;
let proxy: Isoproxy;
beforeAll(async () => {
  up = await startRecorder();
  const limits = {
    first_byte_timeout: '500ms',
    idle_timeout: '500ms',
    total_timeout: '2s',
    max_response_body: '1MiB',
  };
  proxy = await startSimple({ upstreamPort: up.port, ca: up.ca, canary, limits });
  await honest();
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});

const post = () => request(proxy.socket(), { method: 'POST', target: '/api/v1/messages', body: '{}' });
let sent = 0;
async function honest(): Promise<void> {
  up.handle((_, connection) => connection.reply(200, {}, 'honest'));
  const answer = await post();
  expect([answer.status, answer.text()]).toEqual([200, 'honest']);
  await proxy.recordCount(++sent);
}

describe('S13 an upstream that answers with', () => {
  test.each(rows.map(([name, ...rest]): [string, typeof rest] => [name, rest]))(
    '%s',
    async (_, [raw, bun, deno]) => {
      const verdict = (DENO && deno) || bun;
      up.requests.length = 0;
      up.handle((__, connection) => connection.write(bytes(raw)));
      const answer = await post();
      const record = (await proxy.recordCount(++sent))[sent - 1]!;
      expect(up.requests.length).toBe(1);
      expect([record.decision, record.method, record.path]).toEqual(['allow', 'POST', '/api/v1/messages']);
      if ('own' in verdict) {
        expect([answer.status, verdict.own]).toEqual([
          502,
          expect.arrayContaining([answer.header('x-isoproxy-error')]),
        ]);
        expect([answer.json().code, record.status, record.reason]).toEqual([
          record.reason,
          502,
          answer.json().code,
        ]);
        expect(answer.rawBody.toString('latin1')).not.toMatch(/X-A|evil|Set-Cookie/i);
      } else {
        const { status, body, has = {}, not = [], cut = false, reason = '' } = verdict;
        expect([answer.status, answer.text(), answer.complete]).toEqual([status, body, !cut]);
        expect([record.status, record.reason]).toEqual([status, reason]);
        expect(Object.keys(has).map((name) => answer.header(name))).toEqual(Object.values(has));
        // A length of ours is no length of theirs.
        const theirs = not.filter(
          (name) => name !== 'content-length' || answer.header(name) !== String(body.length),
        );
        expect(theirs.filter((name) => answer.header(name) !== undefined)).toEqual([]);
      }
      expect(answer.reason).not.toMatch(/[\0\r\n]/);
      assertClean(canary, { answer: Buffer.concat([answer.rawHead, answer.rawBody]) });
      // The connection on which it came is not used again for anything that it left behind.
      await honest();
    },
  );

  test('an answer that waits on an idle connection: the next request gets its own', async () => {
    await honest();
    up.handle(async (_, connection) => {
      await connection.write(bytes(`${OK}${HI}`));
      await connection.write(bytes(EVIL));
    });
    for (let i = 0; i < 5; i++) {
      const answer = await post();
      sent++;
      expect([answer.status, answer.text(), answer.header('x-evil')]).toEqual([200, 'hi', undefined]);
    }
    await honest();
  });

  test('a bomb, 128 MiB in as many kilobytes, is refused by its name, and never unpacked', async () => {
    const bomb = gzipSync(Buffer.alloc(128 * MIB));
    const before = proxy.rss();
    for (const encoding of [
      'gzip',
      'x-gzip',
      'deflate',
      'br',
      'zstd',
      'gzip, gzip',
      'identity, gzip',
      'GZIP',
    ]) {
      up.handle((_, connection) =>
        connection.reply(
          200,
          { 'Content-Encoding': encoding },
          encoding === 'deflate' ? deflateSync('x') : bomb,
        ),
      );
      const answer = await post();
      sent++;
      expect([encoding, answer.status, answer.header('x-isoproxy-error')]).toEqual([
        encoding,
        502,
        'upstream_invalid',
      ]);
    }
    expect(proxy.rss() - before).toBeLessThan(48 * MIB);
    await honest();
  });

  test('a head without end is given up, in bounded memory', async () => {
    const before = proxy.rss();
    let written = 0;
    up.handle(async (_, connection) => {
      await connection.write(bytes(OK));
      const line = bytes(`X-A: ${'v'.repeat(60_000)}¶`);
      while (written < 256 * MIB && (await connection.write(line))) {
        written += line.length;
        await new Promise((next) => setImmediate(next));
      }
    });
    const answer = await post();
    sent++;
    expect([answer.status, ['upstream_invalid', 'upstream_timeout']]).toEqual([
      answer.status === 504 ? 504 : 502,
      expect.arrayContaining([answer.header('x-isoproxy-error')]),
    ]);
    expect(written).toBeLessThan(256 * MIB);
    expect(proxy.rss() - before).toBeLessThan(128 * MIB);
    await honest();
  });

  test('a drip of single bytes: what came is passed on as it comes, and the end is a cut', async () => {
    const gone = Promise.withResolvers<unknown>();
    up.handle(async (_, connection) => {
      await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      void connection.gone.then(gone.resolve);
      while (connection.record.peerEnd === undefined && (await connection.chunk('x'))) await Bun.sleep(50);
    });
    const started = performance.now();
    using client = await connect(proxy.socket());
    await client.send(formatRequest({ method: 'POST', target: '/api/v1/messages', body: '{}' }));
    await client.waitFor('x');
    expect(performance.now() - started).toBeLessThan(500);
    const answer = await client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([
      200,
      false,
      expect.stringMatching(/^x{5,60}$/),
    ]);
    expect(performance.now() - started).toBeLessThan(3000);
    sent++;
    await within('the upstream to be left', gone.promise);
    await honest();
  });
});

test('the credential is in nothing that outputs or files have shown', async () => {
  assertClean(canary, proxy.visible());
  expect(await proxy.stop()).toBe(0);
});
