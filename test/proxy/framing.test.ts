import { expect, test } from 'bun:test';
import { checkFraming } from '../../src/proxy/framing.ts';

/** What the code does by hand, as patterns: RFC 9110 8.6, and RFC 3986 3.2.2 without the forms that nobody needs. */
const HOST = /^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$/;
const LENGTH = /^[0-9]{1,15}$/;

function fault(headers: Record<string, string>): string | undefined {
  try {
    checkFraming('POST', new Headers(headers));
    return undefined;
  } catch (error) {
    return (error as { reason: string }).reason;
  }
}

const PIECES = [
  ...'aZ09._-[]:%@/ \\\u00e9',
  'localhost',
  '127.0.0.1',
  '[::1]',
  '[',
  ']',
  ':8080',
  ':65535',
  ':123456',
  'x'.repeat(253),
  '1'.repeat(44),
];

/** Every text of up to three pieces. */
const texts = ['', ...PIECES].flatMap((a) => ['', ...PIECES].flatMap((b) => PIECES.map((c) => a + b + c)));

test('a Host is well-formed where the pattern says so', () => {
  const isWell = (text: string) => text === text.trim() && text !== '';
  const asked = texts.filter(isWell);
  const passed = asked.filter((host) => fault({ host }) === undefined);
  expect(passed).toEqual(asked.filter((host) => HOST.test(host)));
  expect(passed.length).toBeGreaterThan(1_000);
  expect(asked.length - passed.length).toBeGreaterThan(1_000);
});

test.each([
  '0',
  '00',
  '1',
  '123456789012345',
  '1234567890123456',
  '',
  '3, 3',
  '+1',
  '1.0',
  '1e3',
  '0x1',
  '-1',
])('a Content-Length of %p is taken where the pattern says so', (length) => {
  const taken = fault({ host: 'x', 'content-length': length }) === undefined;
  expect(taken).toBe(LENGTH.test(length));
});
