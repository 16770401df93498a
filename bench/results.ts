/** What sections hand back: tables for the reader, figures for the goals and charts. */
import type { Figure } from './stats.ts';

export interface Table {
  readonly title: string;
  readonly note?: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Curve {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly points: readonly (readonly [number, number])[];
}

export interface Section {
  readonly tables: readonly Table[];
  /** By names like `per_second/64/nginx`. */
  readonly figures?: Readonly<Record<string, Figure>>;
  readonly curves?: readonly Curve[];
}

export function short(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** The median, with the lowest and highest round. */
export function spread({ median, low, high }: Figure): string {
  return `${short(median)} (${short(low)}–${short(high)})`;
}

/** A row's text, with the number of answers that were not good, if there were any. */
export function withErrors(text: string, results: readonly { readonly errors: number }[]): string {
  const errors = results.reduce((sum, result) => sum + result.errors, 0);
  return errors === 0 ? text : `${text} (${errors} errors)`;
}

/**
 * What a curve shows: how the cost at its end relates to that at its beginning, and to its growth in x. Under 1.5
 * times over the whole range is flat; a growth no faster than x is at most linear.
 */
export function shapeOf(points: Curve['points']): string {
  const [first, last] = [points[0], points.at(-1)];
  if (first === undefined || last === undefined) return 'no points';
  const [inX, inY] = [last[0] / first[0], last[1] / first[1]];
  const grown = `${short(inY)} times from ${first[0].toLocaleString('en')} to ${last[0].toLocaleString('en')}`;
  if (inY < 1.5) return `flat (${grown})`;
  return inY <= inX * 1.2 ? `at most linear (${grown})` : `faster than linear (${grown})`;
}
