import { expect, test } from 'bun:test';
import { createBag } from '../src/bag.ts';

test('holds what was added and not removed, whatever the order', () => {
  const bag = createBag<{ slot: number; name: string }>();
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => ({ name, slot: -1 }));
  if (!a || !b || !c || !d) throw new Error('four');
  const names = () => bag.items.map(({ name }) => name).sort();
  for (const item of [a, b, c, d]) bag.add(item);
  bag.remove(b);
  expect(names()).toEqual(['a', 'c', 'd']);
  bag.remove(d);
  bag.remove(a);
  expect(names()).toEqual(['c']);
  bag.remove(a);
  expect(names()).toEqual(['c']);
  bag.add(a);
  bag.remove(c);
  bag.remove(a);
  expect(names()).toEqual([]);
});
