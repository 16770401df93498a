/** Value schemas that the tables share. Every message is ours: valibot's own quote the value. */
import * as v from 'valibot';
import { ValueError } from './config-error.ts';
import { formatDuration, formatSize, parseDuration, parseSize } from './units.ts';

/** A string that `read` turns into what the program works with, or refuses with a ValueError. */
export function text<T>(read: (text: string) => T) {
  return v.pipe(
    v.string(),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      try {
        return read(dataset.value);
      } catch (error) {
        if (!(error instanceof ValueError)) throw error;
        addIssue({ message: error.message });
        return NEVER;
      }
    }),
  );
}

/** One of these words. */
export function word<const T extends readonly string[]>(words: T) {
  return text((value): T[number] => {
    if (words.includes(value)) return value;
    throw new ValueError(`must be ${words.map((each) => `"${each}"`).join(' or ')}`);
  });
}

/** A list without repeats. `what` completes "an empty list …"; without it, an empty list is fine. */
export function list<T>(item: v.GenericSchema<unknown, T>, empty?: string) {
  return v.pipe(
    v.array(item),
    v.check((items) => empty === undefined || items.length > 0, `an empty list ${empty}`),
    v.check((items) => new Set(items).size === items.length, 'the list holds an entry twice'),
  );
}

/** A size with its unit, in bytes. */
export function size(min: number, max: number) {
  return measure(
    parseSize,
    formatSize,
    'a size needs its unit, like "32MiB"; bare numbers are refused',
    min,
    max,
  );
}

/** A duration with its unit, in ms. */
export function duration(min: number, max: number) {
  return measure(
    parseDuration,
    formatDuration,
    'a duration needs its unit, like "90s"; bare numbers are refused',
    min,
    max,
  );
}

function measure(
  read: (text: string) => number,
  format: (value: number) => string,
  bare: string,
  min: number,
  max: number,
) {
  return v.pipe(
    v.unknown(),
    v.rawTransform<unknown, number>(({ dataset, addIssue, NEVER }) => {
      const refuse = (message: string) => {
        addIssue({ message });
        return NEVER;
      };
      if (typeof dataset.value !== 'string') return refuse(bare);
      try {
        const value = read(dataset.value);
        return value < min || value > max ? refuse(`must be ${format(min)} to ${format(max)}`) : value;
      } catch (error) {
        if (!(error instanceof ValueError)) throw error;
        return refuse(error.message);
      }
    }),
  );
}

/** A whole number in a range; 0 is below every range, because it never means unlimited. */
export function count(max: number) {
  return v.pipe(
    v.number(),
    v.check(
      (value) => Number.isInteger(value) && value >= 1 && value <= max,
      `must be a whole number, 1 to ${max}`,
    ),
  );
}
