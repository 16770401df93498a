/** How cost grows with what there is of something. Each curve should be flat or linear. */
import { compileRules } from '../../src/proxy/compile-rules.ts';
import { matchRule } from '../../src/proxy/match.ts';
import type { EndpointEntry } from '../../src/proxy/rules.ts';
import { ENDPOINTS, type Setup, startIsoproxy } from '../isoproxy.ts';
import { type Lab, requests, say, UNIX } from '../lab.ts';
import { memoryMiB } from '../processes.ts';
import { type Curve, type Section, shapeOf, short, type Table, withErrors } from '../results.ts';
import { type Figure, figure } from '../stats.ts';

const CONNECTIONS = 64;
/** To one of many listeners: each of them may have so many requests in flight that all of them fit. */
const LISTENER_CONNECTIONS = 32;
const KIB = 1024;

interface Kind {
  readonly name: string;
  readonly path: (index: number) => string;
  /** A request that the last of them allows. */
  readonly asked: (count: number) => string;
}

const KINDS: readonly Kind[] = [
  { name: 'literal', path: (n) => `/v1/item-${n}/run`, asked: (count) => `/v1/item-${count - 1}/run` },
  { name: 'wildcard', path: (n) => `/item-${n}/*/run`, asked: (count) => `/item-${count - 1}/x/run` },
  {
    name: 'wildcard behind one common segment',
    path: (n) => `/v1/item-${n}/*`,
    asked: (count) => `/v1/item-${count - 1}/x`,
  },
];

/** A match by itself, us: pure code, in this process. */
function timeMatch(kind: Kind, count: number): number {
  const paths = Array.from({ length: count }, (_, n) => kind.path(n));
  const entries: EndpointEntry[] = [{ methods: ['POST'], paths }];
  const rules = compileRules(entries);
  const path = kind.asked(count);
  const input = { method: 'POST', path, query: '', hasEncodedSlash: false, asksForWebSocket: false };
  const none: ReadonlySet<string> = new Set();
  const runs = Array.from({ length: 7 }, () => {
    const until = performance.now() + 30;
    let matched = 0;
    const from = performance.now();
    while (performance.now() < until)
      for (let n = 0; n < 100; n++) if (matchRule(rules, none, input).rule !== undefined) matched++;
    return ((performance.now() - from) * 1000) / matched;
  });
  return figure(runs.slice(2)).median;
}

async function measureRules(lab: Lab): Promise<Section> {
  const figures: Record<string, Figure> = {};
  const counts = lab.quick ? [1, 10_000] : [1, 10, 100, 1000, 10_000];
  const rows: string[][] = [];
  const points: [number, number][] = [];
  for (const count of counts) {
    say(`rules: ${count}`);
    const times = KINDS.map((kind) => timeMatch(kind, count));
    KINDS.forEach(({ name }, index) => {
      figures[`match/${count}/${name}`] = figure([times[index] ?? Number.NaN]);
    });
    const endpoints = [
      ...ENDPOINTS,
      ...Array.from({ length: count - 1 }, (_, n) => `{ methods = ["POST"], paths = ["/v2/item-${n}/run"] }`),
    ];
    const { cost, cells } = await measureSetup(lab, { endpoints }, CONNECTIONS);
    points.push([count, cost]);
    rows.push([count.toLocaleString('en'), ...times.map(short), ...cells]);
  }
  const curve: Curve = { title: 'rules', x: 'rules', y: 'CPU us per request', points };
  const table: Table = {
    title: 'Rules',
    note: `A match alone, us, for the last of so many rules; then whole requests against literal rules. CPU per request is ${shapeOf(points)}.`,
    columns: ['rules', ...KINDS.map(({ name }) => `match, ${name}, us`), ...SETUP_COLUMNS],
    rows,
  };
  return { tables: [table], figures, curves: [curve] };
}

const SETUP_COLUMNS = ['start ms', 'RSS MiB', 'requests/s', 'CPU us per request'];

/** Starts isoproxy and sends requests to its first listener. */
async function measureSetup(
  lab: Lab,
  setup: Setup,
  connections: number,
): Promise<{ cost: number; cells: string[] }> {
  const stand = await startIsoproxy('isoproxy', lab.work, lab.upstream, setup);
  try {
    const memory = memoryMiB(stand.running.pid, 'VmRSS');
    const results = [];
    for (let round = 0; round < Math.min(lab.rounds, 3); round++)
      results.push(await requests(stand, connections, lab.seconds));
    const cost = figure(results.map((result) => result.cpu_us ?? Number.NaN)).median;
    const perSecond = figure(results.map((result) => result.per_second)).median;
    const rate = withErrors(short(perSecond), results);
    return { cost, cells: [short(stand.startedMs), short(memory), rate, short(cost)] };
  } finally {
    await stand.running.stop();
  }
}

async function measureListeners(lab: Lab): Promise<Section> {
  const rows: string[][] = [];
  const points: [number, number][] = [];
  for (const listeners of lab.quick ? [1, 200] : [1, 10, 50, 200]) {
    say(`listeners: ${listeners}`);
    const { cost, cells } = await measureSetup(lab, { listeners, maxConcurrent: 40 }, LISTENER_CONNECTIONS);
    points.push([listeners, cost]);
    rows.push([String(listeners), ...cells]);
  }
  const curve: Curve = { title: 'listeners', x: 'listeners', y: 'CPU us per request', points };
  const note = `Requests over ${LISTENER_CONNECTIONS} connections to one of them. CPU per request is ${shapeOf(points)}.`;
  return {
    tables: [{ title: 'Listeners', note, columns: ['listeners', ...SETUP_COLUMNS], rows }],
    curves: [curve],
  };
}

async function measureBodies(lab: Lab): Promise<Section> {
  const rows: string[][] = [];
  const points: [number, number][] = [];
  const stands = lab.stands.filter(({ name }) => name === 'direct' || name === UNIX || name === 'nginx');
  for (const kib of lab.quick ? [1, 64, 65, 1024] : [1, 4, 16, 64, 65, 256, 1024, 16_384]) {
    say(`bodies: ${kib} KiB`);
    const connections = kib > 1024 ? 4 : 16;
    const cells: string[] = [];
    for (const stand of stands) {
      const results = [];
      for (let round = 0; round < Math.min(lab.rounds, 2); round++)
        results.push(await requests(stand, connections, lab.seconds, kib * KIB));
      const perSecond = figure(results.map((result) => result.per_second)).median;
      cells.push(short((perSecond * kib * KIB) / 1e6));
      if (stand.name !== UNIX) continue;
      const cost = figure(results.map((result) => result.cpu_us ?? Number.NaN)).median;
      points.push([kib, cost]);
      cells.push(short(cost));
    }
    rows.push([kib.toLocaleString('en'), ...cells]);
  }
  const curve: Curve = { title: 'body size', x: 'KiB', y: 'CPU us per request', points };
  const names = stands.flatMap(({ name }) =>
    name === UNIX ? [`${name}, MB/s`, 'its CPU us per request'] : [`${name}, MB/s`],
  );
  const note = `POST over 16 connections (4 above 1 MiB). Up to 64 KiB a body is read whole before it is sent, above it streams: the step between 64 and 65 is that. CPU per request is ${shapeOf(points)}.`;
  return {
    tables: [{ title: 'Size of a request body', note, columns: ['KiB', ...names], rows }],
    curves: [curve],
  };
}

export async function measureCurves(lab: Lab): Promise<Section> {
  const parts = [await measureRules(lab), await measureListeners(lab), await measureBodies(lab)];
  return {
    tables: parts.flatMap((part) => part.tables),
    figures: Object.assign({}, ...parts.map((part) => part.figures ?? {})) as Record<string, Figure>,
    curves: parts.flatMap((part) => part.curves ?? []),
  };
}
