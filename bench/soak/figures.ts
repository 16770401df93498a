/** What the samples say: is there a trend, and is everything back where it was? */
import type { Sample } from './watch.ts';

/** Part of the requests that is warm-up: code is compiled, and pools and buffers reach their size. */
const WARM_UP = 1 / 3;
/** Requests that a slope is judged by, at least: below, the collector's saw-tooth is all there is to see. */
export const ENOUGH_FOR_SLOPE = 100_000;
const HOURS = 24;

export interface Slope {
  /** MiB for 100,000 requests. */
  readonly perHundredThousand: number;
  /** Half the width of its 95 % interval; neighbouring samples are alike, so it is told too narrow. */
  readonly plusMinus: number;
  /** Requests that it was fitted over. */
  readonly over: number;
}

/** Least squares over what came after the warm-up. */
export function fitRss(samples: readonly Sample[]): Slope {
  const last = samples.at(-1)?.requests ?? 0;
  return fit(
    afterWarmUp(samples).map(({ requests, rss_mib }) => [requests, rss_mib]),
    last,
  );
}

/** The same over the lowest sample of each hour: what is left when the collector has been. */
export function fitFloor(samples: readonly Sample[]): Slope {
  const last = samples.at(-1)?.requests ?? 0;
  const lows = new Map<number, readonly [number, number]>();
  for (const { requests, rss_mib } of afterWarmUp(samples)) {
    const hour = Math.min(HOURS - 1, Math.floor((requests / (last || 1)) * HOURS));
    const low = lows.get(hour);
    if (low === undefined || rss_mib < low[1]) lows.set(hour, [requests, rss_mib]);
  }
  return fit([...lows.values()], last);
}

function afterWarmUp(samples: readonly Sample[]): Sample[] {
  const last = samples.at(-1)?.requests ?? 0;
  return samples.filter(({ requests }) => requests >= last * WARM_UP);
}

function fit(points: readonly (readonly [number, number])[], last: number): Slope {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(points.map(([at]) => at)), mean(points.map(([, value]) => value))];
  const under = points.reduce((sum, [at]) => sum + (at - x) ** 2, 0);
  const slope = points.reduce((sum, [at, value]) => sum + (at - x) * (value - y), 0) / under;
  const rest = points.reduce((sum, [at, value]) => sum + (value - y - slope * (at - x)) ** 2, 0);
  const error = Math.sqrt(rest / Math.max(1, points.length - 2) / under);
  return {
    perHundredThousand: slope * 100_000,
    plusMinus: 1.96 * error * 100_000,
    over: last - (points[0]?.[0] ?? 0),
  };
}
