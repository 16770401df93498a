import { expect, test } from 'bun:test';
import fc from 'fast-check';
import { ProxyError } from '../../src/errors.ts';
import { createCircuitBreaker, type Trial, type Verdict } from '../../src/guards/circuit-breaker.ts';

const LIMIT = { failures: 3, openMs: 30_000, maxOpenMs: 100_000 };

/** A breaker with a clock that the test sets; requests of sandbox `a` to `x`, unless said otherwise. */
function start(limit = LIMIT) {
  const clock = { ms: 1_000 };
  const breaker = createCircuitBreaker(() => clock.ms);
  const enter = (listener = 'a', provider = 'x', streams = false) =>
    breaker.enter(listener, provider, limit, streams);
  /** Retry-After of a refusal by `check` and `enter` alike, or 0. */
  function wait(listener = 'a', provider = 'x'): number {
    try {
      breaker.check(listener, provider);
      return 0;
    } catch (error) {
      expect(error).toBeInstanceOf(ProxyError);
      expect((error as ProxyError).code).toBe('circuit_open');
      expect(() => enter(listener, provider)).toThrow('circuit_open');
      return (error as ProxyError).retryAfter as number;
    }
  }
  const settle = (verdict: Verdict, times = 1, listener = 'a', provider = 'x') => {
    for (let i = 0; i < times; i++) enter(listener, provider).settle(verdict);
  };
  const states = () => Object.fromEntries(breaker.states());
  return { clock, breaker, enter, wait, settle, states };
}

/** Which key each counted verdict opens. */
const COUNTED = [
  ['unreachable', 'x'],
  ['failure', 'a x'],
  ['timeout', 'a x'],
] as const;

test.each(COUNTED)('%s: the third in a row opens `%s`, for the pause', (verdict, key) => {
  const { clock, wait, settle, states } = start();
  settle(verdict, 2);
  expect([wait(), states()]).toEqual([0, {}]);
  settle(verdict);
  expect([wait(), states()]).toEqual([30, { [key]: 'open' }]);
  clock.ms += 29_999;
  expect([wait(), states()]).toEqual([1, { [key]: 'open' }]);
  clock.ms += 1;
  expect([wait(), states()]).toEqual([0, { [key]: 'half_open' }]);
});

test.each(COUNTED)('%s: a success in between begins the count again', (verdict) => {
  const { settle, states } = start();
  for (let i = 0; i < 50; i++) {
    settle(verdict, 2);
    settle('success');
  }
  expect(states()).toEqual({});
});

test('a limit of one failure opens at the first', () => {
  const { wait, settle } = start({ ...LIMIT, failures: 1 });
  settle('failure');
  expect(wait()).toBe(30);
});

test.each([['success'], ['cancelled']] as const)('%s never opens anything', (verdict) => {
  const { settle, states } = start();
  settle(verdict, 1_000);
  expect(states()).toEqual({});
});

test('cancelled requests do not begin the count again: a client cannot keep a circuit closed', () => {
  const { settle, states } = start();
  for (let i = 0; i < 3; i++) {
    settle('cancelled', 5);
    settle('unreachable');
  }
  expect(states()).toEqual({ x: 'open' });
});

test.each([
  ['failure', 1_000],
  ['timeout', 1_000],
] as const)('attack: %s, provoked by one sandbox, opens no circuit of another', (verdict, times) => {
  const { clock, enter, wait, states } = start();
  for (let i = 0; i < times; i++) {
    try {
      enter().settle(verdict);
    } catch {
      clock.ms += 10_000;
    }
  }
  expect(Object.keys(states())).toEqual(['a x']);
  expect([wait('b', 'x'), wait('a', 'y')]).toEqual([0, 0]);
});

test('an unreachable provider is one for all sandboxes; other providers are not concerned', () => {
  const { settle, wait } = start();
  settle('unreachable', 1, 'a');
  settle('unreachable', 1, 'b');
  settle('unreachable', 1, 'c');
  expect([wait('a'), wait('b'), wait('d'), wait('a', 'y')]).toEqual([30, 30, 30, 0]);
});

test('a 5xx shows that the provider can be reached; a timeout shows nothing', () => {
  const reached = start();
  reached.settle('unreachable', 2);
  reached.settle('failure');
  reached.settle('unreachable', 2);
  expect(reached.states()).toEqual({});
  const silent = start();
  silent.settle('unreachable', 2);
  silent.settle('timeout');
  silent.settle('unreachable');
  expect(silent.states()).toEqual({ x: 'open' });
});

test.each([
  ['unreachable', 'b', 'x'],
  ['failure', 'a', 'x'],
] as const)('%s: of 200 at once after the pause, exactly one is the probe', (verdict, listener, provider) => {
  const { clock, enter, wait, settle } = start();
  settle(verdict, 3);
  clock.ms += 30_000;
  const trials: Trial[] = [];
  const refusals: unknown[] = [];
  for (let i = 0; i < 200; i++) {
    try {
      trials.push(enter(listener, provider));
    } catch (error) {
      refusals.push((error as ProxyError).retryAfter);
    }
  }
  expect([trials.length, refusals.length, new Set(refusals)]).toEqual([1, 199, new Set([1])]);
  trials[0]?.settle('success');
  for (let i = 0; i < 200; i++) enter(listener, provider);
  expect(wait(listener, provider)).toBe(0);
});

test('`check` takes no slot', () => {
  const { clock, breaker, enter, settle } = start();
  settle('failure', 3);
  clock.ms += 30_000;
  for (let i = 0; i < 10; i++) breaker.check('a', 'x');
  expect(() => enter()).not.toThrow();
});

test('a cancelled probe frees its slot at once, and changes neither count nor pause', () => {
  const { clock, enter, wait, settle, states } = start();
  settle('failure', 3);
  clock.ms += 30_000;
  for (let i = 0; i < 20; i++) {
    const probe = enter();
    expect(wait()).toBe(1);
    probe.settle('cancelled');
    expect([wait(), states()]).toEqual([0, { 'a x': 'half_open' }]);
  }
  settle('failure');
  expect(wait()).toBe(60);
});

test('attack: a probe whose upload drips on keeps others out for one pause, not for as long as it likes', () => {
  const { clock, enter, wait, settle, states } = start();
  settle('unreachable', 3);
  clock.ms += 30_000;
  const dripping = enter('a', 'x', true);
  clock.ms += 29_999;
  expect([wait('a'), wait('b')]).toEqual([1, 1]);
  clock.ms += 1;
  expect(wait('b')).toBe(0);
  const next = enter('b');
  expect([wait('a'), wait('b')]).toEqual([1, 1]);
  clock.ms += 3_600_000;
  expect(wait('a')).toBe(1);
  // It does not hold the slot any more, so it cannot free it; nor is its failure the probe's.
  dripping.settle('cancelled');
  expect([wait('a'), states()]).toEqual([1, { x: 'half_open' }]);
  next.settle('success');
  expect([wait('a'), states()]).toEqual([0, {}]);
});

test.each([
  ['unreachable', { x: 'half_open' }],
  ['success', {}],
] as const)('a streamed probe in whose place another stands: its %s', (verdict, after) => {
  const { clock, enter, settle, states, wait } = start();
  settle('unreachable', 3);
  clock.ms += 30_000;
  const first = enter('a', 'x', true);
  clock.ms += 30_000;
  const second = enter('b');
  first.settle(verdict);
  expect(states()).toEqual(after);
  if (verdict === 'success') {
    // The second is one of many now: its failure does not open anything by itself.
    second.settle('unreachable');
    expect([wait(), states()]).toEqual([0, {}]);
  } else {
    expect(wait()).toBe(1);
    second.settle('unreachable');
    expect(wait()).toBe(60);
  }
});

test('each failed probe doubles the pause, up to max_open; a success begins anew', () => {
  const { clock, wait, settle, states } = start();
  settle('failure', 3);
  const pauses: number[] = [];
  for (let i = 0; i < 5; i++) {
    pauses.push(wait());
    clock.ms += wait() * 1_000;
    settle('failure');
  }
  expect(pauses).toEqual([30, 60, 100, 100, 100]);
  clock.ms += 100_000;
  settle('success');
  expect([wait(), states()]).toEqual([0, {}]);
  settle('failure', 2);
  expect(wait()).toBe(0);
  settle('failure');
  expect(wait()).toBe(30);
});

test.each([
  ['max_open shorter than open is the pause', { failures: 1, openMs: 30_000, maxOpenMs: 5_000 }, 5],
  ['less than a second is told as one', { failures: 1, openMs: 10, maxOpenMs: 10 }, 1],
  ['a fraction is rounded up', { failures: 1, openMs: 1_001, maxOpenMs: 5_000 }, 2],
])('Retry-After: %s', (_name, limit, expected) => {
  const { wait, settle } = start(limit);
  settle('failure');
  expect(wait()).toBe(expected);
});

test('with both circuits open, Retry-After is the longer wait', () => {
  const { clock, enter, wait, settle } = start();
  const early = [enter(), enter(), enter()];
  settle('unreachable', 3);
  clock.ms += 20_000;
  for (const trial of early) trial.settle('failure');
  expect([wait('a'), wait('b')]).toEqual([30, 10]);
});

test('stragglers from before the opening neither re-open, nor close, nor lengthen the pause', () => {
  for (const late of ['success', 'failure', 'unreachable', 'timeout'] as const) {
    const { clock, enter, wait, settle, states } = start();
    const stragglers = Array.from({ length: 200 }, () => enter());
    settle('failure', 3);
    for (const trial of stragglers.slice(0, 50)) trial.settle(late === 'unreachable' ? 'failure' : late);
    expect([wait(), states()]).toEqual([30, { 'a x': 'open' }]);
    clock.ms += 30_000;
    for (const trial of stragglers.slice(50, 100)) trial.settle(late === 'unreachable' ? 'failure' : late);
    expect([wait(), states()]).toEqual([0, { 'a x': 'half_open' }]);
    const probe = enter();
    for (const trial of stragglers.slice(100, 150)) trial.settle(late === 'unreachable' ? 'failure' : late);
    expect([wait(), states()]).toEqual([1, { 'a x': 'half_open' }]);
    probe.settle('success');
    expect(states()).toEqual({});
    for (const trial of stragglers.slice(150)) trial.settle(late === 'unreachable' ? 'failure' : late);
    expect([wait(), states()]).toEqual([0, {}]);
  }
});

test('stragglers of an unreachable provider, too, say nothing once its circuit was open', () => {
  const { clock, enter, settle, states } = start();
  const stragglers = Array.from({ length: 100 }, (_, i) => enter(`s${i}`));
  settle('unreachable', 3);
  clock.ms += 30_000;
  settle('success');
  for (const trial of stragglers) trial.settle('unreachable');
  expect(states()).toEqual({});
});

test('a provider that is forgotten starts anew, for all sandboxes, and what was under way says nothing', () => {
  const { breaker, enter, settle, states } = start();
  const early = [enter(), enter(), enter()];
  settle('failure', 3);
  settle('failure', 3, 'a', 'y');
  settle('unreachable', 3, 'b');
  expect(states()).toEqual({ x: 'open', 'a x': 'open', 'a y': 'open' });
  breaker.forget('x');
  expect(states()).toEqual({ 'a y': 'open' });
  for (const trial of early) trial.settle('unreachable');
  expect(states()).toEqual({ 'a y': 'open' });
  settle('unreachable', 3);
  expect(states()).toEqual({ x: 'open', 'a y': 'open' });
});

test('what a straggler says of a circuit that did not open still counts', () => {
  const { enter, settle, states } = start();
  const early = [enter('b'), enter('b'), enter('b')];
  settle('unreachable', 3);
  for (const trial of early) trial.settle('failure');
  expect(states()).toEqual({ x: 'open', 'b x': 'open' });
});

test.each([
  ['success', {}, 0],
  ['failure', { 'a x': 'open' }, 60],
  ['timeout', { x: 'half_open', 'a x': 'open' }, 60],
  ['unreachable', { x: 'open', 'a x': 'half_open' }, 60],
  ['cancelled', { x: 'half_open', 'a x': 'half_open' }, 0],
] as const)('one probe for both circuits that ends in %s leaves %p', (verdict, expected, seconds) => {
  const { clock, enter, wait, settle, states } = start();
  const early = [enter(), enter(), enter()];
  settle('unreachable', 3);
  for (const trial of early) trial.settle('failure');
  expect(states()).toEqual({ x: 'open', 'a x': 'open' });
  clock.ms += 30_000;
  const probe = enter();
  expect([wait('a'), wait('b')]).toEqual([1, 1]);
  probe.settle(verdict);
  expect(states()).toEqual(expected);
  expect(wait()).toBe(seconds);
});

test('a request that its own open circuit refuses does not hold the slot of the provider', () => {
  const { clock, enter, wait, settle } = start();
  const early = [enter(), enter(), enter()];
  settle('unreachable', 3);
  clock.ms += 20_000;
  for (const trial of early) trial.settle('failure');
  clock.ms += 10_000;
  expect([wait('a'), wait('b')]).toEqual([20, 0]);
});

test('`settle` counts once', () => {
  const { clock, enter, wait, settle, states } = start();
  const trial = enter();
  for (let i = 0; i < 10; i++) trial.settle('failure');
  expect(states()).toEqual({});
  settle('failure', 2);
  clock.ms += 30_000;
  const first = enter();
  first.settle('cancelled');
  const second = enter();
  first.settle('success');
  expect([wait(), states()]).toEqual([1, { 'a x': 'half_open' }]);
  second.settle('success');
  expect(states()).toEqual({});
});

test('a reload changes the limit of circuits that exist', () => {
  const { clock, breaker } = start();
  const strict = { failures: 2, openMs: 5_000, maxOpenMs: 5_000 };
  for (let i = 0; i < 4; i++) breaker.enter('a', 'x', { ...LIMIT, failures: 100 }).settle('failure');
  breaker.enter('a', 'x', strict).settle('failure');
  expect(Object.fromEntries(breaker.states())).toEqual({ 'a x': 'open' });
  clock.ms += 5_000;
  breaker.enter('a', 'x', { ...LIMIT, maxOpenMs: 7_000 }).settle('failure');
  clock.ms += 6_999;
  expect(() => breaker.check('a', 'x')).toThrow('circuit_open');
  clock.ms += 1;
  expect(() => breaker.check('a', 'x')).not.toThrow();
});

test('whatever happens, a circuit that is not closed has one probe at most, and is never stuck', () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant('enter' as const),
      listener: fc.constantFrom('a', 'b'),
      streams: fc.boolean(),
    }),
    fc.record({
      do: fc.constant('settle' as const),
      which: fc.nat(20),
      verdict: fc.constantFrom<Verdict>('success', 'unreachable', 'failure', 'timeout', 'cancelled'),
    }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.nat(60_000) }),
  );
  const check = fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
    const { clock, breaker, enter, wait } = start({ ...LIMIT, failures: 2 });
    const open: Trial[] = [];
    for (const each of steps) {
      if (each.do === 'wait') clock.ms += each.ms;
      else if (each.do === 'settle') open.splice(each.which % (open.length || 1), 1)[0]?.settle(each.verdict);
      else if (wait(each.listener) === 0) {
        const states = breaker.states();
        open.push(enter(each.listener, 'x', each.streams));
        for (const key of ['x', `${each.listener} x`]) {
          expect(states.get(key)).not.toBe('open');
          if (states.get(key) === 'half_open') expect(wait(each.listener)).toBeGreaterThanOrEqual(1);
        }
      } else expect(wait(each.listener)).toBeLessThanOrEqual(100);
    }
    for (const trial of open) trial.settle('cancelled');
    clock.ms += 100_000;
    for (const listener of ['a', 'b']) {
      expect(wait(listener)).toBe(0);
      enter(listener).settle('success');
    }
    expect(breaker.states().size).toBe(0);
  });
  // Fails with its seed and path, which replay it.
  fc.assert(check, { numRuns: 500 });
});
