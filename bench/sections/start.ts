/** Cold start, idle memory and size. */
import { statSync } from 'node:fs';
import { BIN, startIsoproxy } from '../isoproxy.ts';
import { type Lab, say } from '../lab.ts';
import { memoryMiB } from '../processes.ts';
import { type Section, short, spread } from '../results.ts';
import { figure } from '../stats.ts';

export async function measureStart(lab: Lab): Promise<Section> {
  const starts: number[] = [];
  const idle: number[] = [];
  say('cold starts');
  for (let n = 0; n < (lab.quick ? 5 : 20); n++) {
    const { running, startedMs } = await startIsoproxy('start', lab.work, lab.upstream);
    starts.push(startedMs);
    await Bun.sleep(100);
    idle.push(memoryMiB(running.pid, 'VmRSS'));
    await running.stop();
  }
  const figures = { cold_start: figure(starts), idle_rss: figure(idle) };
  const rows = [
    ['from exec to the first accepted connection, ms', spread(figures.cold_start)],
    ['memory when idle, RSS, MiB', spread(figures.idle_rss)],
    ['size of the binary, MB', short(statSync(BIN).size / 1e6)],
  ];
  return {
    tables: [
      {
        title: 'Start and size',
        note: `Median of ${starts.length} starts.`,
        columns: ['what', 'found'],
        rows,
      },
    ],
    figures,
  };
}
