// Where the configuration is looked for, and where it never is.

import { afterAll, expect, test } from 'bun:test';
import { chmodSync, mkdirSync, symlinkSync } from 'node:fs';
import process from 'node:process';
import { ConfigError } from '../../src/config/config-error.ts';
import { loadConfig } from '../../src/config/load.ts';
import { findConfigFile, searchPaths } from '../../src/config/search.ts';
import { createWorkspace } from '../support/workspace.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());

const ALL = () => true;
const NOTHING = () => false;

test.each([
  ['--config first', '/a.toml', { ISOPROXY_CONFIG: '/b.toml', HOME: '/home/u' }, '/a.toml'],
  ["a relative --config is the operator's own word", 'a.toml', {}, 'a.toml'],
  ['then $ISOPROXY_CONFIG', undefined, { ISOPROXY_CONFIG: '/b.toml', HOME: '/home/u' }, '/b.toml'],
  [
    'then $XDG_CONFIG_HOME',
    undefined,
    { XDG_CONFIG_HOME: '/xdg', HOME: '/home/u' },
    '/xdg/isoproxy/proxy.toml',
  ],
  ['then ~/.config', undefined, { HOME: '/home/u' }, '/home/u/.config/isoproxy/proxy.toml'],
  [
    'an empty $ISOPROXY_CONFIG counts as unset',
    undefined,
    { ISOPROXY_CONFIG: '', HOME: '/home/u' },
    '/home/u/.config/isoproxy/proxy.toml',
  ],
  ['then /etc', undefined, {}, '/etc/isoproxy/proxy.toml'],
  [
    'relative XDG values are ignored, as their specification says',
    undefined,
    { XDG_CONFIG_HOME: 'x', HOME: 'y' },
    '/etc/isoproxy/proxy.toml',
  ],
])('%s', (_, given, env, found) => {
  expect(findConfigFile(given, env, ALL)).toBe(found);
});

test('a file further down the list is taken only if those before it do not exist', () => {
  const env = { HOME: '/home/u' };
  expect(findConfigFile(undefined, env, (path) => path.startsWith('/etc'))).toBe('/etc/isoproxy/proxy.toml');
});

test('the working directory is never searched', () => {
  expect(searchPaths({ HOME: '/home/u', PWD: '/work' })).toEqual([
    '/home/u/.config/isoproxy/proxy.toml',
    '/etc/isoproxy/proxy.toml',
  ]);
  expect(() => findConfigFile(undefined, { ISOPROXY_CONFIG: 'proxy.toml' }, ALL)).toThrow('absolute path');
});

test('no file anywhere is an error that says where it looked', () => {
  expect(() => findConfigFile(undefined, { HOME: '/home/u' }, NOTHING)).toThrow(
    'no file found; looked for /home/u/.config/isoproxy/proxy.toml and /etc/isoproxy/proxy.toml',
  );
});

const GOOD = '[providers.api]\nbase_url = "https://api.example"\ncredential = "none"\nendpoints = []\n';
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };

function failure(file: string): string {
  try {
    loadConfig({ file, env: ENV });
  } catch (error) {
    if (error instanceof ConfigError) return error.message.replace(file, 'FILE');
    throw error;
  }
  return 'accepted';
}

test.each([
  [0o600, 'accepted'],
  [0o644, 'accepted'],
  [0o660, 'FILE: is writable by its group or others (mode 0660); chmod go-w it'],
  [0o602, 'FILE: is writable by its group or others (mode 0602); chmod go-w it'],
])('a file of mode %o: %s', (mode, expected) => {
  const file = workspace.write('mode.toml', GOOD);
  chmodSync(file, mode);
  expect(failure(file)).toBe(expected);
});

test('a link is followed, and the file behind it is judged', () => {
  const file = workspace.write('behind.toml', GOOD);
  const link = workspace.path('link.toml');
  symlinkSync(file, link);
  expect(failure(link)).toBe('accepted');
  chmodSync(file, 0o666);
  expect(failure(link)).toBe('FILE: is writable by its group or others (mode 0666); chmod go-w it');
});

test('no file, a directory, a FIFO and a file that is not text are refused', () => {
  mkdirSync(workspace.path('directory'));
  expect(failure(workspace.path('directory'))).toBe('FILE: is not a regular file');
  expect(failure(workspace.path('missing'))).toBe('FILE: does not exist');
  expect(Bun.spawnSync(['mkfifo', '-m', '600', workspace.path('fifo')]).exitCode).toBe(0);
  expect(failure(workspace.path('fifo'))).toBe('FILE: is not a regular file');
  expect(failure(workspace.write('bytes.toml', new Uint8Array([0x61, 0xff, 0xfe])))).toBe(
    'FILE: is not UTF-8 text',
  );
});

test('the configuration knows its file by absolute path', () => {
  const file = workspace.write('here.toml', GOOD);
  const before = process.cwd();
  process.chdir(workspace.dir);
  try {
    expect(loadConfig({ file: 'here.toml', env: ENV }).file).toBe(file);
  } finally {
    process.chdir(before);
  }
});
