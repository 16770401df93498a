/** Event streams: how late each event is, and what a quiet stream costs in memory. */
import { join } from 'node:path';
import process from 'node:process';
import { descriptorLimit } from '../../src/runtime/proc.ts';
import { startIsoproxy } from '../isoproxy.ts';
import { events, type Lab, say, TCP, UNIX } from '../lab.ts';
import type { EventsResult, Job } from '../load.ts';
import type { Stand } from '../peers.ts';
import { firstLine, launch, memoryMiB } from '../processes.ts';
import { type Curve, type Section, shapeOf, short, type Table } from '../results.ts';
import { type Figure, figure } from '../stats.ts';

const STANDS = new Set(['direct', UNIX, TCP, 'nginx', 'haproxy', 'Caddy', 'Go ReverseProxy', 'bare Bun']);
/** A single stream is opened again and again, or there would be one first event in each round. */
const LOADS = [
  { streams: 1, every: 10, count: 20, turns: 10, rounds: 3 },
  { streams: 100, every: 100, count: 50, turns: 1, rounds: 3 },
  { streams: 1000, every: 1000, count: 4, turns: 1, rounds: 1 },
];

async function measureDelays(lab: Lab): Promise<Section> {
  const figures: Record<string, Figure> = {};
  const tables: Table[] = [];
  const stands = lab.stands.filter(({ name }) => STANDS.has(name));
  for (const { streams, rounds: most, ...how } of lab.quick ? LOADS.slice(0, 2) : LOADS) {
    const rounds = Math.min(most, lab.rounds);
    const found = new Map<Stand, EventsResult[]>(stands.map((stand) => [stand, []]));
    say(`events: ${streams} streams`);
    for (let round = 0; round < rounds; round++)
      for (const stand of stands)
        found.get(stand)?.push(await events(stand, { connections: streams, ...how }));
    const rows = [...found].map(([{ name }, results]) => {
      const of = (pick: (result: EventsResult) => number) => figure(results.map(pick));
      const errors = results.reduce((sum, result) => sum + result.errors, 0);
      const first = of((r) => r.first_p50_ms);
      const p99 = of((r) => r.p99_ms);
      figures[`first/${streams}/${name}`] = first;
      figures[`event_p99/${streams}/${name}`] = p99;
      const cells = [first, of((r) => r.first_p99_ms), of((r) => r.p50_ms), p99];
      return [
        name,
        ...cells.map(({ median }) => short(median)),
        `${short(p99.low)}–${short(p99.high)}`,
        String(errors),
      ];
    });
    tables.push({
      title: `${streams.toLocaleString('en')} event ${streams === 1 ? 'stream' : 'streams'}, an event each ${how.every} ms`,
      note: 'From the moment the upstream sends to the moment the client has read, ms.',
      columns: [
        'through',
        'first event p50',
        'first p99',
        'event p50',
        'event p99',
        'spread of p99',
        'lost or out of order',
      ],
      rows,
    });
  }
  return { tables, figures };
}

/** What a process under test holds at most: a stream takes two descriptors in it; 1,000 are for all else. */
export function fittingStreams(): number {
  return Math.max(0, Math.floor(((descriptorLimit() ?? 1024) - 1000) / 2 / 100) * 100);
}

interface Held {
  readonly before: number;
  readonly during: number;
  readonly after: number;
  readonly errors: number;
}

async function holdStreams(stand: Stand, streams: number): Promise<Held> {
  const group = stand.running?.pid ?? 0;
  const before = memoryMiB(group, 'VmRSS');
  const { place, headers } = stand;
  const job: Job = { kind: 'hold', place, headers, connections: streams, every: 5000 };
  const load = launch([process.execPath, join(import.meta.dir, '../load.ts'), JSON.stringify(job)]);
  if ((await firstLine(load)) !== 'held') throw new Error('the streams did not open');
  await Bun.sleep(1500);
  const during = memoryMiB(group, 'VmRSS');
  const rest = firstLine(load);
  load.child.stdin?.end();
  const { errors } = JSON.parse(await rest) as { errors: number };
  await load.stop();
  await Bun.sleep(500);
  return { before, during, after: memoryMiB(group, 'VmRSS'), errors };
}

async function measureMemory(lab: Lab): Promise<Section> {
  const most = Math.min(10_000, fittingStreams());
  const counts = lab.quick ? [1, 1000] : [1, 10, 100, 1000, 3000, most];
  const figures: Record<string, Figure> = {};
  const rows: string[][] = [];
  const points: [number, number][] = [];
  const measure = async (stand: Stand, streams: number) => {
    say(`held streams: ${streams} through ${stand.name}`);
    const held = await holdStreams(stand, streams);
    const each = ((held.during - held.before) * 1024) / streams;
    figures[`kib_per_stream/${streams}/${stand.name}`] = figure([each]);
    rows.push([
      streams.toLocaleString('en'),
      stand.name,
      ...[held.before, held.during, held.after].map(short),
      short(each),
      String(held.errors),
    ]);
    return held;
  };
  for (const tls of [false, true])
    for (const streams of tls ? [most] : counts) {
      const name = tls ? 'isoproxy, TLS upstream' : UNIX;
      const stand = await startIsoproxy(name, lab.work, lab.upstream, { maxConcurrent: most + 100, tls });
      const { during } = await measure(stand, tls && lab.quick ? 1000 : streams);
      if (!tls) points.push([streams, during]);
      await stand.running.stop();
    }
  for (const name of ['nginx', 'Go ReverseProxy', 'bare Bun']) {
    const stand = lab.stands.find((one) => one.name === name);
    if (stand !== undefined) await measure(stand, lab.quick ? 1000 : most);
  }
  const curve: Curve = { title: 'concurrent streams', x: 'streams', y: 'RSS, MiB', points };
  const note = `Resident memory of the process, MiB, with an event each 5 s on each stream. isoproxy is started anew for each row. Its memory is ${shapeOf(points)}.`;
  const columns = ['streams', 'through', 'before', 'held', 'after', 'KiB per stream', 'lost or out of order'];
  return { tables: [{ title: 'Held streams', note, columns, rows }], figures, curves: [curve] };
}

export async function measureStreams(lab: Lab): Promise<Section> {
  const [delays, memory] = [await measureDelays(lab), await measureMemory(lab)];
  return {
    tables: [...delays.tables, ...memory.tables],
    figures: { ...delays.figures, ...memory.figures },
    curves: memory.curves ?? [],
  };
}
