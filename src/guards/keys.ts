/** Under which key a guard keeps what it knows. Names of listeners and providers hold no space, so no two keys meet. */

import type { Bucket, RateLimit } from './rate-limit.ts';

export function pairKey(listener: string, provider: string): string {
  return `${listener} ${provider}`;
}

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
  listener: (listener: string) => `listener ${listener}`,
  provider: (provider: string) => `provider ${provider}`,
  pair: (listener: string, provider: string) => `pair ${pairKey(listener, provider)}`,
};
