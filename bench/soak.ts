/**
 * A day in minutes: what a proxy meets in 24 hours, sent to the built binary at some hundred times the pace, and at the
 * end the question whether anything has grown, failed or gone missing. docs/soak.md says how to read it.
 *
 *   SOAK_MINUTES   how long requests are sent (default 18)
 *   SOAK_REQUESTS  how many (default 400 a second: 432,000, which is 5 a second for a day)
 *   SOAK_SEED      of the mixture
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { testCerts } from '../test/support/certs.ts';
import { createRandom } from '../test/support/random.ts';
import { createWorkspace, reapAtExit } from '../test/support/workspace.ts';
import { BIN } from './isoproxy.ts';
import { machine } from './lab.ts';
import { launch, run } from './processes.ts';
import { createArchive, prove } from './soak/audit.ts';
import { createClients } from './soak/client.ts';
import { createLoad } from './soak/load.ts';
import type { Scene } from './soak/mix.ts';
import { createOperator } from './soak/operator.ts';
import { report } from './soak/report.ts';
import { type Ports, startStand } from './soak/stand.ts';
import { createWatch, type Sample } from './soak/watch.ts';

const PER_SECOND = 400;
/** Requests of the first lap, beside some of every kind. */
const WARM_UP = 1_000;
const QUIET_MS = 60_000;
const SETTLE_MS = 60_000;
/** Beyond the time for the requests: laps, quiet, and looking at the audit log. */
const EXTRA_MS = 10 * 60_000;
/** How much longer than asked the requests may take on a machine that does not keep up. */
const PATIENCE = 1.5;

const setting = (name: string) => (process.env[name] === undefined ? undefined : Number(process.env[name]));
const minutes = setting('SOAK_MINUTES') ?? (setting('SOAK_REQUESTS') ?? 432_000) / PER_SECOND / 60;
const wanted = setting('SOAK_REQUESTS') ?? Math.round(minutes * 60 * PER_SECOND);
const perSecond = wanted / minutes / 60;
/** Those of a day; fewer where one would be too short for what an operator does in it. */
const hours = Math.max(1, Math.min(24, Math.floor((minutes * 60) / 8)));
const seed = setting('SOAK_SEED') ?? Date.now() % 2 ** 31;
const random = createRandom(seed);

const say = (text: string) => process.stderr.write(`${text}\n`);
say(
  `${wanted} requests at ${perSecond.toFixed(0)} a second, ${minutes.toFixed(1)} minutes (SOAK_SEED=${seed})`,
);
setTimeout(
  () => {
    say('isoproxy soak: error: it takes too long');
    process.exit(1);
  },
  minutes * 60_000 * PATIENCE + EXTRA_MS,
);

using work = createWorkspace();
const certs = await testCerts();
const upstream = launch(
  [process.execPath, join(import.meta.dir, 'soak/upstream.ts'), JSON.stringify(certs.leaves.good)],
  { stdio: ['pipe', 'pipe', 'inherit'] },
);
reapAtExit(upstream.pid);
const said = createInterface({ input: upstream.child.stdout as Readable })[Symbol.asyncIterator]();
const ports = JSON.parse((await said.next()).value as string) as Ports;
/** The upstream ends its connections: those that the proxy kept for later are gone, as at the end of their time. */
async function dropUpstream(): Promise<void> {
  upstream.child.stdin?.write('drop\n');
  await said.next();
}

const stand = await startStand(work, certs.ca, ports);
const watch = createWatch(stand);
const archive = createArchive(stand.auditDir, work.path('archive'));
const clients = createClients();
const scene: Scene = {
  clients,
  places: stand.places,
  hasExtra: false,
  spare: 'open',
  spareChanges: 0,
  generation: 0,
  random: () => random(2 ** 30) / 2 ** 30,
};
const load = createLoad(scene);
const operator = createOperator(stand, scene, watch);
const samples: Sample[] = [];

const from = performance.now();
const elapsed = () => (performance.now() - from) / 1000;
/** One sample a second, until it is told to end. */
let sampling = true;
async function sampleOn(): Promise<void> {
  for (let tick = 1; sampling; tick++) {
    samples.push(await watch.sample(elapsed(), load.sent()));
    archive.keep();
    if (tick % 30 === 0) tell(samples.at(-1) as Sample);
    await Bun.sleep(Math.max(0, from + tick * 1000 - performance.now()));
  }
}
function tell({ at_s, requests, rss_mib, descriptors, in_flight }: Sample): void {
  const failed = load.counts.reduce((sum, count) => sum + count.failed, 0);
  const faults = operator.faults().length;
  say(
    `${Math.round(at_s)} s: ${requests} requests, ${failed + faults} faults, ${rss_mib.toFixed(0)} MiB, ${descriptors} descriptors, ${in_flight} in flight`,
  );
}

/** Nothing is under way, and nobody keeps a connection: what is open now is what the proxy itself holds. */
async function rest(ms: number): Promise<Sample> {
  const isSettled = await load.settle(SETTLE_MS);
  if (!isSettled) say(`${load.atOnce()} requests have no end`);
  clients.closeIdle();
  await Bun.sleep(ms);
  const before = await watch.sample(elapsed(), load.sent());
  say(
    `at rest: ${before.descriptors} descriptors, ${before.sockets} sockets, ${before.rss_mib.toFixed(0)} MiB`,
  );
  await dropUpstream();
  await Bun.sleep(2_000);
  return watch.sample(elapsed(), load.sent());
}

// Once through everything, so that what is made at first use does not count as growth.
await load.lap(5);
await Promise.all([operator.hour(3_000), load.send(WARM_UP, perSecond, 10_000)]);
const baseline = await rest(3_000);
const sampled = sampleOn();
const lap = load.sent();
const started = performance.now();
const loads = [loadavg()[0] as number];
const sending = load.send(wanted, perSecond, minutes * 60_000 * PATIENCE);
for (let hour = 0; hour < hours; hour++) {
  await operator.hour((minutes * 60_000) / hours);
  loads.push(loadavg()[0] as number);
}
await sending;
const seconds = (performance.now() - started) / 1000;
const busy = samples.slice();
const final = await rest(QUIET_MS);
sampling = false;
await sampled;
const stopCode = await stand.stop();
archive.keep('all');
const proof = await prove(stand.cli);
const count = archive.count(watch.log);

const root = join(import.meta.dir, '..');
mkdirSync(join(root, 'dist'), { recursive: true });
const version = (await run([BIN, 'version'])).trim().split('\n')[0] as string;
const { text, svg, isMet } = report({
  title: `${machine()}; ${version}; load average ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)}`,
  wanted,
  sent: load.sent() - lap,
  seconds,
  counts: load.counts,
  repeated: clients.repeated(),
  operations: operator.done(),
  operatorFaults: operator.faults(),
  busy,
  samples,
  baseline,
  final,
  stopCode,
  proof,
  audit: count,
  log: watch.log,
});
writeFileSync(join(root, 'dist/soak.svg'), svg);
writeFileSync(join(root, 'dist/soak.json'), JSON.stringify({ seed, baseline, final, samples }));
console.log(text);
upstream.child.stdin?.end();
await upstream.stop();
work.remove();
process.exit(isMet ? 0 : 1);
