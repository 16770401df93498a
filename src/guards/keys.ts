/** Under which key a guard keeps what it knows. Names of listeners and providers hold no space, so no two keys meet. */

export function pairKey(listener: string, provider: string): string {
  return `${listener} ${provider}`;
}

/** The buckets of the rate limiter. */
export const bucketKey = {
  listener: (listener: string) => `listener ${listener}`,
  provider: (provider: string) => `provider ${provider}`,
  pair: (listener: string, provider: string) => `pair ${pairKey(listener, provider)}`,
};
