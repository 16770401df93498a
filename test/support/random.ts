// A small seeded source of random numbers (mulberry32): the same seed gives the same numbers everywhere.

export interface Random {
  /** An integer from 0 to `below` - 1. */
  (below: number): number;
  pick<T>(list: readonly T[]): T;
  /** True in about `percent` of 100 calls. */
  chance(percent: number): boolean;
}

export function createRandom(seed: number): Random {
  let state = seed | 0;
  const next = ((below: number) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  }) as Random;
  next.pick = (list) => list[next(list.length)]!;
  next.chance = (percent) => next(100) < percent;
  return next;
}

/** The seed of this run: `FUZZ_SEED`, or another one each time. Print it: it replays the run. */
export const fuzzSeed = (): number => Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31);

/** How often a property is tried: `usual` times, or `FUZZ_SCALE` times as often; with the seed of this run. */
export const propertyRuns = (usual: number): { numRuns: number; seed: number } => ({
  numRuns: usual * Number(process.env['FUZZ_SCALE'] ?? 1),
  seed: fuzzSeed(),
});
