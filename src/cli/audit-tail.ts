/** `isoproxy audit tail`: the last records, and those to come, across segments. */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { parseRecord } from '../audit/record.ts';
import { listSegments, readLines, type Segment } from '../audit/segments.ts';
import { readOptions } from './args.ts';
import { createFilter, FILTER_OPTIONS, type Filter, readCount } from './audit-filter.ts';
import { findAuditPlace, PLACE_OPTIONS, reading, requireDirectory } from './audit-place.ts';
import { formatJson, formatRow, TABLE_HEAD } from './audit-table.ts';
import { EXIT, type Io } from './command.ts';

const POLL_MS = 200;
const CHUNK = 1024 * 1024;
const DEFAULT_LINES = 10;

/** How far the log was read. */
interface Position {
  readonly segment: Segment | undefined;
  readonly offset: number;
}

export async function tail(args: readonly string[], io: Io): Promise<number> {
  const values = readOptions('audit', args, {
    ...PLACE_OPTIONS,
    ...FILTER_OPTIONS,
    follow: { type: 'boolean', short: 'f' },
    lines: { type: 'string', short: 'n' },
  });
  const filter = createFilter(values, Date.now());
  const lines = values.lines === undefined ? DEFAULT_LINES : readCount('--lines', values.lines);
  const place = findAuditPlace(values, io);
  requireDirectory(place);
  const { directory } = place;
  const select = createSelect(filter, values.json ?? false);
  if (!values.json) io.stdout(TABLE_HEAD);
  const start = reading(directory, () => readLast(directory, lines, select));
  for (const line of start.found) io.stdout(line);
  let { position } = start;
  while (values.follow) {
    const more = reading(directory, () => readMore(directory, position));
    position = more.position;
    for (const text of more.lines) io.stdout(select(text) ?? '');
    if (more.lines.length === 0) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return EXIT.ok;
}

/** A line of the log as it is to be printed; undefined if it is not. */
type Select = (text: string) => string | undefined;

function createSelect(filter: Filter, json: boolean): Select {
  return (text) => {
    const record = parseRecord(text);
    if (record === undefined || !filter(record)) return undefined;
    return json ? formatJson(text, record) : formatRow(record, record.kind);
  };
}

/** The last lines, read from the newest segment backwards until there are enough, and where they end. */
function readLast(directory: string, count: number, select: Select): { found: string[]; position: Position } {
  const segments = listSegments(directory);
  let found: string[] = [];
  let position: Position | undefined;
  for (const segment of segments.toReversed()) {
    let offset = 0;
    let here: string[] = [];
    for (const line of readLines(segment.path)) {
      if (!line.isWhole) continue;
      offset = line.offset + line.text.length + 1;
      const text = select(line.text);
      if (text !== undefined) here.push(text);
      if (here.length > 2 * count) here = count === 0 ? [] : here.slice(-count);
    }
    position ??= { segment, offset };
    found = [...here, ...found];
    if (found.length >= count) break;
  }
  return {
    found: count === 0 ? [] : found.slice(-count),
    position: position ?? { segment: undefined, offset: 0 },
  };
}

/** What was written since: of this segment, and when that has no more, of the next. */
function readMore(directory: string, { segment, offset }: Position): { lines: string[]; position: Position } {
  // Listed first: what the older one holds is all written by then.
  const next = listSegments(directory).find(({ first }) => segment === undefined || first > segment.first);
  const size = segment && statSync(segment.path, { throwIfNoEntry: false })?.size;
  // What was not committed was taken out again: it stands in the next one.
  if (size !== undefined && size < offset) return { lines: [], position: { segment, offset: size } };
  const text = segment === undefined ? '' : readFrom(segment.path, offset);
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  if (whole !== '')
    return {
      lines: whole.slice(0, -1).split('\n'),
      position: { segment, offset: offset + whole.length },
    };
  return { lines: [], position: next === undefined ? { segment, offset } : { segment: next, offset: 0 } };
}

/** What stands behind `offset`, a megabyte at most, one character a byte; nothing if the file is gone. */
function readFrom(path: string, offset: number): string {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return '';
    throw error;
  }
  try {
    const buffer = Buffer.alloc(Math.max(0, Math.min(CHUNK, fstatSync(fd).size - offset)));
    return buffer.toString('latin1', 0, readSync(fd, buffer, 0, buffer.length, offset));
  } finally {
    closeSync(fd);
  }
}
