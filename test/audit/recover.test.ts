// What a start finds of a log that a crash left: nothing good is ever lost with what is not.

import { afterEach, expect, test } from 'bun:test';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { parseVerifierKey, type Verifier } from '../../src/audit/checkpoint.ts';
import { makeHmacKey, makeSigningKey, readHmacKey, readSigningKey } from '../../src/audit/keys.ts';
import { GENESIS } from '../../src/audit/record.ts';
import { recover } from '../../src/audit/recover.ts';
import { createSegmentFiles } from '../../src/audit/segment-file.ts';
import { segmentName } from '../../src/audit/segments.ts';
import { KEY } from '../support/audit-files.ts';
import { signer } from '../support/audit-log.ts';
import { sealRecord } from '../support/seal-record.ts';
import { createWorkspace, type Workspace } from '../support/workspace.ts';

let workspace: Workspace;
afterEach(() => workspace.remove());
const verifier = parseVerifierKey(signer.verifierKey) as Verifier;

/** A segment of so many records of some 440 bytes, and what follows them. */
function writeSegment(records: number, tail: Uint8Array | string): string {
  workspace = createWorkspace();
  let prev = GENESIS;
  let text = '';
  for (let seq = 1; seq <= records; seq++) {
    const place = { seq, boot_id: 'aaaaaaaa', time: '2026-01-31T12:00:00.000Z', mono_us: seq };
    const { line, hash } = sealRecord(place, { kind: 'intent', path: 'x'.repeat(200) }, prev, KEY);
    prev = hash;
    text += `${line}\n`;
  }
  workspace.write(segmentName(1), Buffer.concat([Buffer.from(text), Buffer.from(tail)]));
  return text;
}

const start = () =>
  recover({ directory: workspace.dir, key: KEY, verifier, checkpointFile: undefined, bootId: 'bbbbbbbb' });

const MIB = 1024 * 1024;
test.each([
  ['a few bytes', 3_000, '{"v":1,"se'],
  ['zeros, as many as are looked at first', 3_000, new Uint8Array(MIB)],
  ['a few less', 3_000, new Uint8Array(MIB - 200)],
  ['more than that, behind few records', 3, new Uint8Array(2 * MIB)],
  ['a whole line that is no record', 3_000, `${'x'.repeat(100)}\n`],
])('%s behind the last record are set aside, and every record stays', (_, count, tail) => {
  const text = writeSegment(count, tail);
  const { head, torn, isClean, segment } = start();
  expect([head.seq, torn?.bytes, isClean, segment?.size]).toEqual([count, tail.length, false, text.length]);
  expect(readFileSync(workspace.path(segmentName(1)), 'utf8')).toBe(text);
  const aside = `torn-${String(count + 1).padStart(16, '0')}-bbbbbbbb`;
  expect(readFileSync(workspace.path(aside)).equals(Buffer.from(tail))).toBe(true);
  // Once is enough.
  expect(start().torn).toBeUndefined();
});

test('a segment that holds no record is set aside whole', () => {
  writeSegment(0, new Uint8Array(5_000));
  const { head, torn, segment } = start();
  expect([head.seq, torn?.bytes, segment]).toEqual([0, 5_000, undefined]);
  expect(existsSync(workspace.path(segmentName(1)))).toBe(false);
});

test('more than one line that is no record is no crash’s doing: it refuses, and removes nothing', () => {
  const text = writeSegment(3, 'nonsense\nmore nonsense\n');
  expect(start).toThrow('not intact');
  expect(readFileSync(workspace.path(segmentName(1)), 'utf8')).toBe(`${text}nonsense\nmore nonsense\n`);
});

test('a segment is never begun over another', () => {
  workspace = createWorkspace();
  const files = createSegmentFiles(workspace.dir);
  files.create(1).close();
  expect(() => files.create(1)).toThrow('EEXIST');
  expect(readdirSync(workspace.dir)).toEqual([segmentName(1)]);
});

test('keys are there whole or not at all, and stay', () => {
  workspace = createWorkspace();
  makeHmacKey(workspace.dir);
  makeSigningKey(workspace.dir);
  const [hmac, signing] = [readHmacKey(workspace.path('hmac.key')), readSigningKey(workspace.dir)];
  makeHmacKey(workspace.dir);
  makeSigningKey(workspace.dir);
  expect(readHmacKey(workspace.path('hmac.key'))).toEqual(hmac);
  expect(readSigningKey(workspace.dir)).toBe(signing);
  expect(readdirSync(workspace.dir).sort()).toEqual(['hmac.key', 'signing.key']);
});
