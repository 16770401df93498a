// The room that the log has: who is refused first, and what may be removed.

import { afterEach, expect, test } from 'bun:test';
import { readdirSync, utimesSync } from 'node:fs';
import { segmentName } from '../../src/audit/segments.ts';
import { createSpace } from '../../src/audit/space.ts';
import { createWorkspace, type Workspace } from '../support/workspace.ts';

let workspace: Workspace | undefined;
afterEach(() => workspace?.remove());

const MAX = 100_000;
const DAY = 86_400_000;

function setUp(sizes: Record<number, number> = {}, listeners = 2) {
  workspace = createWorkspace();
  for (const [first, size] of Object.entries(sizes))
    workspace.write(segmentName(Number(first)), new Uint8Array(size));
  let max = MAX;
  const space = createSpace({
    directory: workspace.dir,
    maxBytes: () => max,
    listeners: () => listeners,
    retainMs: () => 10 * DAY,
    wallNow: () => Date.now(),
  });
  return {
    space,
    raise(bytes: number) {
      max = bytes;
    },
    age(first: number, days: number) {
      const then = new Date(Date.now() - days * DAY);
      utimesSync(workspace!.path(segmentName(first)), then, then);
    },
  };
}

test('what was there at the start counts', () => {
  const { space } = setUp({ 1: 30_000, 101: 20_000 });
  expect(space.bytes()).toBe(50_000);
  space.grew(101, 25_000);
  space.grew(201, 5_000);
  expect(space.bytes()).toBe(60_000);
});

test('near its quota the noisiest listener is refused, and only that', () => {
  const { space } = setUp();
  for (let i = 0; i < 10; i++) space.count('loud');
  space.count('quiet');
  space.grew(1, MAX * 0.89);
  expect([space.refuses('loud'), space.refuses('quiet')]).toEqual([false, false]);
  space.grew(1, MAX * 0.9);
  expect([space.refuses('loud'), space.refuses('quiet'), space.refuses('new')]).toEqual([true, false, false]);
  expect(space.isFull()).toBe(false);
});

test('a neighbour that is quiet leaves its room to nobody', () => {
  const { space } = setUp();
  space.count('loud');
  space.grew(1, MAX * 0.92);
  expect(space.refuses('loud')).toBe(true);
});

test('alone, a listener has nobody to leave room for', () => {
  const { space } = setUp({}, 1);
  space.count('only');
  space.grew(1, MAX * 0.92);
  expect(space.refuses('only')).toBe(false);
});

test('at its quota, less the reserve, all are refused, until there is more room', () => {
  const { space, raise } = setUp();
  space.count('loud');
  space.grew(1, MAX - MAX / 16);
  expect([space.isFull(), space.refuses('loud'), space.refuses('quiet')]).toEqual([true, true, true]);
  raise(2 * MAX);
  expect([space.isFull(), space.refuses('loud')]).toEqual([false, false]);
});

test('what a listener did is forgotten in time', () => {
  const { space } = setUp();
  for (let i = 0; i < 1_000; i++) space.count('loud once');
  // An hour of ticks.
  for (let i = 0; i < 360; i++) space.tick();
  for (let i = 0; i < 100; i++) space.count('loud now');
  space.grew(1, MAX * 0.9);
  expect([space.refuses('loud once'), space.refuses('loud now')]).toEqual([false, true]);
});

test('only the oldest segment expires, when its last record is older than is kept; never the last one', () => {
  const { space, age } = setUp({ 1: 10, 101: 10, 201: 10 });
  expect(space.expired()).toBeUndefined();
  age(101, 20);
  expect(space.expired()).toBeUndefined();
  age(1, 20);
  const oldest = space.expired()!;
  expect([oldest.first, space.firstAfter(oldest)]).toEqual([1, 101]);
  space.remove(oldest);
  expect(space.bytes()).toBe(20);
  space.remove(space.expired()!);
  age(201, 20);
  expect(space.expired()).toBeUndefined();
  expect(readdirSync(workspace!.dir)).toEqual([segmentName(201)]);
});
