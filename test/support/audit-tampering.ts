// What is done to the log of makeLog, and what a verifier has to say of it.

import { segmentName } from '../../src/audit/segments.ts';
import { hashOf, linesOf, putLines, reseal, type Segments } from './audit-log.ts';

/** Kind, first and last record of a fault. */
export type Fault = readonly [kind: string, from: number, to: number];

export interface Tampering {
  /** Row of the attack catalogue. */
  readonly id: string;
  readonly name: string;
  readonly tamper: (segments: Segments) => void;
  /** Exit code and faults with the checkpoints up to record 49, kept elsewhere. */
  readonly anchored: readonly [exit: number, ...faults: Fault[]];
  /** The same without any checkpoint. */
  readonly alone: readonly [exit: number, ...faults: Fault[]];
}

const SECOND = segmentName(21);
const THIRD = segmentName(41);
const GUESS = Buffer.alloc(64, 'x');

function editLines(edit: (lines: string[]) => void): (segments: Segments) => void {
  return (segments) => {
    const lines = linesOf(segments);
    edit(lines);
    putLines(segments, lines);
  };
}

/** Changes text of a segment, which keeps its name. */
function editText(name: string, edit: (text: string) => string): (segments: Segments) => void {
  return (segments) => {
    segments.set(name, edit(segments.get(name) as string));
  };
}

/** Writes record 25 and all that follow anew; a thorough one also puts right what checkpoint records say. */
function rechain(lines: string[], key: Buffer<ArrayBuffer> | undefined, isThorough: boolean): void {
  for (let at = 24; at < lines.length; at++) {
    const changes: Record<string, unknown> = at === 24 ? { status: 500, path: '/v1/other' } : {};
    const line = lines[at] as string;
    if (isThorough && line.includes('"kind":"checkpoint"')) changes['head'] = hashOf(lines[at - 1]);
    lines[at] = reseal(line, changes, hashOf(lines[at - 1]), key).line;
  }
}

/** Five records of another process that began at the same place, one behind each of ours. */
function interleave(lines: string[]): void {
  let prev = hashOf(lines[39]);
  for (let i = 0; i < 5; i++) {
    const other = reseal(lines[40 + 2 * i] as string, { boot_id: 'ffffffff' }, prev);
    prev = other.hash;
    lines.splice(41 + 2 * i, 0, other.line);
  }
}

/** The copy of record 45, and 13 records that another history wrote behind it. */
function otherHistory(lines: string[]): void {
  for (let at = 45; at < lines.length; at++) {
    const changes: Record<string, unknown> = { boot_id: 'eeeeeeee' };
    if (lines[at]?.includes('"kind":"checkpoint"')) changes['head'] = hashOf(lines[at - 1]);
    lines[at] = reseal(lines[at] as string, changes, hashOf(lines[at - 1])).line;
  }
}

export const TAMPERINGS: readonly Tampering[] = [
  {
    id: 'A1',
    name: 'tail-cut',
    tamper: editLines((lines) => lines.splice(46)),
    anchored: [1, ['cut', 47, 49]],
    alone: [0],
  },
  {
    id: 'A1',
    name: 'tail-cut-and-stop-forged-with-the-key',
    tamper: editLines((lines) => {
      lines.splice(46);
      lines[45] = reseal(
        lines[45] as string,
        {
          kind: 'stop',
          version: undefined,
          log_id: undefined,
          durability: undefined,
          clean: undefined,
          lost: 0,
        },
        hashOf(lines[44]),
      ).line;
    }),
    anchored: [1, ['cut', 47, 49]],
    alone: [0],
  },
  {
    id: 'A1',
    name: 'last-segment-emptied',
    tamper: editText(THIRD, () => ''),
    anchored: [1, ['cut', 41, 49]],
    alone: [0],
  },
  {
    id: 'A1',
    name: 'last-segment-emptied-and-lines-before-it-removed',
    tamper: (segments) => {
      editText(SECOND, (text) => text.split('\n').toSpliced(17).join('\n').concat('\n'))(segments);
      segments.set(THIRD, '');
    },
    anchored: [1, ['missing', 38, 40], ['cut', 38, 49]],
    alone: [1, ['missing', 38, 40]],
  },
  {
    id: 'A2',
    name: 'beginning-that-names-a-record-before-it',
    tamper: editLines((lines) => {
      for (let at = 0; at < lines.length; at++) {
        const changes = at % 10 === 9 ? { head: hashOf(lines[at - 1]) } : {};
        lines[at] = reseal(
          lines[at] as string,
          changes,
          at === 0 ? 'f'.repeat(64) : hashOf(lines[at - 1]),
        ).line;
      }
    }),
    anchored: [1, ['rewritten', 1, 1], ['rewritten', 1, 49]],
    alone: [1, ['rewritten', 1, 1]],
  },
  {
    id: 'A2',
    name: 'edited-and-chained-anew-with-the-key',
    tamper: editLines((lines) => rechain(lines, undefined, true)),
    anchored: [1, ['rewritten', 20, 49]],
    alone: [0],
  },
  {
    id: 'A2',
    name: 'edited-and-chained-anew-checkpoint-records-forgotten',
    tamper: editLines((lines) => rechain(lines, undefined, false)),
    anchored: [1, ['rewritten', 20, 49]],
    alone: [1, ['rewritten', 1, 49]],
  },
  {
    id: 'A2',
    name: 'one-record-written-anew-with-the-key',
    tamper: editLines((lines) => {
      lines[24] = reseal(lines[24] as string, { status: 500 }, hashOf(lines[23])).line;
    }),
    anchored: [1, ['rewritten', 25, 26]],
    alone: [1, ['rewritten', 25, 26]],
  },
  {
    id: 'A3',
    name: 'older-copy',
    tamper: (segments) => segments.delete(THIRD),
    anchored: [1, ['cut', 41, 49]],
    alone: [0],
  },
  {
    id: 'A3',
    name: 'older-copy-gone-on-with',
    tamper: editLines(otherHistory),
    anchored: [1, ['rewritten', 40, 49]],
    alone: [0],
  },
  {
    id: 'A3',
    name: 'all-removed',
    tamper: (segments) => segments.clear(),
    anchored: [1, ['cut', 1, 49]],
    alone: [74],
  },
  {
    id: 'A3',
    name: 'middle-segment-removed',
    tamper: (segments) => segments.delete(SECOND),
    anchored: [1, ['missing', 21, 40]],
    alone: [1, ['missing', 21, 40]],
  },
  {
    id: 'A3',
    name: 'first-segment-removed',
    tamper: (segments) => segments.delete(segmentName(1)),
    anchored: [1, ['missing', 1, 20]],
    alone: [1, ['missing', 1, 20]],
  },
  {
    id: 'A4',
    name: 'edited-without-the-key',
    tamper: editText(SECOND, (text) => text.replace('/v1/responses/25', '/v1/responses/99')),
    anchored: [1, ['edited', 25, 25]],
    alone: [1, ['edited', 25, 25]],
  },
  {
    id: 'A2',
    name: 'beginning-removed-and-announced-with-the-key-of-the-chain-alone',
    tamper(segments) {
      const lines = linesOf(segments);
      for (let at = 49; at < lines.length; at++) {
        const forged = at === 49 ? { first: 41, signature: JSON.parse(lines[39] as string).signature } : {};
        lines[at] = reseal(lines[at] as string, forged, hashOf(lines[at - 1])).line;
      }
      putLines(segments, lines);
      segments.delete(segmentName(1));
      segments.delete(SECOND);
    },
    anchored: [1, ['missing', 1, 40], ['forged', 50, 50]],
    alone: [1, ['missing', 1, 40], ['forged', 50, 50]],
  },
  {
    id: 'A4',
    name: 'chained-anew-with-a-guessed-key',
    tamper: editLines((lines) => rechain(lines, GUESS, true)),
    anchored: [1, ['edited', 25, 58]],
    alone: [1, ['edited', 25, 58]],
  },
  {
    id: 'A4',
    name: 'stop-forged-without-the-key',
    tamper: editLines((lines) => {
      lines.splice(50);
      lines.push(reseal(lines[34] as string, { seq: 51 }, hashOf(lines[49]), GUESS).line);
    }),
    anchored: [1, ['edited', 51, 51]],
    alone: [1, ['edited', 51, 51]],
  },
  {
    id: 'A5',
    name: 'half-a-line-appended',
    tamper: editText(THIRD, (text) => `${text}{"v":1,"seq":59,"boot`),
    anchored: [0],
    alone: [0],
  },
  {
    id: 'A5',
    name: 'cut-within-a-line',
    tamper: editText(THIRD, (text) => text.slice(0, text.indexOf('"seq":48') + 30)),
    anchored: [1, ['cut', 48, 49]],
    alone: [0],
  },
  {
    id: 'A5',
    name: 'middle-segment-cut-within-a-line',
    tamper: editText(SECOND, (text) => text.slice(0, text.indexOf('"seq":38') + 30)),
    anchored: [1, ['malformed', 38, 40], ['missing', 38, 40]],
    alone: [1, ['malformed', 38, 40], ['missing', 38, 40]],
  },
  {
    id: 'A5',
    name: 'garbage-appended',
    tamper: editText(THIRD, (text) => `${text}what a day\n`),
    anchored: [1, ['malformed', 59, 59]],
    alone: [1, ['malformed', 59, 59]],
  },
  {
    id: 'A5',
    name: 'line-put-in',
    tamper: editText(SECOND, (text) => text.replace('\n', '\n{"v":1}\n')),
    anchored: [1, ['inserted', 21, 22]],
    alone: [1, ['inserted', 21, 22]],
  },
  {
    id: 'A5',
    name: 'nul-bytes',
    tamper: editText(SECOND, (text) => text.replace('/v1/responses/25', '\0'.repeat(16))),
    anchored: [1, ['malformed', 25, 25]],
    alone: [1, ['malformed', 25, 25]],
  },
  {
    id: 'A5',
    name: 'crlf',
    tamper: editText(SECOND, (text) => text.replaceAll('\n', '\r\n')),
    anchored: [1, ['edited', 21, 40]],
    alone: [1, ['edited', 21, 40]],
  },
  {
    id: 'A7',
    name: 'segments-swapped',
    tamper: (segments) => {
      const [one, two] = [segments.get(segmentName(1)) as string, segments.get(SECOND) as string];
      segments.set(segmentName(1), two).set(SECOND, one);
    },
    anchored: [1, ['disorder', 1, 1], ['disorder', 1, 20], ['disorder', 21, 21]],
    alone: [1, ['disorder', 1, 1], ['disorder', 1, 20], ['disorder', 21, 21]],
  },
  {
    id: 'A7',
    name: 'segment-renamed',
    tamper: (segments) => {
      segments.set(segmentName(22), segments.get(SECOND) as string).delete(SECOND);
    },
    anchored: [1, ['disorder', 21, 21]],
    alone: [1, ['disorder', 21, 21]],
  },
  {
    id: 'A7',
    name: 'lines-swapped',
    tamper: editLines((lines) => lines.splice(24, 2, lines[25] as string, lines[24] as string)),
    anchored: [1, ['disorder', 25, 25]],
    alone: [1, ['disorder', 25, 25]],
  },
  {
    id: 'A7',
    name: 'lines-removed',
    tamper: editText(SECOND, (text) => text.split('\n').toSpliced(4, 3).join('\n')),
    anchored: [1, ['missing', 25, 27]],
    alone: [1, ['missing', 25, 27]],
  },
  {
    id: 'A10',
    name: 'two-writers',
    tamper: (segments) => {
      const lines = linesOf(segments);
      interleave(lines);
      segments.set(
        THIRD,
        lines
          .slice(40)
          .map((line) => `${line}\n`)
          .join(''),
      );
    },
    anchored: [1, ['forked', 41, 45]],
    alone: [1, ['forked', 41, 45]],
  },
  {
    id: 'A10',
    name: 'line-twice',
    tamper: editText(SECOND, (text) => text.replace(/^(.*"seq":25,.*\n)/m, '$1$1')),
    anchored: [1, ['repeated', 25, 25]],
    alone: [1, ['repeated', 25, 25]],
  },
];
