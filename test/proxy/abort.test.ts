import { expect, test } from 'bun:test';
import { createAbort, unlessAborted } from '../../src/proxy/abort.ts';
import { translateUpstreamError } from '../../src/proxy/forward.ts';

const why = new Error('why');

test('what is registered is called once, with the first reason', () => {
  const abort = createAbort();
  const seen: unknown[] = [];
  abort.onAbort(() => seen.push(abort.reason()));
  const leave = abort.onAbort(() => seen.push('left'));
  leave();
  expect(abort.isAborted()).toBe(false);
  const first = new Error('first');
  abort.abort(first);
  abort.abort(new Error('second'));
  expect(seen).toEqual([first]);
  abort.onAbort(() => seen.push('late'));
  expect(seen).toEqual([first, 'late']);
});

test('what is taken back while others are called is not called, and nobody else is passed over', () => {
  const abort = createAbort();
  const seen: string[] = [];
  const leaveA = abort.onAbort(() => {
    seen.push('a');
    leaveA();
    leaveC();
  });
  abort.onAbort(() => seen.push('b'));
  const leaveC = abort.onAbort(() => seen.push('c'));
  abort.onAbort(() => seen.push('d'));
  abort.abort();
  expect(seen).toEqual(['a', 'b', 'd']);
});

test('one that throws keeps none of the others from being called, and is not hidden', () => {
  const abort = createAbort();
  const seen: string[] = [];
  abort.onAbort(() => {
    throw new Error('mine');
  });
  abort.onAbort(() => seen.push('other'));
  expect(() => abort.abort()).toThrow('mine');
  expect(seen).toEqual(['other']);
});

test('a client that left is a reason like any other', () => {
  const abort = createAbort();
  abort.abort();
  expect(abort.reason()).toBeInstanceOf(DOMException);
  expect(translateUpstreamError(abort.reason(), abort).code).toBe('upstream_unreachable');
});

test.each(['before', 'after'])('the signal aborts, also when it is asked for %s', (when) => {
  const abort = createAbort();
  if (when === 'before') expect(abort.signal().aborted).toBe(false);
  abort.abort(why);
  expect(abort.signal().aborted).toBe(true);
  expect(abort.signal().reason).toBe(why);
});

test('a wait ends with what it waits for, or with the reason, whichever comes first', async () => {
  const abort = createAbort();
  expect(await unlessAborted(Promise.resolve(1), abort)).toBe(1);
  expect(unlessAborted(Promise.reject('fault'), abort)).rejects.toBe('fault');
  const waiting = unlessAborted(new Promise(() => {}), abort);
  abort.abort(why);
  await expect(waiting).rejects.toBe(why);
  await expect(unlessAborted(new Promise(() => {}), abort)).rejects.toBe(why);
});
