// Sizes and durations: every unit, both ways, and what is refused.

import { expect, test } from 'bun:test';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/config/units.ts';

test.each([
  ['1B', 1],
  ['16KiB', 16_384],
  ['32MiB', 33_554_432],
  ['4GiB', 4_294_967_296],
  ['1TiB', 1_099_511_627_776],
])('the size %s is %d bytes, and back', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes);
  expect(formatSize(bytes)).toBe(text);
});

test.each([
  ['500ms', 500],
  ['90s', 90_000],
  ['10m', 600_000],
  ['1h', 3_600_000],
  ['400d', 34_560_000_000],
])('the duration %s is %d ms', (text, ms) => {
  expect(parseDuration(text)).toBe(ms);
});

test.each([
  [90_000, '90s'],
  [60_000, '1m'],
  [1_500, '1500ms'],
  [172_800_000, '2d'],
])('%d ms is written %s', (ms, text) => {
  expect(formatDuration(ms)).toBe(text);
});

test.each([
  '',
  '32',
  'MiB',
  '32 MiB',
  '32mib',
  '32MB',
  '32k',
  '-1MiB',
  '1.5MiB',
  '1e3B',
  '0x10B',
  '9007199254740993B',
  '٣MiB',
])('the size %p is refused', (text) => {
  expect(() => parseSize(text)).toThrow();
});

test.each(['', '10', 's', '10 s', '10sec', '10S', '1m30s', '-1s', '0.5s', '1w'])(
  'the duration %p is refused',
  (text) => {
    expect(() => parseDuration(text)).toThrow();
  },
);

test.each(['0B', '0MiB', '000KiB'])('the size %s is refused, because 0 never means unlimited', (text) => {
  expect(() => parseSize(text)).toThrow('0 is refused');
});

test('a refusal does not repeat the text', () => {
  expect(() => parseSize('CANARY')).toThrow(/^(?!.*CANARY)/);
  expect(() => parseDuration('CANARY')).toThrow(/^(?!.*CANARY)/);
});
