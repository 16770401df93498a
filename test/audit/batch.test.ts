import { expect, test } from 'bun:test';
import { createBatch } from '../../src/audit/batch.ts';

const head = (seq: number) => ({ seq, hash: `${seq}` });
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');

test('holds lines of any number and length in their order, and what a commit needs to know of them', () => {
  const batch = createBatch();
  const lines = Array.from({ length: 400 }, (_, n) => `${n}${'x'.repeat(n)}`);
  for (const [n, line] of lines.entries()) batch.add(line, head(n + 5), n % 100 === 99, 1000 + n);
  expect(text(batch.bytes())).toBe(lines.map((line) => `${line}\n`).join(''));
  expect(batch.size()).toBe(batch.bytes().length);
  expect([batch.first(), batch.since(), batch.head(), batch.records(), batch.plainRecords()]).toEqual([
    5,
    1000,
    head(404),
    400,
    396,
  ]);
});

test('takes a later batch behind itself', () => {
  const batch = createBatch();
  batch.add('one', head(1), false, 10);
  const later = createBatch();
  later.add('two'.repeat(2_000), head(2), true, 20);
  later.add('three', head(3), false, 30);
  batch.join(later);
  expect(text(batch.bytes())).toBe(`one\n${'two'.repeat(2_000)}\nthree\n`);
  expect([batch.first(), batch.since(), batch.head(), batch.records(), batch.plainRecords()]).toEqual([
    1,
    10,
    head(3),
    3,
    2,
  ]);
});

test('is as new when it was emptied', () => {
  const batch = createBatch();
  batch.add('x'.repeat(3_000_000), head(1), true, 10);
  batch.clear();
  expect([batch.size(), batch.records(), batch.plainRecords()]).toEqual([0, 0, 0]);
  batch.add('two', head(2), false, 20);
  expect(text(batch.bytes())).toBe('two\n');
  expect([batch.first(), batch.since(), batch.head(), batch.records(), batch.plainRecords()]).toEqual([
    2,
    20,
    head(2),
    1,
    1,
  ]);
});
