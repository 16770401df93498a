/**
 * Logs that a running proxy wrote, seen by verifiers that share nothing with it: those in test/support that were written
 * from docs/audit.md alone. Nothing of src/ may be imported here.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from 'bun:test';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { bothAgree, withoutPython } from '../support/audit-agreement.ts';
import { LogWriter, makeKeys } from '../support/audit-log-writer.ts';
import { makeCanary } from '../support/canary.ts';
import { skipped } from '../support/client-side.ts';
import { until } from '../support/deadline.ts';
import { createWorkspace, type Isoproxy, run, startSimple } from '../support/isoproxy.ts';
import { connect, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(25_000);

const KINDS =
  'checkpoint cleared config deny deny_summary halt intent outcome recovered resume start stop'.split(' ');
const TORN = '{"v":1,"seq":99,"torn';

const workspace = createWorkspace();
const directory = workspace.path('state/audit');
const outside = workspace.path('outside/checkpoints');
let upstream: Recorder;
let proxy: Isoproxy;
let publicKey: string;

const segments = (of = directory) =>
  readdirSync(of)
    .filter((name) => name.startsWith('log-'))
    .sort()
    .map((name) => join(of, name));
const log = () =>
  segments()
    .map((path) => readFileSync(path, 'latin1'))
    .join('');
const anchors = () => [readFileSync(outside, 'utf8')];
const post = (target = '/api/v1/messages') =>
  request(proxy.socket(), { method: 'POST', target, body: '{"question":"why"}' });
const inBatches = async (count: number, target?: string) => {
  for (let sent = 0; sent < count; sent += 10)
    await Promise.all(Array.from({ length: 10 }, () => post(target)));
};
const cli = async (...args: string[]) => {
  const { code, stderr } = await proxy.cli(args);
  expect([args, code, stderr]).toEqual([args, 0, '']);
};

/** All that a log can tell of, in one life of several processes. */
beforeAll(async () => {
  mkdirSync(workspace.path('outside'));
  upstream = await startRecorder();
  const audit = {
    segment_size: '64KiB',
    max_bytes: '1MiB',
    checkpoint_every: 25,
    retain: '1d',
    checkpoint_file: outside,
  };
  proxy = await startSimple(
    { upstreamPort: upstream.port, ca: upstream.ca, canary: makeCanary(), top: { audit } },
    { workspace },
  );
  await inBatches(120);
  await oddRequests();
  await cli('halt', '--reason', 'drill "é" \u007f', '--provider', 'api');
  await post();
  await cli('resume', '--provider', 'api');
  await cli('reload');
  await crash();
  await fail();
  // So many that some are counted only.
  await inBatches(160, '/api/v1/elsewhere');
  expect(await proxy.stop()).toBe(0);
  await prune();
  await post();
  publicKey = (await proxy.cli(['audit', 'key'])).stdout;
  expect(await proxy.stop()).toBe(0);
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await upstream?.close();
  workspace.remove();
});

/** What has to be escaped, and what has to be cut. */
async function oddRequests(): Promise<void> {
  const targets = [
    '/api/v1/%22%7D%0A%7B%22seq%22:9',
    `/api/${'%F0%9F%92%A9'.repeat(200)}`,
    `/api/${'"'.repeat(900)}`,
    `/api/v1/messages?${'%22%5C'.repeat(40)}=1&%7f=2&%c3%a9=3&%f0%9f%92%a9=4`,
    `/api/v1/messages?${Array.from({ length: 20 }, (_, n) => `${'%e9'.repeat(40)}${n}=`).join('&')}`,
  ];
  for (const target of targets) {
    using client = await connect(proxy.endpoint());
    await client.send(`POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n`);
    await client.response({ method: 'POST' }).catch(() => {});
  }
}

/** `kill -9` with requests under way, a line and a checkpoint that were not finished. */
async function crash(): Promise<void> {
  upstream.handle(() => new Promise(() => {}));
  const waiting = Array.from({ length: 3 }, () => post().catch(() => {}));
  const before = upstream.requests.length;
  await until('the requests', () => upstream.requests.length === before + 3);
  await proxy.stop('SIGKILL');
  await Promise.all(waiting);
  upstream.reset();
  appendFileSync(segments().at(-1) as string, TORN);
  // The checkpoint that was being written then has no end either, in both files; others will come behind it.
  for (const file of [outside, join(directory, 'checkpoints')]) truncateSync(file, statSync(file).size - 40);
  expect(bothAgree(directory, anchors())).toMatchObject({ ok: true, torn: true });
  await proxy.start();
  await inBatches(20);
}

async function fail(): Promise<void> {
  const segment = segments().at(-1) as string;
  chmodSync(segment, 0o644);
  expect((await post()).status).toBe(503);
  chmodSync(segment, 0o600);
  await cli('audit', 'clear', '--reason', 'put back');
  appendFileSync(segments().at(-1) as string, '{}\n');
  expect((await post()).status).toBe(503);
  await cli('audit', 'clear', '--reason', 'again');
  expect((await post()).status).toBe(200);
}

/** A start removes the oldest segment if it is old enough. */
async function prune(): Promise<void> {
  const [oldest = ''] = segments();
  const old = new Date(Date.now() - 2 * 86_400_000);
  utimesSync(oldest, old, old);
  await proxy.start();
  await until('the removal', () => segments()[0] !== oldest);
}

test('every kind of record is there, in several segments, the oldest of which is gone', () => {
  const kinds = [...log().matchAll(/"kind":"([a-z_]+)"/g)].map(([, kind]) => kind);
  expect([...new Set(kinds)].sort()).toEqual(KINDS);
  expect(segments().length).toBeGreaterThan(2);
  expect(segments()[0]).not.toEndWith('log-0000000000000001.jsonl');
  expect(log()).toContain('"truncated":true');
});

test('the unfinished line is where its record says', () => {
  const line = log()
    .split('\n')
    .find((one) => one.includes('"kind":"recovered"')) as string;
  const { seq, boot_id, bytes, sha256 } = JSON.parse(line);
  const file = join(directory, `torn-${String(seq).padStart(16, '0')}-${boot_id}`);
  expect(readFileSync(file, 'latin1')).toBe(TORN);
  expect([bytes, sha256]).toEqual([TORN.length, createHash('sha256').update(TORN).digest('hex')]);
});

test.skipIf(withoutPython !== undefined)(
  `both verifiers find it intact, up to the stop${skipped(withoutPython)}`,
  async () => {
    const last = Number(/"seq":(\d+)/.exec(log().trimEnd().split('\n').at(-1) as string)?.[1]);
    const verdict = bothAgree(directory, anchors(), { publicKey });
    expect(verdict).toEqual({
      ok: true,
      records: log().split('\n').length - 1,
      anchoredTo: last,
      torn: false,
      unfinished: 3,
      open: 0,
      incomplete: 0,
      faults: [],
      signatures: 'checked',
    });
    const theirs = await proxy.cli(['audit', 'verify', '--require-anchor', '--json']);
    expect([theirs.code, theirs.json()]).toMatchObject([
      0,
      { ok: true, records: verdict.records, last, anchored_to: last, unanchored: null, torn: null },
    ]);
    expect(theirs.json()).toMatchObject({ recovered: 1, unfinished: 3, open: 0, unclean_ends: 1 });
    // What the last process wrote to stderr is as good as the file.
    expect(bothAgree(directory, [proxy.child.stderr().toString()], { publicKey })).toEqual(verdict);
  },
);

/** A line in the middle, by its place among all lines. */
const middle = (lines: readonly string[]) =>
  lines.findIndex((line, index) => index > lines.length / 2 && line.includes('"kind":"outcome"'));
const edited = (line: string) => line.replace('"status":200', '"status":201');

/** What is done to the lines, and the kind of fault that it is. */
const HARMS: [string, (lines: string[], hmac: string) => string[], string][] = [
  ['a record edited', (lines) => lines.with(middle(lines), edited(lines[middle(lines)] as string)), 'edited'],
  [
    'a record edited and all chained anew, with the key',
    (lines, hmac) => {
      const writer = new LogWriter(makeKeys(hmac));
      const offset = middle(lines);
      // The writer counts from its own first line: it is given the part that changes, and the record before.
      writer.lines = lines.slice(offset - 1);
      writer.lines[1] = edited(writer.lines[1] as string);
      writer.rechain(2);
      return [...lines.slice(0, offset - 1), ...writer.lines];
    },
    'rewritten',
  ],
  ['the end cut off', (lines) => lines.slice(0, -3), 'cut'],
];

test.skipIf(withoutPython !== undefined).each(HARMS)(
  `%s: both say no, and so does isoproxy${skipped(withoutPython)}`,
  async (_name, harm, kind) => {
    const copy = workspace.path(`copy-${kind}`);
    cpSync(directory, copy, { recursive: true });
    const hmac = readFileSync(join(copy, 'hmac.key'), 'latin1').trim();
    const lines = harm(log().trimEnd().split('\n'), hmac);
    for (const path of segments(copy)) {
      const count = readFileSync(path, 'latin1').split('\n').length - 1;
      writeFileSync(
        path,
        lines
          .splice(0, count)
          .map((line) => `${line}\n`)
          .join(''),
      );
    }
    const { ok, faults } = bothAgree(copy, anchors(), { publicKey });
    expect([ok, faults.map((fault) => fault.kind)]).toEqual([false, [kind]]);
    writeFileSync(workspace.path('public.key'), publicKey);
    const args = ['--dir', copy, '--checkpoints', outside, '--public-key', workspace.path('public.key')];
    const theirs = await run(['audit', 'verify', '--json', ...args], { dir: workspace.dir });
    expect(theirs.code).toBe(1);
    // Where the change begins: the page does not say whether checkpoint records narrow it, and isoproxy lets them not.
    const known = ({ kind: what, from, to }: (typeof faults)[number]) =>
      what === 'rewritten' ? [what, to] : [what, from, to];
    expect(theirs.json().gaps.map(known)).toEqual(faults.map(known));
  },
);
