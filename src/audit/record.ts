/**
 * One record of the audit log: what stands in it, and the line that it becomes. docs/audit.md is the reference;
 * a member that means nothing for a kind is absent.
 *
 * A line is ASCII and bounded: whatever an agent puts into a path comes out as one line that no terminal, no
 * collector and no auditor can mistake for two.
 */
import { createHmac } from 'node:crypto';

export const KINDS = [
  'start',
  'stop',
  'config',
  'intent',
  'outcome',
  'deny',
  'deny_summary',
  'halt',
  'resume',
  'checkpoint',
  'recovered',
  'cleared',
] as const;
export type Kind = (typeof KINDS)[number];

/** Members between `mono_us` and `prev`, in the order in which they are to stand. */
export type RecordBody = {
  readonly kind: Kind;
  readonly [member: string]: string | number | boolean | readonly string[] | undefined;
};

/** Where and when a record stands. */
export interface RecordPlace {
  readonly seq: number;
  readonly boot_id: string;
  /** RFC 3339, UTC, ms. */
  readonly time: string;
  /** Microseconds since the start of the process. */
  readonly mono_us: number;
}

/** A record as it was read; members beside these are as in docs/audit.md. */
export interface ReadRecord extends RecordPlace {
  readonly kind: Kind;
  readonly prev: string;
  readonly hash: string;
  readonly [member: string]: unknown;
}

/** Where a chain ends. */
export interface Head {
  /** Number of the last record; 0 before the first. */
  readonly seq: number;
  readonly hash: string;
}

/** Longest line with its newline, bytes. */
export const MAX_LINE = 1_024;
/** `prev` of the first record. */
export const GENESIS = '0'.repeat(64);

const DOMAIN = 'isoproxy-audit-v1/record\n';
/** `,"hash":"` + 64 digits + `"}`. */
const SEAL_LENGTH = 75;
/** The brace behind the last member, in whose place the seal stands. */
const CLOSE_LENGTH = 1;
const TRUNCATED = ',"truncated":true'.length;

/**
 * Writes the line of a record, with its newline, into `target` from `at` on, where MAX_LINE bytes are free. Bytes, and not
 * a string that is put together: each of its copies would cost as much as the digest (measured).
 */
export function writeRecord(
  target: Buffer,
  at: number,
  place: RecordPlace,
  body: RecordBody,
  prev: string,
  key: Uint8Array,
): { readonly end: number; readonly hash: string } {
  const room = MAX_LINE - 1 - SEAL_LENGTH;
  let json = canonical(place, body, prev);
  const excess = json.length - CLOSE_LENGTH - room;
  if (excess > 0) json = canonical(place, { ...shorten(body, excess + TRUNCATED), truncated: true }, prev);
  const seal = at + target.write(json, at, 'latin1') - CLOSE_LENGTH;
  const hash = hashOf(target.subarray(at, seal), key);
  return { end: seal + target.write(`,"hash":"${hash}"}\n`, seal, 'latin1'), hash };
}

/** The record in a line, if it is one, and whether its hash is right. */
export function readRecord(
  line: string,
  key: Uint8Array,
): { readonly record: ReadRecord; readonly isRight: boolean } | undefined {
  const record = parseRecord(line);
  if (record === undefined) return undefined;
  const text = line.slice(0, -SEAL_LENGTH);
  return { record, isRight: line === `${text},"hash":"${hashOf(text, key)}"}` };
}

/** The record in a line, whatever its hash says; undefined if it is none. */
export function parseRecord(line: string): ReadRecord | undefined {
  if (line.length >= MAX_LINE) return undefined;
  try {
    const value = JSON.parse(line) as ReadRecord | null;
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: ReadRecord | null): value is ReadRecord {
  return (
    typeof value === 'object' &&
    value !== null &&
    value['v'] === 1 &&
    Number.isSafeInteger(value.seq) &&
    value.seq > 0 &&
    typeof value.kind === 'string' &&
    typeof value.boot_id === 'string' &&
    typeof value.time === 'string' &&
    typeof value.mono_us === 'number' &&
    isHash(value.prev) &&
    isHash(value.hash)
  );
}

export function isHash(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function canonical(place: RecordPlace, body: RecordBody, prev: string): string {
  const { seq, boot_id, time, mono_us } = place;
  return toAscii({ v: 1, seq, boot_id, time, mono_us, ...body, prev });
}

function toAscii(value: unknown): string {
  const json = JSON.stringify(value);
  // What JSON leaves as it is: DEL, C1 controls, separators that end a line elsewhere, bidi overrides.
  // Nearly always there is none. A pattern would take as long to find that as the digest of the record.
  if (Buffer.byteLength(json) === json.length && !json.includes('\x7f')) return json;
  return json.replace(/[\x7f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Members that others than us choose, in the order in which they are cut. */
const CUT_FIRST = ['path', 'query_names', 'reason', 'rule', 'method'] as const;

/** The same record without the ends of its longest members, so that its line is `bytes` shorter. */
function shorten(body: RecordBody, bytes: number): RecordBody {
  const shorter: Record<string, RecordBody[string]> = { ...body };
  let left = bytes;
  for (const member of CUT_FIRST) {
    const value = body[member];
    if (typeof value !== 'string' && !Array.isArray(value)) continue;
    let length = value.length;
    // A character costs what it is escaped to; a name its quotes and comma too.
    for (; length > 0 && left > 0; length--)
      left -= toAscii(value[length - 1]).length - (Array.isArray(value) ? -1 : 2);
    shorter[member] = value.slice(0, length);
    if (left <= 0) break;
  }
  return shorter as RecordBody;
}

function hashOf(text: string | Uint8Array, key: Uint8Array): string {
  return createHmac('sha256', key).update(DOMAIN).update(text).digest('hex');
}
