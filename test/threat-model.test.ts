/** docs/threat-model.md is true as far as a machine can tell: every test that it names exists, and no attack is left out. */
import { expect, test } from 'bun:test';
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';

const ROOT = resolve(import.meta.dir, '..');
const read = (name: string) => readFileSync(resolve(ROOT, name), 'utf8');
const text = read('docs/threat-model.md');

/** `file`: "name", "name"; … */
const named = [...text.matchAll(/`(test[^`]*\.test\.ts)`: ((?:"[^"]+"(?:, )?)+)/g)].flatMap(
  ([, file, names]) =>
    [...(names as string).matchAll(/"([^"]+)"/g)].map(([, name]) => [file, name] as [string, string]),
);

test.each(named)('%s has a test named "%s"', (file, name) => {
  expect(existsSync(resolve(ROOT, file))).toBe(true);
  // A name is a string of the source; where it is made of a table, its template or its row stands there.
  const strings = [
    ...read(file).matchAll(/'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`|"((?:[^"\\\n]|\\.)*)"/g),
  ];
  const found = strings.some(([, a, b, c]) => (a ?? b ?? c ?? '').includes(name));
  expect([name, found]).toEqual([name, true]);
});

test('every promise names a test, and there are as many as lines', () => {
  const promises = text
    .split('\n')
    .filter((line) => line.startsWith('| ') && !/^\| (?:promise|---)/.test(line));
  expect(promises.filter((line) => !/`test[^`]*\.test\.ts`: "/.test(line))).toEqual([]);
  expect(promises.length).toBeGreaterThan(25);
  expect(named.length).toBeGreaterThan(promises.length);
});

test.each([
  ['P', 17],
  ['S', 14],
  ['H', 9],
  ['C', 12],
  ['D', 10],
  ['F', 5],
] as const)('the attacks %s1 to %s%i are all answered', (letter, last) => {
  const covered = new Set<number>();
  for (const [, start, end] of text.matchAll(new RegExp(`\\b${letter}(\\d+)(?: to ${letter}(\\d+))?`, 'g')))
    for (let i = Number(start); i <= Number(end ?? start); i++) covered.add(i);
  const missing = Array.from({ length: last }, (_, i) => i + 1).filter((i) => !covered.has(i));
  expect(missing).toEqual([]);
});

test('SECURITY.md and the README lead to it', () => {
  expect(read('SECURITY.md')).toContain('docs/threat-model.md');
  expect(read('README.md')).toContain('docs/threat-model.md');
});
