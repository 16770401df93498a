/** Under which key a guard keeps what it knows. Names of listeners and providers hold no space, so no two keys meet. */

import type { Bucket, RateLimit } from './rate-limit.ts';

const joined = new Map<string, Map<string, string>>();

/**
 * Two names as one key. Remembered, because a text that is put together anew is hashed anew in each table where it is
 * looked up; the names are those of configurations, and few.
 */
function join(first: string, second: string): string {
  let keys = joined.get(first);
  if (keys === undefined) {
    keys = new Map();
    joined.set(first, keys);
  }
  let key = keys.get(second);
  if (key === undefined) {
    key = `${first} ${second}`;
    keys.set(second, key);
  }
  return key;
}

export const pairKey = join;

/** The circuits that a request passes: its provider's, and that of its pair. */
export function circuitKeys(listener: string, provider: string): readonly [string, string] {
  return [provider, pairKey(listener, provider)];
}

/** Whom a rate limit may be configured for. */
interface Limited {
  readonly name: string;
  readonly rate: RateLimit | undefined;
}

/** The buckets that a request takes from: its listener's, its provider's, that of the two together. */
export function bucketsOf(listener: Limited, provider: Limited, pair: RateLimit | undefined): Bucket[] {
  const buckets: Bucket[] = [];
  if (listener.rate) buckets.push({ key: bucketKey.listener(listener.name), limit: listener.rate });
  if (provider.rate) buckets.push({ key: bucketKey.provider(provider.name), limit: provider.rate });
  if (pair) buckets.push({ key: bucketKey.pair(listener.name, provider.name), limit: pair });
  return buckets;
}

/** The buckets of the rate limiter. */
export const bucketKey = {
  listener: (listener: string) => join('listener', listener),
  provider: (provider: string) => join('provider', provider),
  pair: (listener: string, provider: string) => join('pair', pairKey(listener, provider)),
};
