/** Which records of the log are asked for: the filters of `isoproxy audit show` and `audit tail`. */
import { KINDS, type ReadRecord } from '../audit/record.ts';
import { ValueError } from '../config/config-error.ts';
import { parseDuration } from '../config/units.ts';
import { CliError, EXIT } from './command.ts';

export const FILTER_OPTIONS = {
  since: { type: 'string' },
  until: { type: 'string' },
  listener: { type: 'string' },
  provider: { type: 'string' },
  decision: { type: 'string' },
  status: { type: 'string' },
  kind: { type: 'string' },
  request: { type: 'string' },
} as const;

type Values = { readonly [name in keyof typeof FILTER_OPTIONS]?: string | undefined };

export type Filter = (record: ReadRecord) => boolean;

/** RFC 3339; what is left out at its end is midnight, and UTC. */
const TIME = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?$/;

/** @param now wall clock, ms @throws CliError (64) */
export function createFilter(values: Values, now: number): Filter {
  const tests: Filter[] = [];
  const { since, until, decision, status, kind } = values;
  if (since !== undefined) {
    const from = readTime('since', since, now);
    tests.push((record) => Date.parse(record.time) >= from);
  }
  if (until !== undefined) {
    const to = readTime('until', until, now);
    tests.push((record) => Date.parse(record.time) <= to);
  }
  for (const [member, value] of [
    ['listener', values.listener],
    ['provider', values.provider],
    ['request_id', values.request],
  ] as const)
    if (value !== undefined) tests.push((record) => record[member] === value);
  if (decision !== undefined) {
    if (decision !== 'allow' && decision !== 'deny') wrong('--decision is allow or deny');
    tests.push((record) => record['decision'] === decision);
  }
  if (kind !== undefined) {
    if (!(KINDS as readonly string[]).includes(kind)) wrong(`--kind is one of ${KINDS.join(', ')}`);
    tests.push((record) => record.kind === kind);
  }
  if (status !== undefined) {
    if (!/^[1-5](?:\d\d|xx)$/.test(status)) wrong('--status is a status like 200, or a class like 4xx');
    const pattern = new RegExp(`^${status.replace('xx', '..')}$`);
    tests.push((record) => pattern.test(String(record['status'])));
  }
  return (record) => tests.every((test) => test(record));
}

function readTime(option: string, text: string, now: number): number {
  const time = TIME.test(text)
    ? Date.parse(/T.*(?:Z|[+-]\d\d:\d\d)$/.test(text) ? text : withZone(text))
    : Number.NaN;
  if (!Number.isNaN(time)) return time;
  try {
    return now - parseDuration(text);
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    throw new CliError(EXIT.usage, `--${option} is a time like 2026-01-31T12:00Z, or how long ago, like 10m`);
  }
}

/** JavaScript takes a time of day without its zone for a local one. */
function withZone(text: string): string {
  return text.includes('T') ? `${text}Z` : text;
}

function wrong(message: string): never {
  throw new CliError(EXIT.usage, message, 'isoproxy help audit');
}

/** A number of lines. @throws CliError (64) */
export function readCount(option: string, text: string): number {
  if (!/^[0-9]{1,7}$/.test(text)) throw new CliError(EXIT.usage, `${option} takes a number`);
  return Number(text);
}
