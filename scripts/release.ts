/**
 * Builds the release: one binary per platform under dist/release, what is in them (isoproxy.cdx.json, CycloneDX), and
 * SHA256SUMS. With --twice, builds
 * everything a second time elsewhere and compares bit for bit.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { compile } from './compile.ts';
import { makeSbom } from './sbom.ts';

/** Platform names of the artifacts, with Bun's name for the target. */
const TARGETS: readonly (readonly [string, string])[] = [
  ['linux-x64', 'bun-linux-x64'],
  ['linux-arm64', 'bun-linux-arm64'],
  ['linux-x64-musl', 'bun-linux-x64-musl'],
  ['linux-arm64-musl', 'bun-linux-arm64-musl'],
  ['darwin-x64', 'bun-darwin-x64'],
  ['darwin-arm64', 'bun-darwin-arm64'],
];

const OUT = 'dist/release';
const SBOM = 'isoproxy.cdx.json';

const first = buildAll(OUT);
writeFileSync(join(OUT, 'SHA256SUMS'), first.map(([name, sum]) => `${sum}  ${name}\n`).join(''));
console.log(readFileSync(join(OUT, 'SHA256SUMS'), 'utf8'));
if (process.argv.includes('--twice')) compareWithSecondBuild(first);

function buildAll(directory: string): [string, string][] {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const binaries = TARGETS.map(([platform, target]): [string, string] => {
    const name = `isoproxy-${platform}`;
    // The name of the outfile is part of the bytes, so every build is made under the same one.
    const built = join(directory, 'isoproxy');
    compile(built, target);
    const path = join(directory, name);
    renameSync(built, path);
    return [name, sumOf(path)];
  });
  const sbom = join(directory, SBOM);
  writeFileSync(sbom, makeSbom());
  return [...binaries, [SBOM, sumOf(sbom)]];
}

function sumOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

function compareWithSecondBuild(expected: readonly [string, string][]): void {
  const second = buildAll('dist/release-second');
  const different = second.filter(([name, sum], i) => expected[i]?.[0] !== name || expected[i]?.[1] !== sum);
  rmSync('dist/release-second', { recursive: true, force: true });
  if (different.length > 0) {
    console.error(`not reproducible: ${different.map(([name]) => name).join(', ')}`);
    process.exit(1);
  }
  console.log(`${second.length} files built twice, equal bit for bit`);
}
