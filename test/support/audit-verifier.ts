/**
 * A second opinion on an audit log, written from docs/audit.md alone and sharing nothing with the product: what the two
 * disagree about is a fault of one of them, or of the page. Whole files are read; it is meant to be plain, not fast.
 */
import { createHash, createHmac, createPublicKey, verify } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';

export interface AuditFault {
  /** `edited`, `missing`, `rewritten` and `cut` as on the page; `checkpoint`: a note that is malformed or badly signed. */
  readonly kind: string;
  readonly from: number;
  readonly to: number;
}

export interface AuditVerdict {
  readonly ok: boolean;
  /** Records that are right by themselves. */
  readonly records: number;
  /** The largest size of an anchor (not of the directory's own checkpoints) that fits, or 0. */
  readonly anchoredTo: number;
  readonly torn: boolean;
  /** Intents without an outcome. */
  readonly unfinished: number;
  readonly faults: AuditFault[];
}

export interface AuditOptions {
  /** The bytes of the key, or the path of its file. */
  readonly key: Uint8Array | string;
  /** Texts of checkpoint files that were kept elsewhere. */
  readonly anchors?: readonly string[];
  /** What `isoproxy audit key` prints. Without it signatures are not checked. */
  readonly publicKey?: string;
}

type Members = Record<string, unknown>;

type Sealed = { members: Members; seq: number; prev: string; hash: string };

interface Log {
  /** The records that are right by themselves, by number, wherever they stand. */
  readonly sealed: ReadonlyMap<number, Sealed>;
  /** Every number that has a line, right or not, in order. */
  readonly present: readonly number[];
  /** The last number that the log has room for: what comes after it was never there, or was cut off. */
  readonly last: number;
  readonly torn: boolean;
  /** Segments whose name is not the number of their first record. */
  readonly misnamed: readonly { name: number; seq: number }[];
}

/** The head is hexadecimal, as in a record. */
type Checkpoint = { size: number; head: string; from: 'anchor' | 'directory' | 'record' };

const NEWLINE = 0x0a;
const DOMAIN = Buffer.from('isoproxy-audit-v1/record\n', 'latin1');
const LONGEST_LINE = 1024;
const TAIL_LENGTH = 75;
/** What every record begins and ends with; the members between them are looked at as JSON. */
const RECORD = new RegExp(
  '^\\{"v":1,"seq":[1-9]\\d{0,15},"boot_id":"[0-9a-f]{8}","time":"\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z",' +
    '"mono_us":\\d{1,16},"kind":"[a-z_]+",.*"prev":"[0-9a-f]{64}","hash":"([0-9a-f]{64})"\\}$',
);
const ORDER = (
  'v seq boot_id time mono_us kind request_id listener provider method path truncated query_names rule decision ' +
  'reason status bytes_in bytes_out duration_us config OTHERS prev hash'
).split(' ');

/** The record that a line is, or nothing if it is not well-formed or its hash is wrong. */
function readRecord(line: Buffer, key: Uint8Array): Sealed | undefined {
  if (line.length + 1 > LONGEST_LINE || line.some((byte) => byte < 0x20 || byte > 0x7e)) return undefined;
  const hash = RECORD.exec(line.toString('latin1'))?.[1];
  if (hash === undefined) return undefined;
  const covered = Buffer.concat([DOMAIN, line.subarray(0, line.length - TAIL_LENGTH)]);
  if (createHmac('sha256', key).update(covered).digest('hex') !== hash) return undefined;
  let members: Members;
  try {
    members = JSON.parse(line.toString('latin1'));
  } catch {
    return undefined;
  }
  if (!isWellFormed(members)) return undefined;
  return { members, seq: members['seq'] as number, prev: members['prev'] as string, hash };
}

function isWellFormed(members: Members): boolean {
  const ranks = Object.keys(members).map((name) => ORDER.indexOf(ORDER.includes(name) ? name : 'OTHERS'));
  if (ranks.some((rank, index) => index > 0 && (ranks[index - 1] as number) > rank)) return false;
  const { kind, log_id, request_id, size, first, head } = members;
  if (kind === 'start') return typeof log_id === 'string';
  if (kind === 'intent' || kind === 'outcome') return typeof request_id === 'string';
  if (kind === 'checkpoint') return [size, first].every(Number.isSafeInteger) && typeof head === 'string';
  return true;
}

function splitLines(bytes: Buffer): { lines: Buffer[]; rest: Buffer } {
  const lines: Buffer[] = [];
  let start = 0;
  for (let end = bytes.indexOf(NEWLINE); end !== -1; end = bytes.indexOf(NEWLINE, start)) {
    lines.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return { lines, rest: bytes.subarray(start) };
}

function readLog(directory: string, key: Uint8Array, faults: AuditFault[]): Log {
  const names = readdirSync(directory).filter((name) => /^log-\d{16}\.jsonl$/.test(name));
  const sealed = new Map<number, Sealed>();
  const edited = new Set<number>();
  const misnamed: { name: number; seq: number }[] = [];
  let torn = false;
  let expected = 1;
  let damaged = 0;
  // Lines whose own number cannot be believed have the numbers between their neighbours'.
  const settle = (next: number) => {
    if (damaged === 0) return;
    const count = Math.min(damaged, Math.max(next - expected, 0));
    faults.push({ kind: 'edited', from: expected, to: expected + Math.max(count, 1) - 1 });
    for (let index = 0; index < count; index++) edited.add(expected + index);
    expected += count;
    damaged = 0;
  };
  names.sort().forEach((name, index) => {
    const start = Number(name.slice(4, 20));
    settle(start);
    expected = Math.max(expected, start);
    const { lines, rest } = splitLines(readFileSync(`${directory}/${name}`));
    lines.forEach((line, position) => {
      const record = readRecord(line, key);
      if (record === undefined) {
        damaged++;
        return;
      }
      settle(record.seq);
      if (position === 0 && record.seq !== start) misnamed.push({ name: start, seq: record.seq });
      if (record.seq < expected) faults.push({ kind: 'rewritten', from: record.seq, to: expected - 1 });
      if (!sealed.has(record.seq)) sealed.set(record.seq, record);
      expected = Math.max(expected, record.seq + 1);
    });
    if (rest.length > 0 && index === names.length - 1) torn = true;
    else if (rest.length > 0) damaged++;
  });
  settle(Number.POSITIVE_INFINITY);
  const present = [...new Set([...sealed.keys(), ...edited])].sort((one, other) => one - other);
  return { sealed, present, last: expected - 1, torn, misnamed };
}

/** `seq` and `prev`, over all segments. */
function checkChain(log: Log, faults: AuditFault[]): void {
  for (const { seq, prev } of log.sealed.values()) {
    const before = seq === 1 ? '0'.repeat(64) : log.sealed.get(seq - 1)?.hash;
    if (before !== undefined && before !== prev)
      faults.push({ kind: 'rewritten', from: Math.max(seq - 1, 1), to: seq });
  }
  const notes = [...log.sealed.values()].filter(({ members }) => members['kind'] === 'checkpoint');
  const newest = notes.reduce((seq, note) => Math.max(seq, note.seq), 0);
  const kept = (log.sealed.get(newest)?.members['first'] as number | undefined) ?? 1;
  const missing: AuditFault[] = [];
  let next = Math.min(kept, log.present[0] ?? kept);
  for (const number of [...log.present, log.last + 1]) {
    if (number > next) missing.push({ kind: 'missing', from: next, to: number - 1 });
    next = Math.max(next, number + 1);
  }
  faults.push(...missing);
  for (const { name, seq } of log.misnamed)
    if (!missing.some(({ from, to }) => from <= name && name <= to))
      faults.push({ kind: 'rewritten', from: Math.min(name, seq), to: Math.max(name, seq) });
}

const sha256 = (...parts: (string | Buffer)[]) =>
  parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest('hex');

/** The name of a verifier key, and whether the lines below a note's text sign it with that key. */
function readVerifierKey(line: string) {
  const [, name, id, encoded] = /^([^+\s]+)\+([0-9a-f]{8})\+(\S+)$/.exec(line.trim()) ?? [];
  const typed = Buffer.from(encoded ?? '', 'base64');
  const x = typed.subarray(1);
  if (!name || typed.length !== 33 || typed[0] !== 1) throw new Error('not a verifier key');
  if (id !== sha256(name, '\n', typed).slice(0, 8)) throw new Error('the key id is not that of the key');
  if (name !== `isoproxy-audit/${sha256(x).slice(0, 16)}`) throw new Error('the name is not that of the key');
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: x.toString('base64url') };
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  const signs = (body: string, signatures: string) =>
    signatures.split('\n').some((signature) => {
      const [, signer, data] = /^\u2014 (\S+) (\S+)$/.exec(signature) ?? [];
      const blob = Buffer.from(data ?? '', 'base64');
      if (signer !== name || blob.length !== 68 || blob.toString('hex', 0, 4) !== id) return false;
      return verify(null, Buffer.from(body), key, blob.subarray(4));
    });
  return { name, signs };
}

const NOTE = /^(\S+)\n([1-9]\d*)\n([A-Za-z0-9+/]{43}=)\nfirst ([1-9]\d*)\ntime \S+\n(?:[^\n]+\n)*$/;

/** The checkpoints in a file of notes that are of this log. */
function readNotes(
  file: string,
  from: 'anchor' | 'directory',
  origins: readonly string[],
  key: ReturnType<typeof readVerifierKey> | undefined,
  faults: AuditFault[],
): Checkpoint[] {
  const parts = file.split('\n\n');
  const found: Checkpoint[] = [];
  for (let index = 0; index < parts.length; index += 2) {
    const body = `${parts[index]}\n`;
    const signatures = parts[index + 1];
    // Nothing more, or a note that is still being written.
    const isLast = index + 2 >= parts.length;
    if (signatures === undefined || (isLast && !signatures.endsWith('\n'))) break;
    const [, origin, size, head] = NOTE.exec(body) ?? [];
    if (origin === undefined || size === undefined || head === undefined) {
      faults.push({ kind: 'checkpoint', from: 0, to: 0 });
      continue;
    }
    if (origins.length > 0 && !origins.includes(origin)) continue;
    if (key !== undefined && !key.signs(body, signatures))
      faults.push({ kind: 'checkpoint', from: Number(size), to: Number(size) });
    else found.push({ size: Number(size), head: Buffer.from(head, 'base64').toString('hex'), from });
  }
  return found;
}

/** Holds the log against its checkpoints and says how far an anchor vouches for it. */
function checkCheckpoints(log: Log, checkpoints: readonly Checkpoint[], faults: AuditFault[]): number {
  const first = log.present[0] ?? log.last + 1;
  let fitting = first - 1;
  let anchoredTo = 0;
  for (const { size, head, from } of checkpoints.toSorted((one, other) => one.size - other.size)) {
    if (size > log.last) faults.push({ kind: 'cut', from: log.last + 1, to: size });
    const hash = log.sealed.get(size)?.hash;
    // Older than what is kept, or a number that is a fault already.
    if (size < first || hash === undefined) continue;
    if (hash !== head) faults.push({ kind: 'rewritten', from: Math.min(fitting + 1, size), to: size });
    // A checkpoint record is only as good as the chain that it stands in.
    else if (from !== 'record') fitting = size;
    if (hash === head && from === 'anchor') anchoredTo = size;
  }
  return anchoredTo;
}

function countUnfinished(records: readonly Sealed[]): number {
  const id = ({ members }: Sealed) => `${members['boot_id']} ${members['request_id']}`;
  const of = (kind: string) => records.filter(({ members }) => members['kind'] === kind).map(id);
  const ended = new Set(of('outcome'));
  return of('intent').filter((request) => !ended.has(request)).length;
}

/** Ranges of one kind that touch are one. */
function merged(faults: readonly AuditFault[]): AuditFault[] {
  const result: AuditFault[] = [];
  const byKind = (one: AuditFault, other: AuditFault) =>
    one.kind === other.kind ? one.from - other.from || one.to - other.to : one.kind < other.kind ? -1 : 1;
  for (const fault of faults.toSorted(byKind)) {
    const before = result.at(-1);
    if (before?.kind === fault.kind && fault.from <= before.to + 1)
      result[result.length - 1] = { ...before, to: Math.max(before.to, fault.to) };
    else result.push(fault);
  }
  return result;
}

function readKey(key: Uint8Array | string): Uint8Array {
  if (typeof key !== 'string') return key;
  const content = readFileSync(key);
  return content.at(-1) === NEWLINE ? content.subarray(0, -1) : content;
}

export function verifyAudit(directory: string, options: AuditOptions): AuditVerdict {
  const faults: AuditFault[] = [];
  const log = readLog(directory, readKey(options.key), faults);
  checkChain(log, faults);
  const records = [...log.sealed.values()];
  const key = options.publicKey === undefined ? undefined : readVerifierKey(options.publicKey);
  const starts = records.filter(({ members }) => members['kind'] === 'start');
  // Without the public key the log says itself which it is, or, if its starts are gone, every checkpoint is its own.
  const origins = key ? [key.name] : starts.map(({ members }) => `isoproxy-audit/${members['log_id']}`);
  const own = `${directory}/checkpoints`;
  const checkpoints = (options.anchors ?? []).flatMap((file) =>
    readNotes(file, 'anchor', origins, key, faults),
  );
  if (existsSync(own))
    checkpoints.push(...readNotes(readFileSync(own, 'utf8'), 'directory', origins, key, faults));
  for (const { members } of records)
    if (members['kind'] === 'checkpoint')
      checkpoints.push({ size: members['size'] as number, head: members['head'] as string, from: 'record' });
  const anchoredTo = checkCheckpoints(log, checkpoints, faults);
  return {
    ok: faults.length === 0,
    records: records.length,
    anchoredTo,
    torn: log.torn,
    unfinished: countUnfinished(records),
    faults: merged(faults),
  };
}
