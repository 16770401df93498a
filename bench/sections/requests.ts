/** Requests per second, latency and CPU of a 1 KiB POST, every stand in turn. */
import { type Lab, type Requests, requests, say } from '../lab.ts';
import { type Section, short, spread, type Table, withErrors } from '../results.ts';
import { type Figure, figure } from '../stats.ts';

const CONNECTIONS = [1, 16, 64, 256];
/** The count that the goals are about. */
const MAIN = 64;
/** Of interest as floors of the runtime; two counts tell enough. */
const VARIANTS = new Set(['bare Bun, all streamed', 'node:http in Bun']);

export async function measureRequests(lab: Lab): Promise<Section> {
  const figures: Record<string, Figure> = {};
  const tables: Table[] = [];
  for (const connections of lab.quick ? [1, MAIN] : CONNECTIONS) {
    const stands = lab.stands.filter(
      ({ name }) => connections === 1 || connections === MAIN || !VARIANTS.has(name),
    );
    const rounds = connections === MAIN ? lab.rounds : Math.min(lab.rounds, 3);
    const found = new Map<string, Requests[]>(stands.map(({ name }) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      say(`requests: ${connections} connections, round ${round + 1} of ${rounds}`);
      for (const stand of stands)
        found.get(stand.name)?.push(await requests(stand, connections, lab.seconds));
    }
    const of = (name: string, pick: (result: Requests) => number | undefined) =>
      figure((found.get(name) ?? []).map((result) => pick(result) ?? Number.NaN));
    const rows: string[][] = [];
    const base = of('nginx', (r) => r.per_second).median;
    const directP50 = of('direct', (r) => r.p50_us).median;
    for (const [name, results] of found) {
      const perSecond = of(name, (r) => r.per_second);
      const [p50, p99, cpu] = [
        of(name, (r) => r.p50_us),
        of(name, (r) => r.p99_us),
        of(name, (r) => r.cpu_us),
      ];
      figures[`per_second/${connections}/${name}`] = perSecond;
      figures[`p50/${connections}/${name}`] = p50;
      figures[`cpu/${connections}/${name}`] = cpu;
      rows.push([
        withErrors(name, results),
        spread(perSecond),
        short(perSecond.median / base),
        short(p50.median),
        short(p50.median - directP50),
        short(p99.median),
        short(cpu.median),
      ]);
    }
    tables.push({
      title: `1 KiB POST, ${connections} ${connections === 1 ? 'connection' : 'connections'}`,
      note: `Median of ${rounds} alternating rounds of ${lab.seconds} s (lowest–highest).`,
      columns: [
        'through',
        'requests/s',
        'of nginx',
        'p50 us',
        'added p50 us',
        'p99 us',
        'CPU us per request',
      ],
      rows,
    });
  }
  return { tables, figures };
}
