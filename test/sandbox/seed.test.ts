/** What `run` writes for a client's first start, and above all what it leaves alone. */
import { afterEach, expect, test } from 'bun:test';
import { chmodSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { type Seeded, seedClient } from '../../src/sandbox/seed.ts';
import { asNobody, BUN } from '../support/client-side.ts';
import { PROJECT_DIR } from '../support/process.ts';
import { createWorkspace, type Workspace } from '../support/workspace.ts';

const KEY = 'sk-ant-api03-isoproxy-placeholder-not-a-real-key';
const SUFFIX = KEY.slice(-20);
const TOKEN = 'sk-ant-oat01-isoproxy-placeholder-not-a-real-key';
const BY_KEY = { ANTHROPIC_API_KEY: KEY };
const BY_TOKEN = { CLAUDE_CODE_OAUTH_TOKEN: TOKEN };
const APPROVED = { customApiKeyResponses: { approved: [SUFFIX] } };
const STATE = '.claude.json';

let workspace: Workspace | undefined;
afterEach(() => {
  workspace?.remove();
  workspace = undefined;
});

type Environment = Record<string, string>;

/** Seeds a HOME that has these files; `HOME/` in a value of the environment stands for it. */
function seedIn(
  files: Record<string, unknown>,
  env: Environment,
  command = 'claude',
): { result: Seeded; read: () => Record<string, unknown>; home: string } {
  workspace = createWorkspace();
  const home = workspace.dir;
  for (const [name, content] of Object.entries(files))
    workspace.write(name, typeof content === 'string' ? content : JSON.stringify(content));
  const filled = Object.entries(env).map(([name, value]) => [name, value.replace('HOME/', `${home}/`)]);
  const result = seedClient(command, { HOME: home, ...Object.fromEntries(filled) });
  const read = () =>
    Object.fromEntries(
      Object.entries((workspace as Workspace).files()).map(([name, bytes]) => {
        const text = bytes.toString();
        return [name, text.startsWith('{') && text.trim().endsWith('}') ? JSON.parse(text) : text];
      }),
    );
  return { result, read, home };
}

test.each<[string, Record<string, unknown>, Environment, Record<string, unknown>]>([
  ['no file', {}, BY_KEY, { [STATE]: APPROVED }],
  [
    'a file without the fields keeps what it has',
    { [STATE]: { theme: 'dark', projects: { '/work': { hasTrustDialogAccepted: true } } } },
    BY_KEY,
    { [STATE]: { theme: 'dark', projects: { '/work': { hasTrustDialogAccepted: true } }, ...APPROVED } },
  ],
  [
    'other answers about keys stay',
    { [STATE]: { customApiKeyResponses: { approved: ['other-key'], rejected: ['bad-key'], more: 1 } } },
    BY_KEY,
    {
      [STATE]: {
        customApiKeyResponses: { approved: ['other-key', SUFFIX], rejected: ['bad-key'], more: 1 },
      },
    },
  ],
  [
    'a rejection of another key does not matter',
    { [STATE]: { customApiKeyResponses: { rejected: ['bad-key'] } } },
    BY_KEY,
    { [STATE]: { customApiKeyResponses: { rejected: ['bad-key'], approved: [SUFFIX] } } },
  ],
  ['no onboarding is claimed where there is a key', { [STATE]: {} }, BY_KEY, { [STATE]: APPROVED }],
  ['a token alone: the onboarding', {}, BY_TOKEN, { [STATE]: { hasCompletedOnboarding: true } }],
  [
    'a token alone keeps what the file has',
    { [STATE]: { theme: 'dark', hasCompletedOnboarding: false } },
    BY_TOKEN,
    { [STATE]: { theme: 'dark', hasCompletedOnboarding: true } },
  ],
  ['a key and a token: the key', {}, { ...BY_KEY, ...BY_TOKEN }, { [STATE]: APPROVED }],
  [
    'an empty key and a token: the token',
    {},
    { ANTHROPIC_API_KEY: '', ...BY_TOKEN },
    { [STATE]: { hasCompletedOnboarding: true } },
  ],
  [
    'CLAUDE_CONFIG_DIR holds the file, not HOME',
    { [STATE]: { theme: 'dark' } },
    { ...BY_KEY, CLAUDE_CONFIG_DIR: 'HOME/elsewhere/new' },
    { [STATE]: { theme: 'dark' }, [`elsewhere/new/${STATE}`]: APPROVED },
  ],
  ['an empty CLAUDE_CONFIG_DIR is none', {}, { ...BY_KEY, CLAUDE_CONFIG_DIR: '' }, { [STATE]: APPROVED }],
  [
    '.config.json of ~/.claude wins if it is there',
    { '.claude/.config.json': { a: 1 }, [STATE]: { b: 2 } },
    BY_KEY,
    { '.claude/.config.json': { a: 1, ...APPROVED }, [STATE]: { b: 2 } },
  ],
  [
    '.config.json of CLAUDE_CONFIG_DIR wins if it is there',
    { 'c/.config.json': {}, '.claude/.config.json': {} },
    { ...BY_KEY, CLAUDE_CONFIG_DIR: 'HOME/c' },
    { 'c/.config.json': APPROVED, '.claude/.config.json': {} },
  ],
])('%s', (_name, files, env, after) => {
  const { result, read } = seedIn(files, env);
  expect(read()).toEqual(after);
  expect(result.warnings).toEqual([]);
  expect(result.notes).toHaveLength(1);
  expect(result.notes[0]).not.toContain(SUFFIX);
});

test.each<[string, Record<string, unknown>, Environment, string]>([
  ['the key is approved already', { [STATE]: { ...APPROVED, a: 1 } }, BY_KEY, 'claude'],
  ['the onboarding is done already', { [STATE]: { hasCompletedOnboarding: true } }, BY_TOKEN, 'claude'],
  ['neither key nor token', {}, {}, 'claude'],
  ['another client', {}, { ...BY_KEY, ...BY_TOKEN }, 'codex'],
  ['a command that only begins like it', {}, BY_KEY, '/usr/bin/claude-wrapper'],
  ['no HOME', {}, { ...BY_KEY, HOME: '' }, 'claude'],
])('nothing is written or said: %s', (_name, files, env, command) => {
  const { result, read } = seedIn(files, env, command);
  expect(result).toEqual({ notes: [], warnings: [] });
  expect(read()).toEqual(files);
});

test('a command with its directory is the same client', () => {
  const { read } = seedIn({}, BY_KEY, '/opt/bin/claude');
  expect(read()).toEqual({ [STATE]: APPROVED });
});

test.each<[string, string]>([
  ['broken JSON', '{"theme": '],
  ['an empty file', ''],
  ['a list', '[]'],
  ['null', 'null'],
  ['a string', '"x"'],
  ['approved is no list', '{"customApiKeyResponses":{"approved":"x"}}'],
  ['rejected is no list', '{"customApiKeyResponses":{"rejected":7}}'],
  ['the answers are no table', '{"customApiKeyResponses":"x"}'],
  ['the answers are null', '{"customApiKeyResponses":null}'],
])('a file that holds something else is left alone, with a warning: %s', (_name, text) => {
  const { result, home } = seedIn({ [STATE]: text }, BY_KEY);
  expect(readFileSync(join(home, STATE), 'utf8')).toBe(text);
  expect(readdirSync(home)).toEqual([STATE]);
  expect(result.notes).toEqual([]);
  expect(result.warnings).toEqual([expect.stringContaining(`${home}/${STATE} does not hold`)]);
});

test('a key that the user rejected stays rejected, with a warning', () => {
  const state = { customApiKeyResponses: { approved: [], rejected: [SUFFIX] } };
  const { result, read } = seedIn({ [STATE]: state }, BY_KEY);
  expect(read()).toEqual({ [STATE]: state });
  expect(result.warnings).toEqual([expect.stringContaining('was rejected')]);
});

test('file and directories are for the user alone, and nothing else is left there', () => {
  const { home } = seedIn({}, { ...BY_KEY, CLAUDE_CONFIG_DIR: 'HOME/a/b' });
  const mode = (path: string) => statSync(join(home, path)).mode & 0o777;
  expect([mode('a'), mode('a/b'), mode(`a/b/${STATE}`)]).toEqual([0o700, 0o700, 0o600]);
  expect(readdirSync(join(home, 'a/b'))).toEqual([STATE]);
});

test('a second start finds all as the first left it', () => {
  const { home, read } = seedIn({}, BY_KEY);
  expect(seedClient('claude', { HOME: home, ...BY_KEY })).toEqual({ notes: [], warnings: [] });
  expect(read()).toEqual({ [STATE]: APPROVED });
});

test('a link to the file stays a link, and what it leads to is changed', () => {
  using home = createWorkspace();
  home.write('elsewhere/state.json', '{"a":1}');
  symlinkSync('elsewhere/state.json', home.path(STATE));
  expect(seedClient('claude', { HOME: home.dir, ...BY_KEY }).warnings).toEqual([]);
  expect(readlinkSync(home.path(STATE))).toBe('elsewhere/state.json');
  expect(JSON.parse(readFileSync(home.path('elsewhere/state.json'), 'utf8'))).toEqual({ a: 1, ...APPROVED });
});

test('a directory in the place of the file: a warning, and it stays', () => {
  const { result, home } = seedIn({ [`${STATE}/x`]: '' }, BY_KEY);
  expect(result.warnings).toEqual([expect.stringContaining('cannot be read (EISDIR)')]);
  expect(readdirSync(home)).toEqual([STATE]);
});

test('a directory that is a file: a warning, and no exception', () => {
  const { result, home } = seedIn({ c: 'text' }, { ...BY_KEY, CLAUDE_CONFIG_DIR: 'HOME/c/d' });
  expect(result.notes).toEqual([]);
  expect(result.warnings).toEqual([expect.stringMatching(/cannot be read \(ENOTDIR\)/)]);
  expect(readdirSync(home)).toEqual(['c']);
});

/** Root may write and read everything, so these run as another user, in a process of their own. */
const AS_NOBODY = process.getuid?.() === 0 ? asNobody() : [];
const SEED = join(PROJECT_DIR, 'src/sandbox/seed.ts');

test.skipIf(typeof AS_NOBODY === 'string').each<[string, number, number, string]>([
  ['a directory that cannot be written', 0o555, 0o644, 'cannot be written (EACCES)'],
  ['a file that cannot be read is not replaced', 0o777, 0o000, 'cannot be read (EACCES)'],
])('%s: a warning, and all stays as it is', (_name, homeMode, fileMode, message) => {
  using home = createWorkspace();
  home.write(STATE, '{"a":1}');
  chmodSync(home.path(STATE), fileMode);
  chmodSync(home.dir, homeMode);
  const code = `import { seedClient } from ${JSON.stringify(SEED)};
    console.log(JSON.stringify(seedClient('claude', ${JSON.stringify({ HOME: home.dir, ...BY_KEY })})));`;
  const child = Bun.spawnSync([...(AS_NOBODY as string[]), BUN, '-e', code], { cwd: '/' });
  chmodSync(home.dir, 0o700);
  chmodSync(home.path(STATE), 0o600);
  expect(child.stderr.toString()).toBe('');
  expect(JSON.parse(child.stdout.toString())).toEqual({
    notes: [],
    warnings: [expect.stringContaining(message)],
  });
  expect(readFileSync(home.path(STATE), 'utf8')).toBe('{"a":1}');
  expect(readdirSync(home.dir)).toEqual([STATE]);
});
