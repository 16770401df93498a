// A record is one bounded ASCII line, whatever an agent puts into it.

import { expect, test } from 'bun:test';
import { createHmac } from 'node:crypto';
import { GENESIS, MAX_LINE, parseRecord, readRecord } from '../../src/audit/record.ts';
import { sealRecord } from '../support/seal-record.ts';

const KEY = Buffer.from('0'.repeat(64));
const PLACE = { seq: 1, boot_id: '0123abcd', time: '2026-01-31T12:00:00.000Z', mono_us: 0 };

test('a known answer: the line, byte for byte, and its hash by the rule of docs/audit.md', () => {
  const { line, hash } = sealRecord(PLACE, { kind: 'stop', lost: 0 }, GENESIS, KEY);
  const text = `{"v":1,"seq":1,"boot_id":"0123abcd","time":"2026-01-31T12:00:00.000Z","mono_us":0,"kind":"stop","lost":0,"prev":"${GENESIS}"`;
  const expected = createHmac('sha256', '0'.repeat(64))
    .update(`isoproxy-audit-v1/record\n${text}`)
    .digest('hex');
  expect([line, hash]).toEqual([`${text},"hash":"${expected}"}`, expected]);
  // Computed once by other means: hmac and hashlib of Python.
  expect(hash).toBe('33233a8304afcab7f9bc151c82a07d7907fb2a0d926b6eafcdc8d5faf575ce3c');
});

test.each([
  ['a record of its own', '"}\n{"seq":9,"kind":"stop"}'],
  ['carriage return and line feed', 'a\r\nb'],
  ['escape sequences', '\x1b[2J\x1b]0;title\x07\x9b31m'],
  ['NUL and DEL', '\0\x7f'],
  ['line and paragraph separators', '\u2028\u2029\x85'],
  ['bidi overrides', '\u202e\u2066'],
  ['half a pair', '\ud800'],
  ['what is no character', '\uffff\ufffe'],
  ['other letters', 'é😀'],
])('A8 %s stays one line of ASCII, and comes back as it was', (_, evil) => {
  const body = { kind: 'deny', method: evil, path: evil, query_names: [evil], reason: evil } as const;
  const { line } = sealRecord(PLACE, body, GENESIS, KEY);
  expect(line).toMatch(/^[\x20-\x7e]+$/);
  const read = readRecord(line, KEY);
  expect(read?.isRight).toBe(true);
  expect(read?.record).toMatchObject({ ...PLACE, ...body });
});

const LONG = '\uffff';
const NAMES = Array(16).fill('q'.repeat(32));
test.each([
  ['a path of 512 bytes that are all escaped', { path: LONG.repeat(512) }],
  ['letters', { path: `/${'a'.repeat(2_000)}` }],
  ['quotes and backslashes', { path: '"\\'.repeat(256) }],
  [
    'sixteen names',
    { path: 'p'.repeat(512), rule: 'r'.repeat(96), query_names: NAMES, method: 'M'.repeat(32) },
  ],
  [
    'names that are all escaped',
    { path: '', query_names: Array(16).fill(LONG.repeat(32)), rule: 'r'.repeat(96) },
  ],
  ['the reason of an operator who writes umlauts', { path: '', reason: '\u00fc'.repeat(200) }],
])('a line is at most 1,024 bytes with its newline: %s', (_, members) => {
  const body = {
    kind: 'intent',
    request_id: 'r'.repeat(26),
    listener: 'l'.repeat(32),
    provider: 'p'.repeat(32),
    ...members,
    decision: 'allow',
    config: 'c'.repeat(16),
  } as const;
  const { line } = sealRecord(
    { ...PLACE, seq: Number.MAX_SAFE_INTEGER, mono_us: 1e15 },
    body,
    'f'.repeat(64),
    KEY,
  );
  expect(line.length + 1).toBeLessThanOrEqual(MAX_LINE);
  const read = readRecord(line, KEY);
  expect(read?.isRight).toBe(true);
  expect(read?.record['truncated']).toBe(true);
  for (const [member, value] of Object.entries(members)) {
    const kept = read?.record[member] as string | string[];
    expect(value.slice(0, kept.length)).toEqual(kept);
  }
  // As little as possible is cut: an escape is six bytes, a name 35.
  expect(line.length + 1).toBeGreaterThan(MAX_LINE - 35 - 17);
});

test('a path of any length: it is cut exactly when it has to be', () => {
  for (let length = 500; length < 800; length++) {
    const body = { kind: 'intent', path: 'p'.repeat(length) } as const;
    const { line } = sealRecord(PLACE, body, GENESIS, KEY);
    const whole = JSON.stringify({ v: 1, ...PLACE, ...body, prev: GENESIS }).length - 1 + 75;
    expect([length, line.includes('truncated')]).toEqual([length, whole >= MAX_LINE]);
    expect(line.length).toBe(Math.min(whole, MAX_LINE - 1));
  }
});

test('a path that fits is not cut', () => {
  const { line } = sealRecord(PLACE, { kind: 'intent', path: `/${'a'.repeat(511)}` }, GENESIS, KEY);
  expect(readRecord(line, KEY)?.record).toMatchObject({ path: `/${'a'.repeat(511)}` });
  expect(line).not.toContain('truncated');
});

const { line: good } = sealRecord(PLACE, { kind: 'stop', lost: 0 }, GENESIS, KEY);
test('any byte that is changed makes the hash wrong, or the line no record', () => {
  for (let at = 0; at < good.length; at++) {
    const changed = good.slice(0, at) + (good[at] === 'x' ? 'y' : 'x') + good.slice(at + 1);
    expect(readRecord(changed, KEY)?.isRight ?? false).toBe(false);
  }
});

test.each([
  ['a space before it', ` ${good}`],
  ['a space behind it', `${good} `],
  ['a carriage return behind it', `${good}\r`],
  ['another member before the hash', good.replace(',"hash"', ',"x":1,"hash"')],
  ['a member behind the hash', good.replace(/}$/, ',"x":1}')],
  ['the hash in capitals', good.replace(/[0-9a-f]{64}"}$/, (hash) => hash.toUpperCase())],
])('%s is not right', (_, line) => {
  expect(readRecord(line, KEY)?.isRight ?? false).toBe(false);
});

test.each([
  ['nothing', ''],
  ['an array', '[]'],
  ['null', 'null'],
  ['another version', good.replace('"v":1', '"v":2')],
  ['a fraction for a number', good.replace('"seq":1', '"seq":1.5')],
  ['number 0', good.replace('"seq":1', '"seq":0')],
  ['no hash', good.replace(/,"hash".*/, '}')],
  ['a line that is too long', good.replace('"lost":0', `"lost":${' '.repeat(1_000)}0`)],
])('%s is no record', (_, line) => {
  expect(parseRecord(line)).toBeUndefined();
});
