/** What the audit log costs, beside what the disk of this machine takes for one sync. */
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { type IsoproxyStand, startIsoproxy } from '../isoproxy.ts';
import { type Lab, type Requests, requests, say } from '../lab.ts';
import { type Section, short, spread } from '../results.ts';
import { type Figure, figure } from '../stats.ts';

const DURABILITIES = ['off', 'async', 'commit'] as const;
const CONNECTIONS = [1, 64] as const;
const SYNCS = 200;

export async function measureAudit(lab: Lab): Promise<Section> {
  const stands: IsoproxyStand[] = [];
  const found = new Map<string, Requests[]>();
  const syncs: number[] = [];
  try {
    for (const durability of DURABILITIES)
      stands.push(
        await startIsoproxy(durability, lab.work, lab.upstream, {
          audit: `[audit]\ndurability = "${durability}"`,
        }),
      );
    for (let round = 0; round < lab.rounds; round++) {
      say(`audit: round ${round + 1} of ${lab.rounds}`);
      syncs.push(sync(lab.work));
      for (const connections of CONNECTIONS)
        for (const stand of stands) {
          const name = `${stand.name}/${connections}`;
          const result = await requests(stand, connections, lab.seconds);
          found.set(name, [...(found.get(name) ?? []), result]);
        }
    }
  } finally {
    for (const { running } of stands) await running.stop();
  }
  const of = (name: string, read: (result: Requests) => number) => figure((found.get(name) ?? []).map(read));
  const figures: Record<string, Figure> = { fdatasync: figure(syncs) };
  const rows = DURABILITIES.map((durability) => {
    const perSecond = of(`${durability}/64`, (result) => result.per_second);
    const p50 = of(`${durability}/1`, (result) => result.p50_us);
    figures[`audit/per_second/${durability}`] = perSecond;
    figures[`audit/p50/${durability}`] = p50;
    const off = of('off/64', (result) => result.per_second).median;
    const added = p50.median - of('off/1', (result) => result.p50_us).median;
    const busy = of(`${durability}/64`, (result) => result.p50_us);
    const ratio = short(perSecond.median / off);
    return [durability, spread(perSecond), ratio, spread(p50), short(added), spread(busy)];
  });
  const note = `1 KiB POST on a unix socket, median of ${lab.rounds} alternating rounds. One write of 1.2 KiB and fdatasync in the same place, median of ${SYNCS} in each round: ${spread(figures['fdatasync'] as Figure)} us.`;
  const columns = [
    'durability',
    'requests/s, 64 connections',
    'of off',
    'p50 us, 1 connection',
    'added us',
    'p50 us, 64 connections',
  ];
  return { tables: [{ title: 'What the audit log costs', note, columns, rows }], figures };
}

/** Two records, written and synced: median, us. */
function sync(directory: string): number {
  const fd = openSync(join(directory, 'sync'), 'a');
  try {
    const times: number[] = [];
    for (let i = 0; i < SYNCS; i++) {
      const from = performance.now();
      writeSync(fd, Buffer.alloc(1_200, 'x'));
      fdatasyncSync(fd);
      times.push((performance.now() - from) * 1_000);
    }
    return figure(times).median;
  } finally {
    closeSync(fd);
  }
}
