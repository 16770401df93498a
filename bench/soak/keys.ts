/** What the soak's ends say to each other. */

/** The upstream names the generation of the credential that it was shown; never the credential. */
export const KEY_HEADER = 'x-soak-generation';
export const FIRST_EVENT = 'data: {"n":0}\n\n';

/** Each generation has a key of its own, of the length of a real one. */
export function makeKey(generation: number): string {
  return `soak-key-${generation}-${crypto.randomUUID()}${crypto.randomUUID()}`;
}

export function readKey(text: string | null): number | undefined {
  const digits = /^soak-key-(\d+)-/.exec(text ?? '')?.[1];
  return digits === undefined ? undefined : Number(digits);
}
