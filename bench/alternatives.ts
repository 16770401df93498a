/**
 * What Bun offers besides fetch: `make bench-alternatives` compares speed in alternating rounds, then fidelity and
 * security by probes between raw sockets, and writes both tables into docs/alternatives.md.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { testCerts } from '../test/support/certs.ts';
import { startIsoproxy } from './isoproxy.ts';
import { events, machine, type Requests, requests, say } from './lab.ts';
import { direct, findPeers, type Stand, type Upstream } from './peers.ts';
import { startScripted } from './probe-stand.ts';
import { FIDELITY, PARSING, type Probe } from './probes.ts';
import { CONNECTIONS, openTlsRelay, TLS_PROBES } from './probes-connections.ts';
import { accepting, firstLine, freePort, launch, stopAll } from './processes.ts';
import { markdown, replaceResults } from './report.ts';
import { short, spread, type Table, withErrors } from './results.ts';
import { figure } from './stats.ts';
import { KEY } from './upstream.ts';

const BARE = 'bare Bun (fetch)';
/** File and further arguments; `CA` stands for the file of the CA, or what says that there is none. */
const ALTERNATIVES: readonly (readonly [name: string, file: string, ...rest: string[]])[] = [
  [BARE, 'bun-fetch.ts'],
  ['Bun.serve + own client', 'bun-connect.ts', 'CA'],
  ['raw sockets', 'bun-sockets.ts', 'CA'],
  ['node:http both', 'node-pairs.ts', 'CA', 'http', 'http'],
  ['Bun.serve + node:http', 'node-pairs.ts', 'CA', 'serve', 'http'],
  ['node:http + fetch', 'node-pairs.ts', 'CA', 'http', 'fetch'],
];
const OURS = 'isoproxy';
const PROBES: readonly Probe[] = [...FIDELITY, ...PARSING, ...CONNECTIONS];
const OPEN = {
  endpoints: ['{ methods = ["GET", "POST", "PUT"], paths = ["/v1/*"] }'],
  maxConcurrent: 1024,
};
const ROUNDS = 3;
const SECONDS = 0.8;

const work = mkdtempSync(join(tmpdir(), 'isoproxy-alt-'));
process.on('exit', () => {
  stopAll();
  rmSync(work, { recursive: true, force: true });
});
const from = performance.now();
const caFile = join(work, 'ca.pem');
const certs = await testCerts();
writeFileSync(caFile, certs.ca);

async function startAlternative(
  [name, file, ...rest]: (typeof ALTERNATIVES)[number],
  origin: string,
  env: Record<string, string> = {},
): Promise<Stand> {
  const port = await freePort();
  const isTls = origin.startsWith('https:');
  const more = rest.flatMap((one) =>
    one !== 'CA' ? [one] : isTls ? [caFile] : rest.length > 1 ? ['-'] : [],
  );
  const command = [
    process.execPath,
    join(import.meta.dir, 'peers', file),
    String(port),
    origin,
    KEY,
    ...more,
  ];
  const running = launch(command, { stdio: ['ignore', 'ignore', 'ignore'], env: { ...process.env, ...env } });
  const place = { hostname: '127.0.0.1', port };
  await accepting(place, running);
  return { name, place, headers: [], running };
}

async function startNginx(folder: string, upstream: Upstream): Promise<Stand | undefined> {
  const { peers } = await findPeers(mkdtempSync(join(work, folder)), upstream);
  return peers.find(({ name }) => name === 'nginx')?.start();
}

const plain = (port: number) => `http://127.0.0.1:${port}`;
const tables = [await measureSpeed(), await probeAll()];
const minutes = ((performance.now() - from) / 60_000).toFixed(1);
const head = `\`make bench-alternatives\` on ${new Date().toISOString().slice(0, 10)}: ${machine()}; Bun ${Bun.version}. ${minutes} minutes.`;
const text = [head, ...tables.map(markdown)].join('\n\n');
console.log(text);
replaceResults(join(import.meta.dir, '../docs/alternatives.md'), 'make bench-alternatives', text);
process.exit(0);

async function measureSpeed(): Promise<Table> {
  const file = join(work, 'empty');
  writeFileSync(file, '');
  const options = JSON.stringify({ file, tls: certs.leaves.good });
  const process_ = launch([process.execPath, join(import.meta.dir, 'upstream.ts'), options]);
  const ports = JSON.parse(await firstLine(process_)) as { port: number; tlsPort: number };
  const upstream = { ...ports, caFile };
  const nginx = await startNginx('n', upstream);
  const stands = [direct(upstream), ...(nginx ? [nginx] : [])];
  const unlimited = { BUN_CONFIG_MAX_HTTP_REQUESTS: '65535' };
  for (const one of ALTERNATIVES) stands.push(await startAlternative(one, plain(ports.port), unlimited));
  stands.push(await startIsoproxy(OURS, work, upstream));
  for (const stand of stands) await requests(stand, 64, 1.5);
  const many = new Map<string, Requests[]>(stands.map(({ name }) => [name, []]));
  const one = new Map<string, number[]>(stands.map(({ name }) => [name, []]));
  const first = new Map<string, number[]>(stands.map(({ name }) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    say(`speed: round ${round + 1} of ${ROUNDS}`);
    for (const stand of stands) {
      many.get(stand.name)?.push(await requests(stand, 64, SECONDS));
      one.get(stand.name)?.push((await requests(stand, 1, SECONDS)).p50_us);
      first
        .get(stand.name)
        ?.push((await events(stand, { connections: 20, every: 20, count: 3, turns: 1 })).first_p50_ms);
    }
  }
  for (const stand of stands) await stand.running?.stop();
  await process_.stop();
  const perSecond = (name: string) => figure((many.get(name) ?? []).map((result) => result.per_second));
  const rows = stands.map(({ name }) => {
    const results = many.get(name) ?? [];
    return [
      withErrors(name, results),
      spread(perSecond(name)),
      short(perSecond(name).median / perSecond('nginx').median),
      short(perSecond(name).median / perSecond(BARE).median),
      short(figure(results.map((result) => result.cpu_us ?? Number.NaN)).median),
      short(figure(one.get(name) ?? []).median),
      short(figure(first.get(name) ?? []).median),
    ];
  });
  const note = `1 KiB POST, median of ${ROUNDS} alternating rounds (lowest–highest); the first event is that of 20 streams that begin together, from the upstream's clock to the client's.`;
  const columns = [
    'through',
    'requests/s, 64 connections',
    'of nginx',
    'of bare Bun',
    'CPU us per request',
    'p50 us, 1 connection',
    'first event p50, ms',
  ];
  return { title: 'Speed', note, columns, rows };
}

interface Column {
  readonly name: string;
  readonly answers: readonly string[];
}

async function probeAll(): Promise<Table> {
  const starts: [name: string, start: (port: number) => Promise<Stand | undefined>, tls?: StartTls][] = [
    ['nginx', (port) => startNginx('p', { port, tlsPort: 0, caFile })],
    ...ALTERNATIVES.map((one): (typeof starts)[number] => [
      one[0],
      (port) => startAlternative(one, plain(port)),
      (port) =>
        startAlternative(
          one,
          `https://localhost:${port}`,
          one.length === 2 ? { NODE_EXTRA_CA_CERTS: caFile } : {},
        ),
    ]),
    [
      OURS,
      (port) => startIsoproxy(OURS, work, { port, tlsPort: 0, caFile }, OPEN),
      (port) => startIsoproxy(OURS, work, { port: 0, tlsPort: port, caFile }, { ...OPEN, tls: true }),
    ],
  ];
  // Side by side: each waits far more than it works.
  const columns = await Promise.all(starts.map((one) => probe(...one)));
  const present = columns.filter((column): column is Column => column !== undefined);
  const names = [...PROBES.map(({ name }) => name), ...TLS_PROBES];
  return {
    title: 'Fidelity and security',
    note: 'Each answer is what a raw client and a raw upstream saw in this run. Bold: what a proxy that holds a key should not do.',
    columns: ['probe', ...present.map(({ name }) => name)],
    rows: names.map((name, at) => [name, ...present.map(({ answers }) => answers[at] ?? '–')]),
  };
}

type StartTls = (port: number) => Promise<Stand>;
async function probe(
  name: string,
  start: (port: number) => Promise<Stand | undefined>,
  startTls?: StartTls,
): Promise<Column | undefined> {
  const upstream = await startScripted();
  const stand = await start(upstream.port);
  if (stand === undefined) return undefined;
  const answers: string[] = [];
  for (const one of PROBES) {
    const probed = { place: stand.place, upstream, pid: stand.running?.pid ?? 0 };
    answers.push(await one.find(probed).catch((error: Error) => `failed: ${error.message.slice(0, 40)}`));
  }
  await stand.running?.stop();
  say(`probed: ${name}`);
  if (startTls === undefined) return { name, answers };
  const relay = await openTlsRelay();
  const overTls = await startTls(relay.port);
  answers.push(...(await relay.find(overTls.place)));
  await overTls.running?.stop();
  return { name, answers };
}
