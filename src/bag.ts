/**
 * A bag of things that come and go with every request, in no order. A `Set` would say the same, at 6 us of CPU for each
 * request (measured): its tables outlive what was in them, and the collector takes that along from one to the next.
 */

/** What can lie in a bag; it keeps its own place there. */
export interface Bagged {
  /** Index in the bag, -1 = in none. Written by the bag alone. */
  slot: number;
}

export interface Bag<T extends Bagged> {
  readonly add: (item: T) => void;
  /** Takes it out; nothing happens if it is not in. */
  readonly remove: (item: T) => void;
  /** What is in it, to look at: collect first what shall be removed. */
  readonly items: readonly T[];
}

export function createBag<T extends Bagged>(): Bag<T> {
  const items: T[] = [];
  return {
    items,
    add(item) {
      item.slot = items.length;
      items.push(item);
    },
    remove(item) {
      const { slot } = item;
      if (slot === -1) return;
      item.slot = -1;
      // The last one takes its place.
      const last = items.pop() as T;
      if (last === item) return;
      items[slot] = last;
      last.slot = slot;
    },
  };
}
