/** One large body, either way. */
import { type Lab, say, TCP, transfer, UNIX } from '../lab.ts';
import { memoryMiB } from '../processes.ts';
import { type Section, short, spread } from '../results.ts';
import { type Figure, figure } from '../stats.ts';

export const LARGE = 2 ** 30;
const STANDS = new Set(['direct', UNIX, TCP, 'nginx', 'haproxy', 'Caddy', 'Go ReverseProxy', 'bare Bun']);

export async function measureTransfers(lab: Lab): Promise<Section> {
  const figures: Record<string, Figure> = {};
  const stands = lab.stands.filter(({ name }) => STANDS.has(name));
  const rounds = Math.min(lab.rounds, 3);
  const found = new Map(stands.map(({ name }) => [name, { down: [] as number[], up: [] as number[] }]));
  let errors = 0;
  for (let round = 0; round < rounds; round++) {
    say(`1 GiB each way, round ${round + 1} of ${rounds}`);
    for (const kind of ['down', 'up'] as const)
      for (const stand of stands) {
        const result = await transfer(stand, kind, LARGE);
        errors += result.errors;
        found.get(stand.name)?.[kind].push(result.mb_per_s);
      }
  }
  const nginx = found.get('nginx');
  const rows = stands.map(({ name, running }) => {
    const cells = (['down', 'up'] as const).flatMap((kind) => {
      const speed = figure(found.get(name)?.[kind] ?? []);
      figures[`${kind}/${name}`] = speed;
      return [spread(speed), short(speed.median / figure(nginx?.[kind] ?? []).median)];
    });
    return [name, ...cells, running === undefined ? '–' : short(memoryMiB(running.pid, 'VmHWM'))];
  });
  const note = `MB/s over one connection, median of ${rounds} alternating rounds. ${errors === 0 ? 'Every byte arrived.' : `${errors} transfers were not whole.`} Memory is the highest so far in the run, other sections included.`;
  const columns = ['through', 'to the client', 'of nginx', 'from the client', 'of nginx', 'peak RSS, MiB'];
  return { tables: [{ title: '1 GiB in one body', note, columns, rows }], figures };
}
