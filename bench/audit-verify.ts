/**
 * `isoproxy audit verify` on a log of a million records (or as many as the argument says): rate, and the most memory
 * that it held. `bench/audit-verify.ts 1000000 [binary]`; without a binary it measures the source.
 */
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { formatNote } from '../src/audit/checkpoint.ts';
import { makeHmacKey, makeSigningKey, readHmacKey, readSigner } from '../src/audit/keys.ts';
import { GENESIS, type RecordBody } from '../src/audit/record.ts';
import { segmentName } from '../src/audit/segments.ts';
import { sealRecord } from '../test/support/seal-record.ts';

const SEGMENT = 150_000;
const CHECKPOINT = 1_000;
const BATCH = 1_000;
const SAMPLE_MS = 20;

const count = Number(process.argv[2] ?? 1_000_000);
const program =
  process.argv[3] === undefined
    ? [process.execPath, join(import.meta.dir, '../src/main.ts')]
    : [process.argv[3]];

const work = mkdtempSync(join(tmpdir(), 'isoproxy-bench-'));
try {
  const bytes = writeLog();
  const args = ['audit', 'verify', '--dir', work, '--checkpoints', `${work}-anchors`, '--json'];
  const begin = performance.now();
  const { rss, out } = await measure([...program, ...args]);
  const seconds = (performance.now() - begin) / 1000;
  const { ok, records, anchored_to } = JSON.parse(out);
  console.log(
    `records ${records}, ${(bytes / 2 ** 20).toFixed(0)} MiB, intact: ${ok}, anchored to ${anchored_to}`,
  );
  console.log(
    `${seconds.toFixed(2)} s, ${Math.round(records / seconds)} records/s, ${(bytes / 2 ** 20 / seconds).toFixed(0)} MiB/s, peak ${rss} MiB`,
  );
} finally {
  rmSync(work, { recursive: true });
  rmSync(`${work}-anchors`, { force: true });
}

/** A log as a busy proxy leaves it; returns its size. */
function writeLog(): number {
  makeHmacKey(work);
  makeSigningKey(work);
  const key = readHmacKey(join(work, 'hmac.key'));
  const signer = readSigner(work);
  const time = new Date().toISOString();
  let prev = GENESIS;
  let notes = '';
  let bytes = 0;
  let fd = -1;
  let waiting = '';
  for (let seq = 1; seq <= count; seq++) {
    if (seq % SEGMENT === 1) {
      if (fd !== -1) closeSync(fd);
      fd = openSync(join(work, segmentName(seq)), 'wx', 0o600);
    }
    const { line, hash } = sealRecord(
      { seq, boot_id: '0123abcd', time, mono_us: seq },
      bodyOf(seq),
      prev,
      key,
    );
    prev = hash;
    waiting += `${line}\n`;
    if (seq % BATCH === 0 || seq === count) {
      bytes += writeSync(fd, waiting);
      waiting = '';
    }
    if (seq % CHECKPOINT === 0) notes += formatNote(signer.sign({ size: seq, head: hash, first: 1, time }));
  }
  if (fd !== -1) closeSync(fd);
  writeFileSync(`${work}-anchors`, notes);
  return bytes;
}

function bodyOf(seq: number): RecordBody {
  const request = {
    request_id: `01J${String(seq - ((seq + 1) % 2)).padStart(23, '0')}`,
    listener: 'agent-1',
    provider: 'anthropic',
    method: 'POST',
    path: '/v1/messages',
    rule: 'POST /v1/messages',
    decision: 'allow',
    reason: '',
  };
  if (seq % 2 === 1) return { kind: 'intent', ...request, config: '0123456789abcdef' };
  return {
    kind: 'outcome',
    ...request,
    status: 200,
    bytes_in: 2_345,
    bytes_out: 67_890,
    duration_us: 1_234_567,
  };
}

function measure([command = '', ...args]: string[]): Promise<{ rss: number; out: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let out = '';
    let rss = 0;
    const timer = setInterval(() => {
      try {
        const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1];
        rss = Math.max(rss, Number(peak ?? 0));
      } catch {
        // It has ended.
      }
    }, SAMPLE_MS);
    child.stdout.on('data', (piece: Buffer) => {
      out += piece;
    });
    child.on('error', reject);
    child.on('close', (code) => {
      clearInterval(timer);
      if (code === 0) resolve({ rss: Math.round(rss / 1024), out });
      else reject(new Error(`verify ended with ${code}: ${out}`));
    });
  });
}
