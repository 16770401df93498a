/** What is taken from others: pinned exactly, verified by hash, under a licence that is named, and on one short list. */
import { describe, expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import process from 'node:process';

const ROOT = resolve(import.meta.dir, '..');
const read = (name: string) => readFileSync(resolve(ROOT, name), 'utf8');
const manifest: Record<'dependencies' | 'devDependencies', Record<string, string>> = JSON.parse(
  read('package.json'),
);
interface Locked {
  version: string;
  resolved?: string;
  integrity: string;
  license: string;
  hasInstallScript?: boolean;
  dev?: boolean;
  devOptional?: boolean;
  optional?: boolean;
}
const lock: { packages: Record<string, Locked> } = JSON.parse(read('package-lock.json'));
const packages = Object.entries(lock.packages).filter(([path]) => path !== '');
const direct = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies });

test('every dependency is pinned to one exact version', () => {
  const loose = direct.filter(([, version]) => !/^(?:npm:@?[a-z/]+@)?\d+\.\d+\.\d+$/.test(version));
  expect(loose).toEqual([]);
  expect(direct.length).toBeGreaterThan(5);
});

test('the lock file says the same, and has the hash of everything, from one registry', () => {
  const stated = direct.map(([name, version]) => [name, version.replace(/^npm:.*@/, '')]);
  expect(stated.map(([name]) => [name, lock.packages[`node_modules/${name}`]?.version])).toEqual(stated);
  const unverified = packages.filter(
    ([, { resolved, integrity }]) =>
      // No place is named: it is the registry that npm is told to use, and the hash is what counts.
      resolved !== undefined || !/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity),
  );
  expect(unverified.map(([path]) => path)).toEqual([]);
});

test('the lock file holds the builds for every platform, so that it installs everywhere', () => {
  const builds = (scope: string) =>
    packages.filter(([path]) => path.startsWith(`node_modules/${scope}/`)).length;
  expect([builds('@oven'), builds('@biomejs'), builds('@deno')]).toEqual([12, 9, 6]);
});

test('no install script is run, and CI installs from the lock file alone', () => {
  expect(read('Makefile')).toMatch(/npm ci --ignore-scripts/);
  expect(read('Makefile')).toMatch(/bun install --frozen-lockfile --ignore-scripts/);
  expect(read('.ci/run')).toMatch(/^make test\b/m);
  // What would want one is a tool that is called by the path of its binary.
  const wanting = packages.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path);
  expect(wanting.filter((path) => !/^node_modules\/(?:bun|deno)$/.test(path))).toEqual([]);
});

describe('docs/dependencies.md', () => {
  const rows = [...read('docs/dependencies.md').matchAll(/^\| (.*?`.*?) \| (.*?) \| .+ \|$/gm)];
  const listed = (name: string) => rows.find(([, names]) => names?.includes(`\`${name}\``));

  test.each(direct.map(([name]) => name))('lists %s with its licence', (name) => {
    const row = listed(name);
    expect([name, row !== undefined]).toEqual([name, true]);
    const licence = lock.packages[`node_modules/${name}`]?.license ?? '';
    expect(row?.[2]?.toLowerCase()).toContain(licence.toLowerCase());
  });

  test('names every licence that comes along, and each is a permissive one', () => {
    const licences = [...new Set(packages.map(([, { license }]) => license))].sort();
    expect(licences).toEqual(['0BSD', 'Apache-2.0', 'BSD-3-Clause', 'MIT', 'MIT OR Apache-2.0', 'Unlicense']);
    for (const licence of ['0BSD', 'Unlicense']) expect(read('docs/dependencies.md')).toContain(licence);
  });

  test('in the binary is what is listed as such, and what the packages named there bring', () => {
    const shipped = packages
      .filter(([, { dev, devOptional, optional }]) => !dev && !devOptional && !optional)
      .map(([path]) => path.replace('node_modules/', ''));
    expect(shipped.sort()).toEqual(
      [
        '@opentelemetry/api',
        'bintrees',
        'hono',
        'prom-client',
        'real-ws',
        'smol-toml',
        'tdigest',
        'valibot',
      ].sort(),
    );
  });
});

const hasNpm = spawnSync('npm', ['--version']).status === 0;
describe.skipIf(!hasNpm)(`the bill of materials${hasNpm ? '' : ' (skipped: no npm)'}`, () => {
  const make = () => {
    const script = "import { makeSbom } from './scripts/sbom.ts'; process.stdout.write(makeSbom());";
    const child = spawnSync(process.execPath, ['-e', script], { cwd: ROOT, encoding: 'utf8' });
    expect(child.stderr).toBe('');
    return child.stdout;
  };

  test('is CycloneDX, the same each time, and holds what is in the binary with its hash', () => {
    const text = make();
    expect(make()).toBe(text);
    const bom = JSON.parse(text);
    expect([bom.bomFormat, bom.metadata.component.name]).toEqual(['CycloneDX', 'isoproxy']);
    expect(bom.serialNumber).toMatch(
      /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    const names = bom.components.map(({ name }: { name: string }) => name);
    expect(names).toEqual(expect.arrayContaining(['hono', 'valibot', 'smol-toml', 'prom-client', 'bun']));
    expect(names).not.toContain('typescript');
    for (const { hashes, purl, licenses } of bom.components)
      expect([purl, hashes?.[0]?.alg, licenses.length]).toEqual([
        expect.stringMatching(/^pkg:npm\//),
        'SHA-512',
        1,
      ]);
  });
});
