/** The architecture as a test: who may name what, which way imports go, how long a file may be. */
import { expect, test } from 'bun:test';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

const ROOT = resolve(import.meta.dir, '..');
const files = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => ({ name: `src/${name}`, text: readFileSync(join(ROOT, 'src', name), 'utf8') }));

/** Source without its comments. */
function code(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '');
}

test.each([
  ['hono is imported in the apps only', /from 'hono/, ['src/app.ts', 'src/control.ts']],
  ['valibot is imported in the schema only', /from 'valibot'/, /^src\/config\/schema[a-z-]*\.ts$/],
  ['smol-toml is imported where the file is parsed only', /from 'smol-toml'/, ['src/config/load.ts']],
  [
    'prom-client is imported in the metrics only',
    /['"]prom-client/,
    ['src/metrics.ts', 'src/prom-client.d.ts'],
  ],
  ['ws is imported in its runtime file only', /['"]real-ws['"]/, ['src/runtime/websocket-client.ts']],
  ['Bun is named in its runtime file only', /\bBun\./, ['src/runtime/bun.ts']],
  ['Deno is named in its runtime file only', /(?<!')\bDeno\./, ['src/runtime/deno.ts']],
  [
    'fetch is called in the runtimes only',
    /(?<![.\w])fetch\(/,
    ['src/runtime/bun.ts', 'src/runtime/deno-fetch.ts'],
  ],
  [
    'a secret is opened where it is injected or guarded against only',
    /\.reveal\(/,
    ['src/credentials/inject.ts', 'src/proxy/reflection-forms.ts'],
  ],
  ['process.exit is called in main.ts only', /process\.exit\(/, ['src/main.ts']],
])('%s', (_name, pattern, allowed) => {
  const found = files.filter((file) => pattern.test(code(file.text))).map((file) => file.name);
  const isAllowed = (name: string) =>
    allowed instanceof RegExp ? allowed.test(name) : (allowed as string[]).includes(name);
  expect(found.filter((name) => !isAllowed(name))).toEqual([]);
  expect(found.length).toBeGreaterThan(0);
});

/** Folders from the bottom up: a file may import from its own row and from those below it. */
const LAYERS: readonly (readonly string[])[] = [
  [
    'src/bag.ts',
    'src/errors.ts',
    'src/start-error.ts',
    'src/version.ts',
    'src/sync-directory.ts',
    'src/system-code.ts',
    'src/credentials',
    'src/proxy',
    'src/guards',
    'src/audit',
  ],
  ['src/config'],
  [
    'src/runtime',
    'src/sandbox',
    'src/log.ts',
    'src/metrics.ts',
    'src/request-sums.ts',
    'src/prom-client.d.ts',
    'src/discovery.ts',
    'src/provider.ts',
    'src/upstream-addresses.ts',
  ],
  [
    'src/answers.ts',
    'src/audit-trail.ts',
    'src/pipeline.ts',
    'src/app.ts',
    'src/listeners.ts',
    'src/listener-set.ts',
    'src/startup.ts',
    'src/generation.ts',
    'src/request-ids.ts',
    'src/totals.ts',
    'src/denied.ts',
    'src/control.ts',
    'src/problems.ts',
    'src/metrics-listener.ts',
    'src/server.ts',
  ],
  ['src/cli'],
  ['src/main.ts'],
];

function layerOf(name: string): number {
  return LAYERS.findIndex((row) => row.some((place) => name === place || name.startsWith(`${place}/`)));
}

function importsOf(file: { name: string; text: string }): string[] {
  return [...file.text.matchAll(/from '(\.[^']+\.ts)'/g)].map((match) =>
    relative(ROOT, resolve(ROOT, dirname(file.name), match[1] as string)),
  );
}

test('every file has a layer', () => {
  expect(files.filter((file) => layerOf(file.name) === -1).map((file) => file.name)).toEqual([]);
});

test('imports go down', () => {
  const upward = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => layerOf(target) > layerOf(file.name))
      .map((target) => `${file.name} imports ${target}`),
  );
  expect(upward).toEqual([]);
});

test('no import cycles', () => {
  const graph = new Map(files.map((file) => [file.name, importsOf(file)]));
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (name: string, path: readonly string[]): void => {
    if (path.includes(name)) {
      cycles.push([...path.slice(path.indexOf(name)), name].join(' -> '));
      return;
    }
    if (done.has(name)) return;
    for (const target of graph.get(name) ?? []) visit(target, [...path, name]);
    done.add(name);
  };
  for (const file of files) visit(file.name, []);
  expect(cycles).toEqual([]);
});

test('no file is over 300 lines, and none is named for nothing', () => {
  expect(files.filter((file) => file.text.split('\n').length > 301).map((file) => file.name)).toEqual([]);
  expect(
    files
      .filter((file) => /(?:^|\/)(?:utils?|helpers?|types|common|misc)\.ts$/.test(file.name))
      .map((file) => file.name),
  ).toEqual([]);
});
