// What the unit promises, held against the source; and systemd's own opinion of it, where systemd is installed.

import { describe, expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { EXIT } from '../../src/cli/command.ts';
import { loadConfig } from '../../src/config/load.ts';
import { reviewEnvironment } from '../../src/runtime/environment.ts';

const PACKAGING = resolve(import.meta.dir, '../../packaging');
const read = (name: string) => readFileSync(join(PACKAGING, name), 'utf8');
const unit = read('isoproxy.service');
const values = (key: string) =>
  [...unit.matchAll(new RegExp(`^${key}=(.*)$`, 'gm'))].flatMap((match) => (match[1] as string).split(' '));

describe('the unit', () => {
  test('unsets what steers the runtime, and nothing that isoproxy would keep', () => {
    const names = values('UnsetEnvironment').filter((name) => !name.startsWith('LD_'));
    const { cleaned, refused } = reviewEnvironment(Object.fromEntries(names.map((name) => [name, 'x'])));
    expect(Object.keys(cleaned)).toEqual([]);
    expect(refused).toEqual(expect.arrayContaining(['BUN_OPTIONS', 'BUN_BE_BUN', 'BUN_INSPECT']));
  });

  test('sets what makes the restart of the runtime unnecessary', () => {
    const env = Object.fromEntries(values('Environment').map((text) => text.split('=')));
    expect(reviewEnvironment(env)).toEqual({ refused: [], dropped: [], cleaned: env });
    expect(Object.keys(env)).toEqual(['BUN_CONFIG_MAX_HTTP_REQUESTS']);
  });

  test('does not restart what a restart cannot mend', () => {
    expect(values('RestartPreventExitStatus').map(Number)).toEqual([EXIT.usage, EXIT.config]);
  });

  test('its configuration loads without a warning, and each of its secrets has a line in the unit', () => {
    const directory = mkdtempSync(join(tmpdir(), 'isoproxy-packaging-'));
    try {
      const file = join(directory, 'proxy.toml');
      writeFileSync(file, read('proxy.toml'), { mode: 0o600 });
      const env = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy', HOME: '/' };
      const config = loadConfig({ file, env });
      expect(config.warnings).toEqual([]);
      expect(Number(values('TimeoutStopSec')[0]) * 1000).toBeGreaterThan(config.server.shutdownGraceMs);
      const loaded = values('LoadCredential').map((text) => text.split(':')[0]);
      const named = [...read('proxy.toml').matchAll(/systemd = "([^"]+)"/g)].map((match) => match[1]);
      expect(named.filter((name) => !loaded.includes(name))).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  const hasAnalyze = spawnSync('systemd-analyze', ['--version']).status === 0;
  test.skipIf(!hasAnalyze)('systemd-analyze finds no fault in it, and calls it well confined', () => {
    const directory = mkdtempSync(join(tmpdir(), 'isoproxy-packaging-'));
    try {
      const file = join(directory, 'isoproxy.service');
      // It looks for the programs and the manual page; those of this machine stand in.
      const here = unit
        .replace('/usr/local/bin/isoproxy', process.execPath)
        .replace(/^Documentation=.*\n/m, '');
      writeFileSync(
        file,
        existsSync('/usr/bin/kill') ? here : here.replace('/usr/bin/kill', process.execPath),
      );
      const verify = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' });
      expect([verify.status, verify.stderr]).toEqual([0, '']);
      const security = spawnSync(
        'systemd-analyze',
        ['security', '--offline=true', '--threshold=25', '--no-pager', file],
        { encoding: 'utf8' },
      );
      expect([security.status, security.stdout.split('\n').at(-2)]).toEqual([
        0,
        expect.stringContaining('OK'),
      ]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

test.each(['postinst.sh', 'prerm.sh', 'postrm.sh'])('%s is a script of any sh', (name) => {
  const { status, stderr } = spawnSync('sh', ['-n', join(PACKAGING, name)], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([0, '']);
});

test('the user of the unit is the one that sysusers and tmpfiles make', () => {
  const user = values('User')[0] as string;
  expect(read('isoproxy.sysusers.conf')).toContain(`\nu ${user} `);
  for (const line of read('isoproxy.tmpfiles.conf').match(/^d .*/gm) ?? [])
    expect(line).toContain(` ${user} ${user} `);
});

test('no package strips the binary, which would remove the program', () => {
  expect(readFileSync(join(PACKAGING, '../scripts/package.ts'), 'utf8')).toContain(
    '__os_install_post %{nil}',
  );
  expect(read('isoproxy.rb')).toContain('skip_clean "bin"');
});
