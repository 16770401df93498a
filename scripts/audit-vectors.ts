/**
 * Writes test/fixtures/audit: a good audit log, ways to change it, and what a verifier has to say of each. Everything
 * in it is made from fixed keys, so that it is the same each time. `scripts/audit-vectors.ts [DIRECTORY]`
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { HMAC_KEY, makeLog, notesText, SIGNING_KEY, signer, writeLog } from '../test/support/audit-log.ts';
import { type Fault, TAMPERINGS } from '../test/support/audit-tampering.ts';

const CHOSEN = [
  'tail-cut',
  'edited-and-chained-anew-with-the-key',
  'older-copy-gone-on-with',
  'middle-segment-removed',
  'first-segment-removed',
  'edited-without-the-key',
  'half-a-line-appended',
  'segments-swapped',
  'lines-swapped',
  'two-writers',
];

/** Of a log beside the checkpoints in `anchors`, and of one without any. */
interface Expected {
  readonly anchored: Answer;
  readonly alone: Answer;
}

interface Answer {
  readonly exit: number;
  readonly faults: readonly { kind: string; from: number; to: number }[];
}

export function writeVectors(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const { segments, notes } = makeLog();
  writeFileSync(join(directory, 'hmac.key'), HMAC_KEY);
  writeFileSync(join(directory, 'signing.key'), SIGNING_KEY);
  writeFileSync(join(directory, 'public.key'), `${signer.verifierKey}\n`);
  writeFileSync(join(directory, 'anchors'), notesText(notes));
  writeLog(join(directory, 'good'), { segments, checkpoints: notes }, false);
  const expected: Record<string, Expected> = { good: { anchored: answer([0]), alone: answer([0]) } };
  for (const name of CHOSEN) {
    const tampering = TAMPERINGS.find((each) => each.name === name);
    if (tampering === undefined) throw new Error(`no tampering is called ${name}`);
    const copy = new Map(segments);
    tampering.tamper(copy);
    writeLog(join(directory, name), { segments: copy }, false);
    expected[name] = { anchored: answer(tampering.anchored), alone: answer(tampering.alone) };
  }
  writeFileSync(join(directory, 'expected.json'), `${JSON.stringify(expected, null, 2)}\n`);
}

function answer([exit, ...faults]: readonly [number, ...Fault[]]): Answer {
  return { exit, faults: faults.map(([kind, from, to]) => ({ kind, from, to })) };
}

if (import.meta.main) writeVectors(process.argv[2] ?? resolve(import.meta.dir, '../test/fixtures/audit'));
