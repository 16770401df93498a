/** Records of the log as lines of a table. */
import type { ReadRecord } from '../audit/record.ts';

const TITLES = ['time', 'what', 'status', 'listener', 'provider', 'ms', 'request'] as const;
const WIDTHS = [24, 12, 6, 12, 12, 7, 0] as const;

export const TABLE_HEAD = format(TITLES);

/** One line; `what` is what the table calls it: its kind, if nothing else is known. */
export function formatRow(record: ReadRecord, what: string): string {
  const { method, path, reason, status, duration_us: duration } = record;
  const ms = typeof duration === 'number' ? (duration / 1000).toFixed(duration < 10_000 ? 1 : 0) : '';
  const why = text(reason) === '' ? '' : ` (${text(reason)})`;
  const cut = record['truncated'] === true ? '…' : '';
  const request = method === undefined ? details(record) : `${text(method)} ${text(path)}${cut}`;
  const cells = [record.time, what, text(status), text(record['listener']), text(record['provider']), ms];
  return format([...cells, `${request}${why}`]);
}

/** Of records that are no requests: what is theirs alone. */
function details(record: ReadRecord): string {
  const names = [
    'scope',
    'version',
    'durability',
    'clean',
    'lost',
    'config',
    'generation',
    'count',
    'size',
    'bytes',
    'failure',
  ];
  return names
    .filter((name) => record[name] !== undefined)
    .map((name) => `${name} ${text(record[name])}`)
    .join(', ');
}

function text(value: unknown): string {
  return value === undefined ? '' : String(value);
}

/** The log holds what agents asked for: nothing of it may move the cursor or look like another line. */
function printable(value: string): string {
  return value.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (characters) =>
    Array.from({ length: characters.length }, (_, i) => characters.charCodeAt(i))
      .map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`)
      .join(''),
  );
}

function format(cells: readonly string[]): string {
  const line = cells.map((cell, i) => printable(cell).padEnd(WIDTHS[i] ?? 0)).join('  ');
  return `${line.trimEnd()}\n`;
}

/** A line of the log for other programs: it is ASCII already, unless somebody changed it. */
export function formatJson(line: string, record: ReadRecord): string {
  return `${/^[\x20-\x7e]*$/.test(line) ? line : escapeAll(JSON.stringify(record))}\n`;
}

function escapeAll(json: string): string {
  return json.replace(/[^\x20-\x7e]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
