import { expect, test } from 'bun:test';
import { createConnectionFlood, type Flood } from '../../src/guards/connection-flood.ts';

/** Listeners with so many connections each, and a limit of 100. */
function start(connections: Record<string, number>, limit: number | 'unknown' = 100) {
  const calls: string[] = [];
  const floods: Flood[] = [];
  const inFlight: Record<string, number> = {};
  const state = {
    now: 0,
    connections,
    inFlight,
    canReopen: true,
    upstream: 0,
    canSweep: false,
    counted: 0,
    countingMs: 0,
  };
  const all = Object.keys(connections).map((name) => ({
    config: { name },
    canStayClosed: name !== 'tcp',
    closeIdle() {
      calls.push(`sweep ${name}`);
      if (state.canSweep) state.connections = { ...state.connections, [name]: 0 };
    },
    close: () => void calls.push(`close ${name}`),
    async reopen() {
      if (!state.canReopen) throw new Error('no descriptor left');
      calls.push(`reopen ${name}`);
    },
  }));
  const flood = createConnectionFlood({
    limit: limit === 'unknown' ? undefined : limit,
    countOpen: () => Object.values(state.connections).reduce((sum, count) => sum + count, state.upstream),
    inFlight: () => Object.entries(state.inFlight).map(([listener, count]) => ({ listener, count })),
    listeners: () => all,
    count(listeners) {
      state.counted++;
      state.now += state.countingMs;
      return new Map(listeners.map((listener) => [listener, state.connections[listener.config.name] ?? 0]));
    },
    onFlood: (flooded) => void floods.push(flooded),
    now: () => state.now,
  });
  /** Looks after `ms`; what was called since. */
  const look = async (ms = 100) => {
    state.now += ms;
    flood.look();
    await Promise.resolve();
    return calls.splice(0);
  };
  return { state, floods, look, isExhausted: flood.isExhausted };
}

test('the listener with the most is closed, then closed for long, then forgotten', async () => {
  const { state, floods, look } = start({ a: 70, b: 12 });
  expect(await look()).toEqual(['sweep a', 'close a']);
  expect(floods).toEqual([{ listener: 'a', connections: 70, pause: 1000 }]);
  state.connections = { a: 0, b: 12 };
  expect(await look(999)).toEqual([]);
  expect(await look(1)).toEqual(['reopen a']);
  state.connections = { a: 90, b: 12 };
  expect(await look()).toEqual(['close a']);
  expect(floods.at(-1)?.pause).toBe(16_000);
  state.connections = { a: 0, b: 12 };
  expect(await look(15_999)).toEqual([]);
  expect(await look(1)).toEqual(['reopen a']);
  expect(await look(60_001)).toEqual([]);
  state.connections = { a: 90, b: 12 };
  expect(await look()).toEqual(['sweep a', 'close a']);
});

test('a listener whose connections are only idle is swept, once', async () => {
  const { state, floods, look } = start({ a: 90 });
  state.canSweep = true;
  expect(await look()).toEqual(['sweep a']);
  state.connections = { a: 90 };
  expect(await look()).toEqual(['close a']);
  expect(floods).toEqual([{ listener: 'a', connections: 90, pause: 1000 }]);
});

test('nothing happens below three quarters, nor where requests hold the descriptors, nor where nobody has many', async () => {
  expect(await start({ a: 70, b: 4 }).look()).toEqual([]);
  const busy = start({ a: 80, b: 4 });
  busy.state.inFlight = { a: 39 };
  expect(await busy.look()).toEqual([]);
  expect(busy.state.counted).toBe(0);
  const even = start(Object.fromEntries(Array.from({ length: 80 }, (_, i) => [`l${i}`, i < 79 ? 1 : 0])));
  even.state.inFlight = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`l${i}`, 1]));
  expect(await even.look()).toEqual([]);
});

test('requests in flight are not counted against a listener', async () => {
  const { state, look } = start({ a: 45, b: 40 });
  state.inFlight = { a: 20 };
  expect(await look()).toEqual(['sweep b', 'close b']);
});

test('a listener whose address others could take is open again at once', async () => {
  const { floods, look } = start({ tcp: 90 });
  expect(await look()).toEqual(['sweep tcp', 'close tcp', 'reopen tcp']);
  expect(floods[0]?.pause).toBe(0);
});

test('what cannot be reopened yet is tried again', async () => {
  const { state, look } = start({ a: 90 });
  await look();
  state.connections = { a: 0 };
  state.canReopen = false;
  expect(await look(1000)).toEqual([]);
  await Promise.resolve();
  state.canReopen = true;
  expect(await look()).toEqual(['reopen a']);
});

test('more than 2,048 connections without a request are a flood at any limit, and at none', async () => {
  for (const limit of [1_000_000, Number.POSITIVE_INFINITY, 'unknown'] as const) {
    expect(await start({ a: 2048, b: 0 }, limit).look()).toEqual([]);
    expect(await start({ a: 2049, b: 0 }, limit).look()).toEqual(['sweep a', 'close a']);
  }
});

test('1,536 connections without a request are no flood, whoever else has as many, nor are live streams', async () => {
  const even = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`l${i}`, 1536]));
  expect(await start(even, 1_000_000).look()).toEqual([]);
  const streams = start({ a: 2000 + 1500, b: 1500 }, 1_000_000);
  streams.state.inFlight = { a: 2000 };
  streams.state.upstream = 2000;
  expect(await streams.look()).toEqual([]);
  expect(streams.state.counted).toBe(1);
});

test('looking takes a tenth of the time at most', async () => {
  const { state, look } = start({ tcp: 90 });
  state.countingMs = 300;
  await look();
  for (let i = 0; i < 29; i++) await look();
  expect(state.counted).toBe(1);
  await look(200);
  expect(state.counted).toBe(2);
});

test('looking that finds nobody takes a hundredth of the time, but 512 more are looked at at once', async () => {
  const { state, look } = start({ a: 1500, b: 1500 }, 1_000_000);
  state.countingMs = 10;
  for (let i = 0; i < 10; i++) await look();
  expect(state.counted).toBe(1);
  await look();
  expect(state.counted).toBe(2);
  state.connections = { a: 1500, b: 2012 };
  expect(await look()).toEqual([]);
  state.connections = { a: 1500, b: 2013 };
  expect(await look()).toEqual(['sweep b', 'close b']);
});

test('descriptors are exhausted while nearly all are taken, and for a second after', async () => {
  const { state, look, isExhausted } = start({ a: 93 });
  expect(isExhausted()).toBe(false);
  state.connections = { a: 94 };
  expect(isExhausted()).toBe(true);
  state.connections = { a: 0 };
  await look(999);
  expect(isExhausted()).toBe(true);
  await look(1);
  expect(isExhausted()).toBe(false);
  state.connections = { a: 94 };
  await look();
  state.connections = { a: 0 };
  expect(isExhausted()).toBe(true);
});
