import { describe, expect, test } from 'bun:test';
import type { DiscoveredProvider } from '../../src/discovery.ts';
import { clientSettings } from '../../src/sandbox/client-settings.ts';
import type { Reachable } from '../../src/sandbox/place.ts';

const LOOPBACK = '127.0.0.1,localhost,::1';

function provider(over: Partial<DiscoveredProvider> = {}): DiscoveredProvider {
  return {
    base_path: '/api',
    placeholder: 'no-key',
    client_env: {},
    client_args: {},
    endpoints: [],
    ...over,
  };
}

function reachable(providers: Record<string, DiscoveredProvider>, over: Partial<Reachable> = {}): Reachable {
  const discovery = { isoproxy: 1, version: '0', listener: 'l', providers } as const;
  return { origin: 'http://127.0.0.1:8080', discovery, token: undefined, ...over };
}

const envOf = (one: Reachable, env = {}) => Object.fromEntries(clientSettings([one], undefined, env).env);

describe('values', () => {
  test.each<[string, string, string | undefined, string]>([
    ['the base URL is filled in', '{client_base_url}/v1', undefined, 'http://127.0.0.1:8080/api/v1'],
    [
      'more than once',
      '{client_base_url} {client_base_url}',
      undefined,
      'http://127.0.0.1:8080/api http://127.0.0.1:8080/api',
    ],
    ['the placeholder stays', 'Bearer no-key', undefined, 'Bearer no-key'],
    ['a token takes its place', 'Bearer no-key', 't0k$&en', 'Bearer t0k$&en'],
    ['a plain value is left alone', '1', 't', '1'],
    ['braces that mean nothing are left alone', '{x} {}', 't', '{x} {}'],
  ])('%s', (_, template, token, expected) => {
    const env = envOf(reachable({ p: provider({ client_env: { A: template } }) }, { token }));
    expect(env['A']).toBe(expected);
  });

  test('a mounted provider has no path', () => {
    const env = envOf(reachable({ p: provider({ base_path: '', client_env: { A: '{client_base_url}' } }) }));
    expect(env['A']).toBe('http://127.0.0.1:8080');
  });

  test('no provider: NO_PROXY only', () => {
    expect(envOf(reachable({}))).toEqual({ NO_PROXY: LOOPBACK, no_proxy: LOOPBACK });
  });

  test('placeholders and tokens are known as such', () => {
    const settings = clientSettings(
      [reachable({ p: provider() }), reachable({ q: provider() }, { token: 'token' })],
      undefined,
      {},
    );
    expect([...settings.placeholders]).toEqual(['no-key', 'token']);
  });
});

describe('arguments', () => {
  const one = reachable({
    p: provider({ client_args: { codex: ['-c', 'u={client_base_url}', 'no-key'], other: ['x'] } }),
    q: provider({ client_args: { codex: ['-q'] } }),
  });
  test.each<[string | undefined, string[]]>([
    ['codex', ['-c', 'u=http://127.0.0.1:8080/api', 'no-key', '-q']],
    ['/usr/bin/codex', ['-c', 'u=http://127.0.0.1:8080/api', 'no-key', '-q']],
    ['other', ['x']],
    ['codex2', []],
    ['Codex', []],
    ['codex/', ['-c', 'u=http://127.0.0.1:8080/api', 'no-key', '-q']],
    ['', []],
    [undefined, []],
  ])('of %j', (command, expected) => {
    expect(clientSettings([one], command, {}).args).toEqual(expected);
  });

  test.each(['toString', 'constructor', '__proto__'])('%s is no command with arguments', (command) => {
    expect(clientSettings([one], command, {}).args).toEqual([]);
  });
});

describe('conflicts', () => {
  const wants = (value: string) => provider({ client_env: { A: value } });
  test.each<[string, Record<string, DiscoveredProvider>, string, string[]]>([
    ['equal values are none', { p: wants('1'), q: wants('1') }, '1', []],
    [
      'the first wins',
      { p: wants('1'), q: wants('2') },
      '1',
      ['A is set for provider p; q wants another value'],
    ],
    [
      'each further one is said',
      { p: wants('1'), q: wants('2'), r: wants('3') },
      '1',
      ['A is set for provider p; q wants another value', 'A is set for provider p; r wants another value'],
    ],
  ])('%s', (_, providers, value, messages) => {
    const { env, conflicts } = clientSettings([reachable(providers)], undefined, {});
    expect(env.get('A')).toBe(value);
    expect(conflicts.map(({ variable }) => variable)).toEqual(messages.map(() => 'A'));
    for (const [index, { message }] of conflicts.entries())
      expect(message).toStartWith(messages[index] as string);
  });
});

describe('NO_PROXY', () => {
  test.each<[Record<string, string>, string, string]>([
    [{}, LOOPBACK, LOOPBACK],
    [{ NO_PROXY: '', no_proxy: '' }, LOOPBACK, LOOPBACK],
    [{ NO_PROXY: 'a' }, `a,${LOOPBACK}`, `a,${LOOPBACK}`],
    [{ no_proxy: 'a' }, `a,${LOOPBACK}`, `a,${LOOPBACK}`],
    [{ NO_PROXY: 'a', no_proxy: 'b' }, `a,${LOOPBACK}`, `b,${LOOPBACK}`],
    [{ NO_PROXY: ' a , ,a, localhost ' }, 'a,localhost,127.0.0.1,::1', 'a,localhost,127.0.0.1,::1'],
    [{ NO_PROXY: '*' }, '*', '*'],
    [{ NO_PROXY: 'a, *' }, 'a, *', 'a, *'],
    [{ NO_PROXY: '*.corp' }, `*.corp,${LOOPBACK}`, `*.corp,${LOOPBACK}`],
  ])('%j', (env, upper, lower) => {
    const set = envOf(reachable({}), env);
    expect([set['NO_PROXY'], set['no_proxy']]).toEqual([upper, lower]);
  });

  test('has the host of a listener that is not on loopback', () => {
    const env = envOf(reachable({}, { origin: 'http://host.docker.internal:8787' }));
    expect(env['NO_PROXY']).toBe(`${LOOPBACK},host.docker.internal`);
  });
});
