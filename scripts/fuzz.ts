/**
 * Long fuzzing, bounded in time, and one table at the end: damaged requests and answers against the built binary, then
 * the properties of targets, the reflection scanner and damaged configurations, each many times as often as in `make test`.
 *
 *   FUZZ_SECONDS  how long the requests may take (default 600)
 *   FUZZ_CASES    how many requests at most (default: what fits into the time)
 *   FUZZ_SEED     replays a run; FUZZ_BATCH and FUZZ_CASE replay one batch, or one case of it
 */
import { spawnSync } from 'node:child_process';
import process from 'node:process';
import { startFuzz } from '../test/support/fuzz-run.ts';
import { fuzzSeed } from '../test/support/random.ts';

const BATCH = 250;
const MIB = 1024 * 1024;
/** Growth of memory that is a leak, MiB for 100,000 requests; told only where there were as many. */
const MAX_SLOPE = 8;
const ENOUGH_FOR_SLOPE = 100_000;

const setting = (name: string) => (process.env[name] === undefined ? undefined : Number(process.env[name]));
const seconds = setting('FUZZ_SECONDS') ?? 600;
const most = setting('FUZZ_CASES') ?? Number.POSITIVE_INFINITY;
const seed = fuzzSeed();

console.log(`fuzzing for at most ${seconds} s (FUZZ_SEED=${seed})`);
await using fuzz = await startFuzz(seed, 'error');
const { totals } = fuzz;
const samples: { cases: number; rss: number }[] = [];
const started = performance.now();
const elapsed = () => (performance.now() - started) / 1000;

const oneBatch = setting('FUZZ_BATCH');
if (oneBatch !== undefined) await fuzz.run(oneBatch, BATCH, setting('FUZZ_CASE'));
else {
  let told = 0;
  for (let batch = 0; elapsed() < seconds && totals.cases < most && faults().length < 20; batch++) {
    await fuzz.run(batch, BATCH);
    samples.push({ cases: totals.cases, rss: fuzz.proxy.rss() });
    if (elapsed() - told < 30) continue;
    told = elapsed();
    console.log(`${Math.round(told)} s: ${totals.cases} cases, ${Math.round(fuzz.proxy.rss() / MIB)} MiB`);
  }
}
const slope = slopeOf(samples);
const isLeak = totals.cases >= ENOUGH_FOR_SLOPE && slope > MAX_SLOPE;

const suites = ['test/proxy/target.test.ts', 'test/proxy/reflection.test.ts', 'test/config/fuzz.test.ts'];
const properties =
  oneBatch === undefined
    ? spawnSync(process.execPath, ['test', ...suites, '--timeout=600000'], {
        env: { ...process.env, FUZZ_SEED: String(seed), FUZZ_SCALE: '30', FUZZ_ROUNDS: '30000' },
        encoding: 'utf8',
      })
    : undefined;

for (const fault of faults()) console.log(fault);
if (properties && properties.status !== 0) console.log(properties.stderr);
const rows: [string, string | number][] = [
  ['cases', totals.cases],
  ['refused', totals.refused],
  ['forwarded', totals.forwarded],
  ['waiting for more bytes', totals.waiting],
  ['upstream contacts outside the rules', totals.outside.length],
  ['canary hits', totals.canaryHits.length],
  ['crashes and hangs', totals.crashes.length],
  [
    'properties (targets, scanner, configuration)',
    properties === undefined ? 'not run' : properties.status === 0 ? 'hold' : 'BROKEN',
  ],
  ['memory now, MiB', Math.round(fuzz.proxy.rss() / MIB)],
  ['memory slope, MiB per 100,000', Number.isNaN(slope) ? 'too few' : slope.toFixed(2)],
  ['seconds', Math.round(elapsed())],
  ['seed', seed],
];
for (const [name, value] of rows) console.log(`| ${name.padEnd(45)} | ${String(value).padStart(10)} |`);
process.exitCode = faults().length > 0 || isLeak || (properties?.status ?? 0) !== 0 ? 1 : 0;

function faults(): string[] {
  return [...totals.outside, ...totals.canaryHits, ...totals.crashes];
}

/** Least squares over the second half, after everything has been warmed up; MiB per 100,000 cases. */
function slopeOf(all: typeof samples): number {
  const half = all.slice(Math.floor(all.length / 2));
  if (half.length < 8) return Number.NaN;
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const x = mean(half.map(({ cases }) => cases));
  const y = mean(half.map(({ rss }) => rss));
  const over = half.reduce((sum, { cases, rss }) => sum + (cases - x) * (rss - y), 0);
  const under = half.reduce((sum, { cases }) => sum + (cases - x) ** 2, 0);
  return (over / under / MIB) * 100_000;
}
