// Waiting in tests: on a promise or on a condition, always with a deadline, never for a fixed time.

/**
 * Default deadline in milliseconds. Below `bun test`'s own 5 s on purpose: a test that times out there has every
 * child process killed, those started in `beforeAll` included, so it should fail here first.
 */
export const DEADLINE_MS = Number(process.env['ISOPROXY_TEST_DEADLINE_MS'] ?? 4000);

const POLL_MS = 3;

/** Resolves as `promise` does; throws `deadline: <what>` when that takes longer than `ms`. */
export async function within<T>(what: string, promise: Promise<T>, ms = DEADLINE_MS): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`deadline: ${what} (${ms} ms)`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Polls `probe` until it gives something truthy and returns that; throws `deadline: <what>` after `ms`. */
export async function until<T>(
  what: string | (() => string),
  probe: () => T | Promise<T>,
  ms = DEADLINE_MS,
): Promise<Exclude<T, false | undefined | null | 0 | ''>> {
  const end = performance.now() + ms;
  for (;;) {
    const value = await probe();
    if (value) return value as Exclude<T, false | undefined | null | 0 | ''>;
    if (performance.now() > end) {
      throw new Error(`deadline: ${typeof what === 'string' ? what : what()} (${ms} ms)`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
