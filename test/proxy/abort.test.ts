import { expect, test } from 'bun:test';
import { createAbort, unlessAborted } from '../../src/proxy/abort.ts';

test('what is registered is called once, with the first reason', () => {
  const abort = createAbort();
  const seen: unknown[] = [];
  abort.onAbort(() => seen.push(abort.reason()));
  const leave = abort.onAbort(() => seen.push('left'));
  leave();
  expect(abort.isAborted()).toBe(false);
  abort.abort('first');
  abort.abort('second');
  expect(seen).toEqual(['first']);
  abort.onAbort(() => seen.push('late'));
  expect(seen).toEqual(['first', 'late']);
});

test('what leaves while others are called is not called back a second time, and nobody is passed over', () => {
  const abort = createAbort();
  const seen: string[] = [];
  const leaveA = abort.onAbort(() => {
    seen.push('a');
    leaveA();
  });
  abort.onAbort(() => seen.push('b'));
  abort.onAbort(() => seen.push('c'));
  abort.abort();
  expect(seen).toEqual(['a', 'b', 'c']);
});

test.each(['before', 'after'])('the signal aborts, also when it is asked for %s', (when) => {
  const abort = createAbort();
  if (when === 'before') expect(abort.signal().aborted).toBe(false);
  abort.abort('why');
  expect(abort.signal().aborted).toBe(true);
  expect(abort.signal().reason).toBe('why');
});

test('a wait ends with what it waits for, or with the reason, whichever comes first', async () => {
  const abort = createAbort();
  expect(await unlessAborted(Promise.resolve(1), abort)).toBe(1);
  expect(unlessAborted(Promise.reject('fault'), abort)).rejects.toBe('fault');
  const waiting = unlessAborted(new Promise(() => {}), abort);
  abort.abort('why');
  await expect(waiting).rejects.toBe('why');
  await expect(unlessAborted(new Promise(() => {}), abort)).rejects.toBe('why');
});
