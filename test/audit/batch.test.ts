import { expect, test } from 'bun:test';
import { createBatch } from '../../src/audit/batch.ts';
import { GENESIS, type RecordBody } from '../../src/audit/record.ts';
import { sealRecord } from '../support/seal-record.ts';

const KEY = new Uint8Array(32).fill(7);
const place = (seq: number) => ({ seq, boot_id: '0123abcd', time: '2026-11-23T00:00:00.000Z', mono_us: seq });
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');

/** Records in a chain, each with its line as sealRecord has it. */
function chain(bodies: readonly RecordBody[], firstSeq: number) {
  let prev = GENESIS;
  return bodies.map((body, n) => {
    const seq = firstSeq + n;
    const { line, hash } = sealRecord(place(seq), body, prev, KEY);
    const record = { seq, body, prev, line, head: { seq, hash } };
    prev = hash;
    return record;
  });
}

function fill(records: ReturnType<typeof chain>, now: number, batch = createBatch(KEY)) {
  for (const [n, { seq, body, prev, head }] of records.entries())
    expect(batch.add(place(seq), body, prev, now + n)).toEqual(head);
  return batch;
}

test('holds records of any length in their order, and what a commit needs to know of them', () => {
  const bodies = Array.from(
    { length: 400 },
    (_, n): RecordBody =>
      n % 100 === 99 ? { kind: 'checkpoint', size: n } : { kind: 'intent', path: `/${'x'.repeat(3 * n)}` },
  );
  const records = chain(bodies, 5);
  const batch = fill(records, 1000);
  expect(text(batch.bytes())).toBe(records.map(({ line }) => `${line}\n`).join(''));
  expect(batch.size()).toBe(batch.bytes().length);
  expect([batch.first(), batch.since(), batch.head(), batch.records(), batch.plainRecords()]).toEqual([
    5,
    1000,
    records.at(-1)?.head as never,
    400,
    396,
  ]);
});

test('takes a later batch behind itself', () => {
  const records = chain(
    Array.from({ length: 40 }, (_, n): RecordBody => ({ kind: n === 1 ? 'checkpoint' : 'stop', lost: n })),
    1,
  );
  const batch = fill(records.slice(0, 1), 10);
  batch.join(fill(records.slice(1), 20));
  expect(text(batch.bytes())).toBe(records.map(({ line }) => `${line}\n`).join(''));
  expect([batch.first(), batch.since(), batch.head(), batch.records(), batch.plainRecords()]).toEqual([
    1,
    10,
    records.at(-1)?.head as never,
    40,
    39,
  ]);
});

test('is as new when it was emptied', () => {
  const many = Array.from({ length: 4_000 }, (): RecordBody => ({ kind: 'intent', path: 'x'.repeat(600) }));
  const batch = fill(chain(many, 1), 10);
  batch.clear();
  expect([batch.size(), batch.records(), batch.plainRecords()]).toEqual([0, 0, 0]);
  const [record] = chain([{ kind: 'stop', lost: 0 }], 2);
  fill([record as never], 20, batch);
  expect(text(batch.bytes())).toBe(`${record?.line}\n`);
  expect([batch.first(), batch.since(), batch.head(), batch.records(), batch.plainRecords()]).toEqual([
    2,
    20,
    record?.head as never,
    1,
    1,
  ]);
});
