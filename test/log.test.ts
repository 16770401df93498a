import { expect, test } from 'bun:test';
import { createLineSink } from '../src/log.ts';

/** What a sink wrote, and the sink; `writeSome` takes what it is given, as soon as the loop comes round. */
function open(takes: (bytes: Uint8Array) => number = (bytes) => bytes.length) {
  const written: string[] = [];
  const sink = createLineSink(async (bytes) => {
    await Bun.sleep(0);
    const taken = takes(bytes);
    written.push(new TextDecoder().decode(bytes.subarray(0, taken)));
    return taken;
  });
  return { sink, lines: () => written.join('').split('\n').slice(0, -1) };
}

test('a line for each of 10,000 streams that end in the same moment: none is lost', async () => {
  const { sink, lines } = open();
  const sent = Array.from({ length: 10_000 }, (_, n) => `${n} ${'x'.repeat(400)}`);
  for (const line of sent) sink.write(line);
  await sink.flush(5_000);
  expect(lines()).toEqual(sent);
  expect(sink.lost()).toBe(0);
});

test('what is more than may wait is lost, and counted in the order of the lines', async () => {
  const { sink, lines } = open();
  const line = 'x'.repeat(1024 * 1024 - 1);
  for (let n = 0; n < 7; n++) sink.write(line);
  await sink.flush(5_000);
  sink.write('the next');
  await sink.flush(5_000);
  const [count, next] = lines().slice(4);
  expect(lines().slice(0, 4)).toEqual(Array.from({ length: 4 }, () => line));
  expect(JSON.parse(count ?? '')).toMatchObject({ level: 'warn', event: 'log_lines_lost', count: 3 });
  expect(next).toBe('the next');
  expect(lines().length).toBe(6);
  expect(sink.lost()).toBe(3);
});

test('a write that takes a part of the bytes goes on behind it', async () => {
  const { sink, lines } = open((bytes) => Math.min(bytes.length, 7));
  const sent = Array.from({ length: 20 }, (_, n) => `line ${n}`);
  for (const line of sent) sink.write(line);
  await sink.flush(5_000);
  expect(lines()).toEqual(sent);
});
