/** `isoproxy audit verify`: is the log as it was written, and who besides it says so? */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import process from 'node:process';
import { type CheckpointSet, createCheckpointSet } from '../audit/checkpoint-files.ts';
import { type Verdict, verifyLog } from '../audit/verify.ts';
import { readOptions } from './args.ts';
import {
  type AuditPlace,
  findAuditPlace,
  PLACE_OPTIONS,
  readChainKey,
  reading,
  readVerifier,
  requireDirectory,
} from './audit-place.ts';
import { CliError, EXIT, hint, type Io, paint, warn } from './command.ts';

/** Before this time a log is not long, ms; and the time between two changes of the bar. */
const PROGRESS_MS = 500;
const BAR = 30;

export function verify(args: readonly string[], io: Io): number {
  const values = readOptions('audit', args, {
    ...PLACE_OPTIONS,
    checkpoints: { type: 'string', multiple: true },
    key: { type: 'string' },
    'public-key': { type: 'string' },
    'require-anchor': { type: 'boolean' },
  });
  const place = findAuditPlace(values, io);
  const { directory } = place;
  const given = values.checkpoints ?? [];
  // With nothing but checkpoints left, these still say what is missing.
  const isNamed = values.key !== undefined && values['public-key'] !== undefined && given.length > 0;
  if (!isNamed) requireDirectory(place);
  const key = readChainKey(place, values.key, io);
  const verifier = readVerifier(place, values['public-key'], (path) =>
    reading(path, () => readFileSync(path, 'latin1')),
  );
  const checkpoints = createCheckpointSet(verifier);
  readAnchors(place, given, checkpoints, io);
  const progress = createProgress(io);
  const verdict = reading(directory, () =>
    verifyLog({ directory, key, checkpoints, onProgress: progress.show }),
  );
  progress.clear();
  if (verdict.segments === 0 && verdict.ok)
    throw new CliError(EXIT.audit, `there is no audit log in ${directory}`, 'a proxy that ran leaves one');

  if (values.json) io.stdout(`${JSON.stringify({ ...verdict, ...outside(checkpoints) })}\n`);
  else {
    printVerdict(verdict, io);
    printFacts(verdict, io);
  }
  printWarnings(verdict, checkpoints, values.key, io);
  if (!verdict.ok) return EXIT.denied;
  return values['require-anchor'] && verdict.anchored_to === 0 ? EXIT.unproven : EXIT.ok;
}

function readAnchors(
  { directory, settings }: AuditPlace,
  given: readonly string[],
  set: CheckpointSet,
  io: Io,
): void {
  const inside = join(directory, 'checkpoints');
  for (const path of given) {
    if (isInside(directory, path))
      throw new CliError(
        EXIT.usage,
        `${path} is in the log's directory and vouches for nothing`,
        'name checkpoints that were kept elsewhere',
      );
    reading(path, () => set.addFile(path, true));
  }
  const configured = settings?.checkpointFile;
  if (configured !== undefined && !isInside(directory, configured)) {
    if (existsSync(configured)) reading(configured, () => set.addFile(configured, true));
    else warn(io, `${configured}, the checkpoint_file of the configuration, does not exist`);
  }
  if (existsSync(inside)) reading(inside, () => set.addFile(inside, false));
}

/** By its name, or by a link of another name. */
function isInside(directory: string, path: string): boolean {
  if (!relative(resolve(directory), resolve(path)).startsWith('..')) return true;
  const [own, other] = [join(directory, 'checkpoints'), path].map((name) =>
    statSync(name, { throwIfNoEntry: false }),
  );
  return own !== undefined && other !== undefined && own.ino === other.ino && own.dev === other.dev;
}

const outside = (set: CheckpointSet) => ({
  anchors: set.anchors(),
  foreign: [...set.foreign].map(([origin, size]) => ({ origin, size })),
});

function range({ from, to }: { readonly from: number; readonly to: number }): string {
  return from === to ? `record ${from}` : `records ${from} to ${to}`;
}

function printVerdict(verdict: Verdict, io: Io): void {
  const { ok, gaps, more_gaps, anchored_to, unanchored } = verdict;
  if (!ok) {
    const count = gaps.length + more_gaps;
    const text = `TAMPERED WITH: ${count} ${count === 1 ? 'fault' : 'faults'}`;
    io.stdout(`${paint(io, 'red', text)}\n`);
  } else if (anchored_to === 0)
    io.stdout(
      `${paint(io, 'yellow', 'intact, but NOT ANCHORED')}: nothing outside of it says how long it was\n`,
    );
  else {
    const rest = unanchored === null ? '' : `; NOT ANCHORED from record ${unanchored.from} on`;
    io.stdout(`${paint(io, 'green', `intact, and anchored up to record ${anchored_to}`)}${rest}\n`);
  }
}

function printFacts(verdict: Verdict, io: Io): void {
  const { records, segments, first, last, since, until, anchored_to, unanchored, torn } = verdict;
  const requests = verdict.unfinished_requests.map(printable).join(', ');
  const more = verdict.unfinished > verdict.unfinished_requests.length ? ', …' : '';
  const rows: readonly (readonly [string, string])[] = [
    ['records', `${records}${records === 0 ? '' : ` (${first} to ${last})`}, segments: ${segments}`],
    ['time', since === null || until === null ? '-' : `${printable(since)} to ${printable(until)}`],
    ['anchored to', anchored_to === 0 ? 'nothing' : `record ${anchored_to}`],
    ['only chained', unanchored === null ? 'nothing' : range(unanchored)],
    ['torn line', torn === null ? 'no' : `${torn.bytes} bytes at the end of ${torn.segment}`],
    ['torn before', `${verdict.recovered} set aside`],
    ['unfinished', `${verdict.unfinished}${requests === '' ? '' : ` (${requests}${more})`}`],
    ['open', `${verdict.open} (in flight, if the proxy runs)`],
    ['unclean ends', String(verdict.unclean_ends)],
  ];
  for (const [name, text] of rows) io.stdout(`  ${name.padEnd(14)}${text}\n`);
  for (const { kind, segment, text, ...where } of verdict.gaps)
    io.stdout(
      `${paint(io, 'red', kind)}: ${range(where)}${segment && ` in ${printable(segment)}`}: ${text}\n`,
    );
  if (verdict.more_gaps > 0) io.stdout(`and ${verdict.more_gaps} faults more\n`);
}

function printWarnings(verdict: Verdict, set: CheckpointSet, key: string | undefined, io: Io): void {
  for (const [origin, size] of set.foreign)
    warn(
      io,
      `checkpoints of another log were given (${origin}, up to record ${size}): if no other proxy writes to that file, this log was put in the place of that one`,
    );
  if (verdict.records === 0 && !verdict.ok)
    hint(
      io,
      key === undefined
        ? 'no record fits the key; if it is not that of this log: --key FILE'
        : 'no record fits that key',
    );
  else if (verdict.ok && verdict.unanchored !== null) {
    const { from, to } = verdict.unanchored;
    warn(
      io,
      `not anchored from record ${from} to ${to}: who has the key could have cut or changed these without a trace`,
    );
    if (verdict.anchored_to === 0) hint(io, 'keep checkpoints elsewhere, and name them: --checkpoints FILE');
  }
}

function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?');
}

function createProgress(io: Io) {
  if (!process.stderr.isTTY) return { show: undefined, clear: () => {} };
  let at = performance.now();
  let isShown = false;
  return {
    show(done: number, all: number): void {
      if (performance.now() - at < PROGRESS_MS) return;
      at = performance.now();
      isShown = true;
      const part = all === 0 ? 1 : Math.min(1, done / all);
      const bar = '#'.repeat(Math.round(part * BAR)).padEnd(BAR, '.');
      io.stderr(`\r[${bar}] ${Math.floor(part * 100)} %`);
    },
    clear(): void {
      if (isShown) io.stderr('\r\x1b[K');
    },
  };
}
