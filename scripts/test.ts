/**
 * Runs the test folders that are named as arguments and, beside them, the black-box suite against the source
 * under Deno, and prints one true count of all of them as the last line.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
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

const runs: Run[] = process.argv.slice(2).flatMap((folder) => inHalves(folder, folder, {}));
if (existsSync(DENO_SUITE))
  runs.push(...inHalves(`${DENO_SUITE} under Deno`, DENO_SUITE, { ISOPROXY_RUNTIME: 'deno' }));

const total: Counts = { passed: 0, failed: 0, skipped: 0 };
mkdirSync('dist', { recursive: true });
// Side by side: most of the time of a test is waiting for processes to answer. The first is shown as it goes on.
print(`== ${runs[0]?.name}\n`);
const ends = await Promise.all(runs.map(runTests));
ends.forEach(({ output, status, report }, index) => {
  if (index > 0) print(`== ${runs[index]?.name}\n`);
  print(output);
  const counts = readCounts(report);
  // A runner that died has run less than it should, whatever it counted.
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
});

// Once more at the end, where whoever reads only the last lines finds them.
for (const { report } of ends) for (const name of readFailures(report)) print(`failed: ${name}\n`);
const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : '';
print(`${total.passed} passed, ${total.failed} failed${skipped}\n`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

interface End {
  /** What it printed, if it was not shown already. */
  readonly output: Buffer;
  readonly status: number | null;
  readonly report: string;
}

function runTests(run: Run, index: number): Promise<End> {
  const name = `dist/test-${index}`;
  const isShown = index === 0;
  const report = `${name}.xml`;
  rmSync(report, { force: true });
  const paths = run.paths.map((path) => `./${path}`);
  const options = ['--timeout=30000', '--reporter=junit', `--reporter-outfile=${report}`];
  const child = spawn(process.execPath, ['test', ...paths, ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...run.env, ISOPROXY_TEST_RUN: String(index) },
  });
  const pieces: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (piece) => (isShown ? print(piece) : pieces.push(piece)));
  return new Promise((resolve) => {
    child.once('close', (status) => resolve({ output: Buffer.concat(pieces), status, report }));
  });
}

/** Two runs of the test files in a folder, of about the same size. */
function inHalves(name: string, folder: string, env: Run['env']): Run[] {
  const sizeOf = (path: string) => statSync(path).size;
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
    .sort((a, b) => sizeOf(b) - sizeOf(a));
  const halves = [0, 1].map((half) => files.filter((_, index) => index % 2 === half));
  return halves
    .filter((paths) => paths.length > 0)
    .map((paths, index) => ({ name: `${name}, ${index + 1} of 2`, paths, env }));
}

function readCounts(report: string): Counts {
  const head = existsSync(report) ? /<testsuites[^>]*>/.exec(readFileSync(report, 'utf8'))?.[0] : undefined;
  const attribute = (name: string) => Number(new RegExp(`\\b${name}="([0-9]+)"`).exec(head ?? '')?.[1] ?? 0);
  const failed = attribute('failures') + attribute('errors');
  const skipped = attribute('skipped');
  return { passed: attribute('tests') - failed - skipped, failed, skipped };
}

function readFailures(report: string): string[] {
  const text = existsSync(report) ? readFileSync(report, 'utf8') : '';
  const failed =
    /<testcase name="([^"]*)"[^>]*file="([^"]*)"[^>]*[^/]>\s*<(?:failure|error)[^>]*message="([^"]*)"/g;
  return [...text.matchAll(failed)].map(
    ([, name, file, message]) => `${file}: ${name}: ${message?.slice(0, 300)}`,
  );
}

/** Writes to stdout before it returns: what process.stdout holds for a slow pipe can be lost at the end of the process. */
function print(text: string | Uint8Array): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as { code?: string }).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}
