// Damaged configurations: whatever stands in the file, it is accepted or refused in our own words.

import { afterAll, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { ConfigError } from '../../src/config/config-error.ts';
import { loadConfig } from '../../src/config/load.ts';
import { createRandom, fuzzSeed, type Random } from '../support/random.ts';
import { createWorkspace } from '../support/workspace.ts';

const TEXT = readFileSync(new URL('../../proxy.toml.example', import.meta.url), 'utf8');
const ROUNDS = Number(process.env['FUZZ_ROUNDS'] ?? 1500);
const SEED = fuzzSeed();
const CANARY = 'cAnArY';
const workspace = createWorkspace();
afterAll(() => workspace.remove());

const PIECES = [
  `"${CANARY}"`,
  '[]',
  '{}',
  '0',
  '-1',
  'true',
  '1979-05-27',
  '"__proto__"',
  `"https://${CANARY}@x"`,
  `"${CANARY}\\u0000"`,
  '[[1]]',
  'nan',
];

/** Replaces values, removes and doubles lines, cuts the text. */
function mutate(random: Random): string {
  const lines = TEXT.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  for (let i = 0; i <= random(4); i++) {
    const at = random(lines.length);
    const line = lines[at] as string;
    const piece = PIECES[random(PIECES.length)] as string;
    const kind = random(5);
    if (kind === 0) lines[at] = line.replace(/= .*/, `= ${piece}`);
    else if (kind === 1) lines.splice(at, 1);
    else if (kind === 2) lines.splice(at, 0, lines[random(lines.length)] as string);
    else if (kind === 3) lines[at] = line.replace(/"[^"]*"/, piece);
    else
      lines[at] =
        line.slice(0, random(line.length + 1)) +
        String.fromCharCode(random(128)) +
        line.slice(random(line.length + 1));
  }
  return lines.join('\n');
}

test(`${ROUNDS} damaged files (FUZZ_SEED=${SEED})`, () => {
  const random = createRandom(SEED);
  let refused = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const text = mutate(random);
    try {
      loadConfig({ file: workspace.write('proxy.toml', text), env: {}, uid: 1000 });
    } catch (error) {
      if (!(error instanceof ConfigError)) throw new Error(`seed ${SEED}, round ${round}: ${error}\n${text}`);
      if (error.message.includes(CANARY))
        throw new Error(`seed ${SEED}, round ${round}: a value in: ${error.message}`);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(ROUNDS / 2);
});
