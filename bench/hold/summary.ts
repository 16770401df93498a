/** Many times in four numbers. */
import { quantile } from '../stats.ts';

export interface Summary {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
  readonly worst: number;
}

export function summarise(times: readonly number[]): Summary {
  const sorted = Float64Array.from(times).sort();
  const list = Array.from(sorted);
  return {
    count: list.length,
    p50: quantile(list, 0.5),
    p99: quantile(list, 0.99),
    worst: list.at(-1) ?? Number.NaN,
  };
}
