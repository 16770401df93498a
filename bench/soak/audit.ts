/**
 * The audit log of the soak: every segment is copied, so that it can be counted when it has been removed. (A link would
 * not do: a segment that also has another name is one that the log no longer writes to.)
 */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { listSegments, readLines } from '../../src/audit/segments.ts';
import type { LogReader } from './watch.ts';

const INTENT = 1;
const OUTCOME = 2;

export interface Archive {
  /** Copies the segments that have ended, or all; to be called more often than segments are removed. */
  readonly keep: (all?: 'all') => void;
  readonly count: (log: LogReader) => AuditCount;
}

export interface AuditCount {
  readonly records: number;
  readonly segments: number;
  readonly intents: number;
  /** Outcomes of requests that were forwarded; the others are refused after their intent. */
  readonly allowed: number;
  readonly checkpoints: number;
  /** Denials, those counted in summaries and those after an intent included. */
  readonly denials: number;
  /** Requests with an intent or an outcome that lack the other, or whose access line says that they were allowed and lack both. */
  readonly unfinished: readonly string[];
  /** Numbers of records that are missing between the first and the last. */
  readonly holes: number;
}

export function createArchive(auditDir: string, directory: string): Archive {
  mkdirSync(directory, { recursive: true });
  const kept = new Set<string>();

  function keep(all?: 'all'): void {
    const segments = listSegments(auditDir);
    for (const { name, path } of all ? segments : segments.slice(0, -1)) {
      if (kept.has(name)) continue;
      copyFileSync(path, join(directory, name));
      kept.add(name);
    }
  }

  function count(log: LogReader): AuditCount {
    const marks = new Map<string, number>();
    const segments = listSegments(directory);
    let [records, denials, checkpoints, holes, last, intents, allowed] = [0, 0, 0, 0, 0, 0, 0];
    for (const { path } of segments)
      for (const { text } of readLines(path)) {
        const record = JSON.parse(text) as Record<string, unknown>;
        records++;
        const seq = Number(record['seq']);
        holes += seq - last - 1;
        last = seq;
        const id = String(record['request_id']);
        const mark = (bit: number) => marks.set(id, (marks.get(id) ?? 0) | bit);
        if (record['kind'] === 'intent') {
          intents++;
          mark(INTENT);
        } else if (record['kind'] === 'outcome') {
          mark(OUTCOME);
          if (record['decision'] === 'allow') allowed++;
          else denials++;
        }
        if (record['kind'] === 'deny') denials++;
        else if (record['kind'] === 'deny_summary') denials += Number(record['count']);
        else if (record['kind'] === 'checkpoint') checkpoints++;
      }
    const unfinished = [...marks].filter(([, mark]) => mark !== (INTENT | OUTCOME)).map(([id]) => id);
    for (const id of log.allowed) if (!marks.has(id)) unfinished.push(id);
    return { records, segments: segments.length, intents, allowed, checkpoints, denials, unfinished, holes };
  }

  return { keep, count };
}

export interface Proof {
  readonly code: number;
  readonly seconds: number;
  readonly ok: boolean;
  readonly records: number;
  readonly segments: number;
  readonly anchored_to: number;
  readonly gaps: readonly unknown[];
}

/** `isoproxy audit verify`, timed. */
export async function prove(
  cli: (...args: string[]) => Promise<{ code: number; stdout: string; stderr: string }>,
): Promise<Proof> {
  const from = performance.now();
  const { code, stdout, stderr } = await cli('audit', 'verify', '--require-anchor', '--json');
  const seconds = (performance.now() - from) / 1000;
  if (stdout === '') throw new Error(`audit verify ended with ${code}: ${stderr.slice(0, 500)}`);
  return { ...(JSON.parse(stdout) as Omit<Proof, 'code' | 'seconds'>), code, seconds };
}
