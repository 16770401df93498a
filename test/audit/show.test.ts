// `isoproxy audit show` and `audit tail`: what they choose, how they print it, and that nothing escapes.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { appendFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { segmentName } from '../../src/audit/segments.ts';
import { runCommand } from '../config/command-io.ts';
import { hashOf, linesOf, makeLog, writeLog } from '../support/audit-log.ts';
import { until } from '../support/deadline.ts';
import { sealRecord } from '../support/seal-record.ts';
import { createWorkspace, reapAtExit } from '../support/workspace.ts';

const MAIN = resolve(import.meta.dir, '../../src/main.ts');
const KEY = Buffer.alloc(32, 1);
const work = createWorkspace();
const good = makeLog();
const lines = linesOf(good.segments);
beforeAll(() => writeLog(work.path('good'), { segments: good.segments }));
afterAll(() => work.remove());

const audit = (command: string, ...more: string[]) =>
  runCommand(['audit', command, '--dir', work.path('good'), ...more]);
const seqsOf = (out: string) =>
  out.split('\n').flatMap((line) => (line === '' ? [] : [(JSON.parse(line) as { seq: number }).seq]));

test('intent and outcome are one row; those without an outcome say so', async () => {
  const { code, out, err } = await audit('show');
  expect([code, err]).toEqual([0, '']);
  const rows = out.trimEnd().split('\n');
  expect(rows[0]).toMatch(/^time +what +status +listener +provider +ms +request$/);
  expect(rows.filter((row) => row.includes('/v1/responses/3'))[0]).toBe(
    '2026-01-31T12:00:04.000Z  allow         200     agent-1       openai        6.8      POST /v1/responses/3',
  );
  expect(rows.filter((row) => row.includes('/v1/responses/45'))).toEqual([
    expect.stringMatching(/^2026-01-31T12:00:45.000Z {2}unfinished /),
  ]);
  expect(rows.filter((row) => / open /.test(row)).length).toBe(1);
  expect(rows.filter((row) => / deny +403 .*\(endpoint_not_allowed\)$/.test(row)).length).toBe(1);
  expect(rows.filter((row) => row.includes('scope all (just a drill)')).length).toBe(1);
});

test.each([
  ['--kind', ['--kind', 'start'], [1, 36, 46]],
  ['--decision', ['--decision', 'deny'], [34, 57]],
  ['--status of a class', ['--status', '4xx'], [34]],
  ['--status', ['--status', '200', '--listener', 'agent-2', '--last', '2'], [33, 49]],
  ['--request', ['--request', 'r0045'], [45]],
  ['--provider', ['--provider', 'nobody'], []],
  ['--since', ['--since', '2026-01-31T12:00:56Z'], [56, 57, 58]],
  ['a time without zone, which is UTC', ['--since', '2026-01-31T12:00:56'], [56, 57, 58]],
  ['another zone', ['--since', '2026-01-31T13:00:56+01:00'], [56, 57, 58]],
  ['--until', ['--until', '2026-01-31T12:00:02Z'], [1, 2]],
  ['a day', ['--until', '2026-01-31'], []],
  ['a duration', ['--since', '1s'], []],
  ['--last', ['--last', '3'], [56, 57, 58]],
  ['--last 0', ['--last', '0'], []],
])('%s', async (_, args, seqs) => {
  const { code, out } = await audit('show', ...args, '--json');
  expect([code, ...seqsOf(out)]).toEqual([0, ...seqs]);
});

test('JSON is the records as they stand in the log', async () => {
  expect((await audit('show', '--json')).out).toBe(lines.map((line) => `${line}\n`).join(''));
});

test.each([
  [['--status', '4'], '--status'],
  [['--decision', 'maybe'], '--decision'],
  [['--kind', 'party'], '--kind'],
  [['--since', 'yesterday'], '--since'],
  [['--last', '-1'], ''],
  [['--last', 'x'], '--last'],
])('%p is wrong usage', async (args, named) => {
  const { code, err } = await audit('show', ...args);
  expect(code).toBe(64);
  expect(err).toContain(named);
});

test('A8 nothing that a terminal would obey is printed', async () => {
  const evil = '/\x1b]0;x\x07\x1b[2J\r\n{"seq":9}\u2028\u202e\x7f\x9b\ud800é';
  const { line } = sealRecord(
    { seq: 1, boot_id: '00000001', time: '2026-01-31T12:00:00.000Z', mono_us: 0 },
    {
      kind: 'deny',
      request_id: 'r',
      listener: 'a',
      provider: '',
      method: 'GET\x1b',
      path: evil,
      reason: 'x',
    },
    hashOf(undefined),
    KEY,
  );
  work.write(`evil/${segmentName(1)}`, `${line}\n${line.replace('"GET', '"\xc2\x9b')}\nno record\x1b\n`);
  for (const command of ['show', 'tail'])
    for (const json of [[], ['--json']]) {
      const { out, err } = await runCommand(['audit', command, '--dir', work.path('evil'), ...json]);
      expect(out + err).not.toMatch(/[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]/);
      expect(out.trimEnd().split('\n').length).toBe(json.length === 0 ? 3 : 2);
      expect(out).toContain('\\u001b]0;x\\u0007');
    }
});

test('what is no record is counted, and verify is named', async () => {
  const { code, err } = await runCommand(['audit', 'show', '--dir', work.path('evil')]);
  expect(code).toBe(0);
  expect(err).toContain('lines that are no records: 1; isoproxy audit verify tells more');
});

test('tail prints the last ten, or as many as are asked for, across segments', async () => {
  const seqs = (from: number) => Array.from({ length: 58 - from + 1 }, (_, i) => from + i);
  expect(seqsOf((await audit('tail', '--json')).out)).toEqual(seqs(49));
  expect(seqsOf((await audit('tail', '-n', '30', '--json')).out)).toEqual(seqs(29));
  expect(seqsOf((await audit('tail', '--lines', '0', '--json')).out)).toEqual([]);
  expect(seqsOf((await audit('tail', '-n', '9999', '--json')).out)).toEqual(seqs(1));
  expect(seqsOf((await audit('tail', '-n', '2', '--kind', 'start', '--json')).out)).toEqual([36, 46]);
});

test('tail -f goes on over the end of a segment, and takes no half line', async () => {
  const dir = work.path('live');
  const [first, second, third] = [...good.segments];
  if (first === undefined || second === undefined || third === undefined) throw new Error('three segments');
  writeLog(dir, { segments: new Map([first]) });
  const child = Bun.spawn(
    [process.execPath, MAIN, 'audit', 'tail', '-f', '-n', '1', '--json', '--dir', dir],
    {
      stdout: 'pipe',
      stderr: 'inherit',
    },
  );
  const gone = reapAtExit(child.pid);
  const printed: string[] = [];
  createInterface({ input: Readable.fromWeb(child.stdout as never) }).on('line', (line) =>
    printed.push(line),
  );
  await until('lines of tail', () => printed.length === 1);
  const half = Math.floor(second[1].length / 2);
  const whole = second[1].slice(0, half).split('\n').length - 1;
  work.write(`live/${second[0]}`, second[1].slice(0, half));
  await until('lines of tail', () => printed.length === 1 + whole);
  appendFileSync(work.path(`live/${second[0]}`), second[1].slice(half));
  work.write(`live/${third[0]}`, third[1]);
  await until('lines of tail', () => printed.length === 1 + 20 + 18);
  child.kill();
  await child.exited;
  gone();
  expect(seqsOf(printed.join('\n'))).toEqual(Array.from({ length: 39 }, (_, i) => 20 + i));
});

test('audit alone prints its usage, and an unknown command is wrong usage', async () => {
  const alone = await runCommand(['audit']);
  expect([alone.code, alone.out]).toEqual([64, '']);
  expect(alone.err).toContain('usage: isoproxy audit verify');
  for (const name of ['toString', 'vrify']) {
    const { code, err } = await runCommand(['audit', name]);
    expect(code).toBe(64);
    expect(err).toContain('verify, show, tail, key');
  }
  expect((await runCommand(['audit', 'verify', '--help'])).out).toContain('--require-anchor');
});
