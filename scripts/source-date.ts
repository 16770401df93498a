/** The one moment that everything in a package carries, so that two builds of one source are equal. */
import { spawnSync } from 'node:child_process';
import process from 'node:process';

/** $SOURCE_DATE_EPOCH, else the time of the last commit, else (no git) the first of 2026; seconds. */
export function sourceDate(): number {
  const given = process.env['SOURCE_DATE_EPOCH'];
  if (given !== undefined && /^[0-9]+$/.test(given)) return Number(given);
  const commit = spawnSync('git', ['log', '-1', '--format=%ct'], { encoding: 'utf8' }).stdout?.trim();
  return commit ? Number(commit) : Date.UTC(2026, 0, 1) / 1000;
}
