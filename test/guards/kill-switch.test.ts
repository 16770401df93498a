import { expect, test } from 'bun:test';
import fc from 'fast-check';
import type { ProxyError } from '../../src/errors.ts';
import {
  covers,
  createHalt,
  createKillSwitch,
  formatScope,
  type Halt,
  type HaltFile,
  type HaltScope,
  parseScope,
  tidyReason,
} from '../../src/guards/kill-switch.ts';

const ALL: HaltScope = { kind: 'all' };
const provider = (name: string): HaltScope => ({ kind: 'provider', name });
const listener = (name: string): HaltScope => ({ kind: 'listener', name });

/** A halt file in memory, whose disk the test can break; `events` are what the switch announced. */
function start(inFile: readonly Halt[] = []) {
  const disk = { halts: inFile, fault: '', isLost: false, updates: 0 };
  /** One a process. */
  function createFile(): HaltFile {
    let seen: unknown;
    return {
      read() {
        if (disk.isLost) {
          seen = undefined;
          return 'lost';
        }
        if (seen === disk.halts) return 'unchanged';
        seen = disk.halts;
        return disk.halts;
      },
      update(change) {
        disk.updates++;
        const code = disk.isLost ? 'ENOENT' : disk.fault;
        if (code !== '') throw Object.assign(new Error('broken'), { code });
        disk.halts = change(disk.halts);
        return disk.halts;
      },
    };
  }
  const clock = { ms: Date.UTC(2026, 0, 31, 12) };
  const events: string[] = [];
  const options = {
    wallNow: () => clock.ms,
    onHalt: (halt: Halt) => events.push(`halt ${formatScope(halt.scope)}`),
    onResume: (halt: Halt) => events.push(`resume ${formatScope(halt.scope)}`),
  };
  const create = () => createKillSwitch({ ...options, file: createFile() });
  const killSwitch = create();
  const scopes = () => killSwitch.halts().map((halt) => formatScope(halt.scope));
  return { disk, clock, events, create, killSwitch, scopes };
}

function isHalted(check: () => void): boolean {
  try {
    check();
    return false;
  } catch (error) {
    expect((error as ProxyError).code).toBe('halted');
    return true;
  }
}

test.each([
  [ALL, 'a', 'x', true],
  [listener('a'), 'a', 'x', true],
  [listener('a'), 'b', 'x', false],
  [provider('x'), 'a', 'x', true],
  [provider('x'), 'a', 'y', false],
  // One name may be a listener's and a provider's.
  [listener('x'), 'a', 'x', false],
  [provider('a'), 'a', 'x', false],
])('%p: listener %s, provider %s: halted %p', (scope, from, to, expected) => {
  const { killSwitch } = start();
  expect(isHalted(() => killSwitch.check(from, to))).toBe(false);
  expect(killSwitch.halt(scope, '')).toEqual({ saved: true });
  expect(isHalted(() => killSwitch.check(from, to))).toBe(expected);
  expect(covers(createHalt(scope, '', 0), from, to)).toBe(expected);
  expect(killSwitch.resume(scope).resumed.map((halt) => halt.scope)).toEqual([scope]);
  expect(isHalted(() => killSwitch.check(from, to))).toBe(false);
});

test.each([
  ['all', ALL],
  ['provider x', provider('x')],
  ['listener a-1', listener('a-1')],
  [`provider ${'x'.repeat(32)}`, provider('x'.repeat(32))],
  [`provider ${'x'.repeat(33)}`, undefined],
  ['provider \t x', provider('x')],
  ['provider', undefined],
  ['provider X', undefined],
  ['provider x y', undefined],
  ['provider x\n', undefined],
  ['All', undefined],
  ['all x', undefined],
  ['', undefined],
])('scope %j', (text, expected) => {
  expect(parseScope(text)).toEqual(expected as HaltScope);
});

test.each([
  ['two\r\nlines', 'two lines'],
  ['\u001b[31mred\u0007', '[31mred'],
  ['right\u202eto left\u2028next', 'right to left next'],
  ['  much \t space  ', 'much space'],
  ['half \ud800 a character', 'half a character'],
  ['Schlüssel läuft aus 🔑', 'Schlüssel läuft aus 🔑'],
  ['x'.repeat(500), 'x'.repeat(200)],
  ['🔑'.repeat(500), '🔑'.repeat(200)],
  ['\u0000', ''],
])('reason %j', (text, expected) => {
  expect(tidyReason(text)).toBe(expected);
});

test('attack: a name that would be a line of its own is refused before anything is halted', () => {
  const { killSwitch, disk, events } = start();
  expect(() => killSwitch.halt(provider('x\nlistener b'), '')).toThrow(RangeError);
  expect([killSwitch.halts(), disk.updates, events]).toEqual([[], 0, []]);
});

test('a halt refuses before it is announced, and is announced before it is saved', () => {
  const order: string[] = [];
  const killSwitch = createKillSwitch({
    file: {
      read: () => 'unchanged',
      update: (change) => {
        order.push('saved');
        return change([]);
      },
    },
    wallNow: () => 0,
    onHalt: () => order.push(isHalted(() => killSwitch.check('a', 'x')) ? 'announced' : 'too early'),
    onResume: () => {},
  });
  killSwitch.halt(ALL, '');
  expect(order).toEqual(['announced', 'saved']);
});

test('repeating a halt replaces its reason, keeps its time, and announces nothing', () => {
  const { killSwitch, clock, events, disk } = start();
  killSwitch.halt(provider('x'), 'first');
  clock.ms += 60_000;
  expect(killSwitch.halt(provider('x'), 'second')).toEqual({ saved: true });
  const expected = [{ scope: provider('x'), reason: 'second', since: '2026-01-31T12:00:00.000Z' }];
  expect([killSwitch.halts(), disk.halts]).toEqual([expected, expected]);
  expect(events).toEqual(['halt provider x']);
});

test('what the file says at start holds before the first poll, which announces it', () => {
  const { killSwitch, events } = start([createHalt(ALL, 'yesterday', 0)]);
  expect(isHalted(() => killSwitch.check('a', 'x'))).toBe(true);
  expect(events).toEqual([]);
  killSwitch.poll();
  killSwitch.poll();
  expect(events).toEqual(['halt all']);
});

test('poll follows the file', () => {
  const { killSwitch, disk, events, scopes } = start();
  disk.halts = [createHalt(provider('x'), '', 0)];
  killSwitch.poll();
  disk.halts = [createHalt(ALL, '', 0)];
  killSwitch.poll();
  disk.halts = [];
  killSwitch.poll();
  expect(scopes()).toEqual([]);
  expect(events).toEqual(['halt provider x', 'halt all', 'resume provider x', 'resume all']);
});

test('`all` and each other halt are resumed on their own; everything together', () => {
  const { killSwitch, scopes, events } = start();
  for (const scope of [ALL, provider('x'), listener('a')]) killSwitch.halt(scope, '');
  expect(killSwitch.resume(ALL)).toMatchObject({ resumed: [{ scope: ALL }], saved: true });
  expect(scopes()).toEqual(['provider x', 'listener a']);
  expect(killSwitch.resume(ALL)).toEqual({ resumed: [], saved: true });
  expect(killSwitch.resume(provider('y'))).toEqual({ resumed: [], saved: true });
  killSwitch.halt(ALL, '');
  expect(killSwitch.resume('everything').resumed).toHaveLength(3);
  expect(scopes()).toEqual([]);
  expect(events.filter((event) => event.startsWith('resume'))).toHaveLength(4);
});

test('halt and resume go by what the file says now, not by the last poll', () => {
  const { killSwitch, disk, scopes, events } = start();
  disk.halts = [createHalt(provider('x'), 'by another', 0)];
  killSwitch.halt(listener('a'), '');
  expect(disk.halts.map((halt) => formatScope(halt.scope))).toEqual(['provider x', 'listener a']);
  expect(scopes()).toEqual(['provider x', 'listener a']);
  disk.halts = [...disk.halts, createHalt(ALL, 'by another', 0)];
  expect(killSwitch.resume('everything').resumed).toHaveLength(3);
  expect([disk.halts, scopes()]).toEqual([[], []]);
  expect(events.length).toBe(6);
});

test('a halt that cannot be saved holds, says so, outlasts polls, and is saved when the disk works again', () => {
  const { killSwitch, disk, create, scopes, events } = start();
  disk.fault = 'ENOSPC';
  expect(killSwitch.halt(ALL, 'leak')).toEqual({ saved: false, code: 'ENOSPC' });
  for (let i = 0; i < 100; i++) killSwitch.poll();
  expect(scopes()).toEqual(['all']);
  // Not with each poll: a sick disk shall not stall what is not halted.
  expect(disk.updates).toBe(6);
  disk.fault = '';
  for (let i = 0; i < 20; i++) killSwitch.poll();
  expect(disk.halts).toMatchObject([{ scope: ALL, reason: 'leak' }]);
  expect(create().halts()).toEqual(killSwitch.halts());
  expect(events).toEqual(['halt all']);
});

test('a new reason that cannot be saved: the halt itself survives, and the reason follows', () => {
  const { killSwitch, disk } = start();
  killSwitch.halt(ALL, 'old');
  disk.fault = 'EIO';
  expect(killSwitch.halt(ALL, 'new')).toEqual({ saved: true, code: 'EIO' });
  expect(killSwitch.halts()).toMatchObject([{ reason: 'new' }]);
  disk.fault = '';
  for (let i = 0; i < 20; i++) killSwitch.poll();
  expect(disk.halts).toMatchObject([{ reason: 'new' }]);
});

test('a resume that cannot be saved does not take place', () => {
  const { killSwitch, disk, events, scopes } = start();
  killSwitch.halt(ALL, '');
  disk.fault = 'EROFS';
  for (const target of [ALL, 'everything'] as const)
    expect(killSwitch.resume(target)).toEqual({ resumed: [], saved: false, code: 'EROFS' });
  expect([scopes(), events]).toEqual([['all'], ['halt all']]);
});

test('with a broken disk, what only memory holds is resumed all the same', () => {
  const { killSwitch, disk, scopes } = start();
  killSwitch.halt(provider('x'), '');
  disk.fault = 'EIO';
  killSwitch.halt(ALL, '');
  expect(killSwitch.resume(ALL)).toMatchObject({ resumed: [{ scope: ALL }], saved: true });
  killSwitch.halt(ALL, '');
  expect(killSwitch.resume('everything')).toMatchObject({
    resumed: [{ scope: ALL }],
    saved: false,
    code: 'EIO',
  });
  expect(scopes()).toEqual(['provider x']);
});

test('a directory that is removed resumes nothing, and what was halted is saved when it is back', () => {
  const { killSwitch, disk, scopes, events } = start([createHalt(provider('x'), 'why', 0)]);
  killSwitch.poll();
  disk.isLost = true;
  for (let i = 0; i < 30; i++) killSwitch.poll();
  expect(scopes()).toEqual(['provider x']);
  disk.isLost = false;
  disk.halts = [];
  for (let i = 0; i < 20; i++) killSwitch.poll();
  expect(disk.halts).toEqual([createHalt(provider('x'), 'why', 0)]);
  expect(events).toEqual(['halt provider x']);
});

test('a directory that is removed does not keep anybody from resuming', () => {
  const { killSwitch, disk, scopes } = start([createHalt(ALL, '', 0)]);
  disk.isLost = true;
  expect(killSwitch.resume('everything')).toMatchObject({
    resumed: [{ scope: ALL }],
    saved: false,
    code: 'ENOENT',
  });
  expect(scopes()).toEqual([]);
  expect(killSwitch.resume('everything')).toEqual({ resumed: [], saved: true });
  // As of a volume that is mounted again: the file counts.
  disk.isLost = false;
  killSwitch.poll();
  expect(scopes()).toEqual(['all']);
});

test('whatever happens: what was halted is halted until it is resumed, and announcements match', () => {
  const scopesOf = fc.constantFrom(ALL, provider('x'), provider('y'), listener('a'));
  const step = fc.oneof(
    fc.record({ do: fc.constant('halt' as const), scope: scopesOf }),
    fc.record({
      do: fc.constant('resume' as const),
      scope: fc.oneof(scopesOf, fc.constant('everything' as const)),
    }),
    fc.record({ do: fc.constant('fault' as const), code: fc.constantFrom('', 'EIO') }),
    fc.record({ do: fc.constant('lose' as const), isLost: fc.boolean() }),
    fc.record({ do: fc.constant('poll' as const) }),
  );
  const check = fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
    const { killSwitch, disk, events, create, scopes } = start();
    const model = new Set<string>();
    for (const each of steps) {
      if (each.do === 'halt') {
        const { saved } = killSwitch.halt(each.scope, '');
        model.add(formatScope(each.scope));
        if (saved && !disk.isLost)
          expect(
            create()
              .halts()
              .map((halt) => formatScope(halt.scope)),
          ).toContain(formatScope(each.scope));
      } else if (each.do === 'resume') {
        for (const halt of killSwitch.resume(each.scope).resumed) model.delete(formatScope(halt.scope));
      } else if (each.do === 'fault') disk.fault = each.code;
      else if (each.do === 'lose') {
        disk.isLost = each.isLost;
        killSwitch.poll();
        if (each.isLost) disk.halts = [];
      } else killSwitch.poll();
      expect(new Set(scopes())).toEqual(model);
    }
    const announced = new Set<string>();
    for (const event of events) {
      const [verb, ...scope] = event.split(' ');
      if (verb === 'halt') announced.add(scope.join(' '));
      else announced.delete(scope.join(' '));
    }
    expect(announced).toEqual(model);
  });
  // Fails with its seed and path, which replay it.
  fc.assert(check, { numRuns: 500 });
});
