import { expect, test } from 'bun:test';
import { ProxyError } from '../../src/errors.ts';
import { createConcurrency } from '../../src/guards/concurrency.ts';
import { isAboveHalf } from '../../src/guards/descriptors.ts';
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

test.each([
  [100, 50, false],
  [100, 51, true],
  [undefined, 1_000_000, false],
  [100, undefined, false],
])('of %p descriptors %p open: above half is %p', (limit, open, expected) => {
  expect(isAboveHalf(limit, open)).toBe(expected);
});

test('idle connections are swept once a minute, and answers close theirs in the second before', () => {
  let sweeps = 0;
  const idle = createIdleConnections(
    () => false,
    () => sweeps++,
  );
  const seen: [number, boolean][] = [];
  for (let second = 1; second <= 121; second++) {
    idle.tick();
    if (idle.isClosing() || sweeps > seen.length) seen.push([second, idle.isClosing()]);
  }
  expect(seen).toEqual([
    [60, true],
    [120, true],
  ]);
  expect(sweeps).toBe(2);
});

test('while descriptors run short, every second is announced and swept', () => {
  let short = true;
  let sweeps = 0;
  const idle = createIdleConnections(
    () => short,
    () => sweeps++,
  );
  idle.tick();
  expect([idle.isClosing(), sweeps]).toEqual([true, 0]);
  idle.tick();
  expect([idle.isClosing(), sweeps]).toEqual([true, 1]);
  short = false;
  idle.tick();
  expect([idle.isClosing(), sweeps]).toEqual([false, 2]);
  idle.tick();
  expect(sweeps).toBe(2);
});
