// Segments in memory, with faults on demand; for the audit log's own tests.

import type { Checkpoints } from '../../src/audit/checkpoints.ts';
import { AuditFault, type SegmentFiles } from '../../src/audit/segment-file.ts';

export const KEY = new TextEncoder().encode('0'.repeat(64));

export interface FaultyFiles extends SegmentFiles {
  /** The next appends fail so, after they wrote half of their bytes. */
  failNext(code: string, times?: number): void;
  /** Appends wait from now on. */
  hold(): void;
  release(): void;
  /** Appends so far, also failed ones. */
  appends(): number;
  /** Numbers of the first records of the segments there are. */
  names(): number[];
  text(): string;
}

export function createFaultyFiles(): FaultyFiles {
  const segments = new Map<number, string>();
  let faults: string[] = [];
  let gate: PromiseWithResolvers<void> | undefined;
  let appends = 0;
  const names = () => [...segments.keys()].sort((a, b) => a - b);

  return {
    create(first) {
      if (segments.has(first)) throw new AuditFault('EEXIST');
      segments.set(first, '');
      let size = 0;
      return {
        first,
        size: () => size,
        async append(bytes) {
          appends++;
          const text = new TextDecoder().decode(bytes);
          await gate?.promise;
          const fault = faults.shift();
          if (fault !== undefined) {
            segments.set(first, segments.get(first) + text.slice(0, text.length / 2));
            throw new AuditFault(fault);
          }
          segments.set(first, segments.get(first) + text);
          size += bytes.length;
        },
        giveUp(bytes) {
          if (bytes === 0) segments.delete(first);
          else segments.set(first, segments.get(first)!.slice(0, bytes));
        },
        close: () => {},
      };
    },
    open() {
      throw new Error('not in these tests');
    },
    failNext(code, times = 1) {
      faults = Array(times).fill(code);
    },
    hold() {
      gate = Promise.withResolvers<void>();
    },
    release() {
      gate?.resolve();
      gate = undefined;
    },
    appends: () => appends,
    names,
    text: () =>
      names()
        .map((first) => segments.get(first))
        .join(''),
  };
}

export function linesOf(files: FaultyFiles): string[] {
  return files.text().split('\n').slice(0, -1);
}

export function createNoCheckpoints(): Checkpoints {
  return {
    observe: () => undefined,
    announce: () => ({ kind: 'checkpoint' }),
    finish: async () => {},
    size: () => 0,
  };
}
