// Writes a log as fast as it can until it is killed: half lines, rotation, checkpoints elsewhere, and retention that
// keeps three segments. Arguments: the log's directory, the file of the checkpoints.

import { appendFileSync, closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { formatNote } from '../../src/audit/checkpoint.ts';
import { GENESIS, type RecordBody } from '../../src/audit/record.ts';
import { segmentName } from '../../src/audit/segments.ts';
import { HMAC_KEY, signer } from '../support/audit-log.ts';
import { sealRecord } from '../support/seal-record.ts';

const SEGMENT = 200;
const KEPT = 3;
const [directory = '', anchors = ''] = process.argv.slice(2);
const key = Buffer.from(HMAC_KEY.trim());
const time = '2026-01-31T12:00:00.000Z';
let head = GENESIS;
let seq = 0;
let fd = -1;

for (;;) {
  if (seq % SEGMENT === 0) {
    if (fd !== -1) closeSync(fd);
    fd = openSync(join(directory, segmentName(seq + 1)), 'wx', 0o600);
  }
  append({ kind: 'deny', path: '/x'.repeat(100), decision: 'deny' });
  if (seq % SEGMENT !== SEGMENT / 2) continue;
  const begin = seq - SEGMENT / 2 + 1;
  const first = Math.max(1, begin - KEPT * SEGMENT);
  const note = signer.sign({ size: seq, head, first, time });
  append({ kind: 'checkpoint', size: seq, head, first, signed: note.time, signature: note.signature });
  appendFileSync(anchors, formatNote(note));
  if (first > 1) rmSync(join(directory, segmentName(first - SEGMENT)), { force: true });
}

function append(body: RecordBody): void {
  seq++;
  const { line, hash } = sealRecord({ seq, boot_id: '0123abcd', time, mono_us: seq }, body, head, key);
  const half = line.length >> 1;
  writeSync(fd, line.slice(0, half));
  writeSync(fd, `${line.slice(half)}\n`);
  head = hash;
}
