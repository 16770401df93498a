/** Sizes and durations with their unit. A bare number is refused: nobody remembers which unit was meant. */
import { ValueError } from './config-error.ts';

const SIZES: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
};

const DURATIONS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/**
 * `"32MiB"` → bytes. Units: B, KiB, MiB, GiB, TiB; whole numbers only.
 * @throws ValueError for anything else; 0 is refused, because it never means unlimited.
 */
export function parseSize(text: string): number {
  return parseUnit(
    text,
    SIZES,
    'a size is a whole number and its unit (B, KiB, MiB, GiB, TiB), like "32MiB"',
  );
}

/**
 * `"90s"` → milliseconds. Units: ms, s, m, h, d; whole numbers only.
 * @throws ValueError for anything else; 0 is refused, because it never means unlimited.
 */
export function parseDuration(text: string): number {
  return parseUnit(text, DURATIONS, 'a duration is a whole number and its unit (ms, s, m, h, d), like "90s"');
}

function parseUnit(text: string, units: Readonly<Record<string, number>>, form: string): number {
  const parts = /^([0-9]{1,15})([A-Za-z]*)$/.exec(text);
  const unit = units[parts?.[2] ?? ''];
  if (parts === null || unit === undefined) throw new ValueError(form);
  const value = Number(parts[1]) * unit;
  if (value === 0)
    throw new ValueError(
      '0 is refused, it does not mean unlimited; name the largest value you can live with',
    );
  if (!Number.isSafeInteger(value)) throw new ValueError(`too large; ${form}`);
  return value;
}

/** Bytes as the largest unit that divides them: the inverse of parseSize. */
export function formatSize(bytes: number): string {
  return formatUnit(bytes, SIZES);
}

/** Milliseconds as the largest unit that divides them: the inverse of parseDuration. */
export function formatDuration(ms: number): string {
  return formatUnit(ms, DURATIONS);
}

function formatUnit(value: number, units: Readonly<Record<string, number>>): string {
  const [name, unit] = Object.entries(units)
    .filter(([, size]) => value % size === 0)
    .at(-1) as [string, number];
  return `${value / unit}${name}`;
}
