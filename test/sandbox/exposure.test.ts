import { expect, test } from 'bun:test';
import { PRESETS } from '../../src/config/presets.ts';
import { findExposures } from '../../src/sandbox/exposure.ts';

const LONG = 'Zx81-Qy47-Kd93-Wm26';

async function keysIn(env: Record<string, string>, known: string[] = []): Promise<string[]> {
  const found = await findExposures({ env, sockets: [], patterns: [], known: new Set(known) });
  return found.flatMap(({ message, hint }) => {
    for (const value of Object.values(env).filter(Boolean)) expect(message + hint).not.toContain(value);
    const name = /^\$(\S+) looks like a real key$/.exec(message)?.[1];
    return name === undefined ? [] : [name];
  });
}

test.each<[string, string, string]>([
  ['a key by its name', 'ACME_API_KEY', LONG],
  ['a token by its name', 'GITHUB_TOKEN', LONG],
  ['an auth token', 'ANTHROPIC_AUTH_TOKEN', LONG],
  ['a secret access key', 'AWS_SECRET_ACCESS_KEY', LONG],
  ['a password', 'DB_PASSWORD', LONG],
  ['exactly 16 characters', 'A_API_KEY', 'abcdefgh12345678'],
  ['a known beginning under any name', 'x', `sk-ant-api03-${LONG}`],
  ['a placeholder’s beginning on a real key', 'ANTHROPIC_API_KEY', `sk-ant-api03-${LONG}`],
])('%s is found', async (_, name, value) => {
  expect(await keysIn({ [name]: value })).toEqual([name]);
});

test.each<[string, string, string]>([
  ['a short value', 'A_API_KEY', 'abcdefgh1234567'],
  ['a sentence', 'A_API_KEY', `see the ${LONG}`],
  ['an empty value', 'A_API_KEY', ''],
  ['a name that only contains one', 'API_KEY_FILE', LONG],
  ['the directory of the keys', 'GITHUB_TOKEN_PATH', LONG],
  ['what everybody writes', 'A_API_KEY', 'your-api-key-goes-here'],
  ['x', 'A_API_KEY', 'xxxxxxxxxxxxxxxxxxxxxxx'],
  ['an ordinary variable', 'PATH', '/usr/local/bin:/usr/bin:/bin'],
])('%s is not', async (_, name, value) => {
  expect(await keysIn({ [name]: value })).toEqual([]);
});

test('no placeholder that run sets is', async () => {
  for (const preset of Object.values(PRESETS))
    expect(await keysIn({ ANY_API_KEY: preset.placeholder, OTHER: preset.placeholder })).toEqual([]);
});

test('what is there on purpose is not', async () => {
  expect(await keysIn({ A_API_KEY: LONG, B_TOKEN: `${LONG}x` }, [LONG])).toEqual(['B_TOKEN']);
});

test('an environment without anything needs no home', async () => {
  expect(await keysIn({})).toEqual([]);
});
