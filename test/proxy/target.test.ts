import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { ProxyError } from '../../src/errors.ts';
import { MAX_TARGET_BYTES, parseTarget, splitProvider } from '../../src/proxy/target.ts';
import { propertyRuns } from '../support/random.ts';

function reasonFor(text: string): string {
  try {
    parseTarget(text);
  } catch (error) {
    if (error instanceof ProxyError && error.code === 'bad_target') return error.reason;
    throw error;
  }
  return 'accepted';
}

describe('a target that is accepted is kept to the byte', () => {
  test.each([
    ['/', '/', ''],
    ['/v1/messages', '/v1/messages', ''],
    ['/v1/messages/', '/v1/messages/', ''],
    ['/v1/messages?', '/v1/messages', '?'],
    ['/v1/messages?beta=true', '/v1/messages', '?beta=true'],
    ['/a?b=c?d=/../e', '/a', '?b=c?d=/../e'],
    ['/a?x=%2e%2e%2f', '/a', '?x=%2e%2e%2f'],
    ["/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@", ''],
    ['/caf%C3%A9', '/caf%C3%A9', ''],
    ['/%6dessages', '/%6dessages', ''],
    ['/...', '/...', ''],
    ['/.well-known/x', '/.well-known/x', ''],
    ['/a..b/..c', '/a..b/..c', ''],
    ['/100%25', '/100%25', ''],
    ['/a;x=1', '/a;x=1', ''],
  ])('%s', (text, path, query) => {
    expect(parseTarget(text)).toEqual({ path, query, hasEncodedSlash: false });
  });

  test.each(['/a%2Fb', '/a%2fb', '/@scope%2Fname'])('an encoded slash is reported: %s', (text) => {
    expect(parseTarget(text).hasEncodedSlash).toBe(true);
  });
});

describe('a target that is not one unambiguous path is refused', () => {
  test.each([
    ['', 'target does not start with a slash'],
    ['v1', 'target does not start with a slash'],
    ['*', 'target does not start with a slash'],
    ['//v1', 'empty segment'],
    ['/v1//messages', 'empty segment'],
    ['/v1/messages//', 'empty segment'],
    ['/.', 'dot segment'],
    ['/..', 'dot segment'],
    ['/./v1', 'dot segment'],
    ['/v1/../files', 'dot segment'],
    ['/v1/..', 'dot segment'],
    ['/v1/..;/files', 'dot segment with parameters'],
    ['/v1/.;x=1', 'dot segment with parameters'],
    ['/v1/..%3bx/files', 'dot segment with parameters'],
    ['/v1/%2e%2e/files', 'encoded dot'],
    ['/v1/%2E', 'encoded dot'],
    ['/v1%5cx', 'encoded backslash'],
    ['/v1%00', 'encoded control byte'],
    ['/v1%0d%0aX', 'encoded control byte'],
    ['/v1%7f', 'encoded control byte'],
    ['/v1/%252e%252e', 'double encoding'],
    ['/v1/%256dessages', 'double encoding'],
    ['/v1/%', 'invalid percent-encoding'],
    ['/v1/%zz', 'invalid percent-encoding'],
    ['/v1/%2', 'invalid percent-encoding'],
    ['/v1/%c0%af', 'invalid UTF-8 in percent-encoding'],
    ['/v1/%ff', 'invalid UTF-8 in percent-encoding'],
    ['/v1/%ed%a0%80', 'invalid UTF-8 in percent-encoding'],
    ['/v1\\x', 'byte outside RFC 3986 pchar'],
    ['/v1 x', 'byte outside RFC 3986 pchar'],
    ['/v1|x', 'byte outside RFC 3986 pchar'],
    ['/v1/[x]', 'byte outside RFC 3986 pchar'],
    ['/v1"', 'byte outside RFC 3986 pchar'],
    ['/v1\x7f', 'byte outside RFC 3986 pchar'],
    ['/café', 'byte outside RFC 3986 pchar'],
    ['/v1/\u760d\u760a', 'byte outside RFC 3986 pchar'],
    ['/v1#x', 'byte outside RFC 3986 pchar'],
    ['/v1?a#x', 'fragment'],
    ['/v1?a=%00', 'encoded NUL, CR or LF in the query'],
    ['/v1?a=%0A', 'encoded NUL, CR or LF in the query'],
    ['/v1?a=%0d', 'encoded NUL, CR or LF in the query'],
    ['/v1?a b', 'control or non-ASCII byte in the query'],
    ['/v1?a\tb', 'control or non-ASCII byte in the query'],
    ['/v1?é', 'control or non-ASCII byte in the query'],
    ['/a%2F%2Fb', 'empty part before an encoded slash'],
    ['/%2Fb', 'empty part before an encoded slash'],
    ['/a%2F', 'empty part after an encoded slash'],
    ['/a%2F/b', 'empty part after an encoded slash'],
    ['/a%2F..', 'dot segment'],
    ['/a%2F..%2Fb', 'dot segment'],
    ['/..%2Fb', 'dot segment'],
    [`/${'a'.repeat(MAX_TARGET_BYTES)}`, 'target over 8 KiB'],
  ])('%s', (text, reason) => {
    expect(reasonFor(text)).toBe(reason);
  });
});

test('parsing is idempotent, and what is accepted means the same to the URL parser', () => {
  const piece = fc.oneof(
    fc.constantFrom(
      '/',
      '.',
      '..',
      '%2e',
      '%2F',
      '%5c',
      ';',
      '%25',
      '%',
      '?',
      '#',
      '\\',
      '//',
      'v1',
      'messages',
      ' ',
      '%C3%A9',
    ),
    fc.string({ maxLength: 3 }),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 10 }), (pieces) => {
      const text = `/${pieces.join('')}`;
      if (reasonFor(text) !== 'accepted') return;
      const target = parseTarget(text);
      expect(target.path + target.query).toBe(text);
      expect(parseTarget(target.path + target.query)).toEqual(target);
      const url = new URL(`https://h${text}`);
      expect(url.pathname).toBe(target.path);
    }),
    propertyRuns(20_000),
  );
});

test.each([
  ['/anthropic/v1/messages', undefined, 'anthropic', '/v1/messages'],
  ['/anthropic/', undefined, 'anthropic', '/'],
  ['/anthropic', undefined, 'anthropic', ''],
  ['/', undefined, '', ''],
  ['/v1/messages', 'anthropic', 'anthropic', '/v1/messages'],
])('%s with mount %p belongs to %s', (path, mount, provider, rest) => {
  expect(splitProvider(path, mount)).toEqual({ provider, path: rest });
});
