/**
 * Thousands of event streams held for minutes, and other requests beside them: is anything lost, does memory grow, does
 * anybody wait? docs/hold.md says how to read it.
 *
 *   HOLD_STREAMS  how many (default 10,000, or what the descriptor limit allows)
 *   HOLD_SECONDS  how long, once all have begun (default 600)
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { descriptorLimit } from '../src/runtime/proc.ts';
import { testCerts } from '../test/support/certs.ts';
import { createWorkspace, reapAtExit } from '../test/support/workspace.ts';
import { type Child, startChild } from './hold/child.ts';
import { AT_ONCE, BODY_BYTES, CONNECTIONS, EVERY_MS } from './hold/pace.ts';
import { report, type Sample } from './hold/report.ts';
import type { Answered } from './hold/requests.ts';
import type { Held } from './hold/streams.ts';
import type { Ended } from './hold/upstream.ts';
import { look, readBadLines } from './hold/view.ts';
import { BIN, startIsoproxy } from './isoproxy.ts';
import { machine, say } from './lab.ts';
import type { Job } from './load.ts';
import type { Upstream } from './peers.ts';
import { memoryMiB, run } from './processes.ts';
import { replaceResults } from './report.ts';
import { fittingStreams } from './sections/streams.ts';
import { wallNow } from './upstream.ts';

const MOST = 10_000;
const SAMPLE_MS = 5_000;
const ALONE_MS = 10_000;
const QUIET_MS = 60_000;
/** For opening, ending and quiet, all together. */
const EXTRA_MS = 8 * 60_000;

const setting = (name: string) => (process.env[name] === undefined ? undefined : Number(process.env[name]));
const seconds = setting('HOLD_SECONDS') ?? 600;
const wanted = setting('HOLD_STREAMS') ?? MOST;
if (!(seconds > 0 && Number.isInteger(wanted) && wanted > 0))
  fail('HOLD_STREAMS and HOLD_SECONDS are numbers above 0');
const streams = fit(wanted);
setTimeout(() => fail('it takes too long'), seconds * 1000 + EXTRA_MS);

const root = join(import.meta.dir, '..');
const work = createWorkspace();
const certs = await testCerts();
const upstream = startChild('upstream.ts', certs.leaves.good);
const ports = JSON.parse(await upstream.hear()) as Omit<Upstream, 'caFile'>;
const origin: Upstream = { ...ports, caFile: work.write('ca.pem', certs.ca) };
const stand = await startIsoproxy('isoproxy', work.dir, origin, { tls: true, maxConcurrent: streams + 100 });
const { pid } = stand.running;
const forget = reapAtExit(pid);
const { place, headers } = stand;

// What is made at first use is no growth; and how long the requests take with nobody beside them.
say(`other requests alone: ${ALONE_MS / 1000} s`);
const first = startRequests();
await Bun.sleep(ALONE_MS);
const alone = await answersOf(first);
await drop();
const before = look(pid, 0);

const from = performance.now();
const elapsed = () => (performance.now() - from) / 1000;
const samples: Sample[] = [before];
const sampling = setInterval(() => samples.push(look(pid, elapsed())), SAMPLE_MS);
say(`opening ${streams.toLocaleString('en')} streams`);
const job: Job = { kind: 'events', place, headers, connections: streams, every: EVERY_MS, atOnce: AT_ONCE };
const reader = startChild('streams.ts', job);
await reader.hear();
const [heldAt, heldFrom] = [wallNow(), elapsed()];
say(`held after ${heldFrom.toFixed(1)} s, for ${seconds} s`);
samples.push(look(pid, heldFrom));
const loads = [loadavg()[0] as number];
const telling = setInterval(() => {
  const last = samples.at(-1) as Sample;
  loads.push(loadavg()[0] as number);
  say(`${last.at_s.toFixed(0)} s: ${last.rss_mib.toFixed(0)} MiB, ${last.descriptors} descriptors`);
}, 30_000);
const second = startRequests();
await Bun.sleep(seconds * 1000);
clearInterval(telling);
reader.say('over');
await reader.hear();
const heldTo = elapsed();
samples.push(look(pid, heldTo));
const beside = await answersOf(second);
upstream.say('end');
const sent = JSON.parse(await upstream.hear()) as Ended;
const held = JSON.parse(await reader.hear()) as Held;
await reader.stop();
say(`the streams have ended; ${QUIET_MS / 1000} s of quiet`);
await Bun.sleep(QUIET_MS);
await drop();
clearInterval(sampling);
const after = look(pid, elapsed());
samples.push(after);
const peak = memoryMiB(pid, 'VmHWM');
await stand.running.stop();
forget();
upstream.end();
await upstream.stop();

const bad = readBadLines(work.path('isoproxy.log'));
for (const line of bad.slice(0, 10)) say(line);
const { text, svg, isMet } = report({
  title: await describe(),
  streams,
  heldFrom,
  heldTo,
  heldAt,
  held,
  sent,
  alone,
  beside,
  samples,
  before,
  after,
  peak_mib: peak,
  bad,
});
console.log(text);
mkdirSync(join(root, 'dist'), { recursive: true });
writeFileSync(join(root, 'dist/hold.md'), `${text}\n`);
writeFileSync(join(root, 'dist/hold.svg'), svg);
writeFileSync(join(root, 'dist/hold.json'), JSON.stringify({ held, sent, before, after, samples }));
// A short try is for the screen: the page holds whole runs only.
if (setting('HOLD_STREAMS') === undefined && setting('HOLD_SECONDS') === undefined) {
  writeFileSync(join(root, 'docs/hold.svg'), svg);
  const plot = '![Memory, descriptors and times over the run](hold.svg)';
  replaceResults(join(root, 'docs/hold.md'), 'make bench-hold', `${text}\n\n${plot}`);
}
work.remove();
process.exit(isMet ? 0 : 1);

function fail(text: string): never {
  say(`isoproxy bench-hold: error: ${text}`);
  process.exit(1);
}

/** How many of those fit. */
function fit(wanted: number): number {
  const limit = descriptorLimit();
  const most = fittingStreams();
  if (wanted <= most) return wanted;
  const enough = `ulimit -n ${2 * wanted + 1000}`;
  if (most === 0) fail(`the descriptor limit, ${limit}, leaves no room for streams; hint: ${enough}`);
  say(
    `the descriptor limit, ${limit}, allows ${most} streams instead of ${wanted}; for all of them: ${enough}`,
  );
  return most;
}

function startRequests(): Child {
  const job: Job = { kind: 'requests', place, headers, connections: CONNECTIONS, bytes: BODY_BYTES };
  return startChild('requests.ts', job);
}

async function answersOf(child: Child): Promise<Answered> {
  child.end();
  const answers = JSON.parse(await child.hear()) as Answered;
  await child.stop();
  return answers;
}

/** The upstream closes the connections that the proxy keeps for later, which it would hold for some minutes. */
async function drop(): Promise<void> {
  upstream.say('drop');
  await upstream.hear();
  await Bun.sleep(2_000);
}

async function describe(): Promise<string> {
  const version = (await run([BIN, 'version'])).trim().split('\n')[0];
  const given = ['HOLD_STREAMS', 'HOLD_SECONDS'].filter((name) => process.env[name] !== undefined);
  const command = [...given.map((name) => `${name}=${process.env[name]}`), 'make bench-hold'].join(' ');
  const load = `load average ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}`;
  const limit = `${streams.toLocaleString('en')} streams (descriptor limit ${descriptorLimit()?.toLocaleString('en')})`;
  return `\`${command}\` on ${new Date().toISOString().slice(0, 10)}: ${machine()}; ${version}; clients and upstream Bun ${Bun.version}; ${load}. ${limit}.`;
}
