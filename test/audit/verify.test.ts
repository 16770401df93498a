// `isoproxy audit verify` on logs that nobody touched, and on checkpoints that somebody did.

import { afterAll, beforeAll, expect, test } from 'bun:test';
import { appendFileSync, chmodSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { formatNote, type Note, parseVerifierKey } from '../../src/audit/checkpoint.ts';
import { createCheckpointSet } from '../../src/audit/checkpoint-files.ts';
import { segmentName } from '../../src/audit/segments.ts';
import { type Verdict, verifyLog } from '../../src/audit/verify.ts';
import { runCommand } from '../config/command-io.ts';
import {
  HMAC_KEY,
  hashOf,
  linesOf,
  makeLog,
  notesText,
  putLines,
  reseal,
  SIGNING_KEY,
  signer,
  writeLog,
} from '../support/audit-log.ts';
import { until } from '../support/deadline.ts';
import { createWorkspace, reapAtExit } from '../support/workspace.ts';

const work = createWorkspace();
const good = makeLog();
let anchors: string;
beforeAll(() => {
  writeLog(work.path('good'), { segments: good.segments, checkpoints: good.notes });
  anchors = work.write('anchors', notesText(good.notes));
});
afterAll(() => work.remove());

const verify = (dir: string, ...more: string[]) =>
  runCommand(['audit', 'verify', '--dir', work.path(dir), ...more]);
const verdictOf = async (dir: string, ...more: string[]) => {
  const { code, out } = await verify(dir, ...more, '--json');
  return { code, ...(JSON.parse(out) as Verdict & { anchors: number; foreign: unknown[] }) };
};

test('a log that nobody touched: everything that is known of it', async () => {
  expect(await verdictOf('good', '--checkpoints', anchors)).toEqual({
    code: 0,
    ok: true,
    records: 58,
    segments: 3,
    first: 1,
    last: 58,
    since: '2026-01-31T12:00:01.000Z',
    until: '2026-01-31T12:00:58.000Z',
    anchored_to: 49,
    unanchored: { from: 50, to: 58 },
    torn: null,
    recovered: 0,
    gaps: [],
    more_gaps: 0,
    unfinished: 1,
    unfinished_requests: ['r0045'],
    open: 1,
    unclean_ends: 1,
    anchors: 5,
    foreign: [],
  });
});

test('the text begins with the verdict and says from where on nothing vouches for it', async () => {
  const { code, out, err } = await verify('good', '--checkpoints', anchors);
  expect(code).toBe(0);
  expect(out.split('\n')[0]).toBe('intact, and anchored up to record 49; NOT ANCHORED from record 50 on');
  expect(out).toContain('  unfinished    1 (r0045)\n');
  expect(err).toContain('not anchored from record 50 to 58');
});

test('checkpoints in the directory of the log vouch for nothing, under whatever name', async () => {
  expect(await verdictOf('good')).toMatchObject({ code: 0, anchored_to: 0, unanchored: { from: 1, to: 58 } });
  expect((await verify('good', '--require-anchor')).code).toBe(2);
  expect((await verify('good', '--checkpoints', work.path('good/checkpoints'))).code).toBe(64);
  symlinkSync(work.path('good/checkpoints'), work.path('looks-elsewhere'));
  expect((await verify('good', '--checkpoints', work.path('looks-elsewhere'))).code).toBe(64);
});

test('those in the directory are held against the log all the same', async () => {
  const { segments, notes } = makeLog();
  segments.delete(segmentName(41));
  writeLog(work.path('short'), { segments, checkpoints: notes });
  const { code, gaps } = await verdictOf('short');
  expect([code, gaps[0]?.kind, gaps[0]?.from, gaps[0]?.to]).toEqual([1, 'cut', 41, 49]);
});

const note = (size: number) => good.notes.find((each) => each.size === size) as Note;
test.each([
  [
    'an event as stderr has it',
    JSON.stringify({ level: 'info', event: 'audit_checkpoint', note: formatNote(note(39)) }),
  ],
  [
    'one without the blank line',
    JSON.stringify({ event: 'audit_checkpoint', note: formatNote(note(39)).trimEnd() }),
  ],
  [
    'an event as text',
    `2026-01-31T12:00:00Z info audit_checkpoint note=${JSON.stringify(formatNote(note(39)))} size=39`,
  ],
  [
    'a line of journalctl',
    `Jan 31 12:00:00 host isoproxy[7]: ${JSON.stringify({ event: 'audit_checkpoint', note: formatNote(note(39)) })}`,
  ],
  [
    'a line of journalctl --output=json',
    JSON.stringify({
      MESSAGE: JSON.stringify({ event: 'audit_checkpoint', note: formatNote(note(39)) }),
      _PID: '7',
    }),
  ],
  ['a note between other lines', `hello\n${formatNote(note(39))}\u2014 of no interest`],
])('an anchor is found in %s', async (_, text) => {
  const file = work.write('journal', `{"event":"started"}\n{audit_checkpoint\n${text}\n\n`);
  expect(await verdictOf('good', '--checkpoints', file)).toMatchObject({
    code: 0,
    anchored_to: 39,
    anchors: 1,
  });
});

test('more than one file of anchors', async () => {
  const files = [9, 29].map((size) => work.write(`only-${size}`, formatNote(note(size))));
  const options = files.flatMap((file) => ['--checkpoints', file]);
  expect(await verdictOf('good', ...options)).toMatchObject({ anchored_to: 29, anchors: 2 });
});

test('an anchor that was tampered with is a fault, and no anchor', async () => {
  const forged = formatNote({ ...note(49), text: note(49).text.replace('\n49\n', '\n58\n') });
  const file = work.write('forged', forged + formatNote(note(9)));
  const { code, anchored_to, gaps } = await verdictOf('good', '--checkpoints', file);
  expect([code, anchored_to]).toEqual([1, 9]);
  expect(gaps).toEqual([
    {
      kind: 'forged',
      from: 58,
      to: 58,
      segment: file,
      text: 'the signature of a checkpoint for record 58 is wrong',
    },
  ]);
});

test('a half-written checkpoint at the end of a file is none, and no fault', async () => {
  const whole = notesText(good.notes.slice(0, 2));
  for (const length of [10, 90, 140, 200]) {
    const file = work.write('half', whole + formatNote(note(29)).slice(0, length));
    expect(await verdictOf('good', '--checkpoints', file)).toMatchObject({ code: 0, anchored_to: 19 });
  }
});

test('two checkpoints that contradict each other do not both fit', async () => {
  const other = signer.sign({ ...note(29), head: 'ab'.repeat(32) });
  const file = work.write('two', notesText([note(29), other]));
  expect((await verdictOf('good', '--checkpoints', file)).gaps[0]).toMatchObject({
    kind: 'rewritten',
    to: 29,
  });
});

test('segments that retention removed are no fault, if a checkpoint record says so', async () => {
  const { segments } = makeLog();
  const lines = linesOf(segments);
  // Record 50 says that the log begins with record 21.
  for (let at = 49; at < lines.length; at++)
    lines[at] = reseal(lines[at] as string, at === 49 ? { first: 21 } : {}, hashOf(lines[at - 1])).line;
  putLines(segments, lines);
  segments.delete(segmentName(1));
  writeLog(work.path('kept'), { segments, checkpoints: good.notes });
  expect(await verdictOf('kept', '--checkpoints', anchors)).toMatchObject({
    code: 0,
    first: 21,
    anchored_to: 49,
  });
  rmSync(work.path(`kept/${segmentName(21)}`));
  expect((await verdictOf('kept')).gaps).toMatchObject([{ kind: 'missing', from: 21, to: 40 }]);
});

test('another key: every record is wrong, in one range, and the hint says what it may be', async () => {
  const key = work.write('other.key', `${'f'.repeat(64)}\n`);
  const { code, out, err } = await verify('good', '--key', key);
  expect(code).toBe(1);
  expect(out).toContain('edited: records 1 to 58');
  expect(err).toContain('no record fits that key');
  expect(out + err).not.toContain('f'.repeat(64));
});

test('many faults: the first hundred, and how many more', async () => {
  const { segments } = makeLog();
  writeLog(work.path('many'), { segments });
  const line = `${linesOf(segments)[4]}\n`;
  for (let i = 0; i < 150; i++) appendFileSync(work.path(`many/${segmentName(41)}`), line);
  const { gaps, more_gaps } = await verdictOf('many');
  expect([gaps.length, more_gaps]).toEqual([100, 50]);
  expect((await verify('many')).out).toContain('and 50 faults more');
});

test.each([
  ['no directory', ['--dir', '/nowhere/audit'], 74],
  ['both places', ['--dir', '/nowhere', '--config', '/nowhere'], 64],
  ['an unknown option', ['--anchor', 'x'], 64],
  ['an argument', ['x'], 64],
])('%s', async (_, args, code) => {
  expect((await runCommand(['audit', 'verify', ...args])).code).toBe(code);
});

test.each([
  ['hmac.key', 'too short', 'CANARY\n'],
  ['signing.key', 'no key', 'CANARY-not-a-key\n'],
  ['signing.key', 'half a key', SIGNING_KEY.slice(0, 60)],
  ['hmac.key', 'gone', undefined],
  ['signing.key', 'gone', undefined],
])('a %s that is %s is unreadable (74), and nothing of it is printed', async (name, what, content) => {
  const dir = `keys-${name}-${what}`;
  writeLog(work.path(dir), { segments: good.segments });
  if (content === undefined) rmSync(work.path(`${dir}/${name}`));
  else work.write(`${dir}/${name}`, content);
  const { code, out, err } = await verify(dir);
  expect([code, out]).toEqual([74, '']);
  expect(err).toContain(name);
  if (content !== undefined) expect(err).not.toContain(content.split('\n')[0]);
});

test('a segment that cannot be read is unreadable (74), by its name', async () => {
  if (process.getuid?.() === 0) {
    // Root reads everything; a directory is read by nobody.
    writeLog(work.path('closed'), { segments: new Map() });
    work.write(`closed/${segmentName(1)}/x`, '');
  } else {
    writeLog(work.path('closed'), { segments: good.segments });
    chmodSync(work.path(`closed/${segmentName(1)}`), 0);
  }
  const { code, err } = await verify('closed');
  expect(code).toBe(74);
  expect(err).toContain('cannot be read');
});

test('the configuration names directory, and the public key may be given as text or file', async () => {
  writeLog(work.path('state/audit'), { segments: good.segments });
  const file = work.write(
    'proxy.toml',
    `[server]\nruntime_dir = "${work.path('run')}"\nstate_dir = "${work.path('state')}"\n[[listeners]]\nname = "a"\nproviders = ["openai"]\n[providers.openai]\npreset = "openai"\ncredential = { file = "/nowhere" }\n`,
  );
  const run = (...more: string[]) => runCommand(['audit', ...more, '--config', file]);
  const { out: key } = await run('key');
  expect(key).toBe(`${signer.verifierKey}\n`);
  expect(JSON.parse((await run('key', '--json')).out)).toEqual({
    origin: signer.origin,
    verifier_key: signer.verifierKey,
  });
  rmSync(work.path('state/audit/signing.key'));
  for (const given of [key.trim(), work.write('key.pub', key)])
    expect((await run('verify', '--checkpoints', anchors, '--public-key', given)).code).toBe(0);
  expect((await run('verify', '--public-key', work.write('no.pub', 'x'))).code).toBe(74);
});

const inProcess = (dir: string, onProgress?: () => void) => {
  const verifier = parseVerifierKey(signer.verifierKey);
  if (verifier === undefined) throw new Error('no verifier');
  const checkpoints = createCheckpointSet(verifier);
  checkpoints.addFile(anchors, true);
  return verifyLog({
    directory: work.path(dir),
    key: Buffer.from(HMAC_KEY.trim()),
    checkpoints,
    onProgress,
  });
};

test('a log that is written while it is read: rotation and an unfinished line are no faults', () => {
  const { segments } = makeLog();
  const third = segments.get(segmentName(41)) as string;
  segments.set(segmentName(41), third.slice(0, 4_000));
  writeLog(work.path('live'), { segments });
  let wasHere = 0;
  const verdict = inProcess('live', () => {
    if (wasHere++ > 0) return;
    appendFileSync(work.path(`live/${segmentName(41)}`), third.slice(4_000));
    work.write(`live/${segmentName(59)}`, '{"v":1,');
  });
  expect([wasHere > 0, verdict.ok, verdict.last]).toEqual([true, true, 58]);
});

test('segments that retention removes while it is read are no fault', () => {
  const { segments } = makeLog();
  const lines = linesOf(segments);
  for (let at = 49; at < lines.length; at++)
    lines[at] = reseal(lines[at] as string, at === 49 ? { first: 41 } : {}, hashOf(lines[at - 1])).line;
  putLines(segments, lines);
  writeLog(work.path('retained'), { segments });
  const verdict = inProcess('retained', () => {
    for (const first of [1, 21]) rmSync(work.path(`retained/${segmentName(first)}`), { force: true });
  });
  expect(verdict).toMatchObject({ ok: true, first: 41, last: 58, segments: 2, anchored_to: 49 });
});

test('a segment that is removed from the middle while it is read is one', () => {
  writeLog(work.path('robbed'), { segments: good.segments });
  const verdict = inProcess('robbed', () => {
    const name = segmentName(21);
    if (readdirSync(work.path('robbed')).includes(name))
      renameSync(work.path(`robbed/${name}`), work.path('loot'));
  });
  expect(verdict.gaps).toMatchObject([{ kind: 'missing', from: 21, to: 40 }]);
});

test('a proxy that writes, rotates and removes as fast as it can is never a false alarm', async () => {
  writeLog(work.path('busy'), { segments: new Map() });
  const file = work.write('busy-anchors', '');
  const writer = Bun.spawn([
    process.execPath,
    join(import.meta.dir, 'live-writer.ts'),
    work.path('busy'),
    file,
  ]);
  const gone = reapAtExit(writer.pid);
  const verifier = parseVerifierKey(signer.verifierKey);
  if (verifier === undefined) throw new Error('no verifier');
  const verdicts: Verdict[] = [];
  await until(
    'the writer removes segments while they are read',
    async () => {
      const checkpoints = createCheckpointSet(verifier);
      checkpoints.addFile(file, true);
      const options = { directory: work.path('busy'), key: Buffer.from(HMAC_KEY.trim()), checkpoints };
      verdicts.push(verifyLog(options));
      expect(verdicts.at(-1)).toMatchObject({ ok: true, gaps: [] });
      return verdicts.length > 25 && (verdicts.at(-1)?.first ?? 0) > 1_000;
    },
    20_000,
  );
  writer.kill();
  await writer.exited;
  gone();
  expect(verdicts.filter((verdict) => verdict.anchored_to > 0).length).toBeGreaterThan(0);
});
