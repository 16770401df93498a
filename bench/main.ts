/**
 * The whole benchmark, one command: see bench/README.md. Prints its tables, and writes them into docs/performance.md
 * with two charts beside it.
 */
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { testCerts } from '../test/support/certs.ts';
import { barChart, curveChart } from './chart.ts';
import { judge } from './goals.ts';
import { BIN } from './isoproxy.ts';
import { type Lab, machine, openLab, say } from './lab.ts';
import { firstLine, launch, run, stopAll } from './processes.ts';
import { markdown, replaceResults } from './report.ts';
import type { Section } from './results.ts';
import { measureAudit } from './sections/audit.ts';
import { measureCurves } from './sections/curves.ts';
import { measureFeatures } from './sections/features.ts';
import { measureRequests } from './sections/requests.ts';
import { measureStart } from './sections/start.ts';
import { measureStreams } from './sections/streams.ts';
import { LARGE, measureTransfers } from './sections/transfers.ts';
import type { Figure } from './stats.ts';

const SECTIONS: Readonly<Record<string, (lab: Lab) => Promise<Section>>> = {
  start: measureStart,
  requests: measureRequests,
  streams: measureStreams,
  transfers: measureTransfers,
  features: measureFeatures,
  audit: measureAudit,
  curves: measureCurves,
};

const root = join(import.meta.dir, '..');
const quick = process.env['BENCH_QUICK'] !== undefined;
const only = process.env['BENCH_ONLY']?.split(',') ?? Object.keys(SECTIONS);
const work = mkdtempSync(join(tmpdir(), 'isoproxy-bench-'));
process.on('exit', () => {
  stopAll();
  rmSync(work, { recursive: true, force: true });
});

const lab = await openLab(work, await startUpstream(), quick);
for (const peer of lab.missing) say(`skipped: ${peer}`);
const from = performance.now();
const found: Section[] = [];
for (const name of only) {
  const measure = SECTIONS[name];
  if (measure === undefined)
    throw new Error(`no section ${name}; there are ${Object.keys(SECTIONS).join(', ')}`);
  const section = await measure(lab);
  found.push(section);
  // At once, so that a run that is broken off has said what it found.
  say(section.tables.map(markdown).join('\n\n'));
}

const figures = Object.assign({}, ...found.map((section) => section.figures ?? {})) as Record<string, Figure>;
const tables = [judge(figures), ...found.flatMap((section) => section.tables)];
const text = [await describe(), ...tables.map(markdown)].join('\n\n');
console.log(text);
mkdirSync(join(root, 'dist'), { recursive: true });
writeFileSync(join(root, 'dist/bench.json'), JSON.stringify(figures, null, 1));
writeFileSync(join(root, 'dist/bench.md'), `${text}\n`);
const bars = Object.entries(figures)
  .filter(([name]) => name.startsWith('per_second/64/') && !name.endsWith('/direct'))
  .map(([name, figure]) => ({ name: name.slice(14), figure, isOurs: name.includes('isoproxy') }))
  .sort((a, b) => b.figure.median - a.figure.median);
const curves = found.flatMap((section) => section.curves ?? []);
// A pass that is quick or in part is for the screen: the page holds whole runs only.
if (!quick && only.length === Object.keys(SECTIONS).length) {
  writeFileSync(
    join(root, 'docs/performance-peers.svg'),
    barChart('1 KiB POST, 64 connections, requests/s', bars),
  );
  writeFileSync(join(root, 'docs/performance-curves.svg'), curveChart(curves));
  const pictures = [
    '![Requests per second beside each peer](performance-peers.svg)',
    '![How cost grows](performance-curves.svg)',
  ];
  replaceResults(join(root, 'docs/performance.md'), 'make bench', [text, ...pictures].join('\n\n'));
}
process.exit(0);

async function startUpstream() {
  const certs = await testCerts();
  const caFile = join(work, 'ca.pem');
  writeFileSync(caFile, certs.ca);
  const file = join(work, 'large');
  writeFileSync(file, '');
  truncateSync(file, LARGE);
  // Once through it, so that the first to be measured does not pay for the page cache.
  for await (const _ of Bun.file(file).stream());
  const options = JSON.stringify({ file, tls: certs.leaves.good });
  const upstream = launch([process.execPath, join(import.meta.dir, 'upstream.ts'), options]);
  const ports = JSON.parse(await firstLine(upstream)) as { port: number; tlsPort: number };
  return { ...ports, caFile };
}

async function describe(): Promise<string> {
  const version = (await run([BIN, 'version'])).trim().split('\n')[0];
  const peers = Object.entries(lab.versions).map(([name, number]) => `${name} ${number}`);
  const minutes = Math.ceil((performance.now() - from) / 60_000);
  const command = ['BENCH_QUICK', 'BENCH_ONLY'].filter((name) => process.env[name] !== undefined);
  return [
    `\`${[...command.map((name) => `${name}=${process.env[name]}`), 'make bench'].join(' ')}\` on ${new Date().toISOString().slice(0, 10)}: ${machine()}; ${version}; ${peers.join(', ')}. ${minutes} minutes.`,
    lab.missing.length === 0 ? 'No peer was missing.' : `Skipped: ${lab.missing.join('; ')}.`,
  ].join(' ');
}
