// `isoproxy init`: what it prints is accepted as it is, on a machine that has none of the secrets.

import { afterAll, expect, test } from 'bun:test';
import { findHome, headText } from '../../src/cli/config-text.ts';
import { loadConfig } from '../../src/config/load.ts';
import { PRESETS } from '../../src/config/presets.ts';
import { createWorkspace } from '../support/workspace.ts';
import { runCommand } from './command-io.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { HOME: '/home/u', XDG_RUNTIME_DIR: '/run/user/1000' };
const load = (toml: string) => loadConfig({ file: workspace.write('proxy.toml', toml), env: ENV });

test('without arguments it lists the presets', async () => {
  const { code, out } = await runCommand(['init']);
  expect(code).toBe(0);
  for (const name of Object.keys(PRESETS)) expect(out).toContain(`  ${name}`);
});

test.each(Object.keys(PRESETS))('init %s is accepted without a warning', async (name) => {
  const { code, out, err } = await runCommand(['init', name], ENV);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const config = load(out);
  expect(config.warnings).toEqual([]);
  expect(config.listeners[0]?.providers).toEqual([name]);
  expect(config.providers.get(name)?.credentials[0]?.source.kind).toBe('file');
});

test.each(Object.keys(PRESETS))("the commented endpoints of %s are the preset's own", async (name) => {
  const { out } = await runCommand(['init', name], ENV);
  const uncommented = out.replace(/^# (?=endpoints = \[$|\s*\{|\s+"|\s+\]|\]$)/gm, '');
  const written = load(uncommented)
    .providers.get(name)
    ?.rules.rules.map((rule) => rule.name);
  expect(written).toEqual(
    load(out)
      .providers.get(name)
      ?.rules.rules.map((rule) => rule.name),
  );
  expect(uncommented).not.toBe(out);
});

test("several presets and an API of one's own in one file", async () => {
  const { out } = await runCommand(
    ['init', 'anthropic', 'github', '--custom', 'mine', '--base-url', 'https://API.example/v1/'],
    ENV,
  );
  const config = load(out);
  expect([...config.providers.keys()]).toEqual(['anthropic', 'github', 'mine']);
  const mine = config.providers.get('mine');
  expect(mine).toMatchObject({ origin: 'https://api.example', basePath: '/v1' });
  expect(mine?.rules.rules).toEqual([]);
  expect(config.warnings).toHaveLength(1);
});

test('root keeps its files in /etc, others in their home', () => {
  expect(findHome({}, true)).toEqual({ directory: '/etc/isoproxy', runtimeDir: undefined });
  expect(findHome(ENV, false)).toEqual({ directory: '/home/u/.config/isoproxy', runtimeDir: undefined });
  expect(findHome({ ...ENV, XDG_CONFIG_HOME: '/x' }, false).directory).toBe('/x/isoproxy');
});

test('where nothing names a runtime directory, the file does', () => {
  const home = findHome({ HOME: '/home/u' }, false);
  const text = headText(home, 'Test.', ['api']);
  expect(text).toContain('[server]\nruntime_dir = "/home/u/.isoproxy"\n');
});

test.each([
  [['init', 'antropic'], 'did you mean "anthropic"?'],
  [['init', 'nothing-like-it'], 'presets: anthropic'],
  [['init', '--custom', 'mine'], 'belong together'],
  [['init', '--base-url', 'https://api.example'], 'belong together'],
  [['init', '--custom', 'Mine', '--base-url', 'https://api.example'], 'a name is'],
  [['init', '--custom', 'mine', '--base-url', 'http://api.example'], 'in the clear'],
  [['init', '--custom', 'mine', '--base-url', 'https://10.0.0.1'], 'private'],
  [['init', 'openai', '--custom', 'openai', '--base-url', 'https://api.example'], 'has the name of a preset'],
])('usage: %p', async (args, text) => {
  const { code, out, err } = await runCommand(args, ENV);
  expect({ code, out }).toEqual({ code: 64, out: '' });
  expect(err).toContain(text);
});
