// The log while it is written: what waits for what, what a failure stops, and what is written anew after it.

import { expect, test } from 'bun:test';
import { createAuditLog } from '../../src/audit/log.ts';
import { GENESIS, readRecord } from '../../src/audit/record.ts';
import { createFaultyFiles, createNoCheckpoints, KEY, linesOf } from '../support/audit-files.ts';

function setUp(options: { isAsync?: boolean; segmentSize?: number } = {}) {
  const files = createFaultyFiles();
  const failures: string[] = [];
  let wall = Date.parse('2026-01-31T12:00:00Z');
  let mono = 1_000;
  const log = createAuditLog({
    files,
    key: KEY,
    bootId: '0badf00d',
    head: { seq: 0, hash: GENESIS },
    segment: undefined,
    isAsync: options.isAsync ?? false,
    stallMs: 50,
    segmentSize: () => options.segmentSize ?? 1_000_000,
    checkpoints: createNoCheckpoints(),
    onGrowth: () => {},
    onFailure: ({ code }) => failures.push(code),
    now: () => mono,
    wallNow: () => wall,
  });
  return {
    log,
    files,
    failures,
    jump(ms: number) {
      wall += ms;
    },
    pass(ms: number) {
      mono += ms;
    },
  };
}

const intent = (id: string) => ({ kind: 'intent' as const, request_id: id });
const settled = async (promise: Promise<unknown>): Promise<string> => {
  const pending = Symbol();
  const first = await Promise.race([
    promise.then(
      () => 'done',
      (error: Error) => error.message,
    ),
    Bun.sleep(20).then(() => pending),
  ]);
  return first === pending ? 'pending' : String(first);
};
/** All records, each checked: in a chain without gaps. */
function chain(files: ReturnType<typeof createFaultyFiles>) {
  let before = { seq: 0, hash: GENESIS };
  return linesOf(files).map((line) => {
    const read = readRecord(line, KEY);
    expect(read?.isRight).toBe(true);
    const { seq, prev, hash } = read!.record;
    expect([seq, prev]).toEqual([before.seq + 1, before.hash]);
    before = { seq, hash };
    return read!.record;
  });
}

test('a commit resolves when its bytes are on disk, and not before', async () => {
  const { log, files } = setUp();
  files.hold();
  const first = log.commit(intent('a'));
  expect(await settled(first)).toBe('pending');
  files.release();
  expect(await settled(first)).toBe('done');
  expect(chain(files).map(({ request_id }) => request_id)).toEqual(['a']);
});

test('those that come during a commit share the next one, in order', async () => {
  const { log, files } = setUp();
  files.hold();
  const first = log.commit(intent('a'));
  await settled(first);
  const others = ['b', 'c', 'd'].map((id) => log.commit(intent(id)));
  log.append({ kind: 'outcome', request_id: 'x' });
  files.release();
  await Promise.all([first, ...others]);
  expect(files.appends()).toBe(2);
  await log.close();
  expect(chain(files).map(({ request_id }) => request_id)).toEqual(['a', 'b', 'c', 'd', 'x']);
});

test('a record that nobody waits for is written soon by itself', async () => {
  const { log, files } = setUp();
  log.append({ kind: 'outcome', request_id: 'x' });
  await Bun.sleep(30);
  expect(chain(files)).toHaveLength(1);
});

test('async: nobody waits, and a burst is one commit', async () => {
  const { log, files } = setUp({ isAsync: true });
  for (let i = 0; i < 100; i++) log.append(intent(String(i)));
  await Bun.sleep(30);
  expect(files.appends()).toBe(0);
  await log.close();
  expect(files.appends()).toBe(1);
  expect(chain(files)).toHaveLength(100);
});

test.each(['EIO', 'ENOSPC', 'removed', 'truncated'])(
  'after %s nothing is committed until it is cleared, then all of it is, once',
  async (code) => {
    const { log, files, failures } = setUp();
    await log.commit(intent('a'));
    files.failNext(code);
    const failed = [log.commit(intent('b')), log.commit(intent('c'))];
    expect(await Promise.all(failed.map(settled))).toEqual(Array(2).fill(`the audit log failed: ${code}`));
    expect(failures).toEqual([code]);
    // Good again, but nobody has said so: what the disk kept is not known.
    const before = files.appends();
    expect(await settled(log.commit(intent('d')))).toBe(`the audit log failed: ${code}`);
    log.append({ kind: 'outcome', request_id: 'a' });
    await Bun.sleep(20);
    expect(files.appends()).toBe(before);
    await log.clear('made room');
    expect(log.failure()).toBeUndefined();
    await log.commit(intent('e'));
    const records = chain(files);
    expect(records.map(({ kind, request_id }) => request_id ?? kind)).toEqual([
      'a',
      'b',
      'c',
      'a',
      'cleared',
      'e',
    ]);
    expect(records[4]).toMatchObject({ reason: 'made room', failure: code });
    expect(files.names()).toHaveLength(2);
  },
);

test('a failure that lasts: clearing says so, and loses nothing', async () => {
  const { log, files } = setUp();
  files.failNext('ENOSPC', 3);
  expect(await settled(log.commit(intent('a')))).toContain('ENOSPC');
  expect(await settled(log.clear('once'))).toContain('ENOSPC');
  expect(await settled(log.clear('twice'))).toContain('ENOSPC');
  await log.clear('thrice');
  expect(chain(files).map(({ kind, reason }) => reason ?? kind)).toEqual([
    'intent',
    'once',
    'twice',
    'thrice',
  ]);
});

test('a disk that does not answer has failed, and cannot be cleared before it does; what it wrote late counts once', async () => {
  const { log, files, failures } = setUp();
  await log.commit(intent('a'));
  files.hold();
  const late = log.commit(intent('b'));
  expect(await late.catch((error: Error) => error.message)).toBe('the audit log failed: stalled');
  expect(failures).toEqual(['stalled']);
  expect(await settled(log.clear('too early'))).toContain('stalled');
  files.release();
  await Bun.sleep(1);
  await log.clear('it answers again');
  expect(chain(files).map(({ kind, request_id }) => request_id ?? kind)).toEqual(['a', 'b', 'cleared']);
});

test('a first segment that failed leaves no second one of its name', async () => {
  const { log, files } = setUp();
  files.failNext('EIO');
  await settled(log.commit(intent('a')));
  await log.clear('mended');
  expect(chain(files)).toHaveLength(2);
  expect(files.names()).toEqual([1]);
});

test('a log that is closed takes nothing more', async () => {
  const { log, files } = setUp();
  await log.commit(intent('a'));
  log.append({ kind: 'stop', lost: 0 });
  const closed = log.close();
  log.append(intent('late'));
  expect(await settled(log.commit(intent('later')))).toBe('the audit log failed: closed');
  expect(await closed).toBe(true);
  await Bun.sleep(20);
  expect(chain(files).map(({ kind }) => kind)).toEqual(['intent', 'stop']);
});

test('segments end at their size, and the chain goes on', async () => {
  const { log, files } = setUp({ segmentSize: 1_000 });
  for (let i = 0; i < 20; i++) await log.commit(intent(String(i)));
  expect(files.names()).toHaveLength(5);
  const records = chain(files);
  expect(records).toHaveLength(20);
});

test('a segment ends after a day', async () => {
  const { log, files, pass } = setUp();
  await log.commit(intent('a'));
  pass(86_400_001);
  await log.commit(intent('b'));
  expect(files.names()).toEqual([1, 2]);
});

test('a wall clock that jumps is in `time` only', async () => {
  const { log, files, jump, pass } = setUp();
  await log.commit(intent('a'));
  jump(-3_600_000);
  pass(5);
  await log.commit(intent('b'));
  const [first, second] = chain(files);
  expect([first!.time, second!.time]).toEqual(['2026-01-31T12:00:00.000Z', '2026-01-31T11:00:00.000Z']);
  expect(second!.mono_us - first!.mono_us).toBe(5_000);
});

test('while it fails, what waits is bounded, and what is lost is counted', async () => {
  const { log, files } = setUp();
  files.failNext('EIO');
  await settled(log.commit(intent('a')));
  for (let i = 0; i < 60_000; i++) log.append({ kind: 'outcome', request_id: String(i) });
  expect(log.lost()).toBeGreaterThan(1_000);
  await log.clear('mended');
  const records = chain(files);
  // Each is there or counted.
  expect(records.length - 2 + log.lost()).toBe(60_000);
});
