// Attack ids are explained in SECURITY.md. Raw bytes on the socket, and exactly what becomes of them: the answer, the
// fate of the connection, every byte that the upstream saw, and the record. targets.test.ts and framing.test.ts hold the
// attacks on the target and on the framing; here are the MUSTs of RFC 9110 and RFC 9112 for an intermediary, what WHATWG
// URL does to a target, refusals while a body is still coming, and requests that are cut at every byte.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import { type Isoproxy, startSimple } from '../support/isoproxy.ts';
import { connect, type RawClient, request } from '../support/raw-client.ts';
import { type RecordedRequest, type Recorder, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(20_000);

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
const canary = makeCanary();

/** `¶` stands for CRLF. */
const bytes = (raw: string): Buffer => Buffer.from(raw.replaceAll('¶', '\r\n'), 'latin1');
const POST = 'POST /api/v1/messages HTTP/1.1¶Host: x¶';
const GET = 'GET /api/v1/models/a HTTP/1.1¶Host: x¶';
const DENIED = 'POST /api/v1/files HTTP/1.1¶Host: x¶';
const MODEL = 'GET /v1/models/a HTTP/1.1';
const MESSAGE = 'POST /v1/messages HTTP/1.1';

/** `sent`: the request line upstream, the header lines beyond what every request has, and the body. */
interface Sent {
  sent: string;
  headers?: string[];
  body?: string;
  /** The connection: `open` answers another request, `closed` was closed by the proxy. Default open. */
  fate?: 'open' | 'closed';
}
/** Our own answer, always with the end of the connection. */
interface Refused {
  refused: string;
}
/** The runtime's parser answers by itself (0: it closes without a word); nothing upstream, no record. */
interface Parser {
  parser: number[];
}
type Verdict = Sent | Refused | Parser;
type Row = [name: string, raw: string, verdict: Verdict, deno?: Verdict];

/** A row for `test.each`, which takes a parameter more than a row has for a callback. */
interface Item {
  raw: string;
  bun: Verdict;
  deno: Verdict | undefined;
}
const items = (rows: Row[]) =>
  rows.map(([name, raw, bun, deno]): [string, Item] => [name, { raw, bun, deno }]);

const sent = (line: string, headers: string[] = [], more: Partial<Sent> = {}): Sent => ({
  sent: line,
  headers,
  ...more,
});
const refused = (code: string): Refused => ({ refused: code });
const parser = (...statuses: number[]): Parser => ({ parser: statuses });
const closed = { fate: 'closed' } as const;
const BAD = refused('400 bad_target');
const NONE = refused('403 endpoint_not_allowed');
const MALFORMED = refused('400 bad_request');

const field = (lines: string) => `${GET}${lines}¶¶`;
const post = (lines: string, body: string) => `${POST}${lines}¶¶${body}`;

const conformance: Row[] = [
  // RFC 9110 7.6.1: an intermediary MUST remove Connection and every field that it nominates.
  ['9110 7.6.1 a nominated field', field('Connection: X-Hop¶X-Hop: 1¶X-End: 2'), sent(MODEL, ['x-end: 2'])],
  ['9110 7.6.1 nominated in another case', field('Connection: x-HOP¶X-Hop: 1'), sent(MODEL)],
  ['9110 7.6.1 nominated in a second line', field('Connection: a¶Connection: X-Hop¶X-Hop: 1'), sent(MODEL)],
  ['9110 7.6.1 nominated with odd white space', field('Connection: ,\t ,X-Hop\t,¶X-Hop: 1'), sent(MODEL)],
  ['9110 7.6.1 a field that is not there', field('Connection: X-Nothing'), sent(MODEL)],
  ['9110 7.6.1 the credential', field('Connection: x-api-key'), sent(MODEL)],
  ['9110 7.6.1 Host', field('Connection: host'), sent(MODEL)],
  ['9110 7.6.1 Accept-Encoding', field('Connection: accept-encoding'), sent(MODEL)],
  [
    '9110 7.6.1 Keep-Alive and Proxy-Connection',
    field('Keep-Alive: timeout=5¶Proxy-Connection: keep-alive'),
    sent(MODEL),
  ],
  ['9110 7.6.1 TE', field('TE: trailers, deflate;q=0.5¶Connection: TE'), sent(MODEL)],
  [
    '9110 7.6.1 Content-Length of a body',
    post('Connection: content-length¶Content-Length: 2', '{}'),
    sent(MESSAGE, ['content-length: 2'], { body: '{}' }),
  ],
  [
    '9110 7.6.1 Content-Type of a body',
    post('Connection: content-type¶Content-Type: a/b¶Content-Length: 2', '{}'),
    sent(MESSAGE, ['content-length: 2'], { body: '{}' }),
  ],
  // RFC 9110 7.6.2: OPTIONS with Max-Forwards MUST be counted down, and at zero MUST NOT be forwarded.
  [
    '9110 7.6.2 OPTIONS with Max-Forwards: 0',
    'OPTIONS /api/v1/o HTTP/1.1¶Host: x¶Max-Forwards: 0¶¶',
    MALFORMED,
  ],
  [
    '9110 7.6.2 OPTIONS with Max-Forwards: 9',
    'OPTIONS /api/v1/o HTTP/1.1¶Host: x¶Max-Forwards: 9¶¶',
    MALFORMED,
  ],
  [
    '9110 7.6.2 Max-Forwards of another method is an ordinary field',
    field('Max-Forwards: 0'),
    sent(MODEL, ['max-forwards: 0']),
  ],
  // RFC 9110 7.6.3: Via. A client's is a claim about hops that do not exist; ours is not added, as TLS-ending tools do.
  ['9110 7.6.3 Via of the client', field('Via: 1.1 evil'), sent(MODEL)],
  // RFC 9110 7.8: Upgrade MUST be answered or ignored by this hop, never passed on.
  [
    '9110 7.8 an upgrade to h2c',
    field('Connection: Upgrade, HTTP2-Settings¶Upgrade: h2c¶HTTP2-Settings: AAA'),
    sent(MODEL),
  ],
  ['9110 7.8 an upgrade without Connection', field('Upgrade: TLS/1.0'), sent(MODEL)],
  [
    '9110 7.8 a WebSocket where none is allowed',
    field('Connection: Upgrade¶Upgrade: websocket¶Sec-WebSocket-Key: x¶Sec-WebSocket-Version: 13'),
    sent(MODEL, ['sec-websocket-key: x', 'sec-websocket-version: 13']),
  ],
  // RFC 9110 7.7 and 8.4: content MUST NOT be transformed, codings of the client are its own affair.
  [
    '9110 7.7 a coded request body',
    post('Content-Encoding: gzip¶Content-Length: 3', '\x1f\x8b\0'),
    sent(MESSAGE, ['content-encoding: gzip', 'content-length: 3'], { body: '\x1f\x8b\0' }),
  ],
  [
    '9110 7.7 no-transform',
    field('Cache-Control: no-transform'),
    sent(MODEL, ['cache-control: no-transform']),
  ],
  [
    '9110 12.5.3 Accept-Encoding: identity alone is asked',
    field('Accept-Encoding: gzip;q=1, *;q=0'),
    sent(MODEL),
  ],
  // RFC 9110 5: field lines.
  ['9110 5.3 repeats are combined in order', field('X-A: 1¶X-A: 2¶x-a: 3'), sent(MODEL, ['x-a: 1, 2, 3'])],
  ['9110 5.5 white space around a value', field('X-A: \t spaced \t '), sent(MODEL, ['x-a: spaced'])],
  ['9110 5.5 white space inside a value', field('X-A: a \t b'), sent(MODEL, ['x-a: a \t b'])],
  ['9110 5.5 an empty value', field('X-A:'), sent(MODEL, ['x-a:'])],
  ['9110 5.6.4 a quoted string', field('X-A: "a, \\"b\\""'), sent(MODEL, ['x-a: "a, \\"b\\""'])],
  [
    '9110 5.6.2 every character of a token in a name',
    field("!#$%&'*+-.^_`|~09azAZ: 1"),
    sent(MODEL, ["!#$%&'*+-.^_`|~09azaz: 1"]),
  ],
  [
    '9110 10.1.3 From and Referer',
    field('From: a@b¶Referer: http://x/?k=1'),
    sent(MODEL, ['from: a@b', 'referer: http://x/?k=1']),
  ],
  [
    '9110 10.1.5 User-Agent and Accept of the client',
    field('User-Agent: y/1¶Accept: text/x'),
    sent(MODEL, ['accept: text/x', 'user-agent: y/1']),
  ],
  ['9110 11.7.2 Proxy-Authorization', field('Proxy-Authorization: Basic eA=='), sent(MODEL)],
  [
    '9110 13 conditions',
    field('If-None-Match: "x"¶If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT'),
    sent(MODEL, ['if-modified-since: Mon, 01 Jan 2024 00:00:00 GMT', 'if-none-match: "x"']),
  ],
  [
    '9110 14 ranges',
    field('Range: bytes=0-1¶If-Range: "x"'),
    sent(MODEL, ['if-range: "x"', 'range: bytes=0-1']),
  ],
  // RFC 9110 10.1.1: a proxy that has answered 100 MUST NOT pass the expectation on.
  [
    '9110 10.1.1 Expect: 100-continue',
    post('Expect: 100-continue¶Content-Length: 2', '{}'),
    sent(MESSAGE, ['content-length: 2'], { body: '{}' }),
  ],
  ['9110 10.1.1 an unknown expectation', post('Expect: 200-ok¶Content-Length: 2', '{}'), MALFORMED],
  // RFC 9110 9.1: methods; 9.3.6 CONNECT, 9.3.8 TRACE.
  ...['TRACE', 'CONNECT', 'PROPFIND', 'MKCOL', 'M-SEARCH', 'QUERY', 'LINK', 'PURGE', 'SEARCH'].map(
    (method): Row => [
      `9110 9.1 the method ${method}`,
      GET.replace('GET', method).concat('¶'),
      refused('405 method_not_supported'),
      method === 'CONNECT' ? parser(400, 405) : refused('405 method_not_supported'),
    ],
  ),
  ...['get', 'GET1', 'GE T', 'G\tET', 'GET\0', 'G(T', '"GET"', '', '\xc7ET'].map(
    (method): Row => [
      `9110 9.1 the method ${JSON.stringify(method)}`,
      GET.replace('GET', method).concat('¶'),
      parser(0, 400, 505),
    ],
  ),
  // RFC 9112 2.3, 9.3, 9.6: versions and persistence. What goes up is always HTTP/1.1.
  ['9112 9.3 HTTP/1.1 stays open', field('X-A: 1'), sent(MODEL, ['x-a: 1'])],
  ['9112 9.6 Connection: close', field('Connection: close'), sent(MODEL, [], closed)],
  [
    '9112 9.6 close in a list, in another case',
    field('Connection: x, CLOSE'),
    sent(MODEL, [], closed),
    sent(MODEL, [], closed),
  ],
  [
    '9112 9.6 close of a POST',
    post('Connection: close¶Content-Length: 2', '{}'),
    sent(MESSAGE, ['content-length: 2'], { body: '{}', ...closed }),
  ],
  ['9112 9.3 HTTP/1.0 closes', GET.replace('1.1', '1.0').concat('¶'), sent(MODEL, [], closed), parser(505)],
  [
    '9112 C.2.2 HTTP/1.0 with keep-alive, which a proxy need not honour',
    GET.replace('1.1', '1.0').concat('Connection: keep-alive¶¶'),
    sent(MODEL, [], closed),
    parser(505),
  ],
  // RFC 9112 3.2: exactly one well-formed Host; its value has no say.
  ['9112 3.2 a foreign Host', `${GET}¶`.replace('Host: x', 'Host: api.anthropic.com:443'), sent(MODEL)],
  ['9112 3.2 an IPv6 Host', `${GET}¶`.replace('Host: x', 'Host: [::1]:80'), sent(MODEL)],
  ['9112 3.2 a Host in capitals with white space', `${GET}¶`.replace('Host: x', 'HOST:  X '), sent(MODEL)],
  ['9112 3.2 a Host with a scheme', `${GET}¶`.replace('Host: x', 'Host: http://x'), BAD, MALFORMED],
  ['9112 3.2 a Host with two ports', `${GET}¶`.replace('Host: x', 'Host: x:1:2'), MALFORMED],
  ['9112 3.2 a Host of a zone', `${GET}¶`.replace('Host: x', 'Host: [fe80::1%25eth0]'), MALFORMED],
  // RFC 9112 6.3: the length of a message.
  [
    '9112 6.3 no length, no body',
    `${POST}¶`,
    sent(MESSAGE, DENO ? ['transfer-encoding: chunked'] : ['content-length: 0']),
  ],
  [
    '9112 6.3 a length of zero',
    post('Content-Length: 0', ''),
    sent(MESSAGE, DENO ? ['transfer-encoding: chunked'] : ['content-length: 0']),
  ],
  [
    '9112 6.3 chunked',
    post('Transfer-Encoding: chunked', '2¶{}¶0¶¶'),
    sent(MESSAGE, ['transfer-encoding: chunked'], { body: '{}' }),
  ],
  [
    '9112 6.3 an empty chunked body',
    post('Transfer-Encoding: chunked', '0¶¶'),
    sent(MESSAGE, ['transfer-encoding: chunked']),
  ],
  // A browser is turned away by its Origin, whatever it asks for (DNS rebinding; Fetch 3.2).
  ['Origin of a page', field('Origin: https://evil.test'), refused('403 browser_origin')],
  ['Origin: null', field('Origin: null'), refused('403 browser_origin')],
  ['an empty Origin', field('Origin:'), refused('403 browser_origin')],
  [
    'a preflight',
    'OPTIONS /api/v1/o HTTP/1.1¶Host: x¶Origin: https://evil.test¶Access-Control-Request-Method: POST¶¶',
    refused('403 browser_origin'),
  ],
];

const at = (target: string) => `GET ${target} HTTP/1.1¶Host: x¶¶`;
const model = (rest: string) => sent(`GET /v1/models/${rest} HTTP/1.1`);
/** https://url.spec.whatwg.org: what a URL parser makes of a target, where Bun has one and Deno has none. */
const urls: Row[] = [
  ['URL 1.3 an apostrophe in the query is escaped', at("/api/v1/models/a?q='x'"), model('a?q=%27x%27'), BAD],
  ['URL 1.3 quotes and angles in the query', at('/api/v1/models/a?"<>'), model('a?%22%3C%3E'), BAD],
  ['URL 1.3 braces, bars and carets in the query stay', at('/api/v1/models/a?`{}|^'), model('a?`{}|^')],
  ['URL 4.4 a backslash in the query stays', at('/api/v1/models/a?\\..\\'), model('a?\\..\\')],
  ['URL 4.4 dot segments in the query stay', at('/api/v1/models/a?/../../x'), model('a?/../../x')],
  ['URL 4.4 a second question mark', at('/api/v1/models/a??'), model('a??')],
  ['URL 4.4 UTF-8 in the query', at('/api/v1/models/a?\xc3\xa9'), model('a?%C3%A9'), parser(400)],
  ['URL 4.4 no UTF-8 in the query', at('/api/v1/models/a?\xff'), model('a?%EF%BF%BD'), parser(400)],
  ['URL 4.4 a fragment right after the query', at('/api/v1/models/a?#'), BAD],
  ['URL 4.4 a question mark in the fragment', at('/api/v1/models/a#?'), BAD],
  ['URL 4.4 a drive letter with a bar', at('/api/v1/models/C|/x'), BAD],
  ['URL 4.4 a drive letter with a colon', at('/api/v1/models/C:/x'), model('C:/x')],
  ['URL 4.4 a port in a segment', at('/api/v1/models/a:80'), model('a:80')],
  ['URL 4.4 user info in a segment', at('/api/v1/models/u:p@x'), model('u:p@x')],
  ['URL 4.4 one dot at the end', at('/api/v1/models/a/.'), NONE, BAD],
  ['URL 4.4 two dots at the end', at('/api/v1/models/a/..'), NONE, BAD],
  ['URL 4.4 one dot inside', at('/api/v1/models/a/./b'), model('a/b'), BAD],
  ['URL 4.4 two dots inside', at('/api/v1/models/a/../b'), model('b'), BAD],
  ['URL 4.4 dots before the provider', at('/./././api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 more dots than segments', at('/api/v1/models/../../../../api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 encoded dots in capitals', at('/api/v1/models/x/%2E%2E/a'), model('a'), BAD],
  ['URL 4.4 a mixture of dots', at('/api/v1/models/x/.%2e/a'), model('a'), BAD],
  ['URL 4.4 encoded dots at the end', at('/api/v1/models/a/%2e%2e'), NONE, BAD],
  ['URL 4.4 backslashes and dots', at('/api\\..\\api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 a backslash before the query', at('/api/v1/models/a\\?x'), NONE, BAD],
  ['URL 4.4 names that begin with dots', at('/api/v1/models/.a/..b/...'), model('.a/..b/...')],
  ['URL 4.4 names that end with dots', at('/api/v1/models/a./b..'), model('a./b..')],
  ['URL 1.3 fullwidth dots, encoded', at('/api/v1/models/%EF%BC%8E%EF%BC%8E'), model('%EF%BC%8E%EF%BC%8E')],
  [
    'URL 1.3 fullwidth dots, raw',
    at('/api/v1/models/\xef\xbc\x8e\xef\xbc\x8e/x'),
    model('%EF%BC%8E%EF%BC%8E/x'),
    parser(400),
  ],
  ['URL 1.3 an ideographic full stop', at('/api/v1/models/%E3%80%82'), model('%E3%80%82')],
  ['URL 1.3 a soft hyphen, which hosts lose and paths keep', at('/api/v1/models/%C2%AD'), model('%C2%AD')],
  ['URL 1.3 a right-to-left override', at('/api/v1/models/%E2%80%AE'), model('%E2%80%AE')],
  ['URL 1.3 four bytes of UTF-8', at('/api/v1/models/%F0%9F%98%80'), model('%F0%9F%98%80')],
  ['URL 1.3 a caret and a backtick in the path', at('/api/v1/models/a^`b'), model('a%5E%60b'), BAD],
  ['URL 1.3 an unreserved escape is not decoded', at('/api/v1/models/%7E%41'), model('%7E%41')],
  ['URL 1.3 an encoded question mark', at('/api/v1/models/a%3Fb'), model('a%3Fb')],
  ['URL 1.3 an encoded number sign', at('/api/v1/models/a%23b'), model('a%23b')],
  ['URL 1.3 a plus is a plus', at('/api/v1/models/a+b?c+d'), model('a+b?c+d')],
  ['URL 1.3 an encoded space', at('/api/v1/models/a%20b'), model('a%20b')],
  ['URL 1.3 a raw unit separator', at('/api/v1/models/a\x1fb'), parser(400, 505)],
  ['URL 1.3 DEL in the query', at('/api/v1/models/a?\x7f'), model('a?%7F'), parser(400)],
  ['URL 4.4 a scheme inside the path', at('/http://x/api/v1/models/a'), BAD],
  ['URL 4.4 http: without slashes', at('http:api/v1/models/a'), parser(400)],
  ['URL 4.4 http: with one slash', at('http:/api/v1/models/a'), parser(400)],
  ['URL 4.4 http: with three slashes', at('http:///api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 https:', at('https://x/api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 a scheme in capitals', at('HTTP://x/api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 an authority with a bad port', at('http://x:99999/api/v1/models/a'), model('a'), BAD],
  ['URL 4.4 an authority with a backslash', at('http://x\\@y/api/v1/models/a'), model('a'), parser(400)],
  [
    'URL 4.4 an authority that ends with a query',
    at('http://x?/api/v1/models/a'),
    refused('404 unknown_provider'),
    BAD,
  ],
  ['URL 4.4 javascript:', at('javascript:alert(1)'), parser(400), parser(400)],
  ['URL 4.4 data:', at('data:text/plain,x'), parser(400), parser(400)],
  ['URL 4.4 unix:', at('unix:/run/x.sock:/api/v1/models/a'), parser(400), parser(400)],
  ['URL 4.4 blob:', at('blob:http://x/api/v1/models/a'), parser(400), parser(400)],
];

/** Refusals that come while the client is still sending: each is heard, and what follows is never a request. */
const tail = `${GET}¶`.repeat(3);
const early: Row[] = (
  [
    ['a denied path', DENIED, '403 endpoint_not_allowed'],
    ['an unknown provider', DENIED.replace('/api', '/none'), '404 unknown_provider'],
    ['a bad target', DENIED.replace('/v1', '//v1'), '400 bad_target'],
    ['an unknown method', DENIED.replace('POST', 'PROPFIND'), '405 method_not_supported'],
    ['an unknown expectation', `${POST}Expect: y¶`, '400 bad_request'],
    ['a page', `${POST}Origin: https://evil.test¶`, '403 browser_origin'],
    ['a bad Host', POST.replace('Host: x', 'Host: a%b'), '400 bad_request'],
  ] as const
).flatMap(([what, head, code], i): Row[] => {
  const size = bytes(tail).length;
  const chunk = `${head}Transfer-Encoding: chunked¶¶${size.toString(16)}¶${tail}¶`;
  // One that never ends is waited for (half a second), so each kind is tried with every other refusal.
  const unfinished: Row =
    i % 2 === 0
      ? [`${what}, with half of the body`, `${head}Content-Length: ${2 * size}¶¶${tail}`, refused(code)]
      : [`${what}, with chunks that go on`, chunk, refused(code)];
  return [
    [`${what}, with the whole body`, `${head}Content-Length: ${size}¶¶${tail}`, refused(code)],
    [`${what}, with chunks that end`, `${chunk}0¶¶`, refused(code)],
    unfinished,
  ];
});

let up: Recorder;
let proxy: Isoproxy;
/** Everything that came back to clients, for the last look. */
const answers: Buffer[] = [];

beforeAll(async () => {
  up = await startRecorder();
  const endpoints = ['POST /v1/messages', 'GET /v1/models/*', 'OPTIONS /v1/o'];
  proxy = await startSimple({ upstreamPort: up.port, ca: up.ca, canary, endpoints });
  await sendHonest();
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});

let honest = 0;
const honestPath = () => `/api/v1/models/honest-${++honest}`;
/** An allowed request on a connection of its own. Its record comes after all that ended before. */
async function sendHonest(): Promise<void> {
  const path = honestPath();
  expect((await request(proxy.socket(), { target: path })).status).toBe(200);
  await proxy.record((record) => record.path === path);
}
const ours = (item: { target?: string; path?: string }) =>
  !(item.target ?? item.path ?? '').includes('honest');

/** What every request has upstream, by Bun; Deno adds a language, too. */
const ALWAYS = ['accept-encoding: identity', `x-api-key: ${canary}`, 'connection: keep-alive'];
const DEFAULTS = /^(?:user-agent: (?:Bun|Deno)\/|accept: \*\/\*$|accept-language: \*$)/;

/** The header lines of a raw head, names in lower case, sorted; without what the runtime adds where there is none. */
function linesOf(seen: RecordedRequest): string[] {
  const [, ...lines] = seen.rawHead.toString('latin1').split('\r\n').slice(0, -2);
  return lines
    .map((line) => line.replace(/^[^:]*/, (name) => name.toLowerCase()).replace(/: *$/, ':'))
    .filter((line) => !DEFAULTS.test(line))
    .sort();
}
const expectedLines = (verdict: Sent) =>
  [...ALWAYS, `host: localhost:${up.port}`, ...(verdict.headers ?? [])]
    .filter((line) => !DENO || line !== 'connection: keep-alive')
    .sort();

async function expectFate(client: RawClient, fate: 'open' | 'closed'): Promise<void> {
  if (fate === 'closed') {
    await client.untilClosed();
    return;
  }
  await client.send(bytes(`GET ${honestPath()} HTTP/1.1¶Host: x¶¶`));
  expect((await client.response()).status).toBe(200);
}

async function check({ raw, bun, deno }: Item): Promise<void> {
  const verdict = (DENO && deno) || bun;
  const before = { requests: up.requests.length, connections: up.connections.length };
  const recordsBefore = proxy.records().length;
  const method = raw.split(' ', 1)[0] as string;
  using client = await connect(proxy.socket());
  void client.send(bytes(raw));
  const answer = await client.response({ method });
  const statuses = () =>
    [
      ...client
        .received()
        .toString('latin1')
        .matchAll(/^HTTP\/1\.1 (\d{3})/gm),
    ].map(([, status]) => status);

  if ('sent' in verdict) {
    expect([answer.status, answer.text()]).toEqual([200, 'ok']);
    const seen = up.requests.slice(before.requests);
    expect(seen.map(({ rawHead }) => rawHead.toString('latin1').split('\r\n')[0])).toEqual([verdict.sent]);
    expect(linesOf(seen[0]!)).toEqual(expectedLines(verdict));
    expect([seen[0]!.body.toString('latin1'), seen[0]!.state]).toEqual([verdict.body ?? '', 'complete']);
    await expectFate(client, verdict.fate ?? 'open');
  } else {
    await client.untilClosed();
    expect([up.requests.length, up.connections.length]).toEqual([before.requests, before.connections]);
    if ('refused' in verdict) {
      expect(`${answer.status} ${answer.json().code}`).toBe(verdict.refused);
      expect([answer.header('x-isoproxy-error'), answer.header('connection')]).toEqual([
        verdict.refused.slice(4),
        'close',
      ]);
    } else {
      expect(verdict.parser).toContain(answer.status);
    }
    // One answer at most, and nothing after it.
    expect(statuses().length).toBe(answer.status === 0 ? 0 : 1);
  }
  answers.push(client.received());
  await sendHonest();
  const records = proxy.records().slice(recordsBefore).filter(ours);
  if ('parser' in verdict) expect(records).toEqual([]);
  else if ('sent' in verdict)
    expect(
      records.map(({ decision, status, reason, rule }) => [decision, status, reason, rule !== '']),
    ).toEqual([['allow', 200, '', true]]);
  else
    expect(
      records.map(({ decision, status, reason, rule }) => [
        decision,
        `${status} ${reason}`,
        DENO ? '' : rule,
      ]),
    ).toEqual([['deny', verdict.refused, '']]);
}

describe('an intermediary, by RFC', () => {
  test.each(items(conformance))('%s', (_, item) => check(item));
});
describe('a target, by WHATWG', () => {
  test.each(items(urls))('%s', (_, item) => check(item));
});
describe('an early refusal is heard over a body that goes on:', () => {
  test.each(items(early))('%s', (_, item) => check(item));
});

describe('a request that is cut', () => {
  const whole: [string, string][] = [
    ['a GET', `${GET}¶`],
    ['a POST with a length', post('Content-Length: 30', 'x'.repeat(30))],
    ['a POST with chunks', post('Transfer-Encoding: chunked', '5¶hello¶6¶ world¶0¶¶')],
  ];
  for (const how of ['closed', 'half-closed'] as const)
    test.each(whole)(`%s, at every byte, then ${how}, is never a whole request upstream`, async (_, raw) => {
      const all = bytes(raw);
      const before = { requests: up.requests.length, records: proxy.records().length };
      const cuts = Array.from({ length: all.length - 1 }, (_, i) => i + 1);
      for (let from = 0; from < cuts.length; from += 32) {
        await Promise.all(
          cuts.slice(from, from + 32).map(async (length) => {
            using client = await connect(proxy.socket());
            await client.send(all.subarray(0, length));
            if (how === 'closed') return client.close();
            client.halfClose();
            const received = await client.untilClosed();
            expect([length, received.toString('latin1')]).toEqual([
              length,
              expect.not.stringMatching(/^HTTP\/1\.1 200/),
            ]);
            answers.push(received);
          }),
        );
      }
      await sendHonest();
      const seen = up.requests.slice(before.requests).filter(ours);
      // RFC 9112 8: a message that is cut short is incomplete, and must be recognisable as that further on. With its
      // last chunk line it is complete (7.1), whatever becomes of the empty line behind it.
      await until('all uploads to end', () => seen.every(({ state }) => state !== 'reading'));
      const complete = seen.filter(({ state }) => state === 'complete').map(({ body }) => body.toString());
      expect(complete.filter((body) => body !== 'hello world')).toEqual([]);
      expect(complete.length).toBeLessThanOrEqual(raw.includes('chunked') ? 2 : 0);
      const records = () => proxy.records().slice(before.records).filter(ours);
      await until('the records', () =>
        records().every(({ status }) => status >= 400 || raw.includes('chunked')),
      );
    });

  test('a client that says goodbye and reads on: its whole request is answered, or ends in one 499', async () => {
    const before = proxy.records().length;
    using client = await connect(proxy.socket());
    await client.send(bytes(`${GET}¶`));
    client.halfClose();
    const received = await client.untilClosed();
    await sendHonest();
    const records = proxy.records().slice(before).filter(ours);
    // RFC 9112 9.6 lets a server take the FIN for the end; Bun does (docs/runtime.md 24).
    expect(records.length).toBeLessThanOrEqual(1);
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(received.toString('latin1'))?.[1] ?? 499);
    for (const record of records) expect([200, 499]).toContain(record.status);
    expect([200, 499]).toContain(status);
  });
});

test('the credential is in nothing that clients, outputs or files have shown', async () => {
  expect(up.problems).toEqual([]);
  assertClean(canary, { answers: Buffer.concat(answers), ...proxy.visible() });
  expect(await proxy.stop()).toBe(0);
});
