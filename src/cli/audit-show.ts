/** `isoproxy audit show`: what was asked, and what came of it. */
import { parseRecord, type ReadRecord } from '../audit/record.ts';
import { listSegments, readLines } from '../audit/segments.ts';
import { readOptions } from './args.ts';
import { createFilter, FILTER_OPTIONS, readCount } from './audit-filter.ts';
import { findAuditPlace, PLACE_OPTIONS, reading, requireDirectory } from './audit-place.ts';
import { formatJson, formatRow, TABLE_HEAD } from './audit-table.ts';
import { EXIT, type Io, note, warn } from './command.ts';

export function show(args: readonly string[], io: Io): number {
  const values = readOptions('audit', args, {
    ...PLACE_OPTIONS,
    ...FILTER_OPTIONS,
    last: { type: 'string' },
  });
  const filter = createFilter(values, Date.now());
  const out = createOutput(values.last === undefined ? undefined : readCount('--last', values.last), io);
  const place = findAuditPlace(values, io);
  requireDirectory(place);
  const rows = createRows((record, what) => {
    if (filter(record)) out.add(formatRow(record, what));
  });
  if (!values.json) io.stdout(TABLE_HEAD);
  let strange = 0;
  reading(place.directory, () => {
    for (const { path } of listSegments(place.directory))
      for (const { text, isWhole } of readLines(path)) {
        const record = parseRecord(text);
        if (record === undefined) strange += isWhole ? 1 : 0;
        else if (!values.json) rows.read(record);
        else if (filter(record)) out.add(formatJson(text, record));
      }
  });
  rows.end();
  out.end();
  if (strange > 0) warn(io, `lines that are no records: ${strange}; isoproxy audit verify tells more`);
  if (out.count() === 0) note(io, 'no record is like that');
  return EXIT.ok;
}

/** Puts intent and outcome into one row, which stands where the outcome does. */
function createRows(onRow: (record: ReadRecord, what: string) => void) {
  const open = new Map<string, ReadRecord>();
  const end = (what: string) => {
    for (const intent of open.values()) onRow(intent, what);
    open.clear();
  };
  return {
    read(record: ReadRecord): void {
      const { kind, request_id: id } = record;
      // Whose outcome is not there when the next process starts has none.
      if (kind === 'start' || kind === 'stop') end('unfinished');
      if (kind === 'intent') {
        open.set(String(id), record);
        return;
      }
      if (kind !== 'outcome') {
        onRow(record, kind);
        return;
      }
      const intent = open.get(String(id));
      open.delete(String(id));
      onRow({ ...intent, ...record }, String(record['decision'] ?? kind));
    },
    end: () => end('open'),
  };
}

/** Prints at once, or at the end the last ones only. */
function createOutput(last: number | undefined, io: Io) {
  const kept: string[] = [];
  let count = 0;
  return {
    count: () => count,
    add(line: string): void {
      count++;
      if (last === undefined) io.stdout(line);
      else kept[count % Math.max(1, last)] = line;
    },
    end(): void {
      if (last === undefined || last === 0) return;
      for (let i = Math.max(1, count - last + 1); i <= count; i++) io.stdout(kept[i % last] as string);
    },
  };
}
