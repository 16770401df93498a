import { expect, test } from 'bun:test';
import { ProxyError } from '../../src/errors.ts';
import { createConcurrency } from '../../src/guards/concurrency.ts';
import { createDescriptorGauge } from '../../src/guards/descriptors.ts';

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
  const gauge = createDescriptorGauge(limit, () => open);
  expect(gauge.isAboveHalf()).toBe(false);
  gauge.measure();
  expect(gauge.isAboveHalf()).toBe(expected);
});
