import { expect, test } from 'bun:test';
import { ProxyError } from '../../src/errors.ts';
import { createConcurrency } from '../../src/guards/concurrency.ts';
import { createIdleConnections } from '../../src/guards/idle-connections.ts';

test('a pair has its own cap, and a place that is given back is free again', () => {
  const { acquire, inFlight } = createConcurrency();
  const first = acquire('a', 'x', 2);
  acquire('a', 'x', 2);
  expect(() => acquire('a', 'x', 2)).toThrow(ProxyError);
  acquire('a', 'y', 2);
  acquire('b', 'x', 2);
  expect(inFlight()).toBe(4);
  first();
  first();
  expect(inFlight()).toBe(3);
  acquire('a', 'x', 2);
  expect(() => acquire('a', 'x', 2)).toThrow('overloaded');
});

test('names that run together are different pairs', () => {
  const { acquire } = createConcurrency();
  acquire('a-b', 'c', 1);
  expect(() => acquire('a', 'b-c', 1)).not.toThrow();
});

/** A count that the test sets, with a limit of 100. */
function start(open: number | undefined, limit: number | undefined = 100) {
  const state = { open, sweeps: 0 };
  const idle = createIdleConnections({ limit, countOpen: () => state.open, sweep: () => state.sweeps++ });
  return { state, idle };
}

test.each([
  [100, 50, false],
  [100, 51, true],
  [undefined, 1_000_000, false],
  [100, undefined, false],
])('of %p descriptors %p open: answers close their connection: %p', (limit, open, expected) => {
  const { idle } = start(open, limit);
  if (limit === undefined) {
    const unknown = createIdleConnections({ limit: undefined, countOpen: () => open, sweep: () => {} });
    unknown.tick();
    expect(unknown.isClosing()).toBe(false);
    return;
  }
  idle.tick();
  expect(idle.isClosing()).toBe(expected);
});

test('idle connections are swept once a minute, and answers close theirs in the second before', () => {
  const { state, idle } = start(0);
  const announced: number[] = [];
  for (let second = 1; second <= 121; second++) {
    idle.tick();
    if (idle.isClosing()) announced.push(second);
  }
  expect(announced).toEqual([60, 120]);
  expect(state.sweeps).toBe(2);
});

test('while descriptors run short, every second is announced and swept', () => {
  const { state, idle } = start(90);
  idle.tick();
  expect([idle.isClosing(), state.sweeps]).toEqual([true, 0]);
  idle.tick();
  expect([idle.isClosing(), state.sweeps]).toEqual([true, 1]);
  state.open = 10;
  idle.tick();
  expect([idle.isClosing(), state.sweeps]).toEqual([false, 2]);
});

test('a burst within one second is noticed at the answer that crosses half, not at the next tick', () => {
  const { state, idle } = start(0);
  idle.tick();
  for (let answers = 0; answers < 200; answers++) {
    const closing = idle.isClosing();
    if (!closing) state.open = (state.open ?? 0) + 1;
  }
  expect(state.open).toBe(51);
});
