/**
 * Runs the test folders that are named as arguments, and the black-box suite once more against the source
 * under Deno, and prints one true count of all of them as the last line.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import process from 'node:process';

interface Run {
  readonly name: string;
  readonly paths: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const DENO_SUITE = 'test/black-box';

const runs: Run[] = process.argv.slice(2).map((folder) => ({ name: folder, paths: [folder], env: {} }));
if (existsSync(DENO_SUITE))
  runs.push({ name: `${DENO_SUITE} under Deno`, paths: [DENO_SUITE], env: { ISOPROXY_RUNTIME: 'deno' } });

const total: Counts = { passed: 0, failed: 0, skipped: 0 };
mkdirSync('dist', { recursive: true });
runs.forEach((run, index) => {
  console.log(`== ${run.name}`);
  const report = `dist/test-${index}.xml`;
  const child = spawnSync(
    process.execPath,
    [
      'test',
      ...run.paths.map((path) => `./${path}`),
      '--timeout=30000',
      '--reporter=junit',
      `--reporter-outfile=${report}`,
    ],
    { stdio: 'inherit', env: { ...process.env, ...run.env } },
  );
  const counts = readCounts(report);
  // A runner that died has run less than it should, whatever it counted.
  if (child.status !== 0 && counts.failed === 0) counts.failed = 1;
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
});

const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
console.log(`${total.passed} passed, ${total.failed} failed${skipped}`);
process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0);

function readCounts(report: string): Counts {
  const head = existsSync(report) ? /<testsuites[^>]*>/.exec(readFileSync(report, 'utf8'))?.[0] : undefined;
  const attribute = (name: string) => Number(new RegExp(`\\b${name}="([0-9]+)"`).exec(head ?? '')?.[1] ?? 0);
  const failed = attribute('failures') + attribute('errors');
  const skipped = attribute('skipped');
  return { passed: attribute('tests') - failed - skipped, failed, skipped };
}
