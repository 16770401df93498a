/**
 * `make package-check`: builds each package twice and compares the bytes, then unpacks it and runs what it holds.
 * Exit 0 also where a tool is missing ("skipped: …"). 1: a check failed.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { VERSION } from '../src/version.ts';
import { buildPackage } from './package.ts';

const WANTED = [
  'etc/isoproxy/proxy.toml',
  'usr/bin/isoproxy',
  'usr/lib/systemd/system/isoproxy.service',
  'usr/lib/sysusers.d/isoproxy.conf',
  'usr/lib/tmpfiles.d/isoproxy.conf',
  'usr/share/bash-completion/completions/isoproxy',
  'usr/share/doc/isoproxy/proxy.toml.example',
  'usr/share/man/man1/isoproxy.1.gz',
];
const UNPACK: Readonly<Record<string, readonly string[]>> = {
  deb: ['dpkg-deb', '-x', '$FILE', '.'],
  rpm: ['sh', '-c', 'rpm2cpio "$1" | cpio --extract --quiet --make-directories', 'sh', '$FILE'],
};

const out = mkdtempSync(join(tmpdir(), 'isoproxy-package-check-'));
let failures = 0;

function check(what: string, why: string | undefined): void {
  if (why !== undefined) failures += 1;
  console.log(why === undefined ? `ok      ${what}` : `FAILED  ${what}: ${why}`);
}

try {
  for (const [kind, unpack] of Object.entries(UNPACK)) {
    const [first, second] = ['first', 'second'].map((name) => buildPackage(kind, join(out, name)));
    if (typeof first !== 'object' || typeof second !== 'object') {
      console.log(`skipped: ${kind}: ${first}`);
      continue;
    }
    const equal = readFileSync(first.file).equals(readFileSync(second.file));
    check(`${kind}: two builds are equal bit for bit`, equal ? undefined : 'they differ');
    const root = join(out, kind);
    mkdirSync(root);
    const [command = '', ...args] = unpack.map((word) => (word === '$FILE' ? first.file : word));
    const unpacked = spawnSync(command, args, { cwd: root, encoding: 'utf8' });
    check(`${kind}: unpacks`, unpacked.status === 0 ? undefined : (unpacked.stderr ?? `no ${command}`));
    const missing = WANTED.filter(
      (path) => statSync(join(root, path), { throwIfNoEntry: false }) === undefined,
    );
    check(`${kind}: holds what it should`, missing.length === 0 ? undefined : `no ${missing.join(', ')}`);
    const { stdout } = spawnSync(join(root, 'usr/bin/isoproxy'), ['version'], { encoding: 'utf8' });
    check(`${kind}: its binary runs`, stdout === `isoproxy ${VERSION}\n` ? undefined : String(stdout));
  }
} finally {
  rmSync(out, { recursive: true });
}
process.exit(failures === 0 ? 0 : 1);
