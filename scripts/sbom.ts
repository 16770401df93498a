/**
 * The software bill of materials of the binary (CycloneDX, by `npm sbom`): what is compiled in, from the lock file, and
 * the runtime that carries it. The same sources give the same bytes: no random serial number, no time of its own.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { sourceDate } from './source-date.ts';

interface Component {
  'bom-ref': string;
  name: string;
  version: string;
  purl: string;
  [key: string]: unknown;
}

/** @throws Error where there is no npm, or it cannot read the lock file */
export function makeSbom(): string {
  const flags = [
    'sbom',
    '--sbom-format',
    'cyclonedx',
    '--omit',
    'dev',
    '--omit',
    'peer',
    '--package-lock-only',
  ];
  const child = spawnSync('npm', flags, { encoding: 'utf8' });
  if (child.status !== 0) throw new Error(`npm sbom failed: ${child.stderr ?? child.error}`);
  const bom = JSON.parse(child.stdout);
  const runtime = bunComponent();
  const components: Component[] = [...bom.components, runtime];
  // A component of npm's own making names the directory, and the time of the run.
  const { name, version } = JSON.parse(readFileSync('package.json', 'utf8'));
  bom.metadata.component = { ...bom.metadata.component, type: 'application', name, version };
  bom.metadata.timestamp = new Date(sourceDate() * 1000).toISOString();
  bom.components = components.sort((a, b) => (a['bom-ref'] < b['bom-ref'] ? -1 : 1));
  const own = bom.dependencies.find(({ ref }: { ref: string }) => ref === bom.metadata.component['bom-ref']);
  own.dependsOn = [...own.dependsOn, runtime['bom-ref']].sort();
  bom.dependencies = [...bom.dependencies, { ref: runtime['bom-ref'], dependsOn: [] }].sort(
    (a: { ref: string }, b: { ref: string }) => (a.ref < b.ref ? -1 : 1),
  );
  bom.serialNumber = serialOf(JSON.stringify({ ...bom, serialNumber: '' }));
  return `${JSON.stringify(bom, null, 2)}\n`;
}

/** Bun is a tool of the build for npm, but its runtime is most of the binary. */
function bunComponent(): Component {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
  const { version, integrity } = lock.packages['node_modules/bun'];
  const hash = Buffer.from(integrity.replace('sha512-', ''), 'base64').toString('hex');
  return {
    'bom-ref': `bun@${version}`,
    type: 'framework',
    name: 'bun',
    version,
    scope: 'required',
    description: 'JavaScript runtime, compiled into the binary; bundles JavaScriptCore, BoringSSL and others',
    purl: `pkg:npm/bun@${version}`,
    externalReferences: [{ type: 'website', url: 'https://bun.sh' }],
    hashes: [{ alg: 'SHA-512', content: hash }],
    licenses: [{ license: { id: 'MIT' } }],
  };
}

/** A UUID that is made of the content (RFC 9562, version 8). */
function serialOf(content: string): string {
  const hex = createHash('sha256').update(content).digest('hex');
  const parts = [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `8${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ];
  return `urn:uuid:${parts.join('-')}`;
}
