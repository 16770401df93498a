/** The proxy as seen from outside: its memory, its descriptors, and what it has said. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { memoryMiB } from '../processes.ts';
import type { Sample } from './report.ts';

/** The memory of a served proxy is hidden from its own user, and its descriptors with it; but not how many there are. */
function countDescriptors(pid: number): number {
  const directory = `/proc/${pid}/fd`;
  try {
    return readdirSync(directory).length;
  } catch {
    return statSync(directory).size || Number.NaN;
  }
}

export function look(pid: number, atS: number): Sample {
  return {
    at_s: Math.round(atS * 10) / 10,
    rss_mib: memoryMiB(pid, 'VmRSS'),
    descriptors: countDescriptors(pid),
  };
}

/** Lines of the log that are neither of a start nor of an answer with 200 that went out whole. */
export function readBadLines(file: string): string[] {
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.filter((line) => line !== '' && !isGood(line));
}

function isGood(line: string): boolean {
  try {
    const { status, reason, event } = JSON.parse(line) as Record<string, unknown>;
    return status === undefined ? event === 'listening' : status === 200 && (reason ?? '') === '';
  } catch {
    return line.startsWith('isoproxy: warning: ');
  }
}
