// Audit logs that are the same each time: made by sealRecord and createSigner, without the code that writes them.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createSigner, formatNote, type Note } from '../../src/audit/checkpoint.ts';
import { GENESIS, type ReadRecord, type RecordBody } from '../../src/audit/record.ts';
import { segmentName } from '../../src/audit/segments.ts';
import { sealRecord } from './seal-record.ts';

/** Content of hmac.key. */
export const HMAC_KEY = `${'0123456789abcdef'.repeat(4)}\n`;
const KEY = Buffer.from(HMAC_KEY.trim());
/** PKCS #8 of an Ed25519 key whose seed is 32 times 7. */
export const SIGNING_KEY = `-----BEGIN PRIVATE KEY-----\n${Buffer.concat([
  Buffer.from('302e020100300506032b657004220420', 'hex'),
  Buffer.alloc(32, 7),
]).toString('base64')}\n-----END PRIVATE KEY-----\n`;
export const signer = createSigner(SIGNING_KEY);

/** Name of a segment -> its bytes. */
export type Segments = Map<string, string>;

export interface TestLog {
  readonly segments: Segments;
  readonly notes: readonly Note[];
}

/** Number of the last record, and of the last one that a checkpoint covers. */
export const LAST = 58;
export const ANCHORED = 49;
export const SEGMENT_SIZE = 20;

/**
 * 58 records in segments of 20, a checkpoint at 9, 19, … 49; three runs, of which the second ends without a stop and
 * leaves the request of record 45 unfinished; that of record 58 is open.
 */
export function makeLog(): TestLog {
  const segments: Segments = new Map();
  const notes: Note[] = [];
  let head = GENESIS;
  let open: number | undefined;
  for (let seq = 1; seq <= LAST; seq++) {
    const body = nextBody();
    const { line, hash } = sealRecord(placeOf(seq), body, head, KEY);
    const name = segmentName(seq - ((seq - 1) % SEGMENT_SIZE));
    segments.set(name, `${segments.get(name) ?? ''}${line}\n`);
    head = hash;

    function nextBody(): RecordBody {
      if (seq % 10 === 0) {
        const note = signer.sign({ size: seq - 1, head, first: 1, time: timeOf(seq) });
        notes.push(note);
        return {
          kind: 'checkpoint',
          size: seq - 1,
          head,
          first: 1,
          signed: note.time,
          signature: note.signature,
        };
      }
      const fixed = FIXED[seq];
      if (fixed !== undefined) {
        if (fixed.kind === 'start') open = undefined;
        return fixed;
      }
      const of = open;
      open = of === undefined ? seq : undefined;
      return of === undefined ? intent(seq) : outcome(of);
    }
  }
  return { segments, notes };
}

const CONFIG: RecordBody = { kind: 'config', config: '0123456789abcdef', generation: 1 };
const start = (clean: boolean): RecordBody => ({
  kind: 'start',
  version: '0.1.0',
  log_id: signer.origin.split('/')[1] as string,
  durability: 'commit',
  clean,
});
const FIXED: Readonly<Record<number, RecordBody>> = {
  1: start(true),
  2: CONFIG,
  34: deny(34, 'endpoint_not_allowed', 403),
  35: { kind: 'stop', lost: 0 },
  36: start(true),
  37: CONFIG,
  45: intent(45),
  46: start(false),
  47: CONFIG,
  51: { kind: 'halt', scope: 'all', reason: 'just a drill' },
  52: { kind: 'resume', scope: 'all', reason: '' },
  57: deny(57, 'halted', 503),
};

function requestOf(seq: number): Omit<RecordBody, 'kind'> {
  return {
    request_id: `r${String(seq).padStart(4, '0')}`,
    listener: seq % 4 === 0 ? 'agent-2' : 'agent-1',
    provider: 'openai',
    method: 'POST',
    path: `/v1/responses/${seq}`,
  };
}

function deny(seq: number, reason: string, status: number): RecordBody {
  const ended = { decision: 'deny', reason, status, bytes_in: 0, bytes_out: 0, duration_us: 321 };
  return { kind: 'deny', ...requestOf(seq), ...ended, config: CONFIG['config'] };
}

function intent(seq: number): RecordBody {
  const judged = { rule: 'POST /v1/responses/*', decision: 'allow', config: CONFIG['config'] };
  return { kind: 'intent', ...requestOf(seq), ...judged };
}

function outcome(seq: number): RecordBody {
  const ended = {
    decision: 'allow',
    reason: '',
    status: 200,
    bytes_in: 12,
    bytes_out: 345,
    duration_us: 6_789,
  };
  const { request_id, listener, provider } = requestOf(seq);
  return { kind: 'outcome', request_id, listener, provider, ...ended };
}

function timeOf(seq: number): string {
  return new Date(Date.UTC(2026, 0, 31, 12, 0, seq)).toISOString();
}

function placeOf(seq: number) {
  const begin = seq < 36 ? 1 : seq < 46 ? 36 : 46;
  return { seq, boot_id: `0000000${begin}`.slice(-8), time: timeOf(seq), mono_us: (seq - begin) * 1_000_000 };
}

/** A line of a record with other members, chained to `prev`; a checkpoint is signed anew: by a thief of both keys. */
export function reseal(line: string, changes: Readonly<Record<string, unknown>>, prev: string, key = KEY) {
  const { v, seq, boot_id, time, mono_us, prev: _, hash, ...body } = { ...JSON.parse(line), ...changes };
  const isSigned = 'head' in changes || 'first' in changes;
  if (isSigned && !('signature' in changes))
    body.signature = signer.sign({ ...body, time: body.signed }).signature;
  return sealRecord({ seq, boot_id, time, mono_us }, body, prev, key);
}

export function hashOf(line: string | undefined): string {
  return line === undefined ? GENESIS : (JSON.parse(line) as ReadRecord).hash;
}

/** All lines, and how to put them back into their segments. */
export function linesOf(segments: Segments): string[] {
  return [...segments.values()].flatMap((text) => text.split('\n').slice(0, -1));
}

export function putLines(segments: Segments, lines: readonly string[]): void {
  const names = [...segments.keys()];
  segments.clear();
  for (let at = 0; at < lines.length; at += SEGMENT_SIZE)
    segments.set(
      names[at / SEGMENT_SIZE] as string,
      lines
        .slice(at, at + SEGMENT_SIZE)
        .map((line) => `${line}\n`)
        .join(''),
    );
}

/** Writes the files of a log. */
export function writeLog(
  directory: string,
  { segments, checkpoints }: { segments: Segments; checkpoints?: readonly Note[] },
  keys = true,
): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const write = (name: string, content: string) =>
    writeFileSync(join(directory, name), Buffer.from(content, 'latin1'), { mode: 0o600 });
  for (const [name, content] of segments) write(name, content);
  if (keys) {
    write('hmac.key', HMAC_KEY);
    write('signing.key', SIGNING_KEY);
  }
  if (checkpoints !== undefined) writeFileSync(join(directory, 'checkpoints'), notesText(checkpoints));
}

export function notesText(notes: readonly Note[]): string {
  return notes.map(formatNote).join('');
}
