// Damaged requests by the thousand, seeded: nothing reaches the upstream but what a rule allows, nothing of the
// credential reaches a client, and the process lives. `make fuzz` runs the same for minutes. FUZZ_SEED replays.

import { expect, test } from 'bun:test';
import { startFuzz } from '../support/fuzz-run.ts';
import { fuzzSeed } from '../support/random.ts';

const CASES = Number(process.env['FUZZ_CASES'] ?? 2000);
const BATCH = 250;
const seed = fuzzSeed();

test(`${CASES} damaged requests (FUZZ_SEED=${seed})`, async () => {
  await using fuzz = await startFuzz(seed);
  for (let batch = 0; batch * BATCH < CASES; batch++) await fuzz.run(batch, BATCH);
  const { cases, refused, forwarded, outside, canaryHits, crashes } = fuzz.totals;
  expect({ seed, outside, canaryHits, crashes }).toEqual({ seed, outside: [], canaryHits: [], crashes: [] });
  // Else the fuzzer shows nothing: most are refused, and some get through.
  expect(cases).toBeGreaterThanOrEqual(CASES);
  expect(refused).toBeGreaterThan(cases / 4);
  expect(forwarded).toBeGreaterThan(cases / 50);
  expect(await fuzz.proxy.stop()).toBe(0);
}, 120_000);
