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
const TRUNCATED = ',"truncated":true'.length;
/** What is cut, or left out, where a line would be too long: the first of them first. */
const CUTTABLE = ['query_names', 'path', 'reason'] as const;

/** The line of a record, without its newline, and its hash. */
export function sealRecord(
  place: RecordPlace,
  content: RecordBody,
  prev: string,
  key: Uint8Array,
): { readonly line: string; readonly hash: string } {
  const room = MAX_LINE - 1 - SEAL_LENGTH;
  let body = content;
  let text = canonical(place, body, prev);
  for (const member of CUTTABLE) {
    const value = body[member];
    if (text.length <= room || value === undefined) continue;
    // Each character of a string is a byte of the line at least.
    const cut = typeof value === 'string' ? value.slice(0, -(text.length - room + TRUNCATED)) : undefined;
    body = { ...body, [member]: cut, truncated: true };
    text = canonical(place, body, prev);
  }
  const hash = hashOf(text, key);
  return { line: `${text},"hash":"${hash}"}`, hash };
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
  const json = JSON.stringify({ v: 1, seq, boot_id, time, mono_us, ...body, prev });
  // What JSON leaves as it is: DEL, C1 controls, separators that end a line elsewhere, bidi overrides.
  return json
    .slice(0, -1)
    .replace(/[\x7f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function hashOf(text: string, key: Uint8Array): string {
  return createHmac('sha256', key).update(DOMAIN).update(text).digest('hex');
}
