import { afterEach, describe, expect, jest, test } from 'bun:test';
import type { ProxyError } from '../../src/errors.ts';
import { createWatchdog, type Watch } from '../../src/proxy/watch.ts';

const LIMITS = {
  firstByteTimeoutMs: 3_000,
  idleTimeoutMs: 2_000,
  totalTimeoutMs: 60_000,
  requestBodyTimeoutMs: 1_000,
  minBodyRate: 1024,
};

/** A watchdog on a clock that the test moves; `expired` holds what it said. */
function start(limits: Partial<typeof LIMITS> = {}) {
  jest.useFakeTimers();
  let time = 0;
  const expired: string[] = [];
  const watchdog = createWatchdog(() => time);
  const watch: Watch = watchdog.watch({ ...LIMITS, ...limits }, (error: ProxyError) => {
    expired.push(`${error.code} ${error.reason}`);
  });
  const pass = (ms: number) => {
    for (const end = time + ms; time < end; ) {
      time += 100;
      jest.advanceTimersByTime(100);
    }
  };
  return { watch, pass, expired, watchdog };
}

afterEach(() => {
  jest.useRealTimers();
});

describe('time limits', () => {
  test('the head of the answer is awaited from the moment the request is sent', () => {
    const { watch, pass, expired } = start();
    watch.upload('client');
    pass(1_500);
    watch.upload('sent');
    pass(2_900);
    expect(expired).toEqual([]);
    pass(100);
    expect(expired).toEqual(['upstream_timeout first_byte_timeout']);
  });

  test('a small body has its own limit, and the client is to blame', () => {
    const { watch, pass, expired } = start();
    watch.upload('small_body');
    pass(1_000);
    expect(expired).toEqual(['request_timeout request_body_timeout']);
  });

  test('an upload that pauses is the client; one that is not taken is the upstream', () => {
    const one = start();
    one.watch.upload('client');
    one.pass(2_000);
    expect(one.expired).toEqual(['request_timeout idle_timeout']);
    const other = start();
    other.watch.upload('upstream');
    other.pass(2_000);
    expect(other.expired).toEqual(['upstream_timeout idle_timeout']);
  });

  test('the minimum rate counts only time that the client took, after ten seconds of it', () => {
    const { watch, pass, expired } = start();
    for (let second = 0; second < 9; second++) {
      watch.upload('client');
      pass(1_000);
      watch.uploaded(100);
      watch.upload('upstream');
      pass(1_900);
    }
    expect(expired).toEqual([]);
    watch.upload('client');
    pass(1_000);
    expect(expired).toEqual(['request_timeout min_body_rate']);
  });

  test('an upload at the minimum rate goes on', () => {
    const { watch, pass, expired } = start();
    for (let second = 0; second < 30; second++) {
      watch.upload('client');
      pass(1_000);
      watch.uploaded(1_200);
    }
    expect(expired).toEqual([]);
  });

  test('an answer that has begun may be quiet while the upload moves, not afterwards', () => {
    const { watch, pass, expired } = start();
    watch.upload('client');
    watch.download('upstream');
    for (let i = 0; i < 5; i++) {
      pass(1_500);
      watch.uploaded(5_000);
      watch.upload('client');
    }
    expect(expired).toEqual([]);
    watch.upload('sent');
    pass(2_000);
    expect(expired).toEqual(['upstream_timeout idle_timeout']);
  });

  test('a client that does not read is to blame for the pause', () => {
    const { watch, pass, expired } = start();
    watch.download('client');
    pass(2_000);
    expect(expired).toEqual(['request_timeout idle_timeout']);
  });

  test('the whole request has an end, however it moves', () => {
    const { watch, pass, expired } = start({ totalTimeoutMs: 5_000 });
    for (let i = 0; i < 49; i++) {
      watch.download('upstream');
      pass(100);
    }
    expect(expired).toEqual([]);
    pass(100);
    expect(expired).toEqual(['upstream_timeout total_timeout']);
  });

  test('an exchange that ended never expires, and one that expired says so once', () => {
    const ended = start();
    ended.watch.stop();
    ended.pass(70_000);
    expect(ended.expired).toEqual([]);
    const once = start();
    once.pass(70_000);
    expect(once.expired).toHaveLength(1);
  });
});
