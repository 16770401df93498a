/** Makes audit logs to try verifiers on, written from docs/audit.md alone: the smallest thing that the page allows. */
import { createHash, createHmac, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface LogKeys {
  /** As in `hmac.key`, without its newline. */
  readonly hmac: string;
  readonly signing: KeyObject;
  readonly logId: string;
  readonly publicKey: string;
}

const sha256 = (...parts: (string | Buffer)[]) =>
  parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();

export function makeKeys(hmac = 'ab'.repeat(32)): LogKeys {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const raw = Buffer.from(publicKey.export({ format: 'jwk' }).x as string, 'base64url');
  const logId = sha256(raw).toString('hex').slice(0, 16);
  const name = `isoproxy-audit/${logId}`;
  const typed = Buffer.concat([Buffer.from([1]), raw]);
  const id = sha256(name, '\n', typed).subarray(0, 4);
  const verifierKey = `${name}+${id.toString('hex')}+${typed.toString('base64')}`;
  return { hmac, signing: privateKey, logId, publicKey: verifierKey };
}

const TIME = '2026-01-31T12:00:00.000Z';
const ZEROS = '0'.repeat(64);
const TAIL_LENGTH = 75;

export const hashOf = (line: string) => line.slice(-66, -2);

/** Appends lines to a log in memory; `save` writes what it has become as files. */
export class LogWriter {
  /** Line n is record n + 1. */
  lines: string[] = [];
  readonly #keys: LogKeys;
  bootId = '0a0b0c0d';

  constructor(keys: LogKeys) {
    this.#keys = keys;
  }

  /** A copy that goes its own way from here. */
  fork(): LogWriter {
    const copy = new LogWriter(this.#keys);
    copy.lines = [...this.lines];
    return copy;
  }

  add(kind: string, members: object): string {
    const seq = this.lines.length + 1;
    const prev = seq === 1 ? ZEROS : hashOf(this.lines.at(-1) as string);
    const base = { v: 1, seq, boot_id: this.bootId, time: TIME, mono_us: seq * 1000, kind };
    const json = JSON.stringify({ ...base, ...members, prev });
    this.lines.push(this.seal(`${json.slice(0, -1)},"hash":"${ZEROS}"}`));
    return this.lines.at(-1) as string;
  }

  /** The line with the hash that it ought to have. */
  seal(line: string): string {
    const covered = line.slice(0, -TAIL_LENGTH);
    const hash = createHmac('sha256', this.#keys.hmac).update(`isoproxy-audit-v1/record\n${covered}`);
    return `${covered},"hash":"${hash.digest('hex')}"}`;
  }

  /** Chains everything anew from record `seq` on, as somebody who has the key would. */
  rechain(seq: number): void {
    for (let index = seq - 1; index < this.lines.length; index++) {
      const prev = index === 0 ? ZEROS : hashOf(this.lines[index - 1] as string);
      const line = this.lines[index] as string;
      this.lines[index] = this.seal(line.replace(/"prev":"[0-9a-f]{64}"/, `"prev":"${prev}"`));
    }
  }

  start(clean = true): void {
    this.add('start', { version: '0.1.0', log_id: this.#keys.logId, durability: 'commit', clean });
  }

  /** An intent and, if it ended, its outcome. */
  request(id: string, isEnded = true): void {
    const common = { request_id: id, listener: 'agent-1', provider: 'api' };
    const asked = { method: 'POST', path: '/v1/messages', rule: 'messages', decision: 'allow' };
    this.add('intent', { ...common, ...asked, config: '0123456789abcdef' });
    if (!isEnded) return;
    const counts = { status: 200, bytes_in: 10, bytes_out: 20, duration_us: 1500 };
    this.add('outcome', { ...common, decision: 'allow', reason: '', ...counts });
  }

  /** Signs what is there, adds the record of it, and returns the note. */
  checkpoint(first = 1): string {
    const size = this.lines.length;
    const head = hashOf(this.lines.at(-1) as string);
    const { note, signature } = this.note(size, head, first);
    this.add('checkpoint', { size, head, first, signed: TIME, signature });
    return note;
  }

  note(size: number, head: string, first = 1): { note: string; signature: string } {
    const name = `isoproxy-audit/${this.#keys.logId}`;
    const base64 = Buffer.from(head, 'hex').toString('base64');
    const body = `${name}\n${size}\n${base64}\nfirst ${first}\ntime ${TIME}\n`;
    const id = Buffer.from(this.#keys.publicKey.split('+')[1] as string, 'hex');
    const signature = Buffer.concat([id, sign(null, Buffer.from(body), this.#keys.signing)]).toString(
      'base64',
    );
    return { note: `${body}\n\u2014 ${name} ${signature}\n\n`, signature };
  }

  /** Segments of `perSegment` records from number `first` on, by file name. */
  segments(perSegment: number, first = 1): Record<string, string> {
    const files: Record<string, string> = {};
    for (let start = first; start <= this.lines.length; start += perSegment)
      files[segmentName(start)] = this.lines
        .slice(start - 1, start - 1 + perSegment)
        .map((line) => `${line}\n`)
        .join('');
    return files;
  }

  save(directory: string, files: Record<string, string | Buffer>): string {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'hmac.key'), `${this.#keys.hmac}\n`);
    for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
    return directory;
  }
}

export const segmentName = (seq: number) => `log-${String(seq).padStart(16, '0')}.jsonl`;
