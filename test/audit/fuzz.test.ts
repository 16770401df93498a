// Seeded damage to a good log: verification never fails on it, and never calls it intact where a checkpoint reaches.

import { afterAll, expect, test } from 'bun:test';
import { parseVerifierKey } from '../../src/audit/checkpoint.ts';
import { createCheckpointSet } from '../../src/audit/checkpoint-files.ts';
import { verifyLog } from '../../src/audit/verify.ts';
import { ANCHORED, HMAC_KEY, linesOf, makeLog, notesText, signer, writeLog } from '../support/audit-log.ts';
import { createWorkspace } from '../support/workspace.ts';

const SEED = Number(process.env['ISOPROXY_FUZZ_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const ROUNDS = 300;
const work = createWorkspace();
afterAll(() => work.remove());

/** Mulberry32. */
function createRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Damages text in one of the ways in which files are damaged. */
function damage(text: string, random: (below: number) => number): string {
  const at = random(text.length);
  const length = 1 + random(900);
  const end = Math.min(text.length, at + length);
  switch (random(5)) {
    case 0:
      return text.slice(0, at) + String.fromCharCode(random(256)) + text.slice(at + 1);
    case 1:
      return text.slice(0, at) + text.slice(end);
    case 2:
      return text.slice(0, end) + text.slice(at);
    case 3:
      return text.slice(0, at) + '\0'.repeat(end - at) + text.slice(end);
    default: {
      const lines = text.split('\n').slice(0, -1);
      const [from, to] = [random(lines.length), random(lines.length)];
      lines.splice(to, 0, ...lines.splice(from, 1 + random(3)));
      return lines.map((line) => `${line}\n`).join('');
    }
  }
}

test(`damage of any kind is seen (ISOPROXY_FUZZ_SEED=${SEED})`, () => {
  const verifier = parseVerifierKey(signer.verifierKey);
  if (verifier === undefined) throw new Error('no verifier');
  const random = createRandom(SEED);
  const good = makeLog();
  const covered = linesOf(good.segments).slice(0, ANCHORED).join('\n');
  const checkpoints = createCheckpointSet(verifier);
  checkpoints.addFile(work.write('anchors', notesText(good.notes)), true);
  for (let round = 0; round < ROUNDS; round++) {
    const segments = new Map(good.segments);
    const names = [...segments.keys()];
    for (let count = random(2); count >= 0; count--) {
      const name = names[random(names.length)] as string;
      segments.set(name, damage(segments.get(name) as string, random));
    }
    writeLog(work.path('log'), { segments });
    const options = { directory: work.path('log'), key: Buffer.from(HMAC_KEY.trim()), checkpoints };
    const { ok, gaps } = verifyLog(options);
    const now = [...segments.values()].join('').split('\n').slice(0, ANCHORED).join('\n');
    if (now !== covered) expect([SEED, round, ok]).toEqual([SEED, round, false]);
    for (const { from, to } of gaps)
      expect([SEED, round, from > 0 && from <= to]).toEqual([SEED, round, true]);
  }
});
