import { afterEach, beforeEach, expect, test } from 'bun:test';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import fc from 'fast-check';
import {
  createHalt,
  createKillSwitch,
  formatScope,
  type Halt,
  type HaltScope,
  parseScope,
} from '../../src/guards/kill-switch.ts';
import { createHaltFile, parseHalts, writeHaltByHand } from '../../src/runtime/halt-file.ts';
import { createWorkspace, type Workspace } from '../support/workspace.ts';

const ALL: HaltScope = { kind: 'all' };
const X: HaltScope = { kind: 'provider', name: 'x' };
const A: HaltScope = { kind: 'listener', name: 'a' };
const TIME = '2026-01-31T12:00:00.000Z';

let workspace: Workspace;
let dir: string;
beforeEach(() => {
  workspace = createWorkspace();
  dir = workspace.path('state');
  mkdirSync(dir, { mode: 0o700 });
});
afterEach(() => workspace.remove());

/** Scopes and reasons, short. */
function brief(halts: readonly Halt[] | string): unknown {
  return typeof halts === 'string'
    ? halts
    : halts.map(({ scope, reason }) => `${formatScope(scope)}: ${reason}`);
}

function start() {
  const events: string[] = [];
  const killSwitch = createKillSwitch({
    file: createHaltFile(dir),
    wallNow: () => Date.parse(TIME),
    onHalt: (halt) => events.push(`halt ${formatScope(halt.scope)}`),
    onResume: (halt) => events.push(`resume ${formatScope(halt.scope)}`),
  });
  return { killSwitch, events };
}

const NOTHING = 'all: the halt file names nothing';
const misread = (line: number) => `all: line ${line} of the halt file is not understood`;

test.each<[string, string, string[]]>([
  ['empty', '', [NOTHING]],
  ['spaces and comments only', ' \n# provider x\n\t#all\r\n', [NOTHING]],
  ['a provider', 'provider x\n', ['provider x: by hand']],
  ['no line end', 'listener a', ['listener a: by hand']],
  [
    'CRLF, trailing spaces, indentation',
    '  provider x \t \r\n\r\nlistener   a\r\n',
    ['provider x: by hand', 'listener a: by hand'],
  ],
  ['a byte order mark', '\ufeffprovider x\n', ['provider x: by hand']],
  ['a reason without a time', 'all # key leaked # twice', ['all: key leaked # twice']],
  ['a reason with a time', `all # ${TIME} key leaked`, ['all: key leaked']],
  ['a time only', `all # ${TIME}`, ['all: ']],
  ['a time that is none', 'all # 2026-13-41T00:00:00Z x', ['all: 2026-13-41T00:00:00Z x']],
  ['terminal control in a reason', 'all # \u001b[2Jgone', ['all: [2Jgone']],
  ['a scope twice: the last reason', 'provider x # one\nprovider x # two', ['provider x: two']],
  ['a typing error', 'provder x\n', [misread(1)]],
  ['one among others, which stay', '# c\nprovider x\nlistner a\n', ['provider x: by hand', misread(3)]],
  ['a bad name', 'provider X', [misread(1)]],
  ['# without a space', 'provider x#y', [misread(1)]],
  ['NUL bytes, as after a power failure', '\0\0\0\0', [misread(1)]],
  ['the line ends of old Macs', 'provider x\rlistener a', [misread(1)]],
  ['JSON', '{"all": false}', [misread(1)]],
])('%s', (_name, text, expected) => {
  workspace.write('state/halt', text);
  expect(brief(createHaltFile(dir).read())).toEqual(expected);
});

test.each<[string, () => void, string]>([
  [
    'not UTF-8',
    () => workspace.write('state/halt', new Uint8Array([0x70, 0xff, 0xfe])),
    'the halt file is not UTF-8',
  ],
  ['a directory', () => mkdirSync(`${dir}/halt`), 'the halt file is no regular file'],
  [
    'a symbolic link',
    () => symlinkSync(workspace.write('elsewhere', 'provider x'), `${dir}/halt`),
    'the halt file is a symbolic link',
  ],
  [
    'a dangling symbolic link',
    () => symlinkSync('/nowhere/at/all', `${dir}/halt`),
    'the halt file is a symbolic link',
  ],
  [
    'a pipe',
    () => expect(Bun.spawnSync(['mkfifo', `${dir}/halt`]).exitCode).toBe(0),
    'the halt file is no regular file',
  ],
  [
    'a GiB',
    () => {
      workspace.write('state/halt', 'provider x\n');
      truncateSync(`${dir}/halt`, 2 ** 30);
    },
    'the halt file is too large',
  ],
])('fail safe: %s halts the whole proxy', (_name, prepare, reason) => {
  prepare();
  const { killSwitch, events } = start();
  killSwitch.poll();
  expect([brief(killSwitch.halts()), events]).toEqual([[`all: ${reason}`], ['halt all']]);
  expect(() => killSwitch.check('a', 'x')).toThrow('halted');
});

test('a line of a MiB is read in no time', () => {
  const begin = performance.now();
  for (const filler of [' ', '#', 'a', ' #', '\t', 'all # ']) {
    workspace.write('state/halt', filler.repeat((1024 * 1024) / filler.length));
    createHaltFile(dir).read();
  }
  expect(performance.now() - begin).toBeLessThan(2_000);
});

test.skipIf(process.getuid?.() === 0)('an unreadable file halts the whole proxy', () => {
  workspace.write('state/halt', 'provider x', 0o000);
  expect(brief(createHaltFile(dir).read())).toEqual(['all: the halt file cannot be read (EACCES)']);
  chmodSync(`${dir}/halt`, 0o600);
});

test('times that no date can hold do not matter', () => {
  workspace.write('state/halt', 'all');
  for (const seconds of [-1e9, 2 ** 33, 2 ** 40]) {
    try {
      utimesSync(`${dir}/halt`, seconds, seconds);
    } catch {
      continue;
    }
    expect(createHaltFile(dir).read()).toMatchObject([{ since: expect.stringMatching(/^\d{4}-/) }]);
  }
});

test('what is written is private, leaves nothing beside it, and is read back; the last resume removes it', () => {
  const { killSwitch } = start();
  expect(killSwitch.halt(X, 'why\nnot')).toEqual({ saved: true });
  expect(killSwitch.halt(ALL, '')).toEqual({ saved: true });
  expect(readFileSync(`${dir}/halt`, 'utf8').split('\n').slice(1)).toEqual([
    `provider x # ${TIME} why not`,
    `all # ${TIME}`,
    '',
  ]);
  expect(lstatSync(`${dir}/halt`).mode & 0o777).toBe(0o600);
  expect(readdirSync(dir)).toEqual(['halt']);
  // As after kill -9: another process, the same directory.
  expect(start().killSwitch.halts()).toEqual(killSwitch.halts());
  expect(killSwitch.resume(X).saved).toBe(true);
  expect(brief(start().killSwitch.halts())).toEqual(['all: ']);
  expect(killSwitch.resume(ALL).saved).toBe(true);
  expect(readdirSync(dir)).toEqual([]);
});

test('touch and rm work by themselves', () => {
  const { killSwitch, events } = start();
  killSwitch.poll();
  writeFileSync(`${dir}/halt`, '');
  killSwitch.poll();
  expect(() => killSwitch.check('a', 'x')).toThrow('halted');
  rmSync(`${dir}/halt`);
  killSwitch.poll();
  killSwitch.check('a', 'x');
  expect(events).toEqual(['halt all', 'resume all']);
});

test('a file that is removed right after it was written is noticed', () => {
  const { killSwitch } = start();
  for (let i = 0; i < 10; i++) killSwitch.poll();
  killSwitch.halt(X, '');
  rmSync(`${dir}/halt`);
  killSwitch.poll();
  expect(killSwitch.halts()).toEqual([]);
});

test('an edit of the same size within one tick of the clock is noticed', () => {
  const { killSwitch } = start();
  workspace.write('state/halt', 'provider x');
  killSwitch.poll();
  for (let i = 0; i < 50; i++) {
    const name = i % 2 === 0 ? 'y' : 'x';
    writeFileSync(`${dir}/halt`, `provider ${name}`);
    killSwitch.poll();
    expect(brief(killSwitch.halts())).toEqual([`provider ${name}: by hand`]);
  }
});

test('once settled, a file that has not changed is not read again, and a changed one is', () => {
  workspace.write('state/halt', 'provider x');
  const file = createHaltFile(dir);
  const readings = Array.from({ length: 20 }, () => file.read());
  expect(readings[0]).not.toBe('unchanged');
  expect(readings.slice(-10)).toEqual(Array(10).fill('unchanged'));
  writeFileSync(`${dir}/halt`, 'provider y');
  expect(brief(file.read())).toEqual(['provider y: by hand']);
});

test('a malformed file is resumed like any other halt', () => {
  workspace.write('state/halt', 'provider x\ngarbage\n');
  const { killSwitch } = start();
  expect(killSwitch.resume(ALL).resumed).toHaveLength(1);
  expect(brief(createHaltFile(dir).read())).toEqual(['provider x: by hand']);
});

test('resuming removes a symbolic link, and not what it points to', () => {
  const target = workspace.write('elsewhere', 'precious');
  symlinkSync(target, `${dir}/halt`);
  expect(start().killSwitch.resume('everything').saved).toBe(true);
  expect([readdirSync(dir), readFileSync(target, 'utf8')]).toEqual([[], 'precious']);
});

test('a halt replaces a symbolic link, and does not write through it', () => {
  const target = workspace.write('elsewhere', 'precious');
  symlinkSync(target, `${dir}/halt`);
  writeHaltByHand(dir, X, '');
  expect(readFileSync(target, 'utf8')).toBe('precious');
  expect(brief(createHaltFile(dir).read())).toEqual([
    'all: the halt file is a symbolic link',
    'provider x: ',
  ]);
});

test('a directory called halt stays halted, and says so', () => {
  mkdirSync(`${dir}/halt`);
  const { killSwitch } = start();
  expect(killSwitch.resume('everything')).toMatchObject({
    resumed: [],
    saved: false,
    code: expect.stringMatching(/^E/),
  });
  expect(killSwitch.halt(X, '')).toMatchObject({ saved: false, code: expect.stringMatching(/^E/) });
  expect(() => killSwitch.check('a', 'y')).toThrow('halted');
  expect(readdirSync(dir)).toEqual(['halt']);
});

test('a state directory that is removed resumes nothing; made again, it gets the file back', () => {
  const { killSwitch, events } = start();
  killSwitch.halt(X, 'why');
  rmSync(dir, { recursive: true });
  killSwitch.poll();
  expect(killSwitch.halt(A, '')).toEqual({ saved: false, code: 'ENOENT' });
  mkdirSync(dir);
  for (let i = 0; i < 25; i++) killSwitch.poll();
  expect(brief(createHaltFile(dir).read())).toEqual(['provider x: why', 'listener a: ']);
  expect(events).toEqual(['halt provider x', 'halt listener a']);
});

test('no state directory halts nothing', () => {
  rmSync(dir, { recursive: true });
  expect(createHaltFile(dir).read()).toBe('lost');
  expect(start().killSwitch.halts()).toEqual([]);
});

test('by hand: merges into the file; an empty one stays a halt of the whole proxy', () => {
  writeHaltByHand(dir, X, 'one');
  expect(brief(writeHaltByHand(dir, A, 'two'))).toEqual(['provider x: one', 'listener a: two']);
  expect(brief(createHaltFile(dir).read())).toEqual(['provider x: one', 'listener a: two']);
  writeFileSync(`${dir}/halt`, '');
  expect(brief(writeHaltByHand(dir, X, 'one'))).toEqual([NOTHING, 'provider x: one']);
  expect(brief(writeHaltByHand(workspace.path('absent/state'), ALL, 'early'))).toEqual(['all: early']);
  expect(() => writeHaltByHand(dir, { kind: 'provider', name: 'a\nb' }, '')).toThrow(RangeError);
});

test('of many processes that halt at once, no halt is lost', haltAtOnce, 20_000);

async function haltAtOnce(): Promise<void> {
  const module = JSON.stringify(new URL('../../src/runtime/halt-file.ts', import.meta.url).pathname);
  const names = Array.from({ length: 12 }, (_, i) => `p${i}`);
  const script = `const { writeHaltByHand } = await import(${module});
    for (let i = 0; i < 5; i++) writeHaltByHand(process.argv[1], { kind: 'provider', name: process.argv[2] + '-' + i }, 'r');`;
  const children = names.map((name) =>
    Bun.spawn([process.execPath, '-e', script, dir, name], { stderr: 'inherit' }),
  );
  expect(await Promise.all(children.map((child) => child.exited))).toEqual(names.map(() => 0));
  expect(createHaltFile(dir).read()).toHaveLength(60);
  expect(readdirSync(dir)).toEqual(['halt']);
}

test('the temporary file of a process that was killed hinders nobody', () => {
  workspace.write(`state/.halt.${process.pid.toString(36)}`, 'half a li');
  expect(start().killSwitch.halt(ALL, '')).toEqual({ saved: true });
  expect(readdirSync(dir)).toEqual(['halt']);
});

const namespace = readlinkSync('/proc/self/ns/pid');
test.each([
  ['nobody knows', '', 1000],
  ['was killed', `${killedPid()} ${namespace}`, 0],
  ['had the number of this one, before a reboot', `${process.pid} ${namespace}`, 0],
  ['lives', `1 ${namespace}`, 1000],
  ['counts elsewhere', `${killedPid()} pid:[1]`, 1000],
])('the lock of a process that %s is waited for as long as it must', (_name, holder, ms) => {
  workspace.write('state/.halt.lock', holder);
  const started = performance.now();
  expect(start().killSwitch.halt(ALL, '')).toEqual({ saved: true });
  const took = performance.now() - started;
  expect(took).toBeGreaterThanOrEqual(ms);
  expect(took).toBeLessThan(ms + 500);
  expect(readdirSync(dir)).toEqual(['halt']);
});

test('of many processes that find the lock of a dead one at once, no halt is lost', async () => {
  workspace.write('state/.halt.lock', `${killedPid()} ${namespace}`);
  await haltAtOnce();
}, 20_000);

/** The number of a process that is no more. */
function killedPid(): number {
  return Bun.spawnSync(['/bin/true']).pid;
}

test('any halts come back from the file as they went in', () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,31}$/);
  const scope = fc.oneof(
    fc.constant(ALL),
    fc.record({ kind: fc.constantFrom('provider' as const, 'listener' as const), name }),
  );
  const halts = fc.uniqueArray(
    fc.record({ scope, reason: fc.string({ unit: 'binary', maxLength: 300 }), ms: fc.nat(4e12) }),
    { selector: (halt) => formatScope(halt.scope), minLength: 1, maxLength: 5 },
  );
  const check = fc.property(halts, (drafts) => {
    const expected = drafts.map(({ scope, reason, ms }) => createHalt(scope, reason, ms));
    createHaltFile(dir).update(() => expected);
    expect(createHaltFile(dir).read()).toEqual(expected);
  });
  fc.assert(check, { numRuns: 100 });
});

test('any text is halts that can be written, or the whole proxy', () => {
  const line = fc.oneof(
    fc.string(),
    fc.constantFrom('all', 'provider x', 'listener a # b', '', '#', ' # ', 'provider'),
  );
  const check = fc.property(fc.array(line, { maxLength: 6 }), (lines) => {
    const halts = parseHalts(lines.join('\n'), TIME);
    expect(halts.length).toBeGreaterThan(0);
    for (const { scope } of halts) expect(parseScope(formatScope(scope))).toEqual(scope);
  });
  fc.assert(check, { numRuns: 500 });
});
