/**
 * A second opinion on an audit log, written from docs/audit.md alone and sharing nothing with the product: what the two
 * disagree about is a fault of one of them, or of the page. Whole files are read; it is meant to be plain, not fast.
 */
import { createHash, createHmac, createPublicKey, verify } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';

export interface AuditFault {
  /** As in the page's table. */
  readonly kind: string;
  readonly from: number;
  readonly to: number;
}

export interface AuditVerdict {
  readonly ok: boolean;
  /** Lines that are right by themselves. */
  readonly records: number;
  /** The largest size of an anchor (not of the directory's own checkpoints) that fits, or 0. */
  readonly anchoredTo: number;
  readonly torn: boolean;
  /** Intents without an outcome whose process has ended, and those that may still be under way. */
  readonly unfinished: number;
  readonly open: number;
  /** Records that lack a member which their kind has on the page: no fault, for the page does not call it one. */
  readonly incomplete: number;
  /** Sorted by kind and range. */
  readonly faults: AuditFault[];
  readonly signatures: 'checked' | 'not checked';
}

export interface AuditOptions {
  /** The bytes of the key, or the path of its file. */
  readonly key: Uint8Array | string;
  /** Texts that were kept elsewhere: checkpoint files, or lines of stderr or of a journal. */
  readonly anchors?: readonly string[];
  /** What `isoproxy audit key` prints. Without it signatures are not checked. */
  readonly publicKey?: string;
}

/** A `v` that this verifier does not know: it has nothing to say. */
export class UnknownVersion extends Error {}

type Members = Record<string, unknown>;

type Sealed = { members: Members; seq: number; prev: string; hash: string };

/** A line of the log: a record, or what is wrong with it by itself. `segment` is the name of the segment it is first in. */
interface Line {
  readonly read: Sealed | 'edited' | 'malformed';
  readonly segment: number | undefined;
}

/** The head is hexadecimal, as in a record. */
type Checkpoint = { size: number; head: string; isAnchor: boolean };

type VerifierKey = ReturnType<typeof readVerifierKey>;

const NEWLINE = 0x0a;
const DOMAIN = Buffer.from('isoproxy-audit-v1/record\n', 'latin1');
const LONGEST_LINE = 1024;
const TAIL_LENGTH = 75;
const RECORD = /^\{"v":(\d+),"seq":.*,"hash":"([0-9a-f]{64})"\}$/;

type Check = (value: unknown) => boolean;

const integer: Check = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
const positive: Check = (value) => integer(value) && value !== 0;
const text =
  (longest = LONGEST_LINE): Check =>
  (value) =>
    typeof value === 'string' && [...value].length <= longest;
const match =
  (pattern: RegExp): Check =>
  (value) =>
    typeof value === 'string' && pattern.test(value);
const isTrue: Check = (value) => value === true;
const isBoolean: Check = (value) => typeof value === 'boolean';
const names: Check = (value) =>
  Array.isArray(value) && value.length > 0 && value.length <= 16 && value.every(text(32));

const HEX_64 = match(/^[0-9a-f]{64}$/);
const HEX_16 = match(/^[0-9a-f]{16}$/);
const TIME = match(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

/** What the members of a record have to be, where they are. */
const CHECKS: Record<string, Check> = {
  v: positive,
  seq: positive,
  boot_id: match(/^[0-9a-f]{8}$/),
  time: TIME,
  mono_us: integer,
  kind: text(),
  truncated: isTrue,
  prev: HEX_64,
  hash: HEX_64,
  version: text(),
  log_id: HEX_16,
  durability: match(/^(commit|async)$/),
  clean: isBoolean,
  bytes: positive,
  sha256: HEX_64,
  config: HEX_16,
  generation: positive,
  request_id: text(),
  listener: text(),
  provider: text(),
  method: text(32),
  path: text(512),
  query_names: names,
  rule: text(96),
  decision: match(/^(allow|deny)$/),
  reason: text(200),
  status: integer,
  bytes_in: integer,
  bytes_out: integer,
  duration_us: integer,
  count: positive,
  since_us: integer,
  scope: match(/^(all|(provider|listener) .+)$/),
  size: positive,
  head: HEX_64,
  first: positive,
  signed: TIME,
  signature: match(/^[A-Za-z0-9+/]{91}=$/),
  failure: text(),
  lost: integer,
};
/** The page says when these are absent. */
const OPTIONAL = ['query_names', 'truncated'];
/** Without these a record of its kind is of no use to a verifier. */
const NEEDED: Record<string, string[]> = {
  start: ['log_id'],
  intent: ['request_id'],
  outcome: ['request_id'],
  checkpoint: ['size', 'head', 'first', 'signed', 'signature'],
};
const FIRST = 'v seq boot_id time mono_us kind';
const LAST = 'truncated prev hash';
const KINDS: Record<string, string> = {
  start: 'version log_id durability clean',
  recovered: 'bytes sha256',
  config: 'config generation',
  intent: 'request_id listener provider method path query_names rule decision config',
  outcome: 'request_id listener provider decision reason status bytes_in bytes_out duration_us',
  deny: 'request_id listener provider method path decision reason status bytes_in bytes_out duration_us config',
  deny_summary: 'listener provider reason count since_us',
  halt: 'scope reason',
  resume: 'scope reason',
  checkpoint: 'size head first signed signature',
  cleared: 'reason failure since_us',
  stop: 'lost',
};

/** The record that a line is, or what is wrong with it. */
function readRecord(line: Buffer, key: Uint8Array): Sealed | 'edited' | 'malformed' {
  if (line.length + 1 > LONGEST_LINE) return 'malformed';
  const written = line.toString('latin1');
  const [, version, hash] = RECORD.exec(written) ?? [];
  if (hash === undefined) return 'malformed';
  let members: Members;
  try {
    members = JSON.parse(written);
  } catch {
    return 'malformed';
  }
  if (version !== '1') throw new UnknownVersion(`a record of version ${version}`);
  if (canonical(members) !== written || !isWellFormed(members)) return 'malformed';
  const covered = Buffer.concat([DOMAIN, line.subarray(0, line.length - TAIL_LENGTH)]);
  if (createHmac('sha256', key).update(covered).digest('hex') !== hash) return 'edited';
  return { members, seq: members['seq'] as number, prev: members['prev'] as string, hash };
}

/** No white space, no member twice, one way to write each string and number. */
const canonical = (members: Members) =>
  JSON.stringify(members).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

const words = (list: string) => list.split(' ').filter((word) => word !== '');
const ownMembers = ({ kind }: Members) => words(KINDS[kind as string] ?? '');

/** The members that are known are in their order; unknown ones only between `kind` and `truncated`. */
function isWellFormed(members: Members): boolean {
  const known = [...words(FIRST), ...ownMembers(members), ...words(LAST)];
  const present = Object.keys(members);
  const inOrder = known.filter((name) => name in members);
  if (present.filter((name) => known.includes(name)).join() !== inOrder.join()) return false;
  const needed = [...words(FIRST), ...(NEEDED[members['kind'] as string] ?? []), 'prev', 'hash'];
  if (!needed.every((name) => name in members)) return false;
  const end = present.indexOf('truncated' in members ? 'truncated' : 'prev');
  const isPlaced = (name: string, at: number) =>
    known.includes(name) || (at >= words(FIRST).length && at < end);
  return present.every(isPlaced) && inOrder.every((name) => (CHECKS[name] as Check)(members[name]));
}

/** Whether a record has all that the page says a record of its kind has. */
const isComplete = ({ members }: Sealed) =>
  ownMembers(members).every((name) => name in members || OPTIONAL.includes(name));

function splitLines(bytes: Buffer): { lines: Buffer[]; rest: Buffer } {
  const lines: Buffer[] = [];
  let start = 0;
  for (let end = bytes.indexOf(NEWLINE); end !== -1; end = bytes.indexOf(NEWLINE, start)) {
    lines.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return { lines, rest: bytes.subarray(start) };
}

function readLines(directory: string, key: Uint8Array): { lines: Line[]; torn: boolean } {
  const files = readdirSync(directory).filter((name) => /^log-\d{16}\.jsonl$/.test(name));
  const read: Line[] = [];
  let torn = false;
  files.sort().forEach((name, index) => {
    const { lines, rest } = splitLines(readFileSync(`${directory}/${name}`));
    if (rest.length > 0 && index === files.length - 1) torn = true;
    else if (rest.length > 0) lines.push(rest);
    lines.forEach((line, position) => {
      const segment = position === 0 ? Number(name.slice(4, 20)) : undefined;
      read.push({ read: readRecord(line, key), segment });
    });
  });
  return { lines: read, torn };
}

/** What is said of a log while it is looked at, from `readLines` on. */
class Log {
  readonly faults: AuditFault[] = [];
  readonly records: readonly Sealed[];
  /** By number; more than one where the log has more than one. */
  readonly byNumber = new Map<number, Sealed[]>();
  /** Checkpoint records that are believed. */
  readonly checkpoints: readonly Sealed[];
  /** The oldest number that has to be there. */
  readonly kept: number;
  /** Numbers that lines have which are no right records. */
  readonly #taken = new Set<number>();

  constructor(
    private readonly lines: readonly Line[],
    key: VerifierKey | undefined,
  ) {
    this.records = lines.flatMap(({ read }) => (typeof read === 'string' ? [] : [read]));
    const checkpoints = this.of('checkpoint');
    this.checkpoints = checkpoints.filter(({ members }) => key === undefined || signsRecord(key, members));
    for (const record of checkpoints)
      if (!this.checkpoints.includes(record)) this.fault('forged', record.seq, record.seq);
    const newest = this.checkpoints.toSorted((one, other) => one.seq - other.seq).at(-1);
    this.kept = (newest?.members['first'] as number | undefined) ?? 1;
    this.#checkOrder();
    this.#checkOthers();
    this.#checkPresence();
    this.#checkChain();
  }

  of(kind: string): Sealed[] {
    return this.records.filter(({ members }) => members['kind'] === kind);
  }

  fault(kind: string, from: number, to: number): void {
    this.faults.push({ kind, from, to });
  }

  /** The numbers that have a line, in order. */
  get present(): number[] {
    return [...new Set([...this.byNumber.keys(), ...this.#taken])].sort((one, other) => one - other);
  }

  #checkOrder(): void {
    const found = { repeated: new Set<number>(), forked: new Set<number>(), disorder: new Set<number>() };
    let highest = 0;
    for (const { read, segment } of this.lines) {
      if (typeof read === 'string') continue;
      const { seq, hash } = read;
      if (segment !== undefined && segment !== seq) this.fault('disorder', seq, seq);
      const twins = this.byNumber.get(seq) ?? [];
      if (twins.some((twin) => twin.hash === hash)) found.repeated.add(seq);
      else if (twins.length > 0) found.forked.add(seq);
      else if (seq < highest) found.disorder.add(seq);
      this.byNumber.set(seq, [...twins, read]);
      highest = Math.max(highest, seq);
    }
    for (const [kind, numbers] of Object.entries(found))
      for (const { from, to } of ranges(numbers)) this.fault(kind, from, to);
  }

  /** Lines that are no right records take the numbers that are free between those that are. */
  #checkOthers(): void {
    // Before the first record it is the name of its segment that says where the free numbers begin.
    let before = (this.lines[0]?.segment ?? 1) - 1;
    let run: string[] = [];
    const close = (next: number) => {
      if (run.length > 0 && next - before < 2)
        this.fault('inserted', Math.min(before, next), Math.max(before, next));
      else if (run.length > 0) {
        for (const kind of new Set(run)) this.fault(kind, before + 1, next - 1);
        if (run.length < next - before - 1) this.fault('missing', before + 1, next - 1);
        for (let number = before + 1; number < next; number++) this.#taken.add(number);
      }
      run = [];
    };
    for (const { read } of this.lines) {
      if (typeof read === 'string') {
        run.push(read);
        continue;
      }
      close(read.seq);
      before = read.seq;
    }
    before = Math.max(before, ...this.byNumber.keys());
    close(before + run.length + 1);
  }

  #checkPresence(): void {
    const missing = new Set<number>();
    const present = new Set(this.present);
    const last = Math.max(...present, 0);
    const first = Math.min(this.kept, ...present);
    for (let number = first; number < last; number++) if (!present.has(number)) missing.add(number);
    for (const { from, to } of ranges(missing)) this.fault('missing', from, to);
  }

  #checkChain(): void {
    for (const { seq, prev } of this.records) {
      const before = seq === 1 ? ['0'.repeat(64)] : this.byNumber.get(seq - 1)?.map(({ hash }) => hash);
      if (before !== undefined && !before.includes(prev)) this.fault('rewritten', Math.max(seq - 1, 1), seq);
    }
  }
}

/** Numbers as ranges. */
function ranges(numbers: Iterable<number>): { from: number; to: number }[] {
  const result: { from: number; to: number }[] = [];
  for (const number of [...numbers].sort((one, other) => one - other)) {
    const before = result.at(-1);
    if (before?.to === number - 1) before.to = number;
    else result.push({ from: number, to: number });
  }
  return result;
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
  /** Undefined: there is no signature of this key. */
  const signs = (body: string, signatures: string): boolean | undefined => {
    const own = signatures.split('\n').flatMap((signature) => {
      const [, signer, data] = /^\u2014 (\S+) ([A-Za-z0-9+/]{91}=)$/.exec(signature) ?? [];
      const blob = Buffer.from(data ?? '', 'base64');
      return signer === name && blob.toString('hex', 0, 4) === id ? [blob.subarray(4)] : [];
    });
    if (own.length === 0) return undefined;
    return own.every((signature) => verify(null, Buffer.from(body), key, signature));
  };
  return { name, signs };
}

/** Whether the note of a checkpoint record, made anew, has a good signature. */
function signsRecord({ name, signs }: VerifierKey, members: Members): boolean {
  const { size, head, first, signed, signature } = members;
  const base64 = Buffer.from(head as string, 'hex').toString('base64');
  const body = `${name}\n${size}\n${base64}\nfirst ${first}\ntime ${signed}\n`;
  return signs(body, `\u2014 ${name} ${signature}`) === true;
}

const NOTE =
  /^(isoproxy-audit\/[0-9a-f]{16})\n([1-9]\d*)\n([A-Za-z0-9+/]{43}=)\nfirst [1-9]\d*\ntime \S+\n(?:[^\n]+\n)*(?=(\n(?:\u2014 [^\n]*\n)+))/gm;

/** The texts of notes in what was kept elsewhere: as they are, and in the lines of the event. */
function unwrap(kept: string): string {
  const notes = kept.split('\n').map((line) => {
    const event = parseObject(line.slice(Math.max(line.indexOf('{'), 0)));
    const inner = typeof event?.['MESSAGE'] === 'string' ? parseObject(event['MESSAGE']) : event;
    return inner?.['event'] === 'audit_checkpoint' ? `\n${inner['note']}\n` : '';
  });
  return kept + notes.join('');
}

function parseObject(json: string): Members | undefined {
  try {
    return json.startsWith('{') ? JSON.parse(json) : undefined;
  } catch {
    return undefined;
  }
}

/** What a verifier takes for this log's checkpoints, and which of them it can believe. */
class Checkpoints {
  readonly found: Checkpoint[] = [];
  /** Checkpoints from outside, by whose they are. */
  own = 0;
  foreign = 0;
  readonly #log: Log;
  readonly #key: VerifierKey | undefined;
  readonly #origins: readonly string[];

  constructor(log: Log, key: VerifierKey | undefined) {
    this.#log = log;
    this.#key = key;
    // Without the public key the log says itself which it is, or, if its starts are gone, every checkpoint is its own.
    const ids = log.of('start').map(({ members }) => `isoproxy-audit/${members['log_id']}`);
    this.#origins = key ? [key.name] : ids;
    for (const { members } of log.checkpoints)
      this.#add(members['size'] as number, members['head'] as string, false);
  }

  #add(size: number, head: string, isAnchor: boolean): void {
    this.found.push({ size, head, isAnchor });
  }

  read(notes: string, isAnchor: boolean): void {
    for (const [body, origin, size, head, signatures] of notes.matchAll(NOTE)) {
      const isOwn = this.#origins.length === 0 || this.#origins.includes(origin as string);
      if (isAnchor) this[isOwn ? 'own' : 'foreign']++;
      if (!isOwn) continue;
      const isGood = this.#key === undefined || this.#key.signs(body, signatures as string);
      if (isGood === false) this.#log.fault('forged', Number(size), Number(size));
      if (isGood === true)
        this.#add(Number(size), Buffer.from(head as string, 'base64').toString('hex'), isAnchor);
    }
  }

  /** Holds the log against them and says how far an anchor vouches for it. */
  check(): number {
    const { byNumber, present } = this.#log;
    const first = present[0] ?? 1;
    const last = present.at(-1) ?? 0;
    const highest = Math.max(0, ...this.found.map(({ size }) => size));
    if (highest > last) this.#log.fault('cut', last + 1, highest);
    if (this.own === 0 && this.foreign > 0) this.#log.fault('foreign', first, last);
    // A number that has no right record is a fault already.
    const held = this.found.filter(({ size }) => byNumber.has(size));
    const fits = ({ size, head }: Checkpoint) =>
      byNumber.get(size)?.some(({ hash }) => hash === head) === true;
    const wrong = held.filter((checkpoint) => !fits(checkpoint)).map(({ size }) => size);
    if (wrong.length > 0) {
      const begin = Math.min(...wrong);
      const right = held.filter((checkpoint) => fits(checkpoint) && checkpoint.size < begin);
      const from = Math.max(first - 1, ...right.map(({ size }) => size)) + 1;
      this.#log.fault('rewritten', from, Math.max(...wrong));
    }
    const anchors = held.filter((checkpoint) => checkpoint.isAnchor && fits(checkpoint));
    return Math.max(0, ...anchors.map(({ size }) => size));
  }
}

/** Intents without an outcome: those of a process that has ended, and those that may be under way. */
function countIntents(log: Log): { unfinished: number; open: number } {
  const id = ({ members }: Sealed) => `${members['boot_id']} ${members['request_id']}`;
  const ended = new Set(log.of('outcome').map(id));
  const running = log.records.at(-1)?.members['boot_id'];
  const stopped = log.of('stop').some(({ members }) => members['boot_id'] === running);
  const intents = log.of('intent').filter((intent) => !ended.has(id(intent)));
  const open = intents.filter(({ members }) => members['boot_id'] === running && !stopped).length;
  return { unfinished: intents.length - open, open };
}

function readKey(key: Uint8Array | string): Uint8Array {
  if (typeof key !== 'string') return key;
  const content = readFileSync(key);
  return content.at(-1) === NEWLINE ? content.subarray(0, -1) : content;
}

const byRange = (one: AuditFault, other: AuditFault) =>
  one.kind === other.kind ? one.from - other.from || one.to - other.to : one.kind < other.kind ? -1 : 1;

/** Throws `UnknownVersion` where it has to give up. */
export function verifyAudit(directory: string, options: AuditOptions): AuditVerdict {
  const { lines, torn } = readLines(directory, readKey(options.key));
  const key = options.publicKey === undefined ? undefined : readVerifierKey(options.publicKey);
  const log = new Log(lines, key);
  const checkpoints = new Checkpoints(log, key);
  for (const kept of options.anchors ?? []) checkpoints.read(unwrap(kept), true);
  const own = `${directory}/checkpoints`;
  if (existsSync(own)) checkpoints.read(readFileSync(own, 'utf8'), false);
  const anchoredTo = checkpoints.check();
  return {
    ok: log.faults.length === 0,
    records: log.records.length,
    anchoredTo,
    torn,
    ...countIntents(log),
    incomplete: log.records.filter((record) => !isComplete(record)).length,
    faults: log.faults.toSorted(byRange),
    signatures: key === undefined ? 'not checked' : 'checked',
  };
}
