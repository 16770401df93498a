// Bodies of a gibibyte pass unchanged through the unix socket and a TLS upstream, in a small and constant memory. Each
// transfer is measured from where the one before it left the proxy; the first 64 MiB, which fill the heap of a fresh
// process, are printed and not judged, but the sum of all is: it must not climb from transfer to transfer.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { createHash, randomBytes } from 'node:crypto';
import { connect } from '../test/support/raw-client.ts';
import {
  describeMemory,
  GIB,
  get,
  type LongSetup,
  type MemoryUse,
  MIB,
  startLong,
  toMib,
  watchMemory,
} from './support/long.ts';

const MAX_GROWTH = 64 * MIB;
const TEST_MS = 180_000;
const CHUNK_OF_MIB = Buffer.from(`${MIB.toString(16)}\r\n`);

/** Most that the process may ever have above its start: the heap settles, it does not follow the bytes. */
const MAX_GROWTH_OF_ALL = 128 * MIB;
const WARM_UP = 64 * MIB;

let long: LongSetup;
let atStart = 0;
let highest = 0;
beforeAll(async () => {
  long = await startLong();
  // The first request loads what every later one uses.
  for (const provider of ['api', 'open'])
    expect((await get(long.proxy.socket(), `/${provider}/v1/x`, () => {})).status).toBe(200);
  atStart = long.proxy.rss();
  const stop = watchMemory(long.proxy);
  const started = performance.now();
  expect(await upload('POST', 'length', WARM_UP)).toMatchObject({ status: 200 });
  report('64 MiB up, the first of the process', WARM_UP, performance.now() - started, stop());
}, 60_000);
afterAll(() => long?.[Symbol.asyncDispose]());

function report(name: string, bytes: number, ms: number, memory: MemoryUse): void {
  highest = Math.max(highest, memory.peak);
  const rate = (bytes / 1e6 / (ms / 1000)).toFixed(0);
  console.log(`transfer: ${name}: ${rate} MB/s (${(ms / 1000).toFixed(1)} s), ${describeMemory(memory)}`);
}

type BodyFraming = 'length' | 'chunked';

/** Sends `bytes` bytes; what was sent, and what the upstream says that it got. */
async function upload(method: string, framing: BodyFraming, bytes: number) {
  const block = randomBytes(MIB);
  const hash = createHash('sha256');
  const header = framing === 'length' ? `Content-Length: ${bytes}` : 'Transfer-Encoding: chunked';
  const piece = framing === 'length' ? block : Buffer.concat([CHUNK_OF_MIB, block, Buffer.from('\r\n')]);
  using client = await connect(long.proxy.socket());
  await client.send(`${method} /api/v1/up HTTP/1.1\r\nHost: localhost\r\n${header}\r\n\r\n`);
  for (let sent = 0; sent < bytes && client.closed === undefined; sent += MIB) {
    hash.update(block);
    await client.send(piece);
  }
  if (framing === 'chunked') await client.send('0\r\n\r\n');
  const answer = await client.response({ ms: TEST_MS });
  return { status: answer.status, received: answer.json(), sent: { bytes, sha256: hash.digest('hex') } };
}

describe('a gibibyte up', () => {
  const cases: [method: string, framing: BodyFraming][] = [
    ['POST', 'length'],
    ['POST', 'chunked'],
    ['PUT', 'length'],
    ['PUT', 'chunked'],
  ];
  test.each(cases)(
    'arrives whole, by %s with its body framed by %s',
    async (method, framing) => {
      const stop = watchMemory(long.proxy);
      const started = performance.now();
      const { status, received, sent } = await upload(method, framing, GIB);
      const ms = performance.now() - started;
      const memory = stop();
      report(`1 GiB up, ${method} ${framing}`, GIB, ms, memory);
      expect([status, received]).toEqual([200, sent]);
      expect(memory.growth).toBeLessThan(MAX_GROWTH);
    },
    TEST_MS,
  );
});

interface Download {
  name: string;
  bytes: number;
  provider: string;
  query: Record<string, string>;
  pace?: () => (bytes: number) => Promise<void> | undefined;
}

/** About 100 MiB a second, and a stop of half a second every 128 MiB. */
function slowReader(): (bytes: number) => Promise<void> | undefined {
  const rate = 100 * MIB;
  let started = performance.now();
  let taken = 0;
  let untilStop = 128 * MIB;
  return (bytes) => {
    taken += bytes;
    untilStop -= bytes;
    if (untilStop <= 0) {
      untilStop = 128 * MIB;
      started += 500;
      return Bun.sleep(500);
    }
    const early = (taken / rate) * 1000 - (performance.now() - started);
    return early > 5 ? Bun.sleep(early) : undefined;
  };
}

const random = (framing: string) => ({ framing, content: 'random' });
const text = { framing: 'length', content: 'text' };
const downloads: Download[] = [
  { name: '1 GiB of random bytes by length', bytes: GIB, provider: 'api', query: random('length') },
  { name: '1 GiB of random bytes in chunks', bytes: GIB, provider: 'api', query: random('chunked') },
  { name: '1 GiB of random bytes, no guard', bytes: GIB, provider: 'open', query: random('length') },
  { name: '1 GiB of text by length', bytes: GIB, provider: 'api', query: text },
  { name: '1 GiB of text, no guard', bytes: GIB, provider: 'open', query: text },
  { name: '1 GiB to a slow reader', bytes: GIB, provider: 'api', query: random('length'), pace: slowReader },
  {
    name: '1 GiB to a slow reader, no guard',
    bytes: GIB,
    provider: 'open',
    query: random('length'),
    pace: slowReader,
  },
  {
    name: '256 MiB from a slow upstream',
    bytes: 256 * MIB,
    provider: 'api',
    query: { ...random('chunked'), block: '65536', delay: '2' },
  },
];

describe('a large body down', () => {
  test.each(downloads.map((download): [string, Download] => [download.name, download]))(
    'arrives whole: %s',
    async (name, { bytes, provider, query, pace }) => {
      const id = `${downloads.findIndex((download) => download.name === name)}`;
      const hash = createHash('sha256');
      let received = 0;
      const stop = watchMemory(long.proxy);
      const started = performance.now();
      const target = `/${provider}/v1/down?${new URLSearchParams({ bytes: String(bytes), id, ...query })}`;
      const answer = await get(
        long.proxy.socket(),
        target,
        (part) => {
          received += part.length;
          hash.update(part);
        },
        pace?.(),
      );
      const ms = performance.now() - started;
      const memory = stop();
      report(`${name}, down`, received, ms, memory);
      expect(answer).toEqual({ status: 200, complete: true, problem: undefined });
      expect({ bytes: received, sha256: hash.digest('hex') }).toEqual((await long.sum(id))!);
      expect(received).toBe(bytes);
      expect(memory.growth).toBeLessThan(MAX_GROWTH);
    },
    TEST_MS,
  );
});

test('every transfer left its record, and nothing was wrong on the wire', async () => {
  const wanted = 1 + 4 + downloads.length;
  const large = () => long.proxy.records().filter(({ path }) => /\/(up|down)$/.test(path));
  await long.proxy.recordCount(wanted + 2);
  expect(large().map(({ status, reason }) => [status, reason])).toEqual(Array(wanted).fill([200, '']));
  const sum = (end: string, field: 'bytes_in' | 'bytes_out') =>
    large().reduce((total, record) => total + (record.path.endsWith(end) ? record[field] : 0), 0);
  expect([sum('/up', 'bytes_in'), sum('/down', 'bytes_in')]).toEqual([4 * GIB + WARM_UP, 0]);
  expect(sum('/down', 'bytes_out')).toBe(7 * GIB + 256 * MIB);
  expect((await long.stats()).problems).toEqual([]);
});

test('memory does not follow the bytes: all transfers together stay within 128 MiB of the start', () => {
  console.log(`transfer: RSS at most ${toMib(highest)}, ${toMib(highest - atStart)} above the start`);
  expect(highest - atStart).toBeLessThan(MAX_GROWTH_OF_ALL);
});
