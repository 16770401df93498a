// What the fuzzer sends: requests with a structure (fast-check), and bytes that are damaged on top of it (seeded).

import fc from 'fast-check';
import { createRandom, type Random } from './random.ts';

const TARGETS = [
  '/api/v1/messages',
  '/api/v1/models/a',
  '/api/v1/models/echo',
  '/api/v1/models/echo/b/c',
  '/api/v1/models/odd',
  '/api/v1/files/x',
  '/api/v1/list?page=1',
  '/api/kept/a%2Fb',
  '/byquery/v1/models/a?x=1',
  '/byquery/v1/models/echo?KEY=evil&k%65y=evil',
  '/basic/v1/models/a',
  '/basic/v1/models/echo',
  '/healthz',
  '/.well-known/isoproxy',
  '*',
  'http://169.254.169.254/api/v1/models/a',
];
const PIECES = [
  ...[
    '/',
    '//',
    '.',
    '..',
    './',
    '../',
    '%2e',
    '%2E%2e',
    '%2f',
    '%2F',
    '%5c',
    '\\',
    ';',
    '..;',
    '%3b',
    '%25',
    '%252e',
  ],
  ...[
    '%',
    '%zz',
    '%00',
    '%0a',
    '%c0%af',
    '%C3%A9',
    '?',
    '#',
    '&',
    'key=evil',
    '&key=evil',
    '?page=2',
    ' ',
    '\t',
    '@',
  ],
  ...[
    'v1',
    'messages',
    'models',
    'files',
    'api',
    'byquery',
    'basic',
    ':',
    '*',
    '|',
    '"',
    "'",
    '<',
    '{',
    '^',
    '~',
    '\xff',
    'http://x',
  ],
];
/** Fields that a request may have and still be forwarded. */
const HARMLESS = [
  ...[
    'Authorization: Bearer evil',
    'X-Api-Key: evil',
    'x_api_key: evil',
    'X.Api.Key: evil',
    'Cookie: a=evil',
    'X: y',
  ],
  ...[
    'Connection: close, x-api-key, authorization, host',
    'Connection: upgrade',
    'Upgrade: h2c',
    'TE: trailers',
  ],
  ...[
    'X-Forwarded-For: 127.0.0.1',
    'X-HTTP-Method-Override: DELETE',
    'Via: 1.1 x',
    'Accept-Encoding: gzip',
    'Proxy: x',
  ],
  ...[
    'Content_Length: 9',
    'Transfer_Encoding: chunked',
    'Range: bytes=0-,0-',
    'X-Isoproxy-A: b',
    'Expect: 100-continue',
  ],
];
const HEADERS = [
  ...[
    'Authorization: Bearer evil',
    'X-Api-Key: evil',
    'x_api_key: evil',
    'X.Api.Key: evil',
    'api-key: evil',
    'Cookie: a=evil',
  ],
  ...[
    'Proxy-Authorization: Basic ZXZpbA==',
    'Connection: close, x-api-key, authorization, host, content-length',
    'Connection: upgrade',
  ],
  ...[
    'Upgrade: websocket',
    'Upgrade: h2c',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    'Sec-WebSocket-Version: 13',
  ],
  ...[
    'Transfer-Encoding: chunked',
    'Transfer-Encoding: gzip, chunked',
    'Transfer_Encoding: chunked',
    'TE: trailers',
    'Trailer: X',
  ],
  ...[
    'Content-Length: 0',
    'Content-Length: 5',
    'Content-Length: 5, 5',
    'Content-Length: -1',
    'Content-Length: 99999999999999999999',
  ],
  ...[
    'Content_Length: 9',
    'Host: evil.test',
    'Host: a@b',
    'Host:',
    'Expect: 100-continue',
    'Expect: x',
    'Range: bytes=0-,0-',
  ],
  ...[
    'X-Forwarded-For: 127.0.0.1',
    'X-HTTP-Method-Override: DELETE',
    'X-Original-URL: /v1/files',
    'Forwarded: host=x',
    'Via: 1.1 x',
  ],
  ...[
    'Accept-Encoding: gzip',
    'Origin: null',
    'Origin: https://x',
    'Max-Forwards: 0',
    'X-Isoproxy-A: b',
    'X: a\tb',
    'X: \xff',
    'Proxy: x',
  ],
  ...[
    ': empty',
    'no colon',
    ' folded: x',
    'X : y',
    'X: a\rb',
    'X: a\nb',
    'X: a\0b',
    `X: ${'y'.repeat(3000)}`,
  ],
];
const CHUNKS = [
  '0\r\n\r\n',
  '5\r\nhello\r\n0\r\n\r\n',
  '5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n',
  '0x5\r\nhello\r\n0\r\n\r\n',
  '5\r\nhel',
  '-1\r\n\r\n',
  'fffffffffffffffff\r\n',
  '5\nhello\n0\n\n',
];

const target = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...TARGETS) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.constantFrom(...TARGETS), fc.array(fc.constantFrom(...PIECES), { maxLength: 4 }))
      .map(([start, more]) => start + more.join('')),
  },
  {
    weight: 2,
    arbitrary: fc.array(fc.constantFrom(...PIECES), { maxLength: 9 }).map((parts) => `/${parts.join('')}`),
  },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 30 }) },
);
const method = fc.oneof(
  { weight: 5, arbitrary: fc.constantFrom('GET', 'POST', 'PUT') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      'HEAD',
      'DELETE',
      'OPTIONS',
      'PATCH',
      'TRACE',
      'CONNECT',
      'get',
      'FOO',
      'PRI',
      '',
    ),
  },
);
/** Method and target that go together, so that a good part gets through. */
const allowed = fc.constantFrom(
  { method: 'POST', target: '/api/v1/messages' },
  { method: 'GET', target: '/api/v1/models/a' },
  { method: 'GET', target: '/api/v1/models/echo?q=1' },
  { method: 'GET', target: '/api/v1/models/odd/x' },
  { method: 'PUT', target: '/api/v1/files/x' },
  { method: 'GET', target: '/api/v1/list?page=1' },
  { method: 'GET', target: '/api/kept/a%2Fb' },
  { method: 'GET', target: '/byquery/v1/models/echo?KEY=evil&k%65y=evil' },
  { method: 'POST', target: '/byquery/v1/models/a?x=1;key=evil' },
  { method: 'GET', target: '/basic/v1/models/echo' },
);
const rare = <T>(common: T, ...others: T[]) =>
  fc.oneof(
    { weight: 12, arbitrary: fc.constant(common) },
    { weight: 1, arbitrary: fc.constantFrom(...others) },
  );
const length = (size: number, body: string) => `Content-Length: ${size}\r\n\r\n${body}`;
const request = fc
  .record({
    line: fc.oneof(allowed, fc.record({ method, target })),
    version: rare('HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'http/1.1', ''),
    host: rare('Host: x', 'Host: a/?', 'Host: a, b', ''),
    headers: fc.oneof(
      { weight: 3, arbitrary: fc.array(fc.constantFrom(...HARMLESS), { maxLength: 4 }) },
      { weight: 1, arbitrary: fc.array(fc.constantFrom(...HEADERS), { maxLength: 4 }) },
    ),
    body: fc.oneof(
      { weight: 6, arbitrary: fc.constant('') },
      { weight: 3, arbitrary: fc.nat(300).map((size) => length(size, 'b'.repeat(size))) },
      { weight: 1, arbitrary: fc.nat(9).map((size) => length(size, 'hello')) },
      {
        weight: 2,
        arbitrary: fc.constantFrom(...CHUNKS).map((chunks) => `Transfer-Encoding: chunked\r\n\r\n${chunks}`),
      },
    ),
  })
  .map(({ body, headers, host, line, version }) => {
    const head = [`${line.method} ${line.target} ${version}`, host, ...headers].filter((text) => text !== '');
    return `${head.join('\r\n')}\r\n${body === '' ? '\r\n' : body}`;
  });
const messages = fc.oneof(
  { weight: 5, arbitrary: request },
  { weight: 1, arbitrary: fc.tuple(request, request).map(([a, b]) => a + b) },
);

const ANSWERS = [
  'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n',
  'HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\nHTTP/1.1 204 No\r\n\r\n',
  'HTTP/1.1 302 Found\r\nLocation: https://x/\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n',
  'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n0\r\nX: y\r\n\r\n',
  'HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nraw',
  'HTTP/1.0 200 OK\r\n\r\nclose ends it',
];

const TOKENS = [
  '\r\n',
  '\n',
  '\r',
  '\0',
  ' ',
  '\t',
  ':',
  ';',
  ',',
  '/',
  '..',
  '%2f',
  '%',
  '\\',
  '\xff',
  'chunked',
  '0\r\n\r\n',
  'HTTP/1.1',
  '-',
  '+',
];

/** Damages bytes in one to four places. */
function mutate(text: string, random: Random): string {
  let bytes = text;
  for (let i = random(4); i >= 0; i--) {
    const at = random(bytes.length + 1);
    const end = Math.min(bytes.length, at + 1 + random(12));
    switch (random(7)) {
      case 0:
        bytes = bytes.slice(0, at) + String.fromCharCode(random(256)) + bytes.slice(at + 1);
        break;
      case 1:
        bytes = bytes.slice(0, at) + random.pick(TOKENS) + bytes.slice(at);
        break;
      case 2:
        bytes = bytes.slice(0, at) + bytes.slice(end);
        break;
      case 3:
        bytes = bytes.slice(0, end) + bytes.slice(at, end) + bytes.slice(end);
        break;
      case 4:
        bytes = bytes.slice(0, at) + random.pick(TOKENS) + bytes.slice(end);
        break;
      case 5: {
        const bit = String.fromCharCode((bytes.charCodeAt(at) || 0) ^ (1 << random(8)));
        bytes = bytes.slice(0, at) + bit + bytes.slice(at + 1);
        break;
      }
      default:
        bytes = random.chance(20) ? bytes.slice(0, at) : `${bytes}${random.pick(TOKENS)}`;
    }
  }
  return bytes;
}

/** The requests of one batch, as latin-1 text; more than half are damaged. Seed and number give the same again. */
export function requestBatch(seed: number, batch: number, size: number): string[] {
  const at = Math.imul(seed + 0x9e3779b9, 0x85ebca6b) ^ Math.imul(batch + 1, 0xc2b2ae35);
  const random = createRandom(at);
  return fc
    .sample(messages, { seed: at, numRuns: size })
    .map((text) => (random.chance(60) ? mutate(text, random) : text));
}

/** An answer of an upstream that has gone wrong. */
export const oddAnswer = (random: Random): string => mutate(random.pick(ANSWERS), random);
