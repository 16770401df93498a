import { afterAll, describe, expect, test } from 'bun:test';
import { chmodSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { inject } from '../../src/credentials/inject.ts';
import { Secret } from '../../src/credentials/secret.ts';
import { SecretError, toSecret } from '../../src/credentials/secret-value.ts';
import { createSecretReader } from '../../src/credentials/source.ts';

const VALUE = 'sk-test-Zk3v9QpL0xWm7Rt2Ya8Bn4Cd6';
const directory = mkdtempSync(join(tmpdir(), 'isoproxy-secret-'));
afterAll(() => rmSync(directory, { recursive: true }));

describe('a secret redacts itself', () => {
  const secret = new Secret(VALUE);
  test.each<[string, () => string]>([
    ['String()', () => String(secret)],
    ['a template', () => `${secret}`],
    ['JSON', () => JSON.stringify({ secret, list: [secret] })],
    ['inspect', () => inspect({ deep: { secret } }, { depth: 9, showHidden: true })],
    ['Bun.inspect', () => Bun.inspect(secret)],
    ['an error message', () => new Error(`failed with ${secret}`).message],
    ['its keys', () => JSON.stringify(Object.getOwnPropertyNames(secret)) + JSON.stringify({ ...secret })],
    ['structuredClone', () => JSON.stringify(structuredClone({ ...secret }))],
  ])('in %s', (_name, show) => {
    expect(show()).not.toContain('Zk3v9');
  });
});

describe('what is no secret', () => {
  test.each([
    ['', 'is empty'],
    ['\n', 'is empty'],
    [`${VALUE}\nmore`, 'more than one line'],
    [`${VALUE}\r`, 'more than one line'],
    [`${VALUE}\n\n`, 'more than one line'],
    [`${VALUE}\x00`, 'control or non-ASCII'],
    [`${VALUE}\t`, 'control or non-ASCII'],
    [`é${VALUE}`, 'control or non-ASCII'],
    [` ${VALUE}`, 'space'],
    [`${VALUE} `, 'space'],
    ['your-api-key', 'placeholder'],
    ['YOUR_API_KEY_HERE_PLEASE', 'placeholder'],
    ['changeme-changeme-changeme', 'placeholder'],
    ['<paste the key right here>', 'placeholder'],
    ['xxxxxxxxxxxxxxxxxxxxxxxx', 'placeholder'],
    ['sk-ant-api03-isoproxy-placeholder-not-a-real-key', 'placeholder'],
    ['short-secret', 'shorter than 16 bytes'],
  ])('%j is refused', (text, reason) => {
    expect(() => toSecret(text, false)).toThrow(SecretError);
    expect(() => toSecret(text, false)).toThrow(reason);
  });

  test('one trailing line break is not part of the value', () => {
    for (const text of [VALUE, `${VALUE}\n`, `${VALUE}\r\n`])
      expect(toSecret(text, false).reveal()).toBe(VALUE);
  });

  test('a short one is accepted only by name', () => {
    expect(toSecret('pin-1234', true).reveal()).toBe('pin-1234');
  });
});

describe('a secret file', () => {
  const path = join(directory, 'api.key');
  let time = 0;
  const reader = () =>
    createSecretReader(
      { source: { kind: 'file', path }, unsafeShortSecret: false },
      { env: {}, now: () => time },
    );

  test.each([
    [0o644, 'open to every user'],
    [0o604, 'open to every user'],
    [0o601, 'open to every user'],
    [0o620, 'writable by its group'],
  ])('of mode %o is refused', (mode, reason) => {
    writeFileSync(path, VALUE);
    chmodSync(path, mode);
    expect(() => reader().read()).toThrow(reason);
  });

  test('is read again within a second of its replacement, and a missing one fails closed', () => {
    writeFileSync(path, VALUE, { mode: 0o600 });
    chmodSync(path, 0o600);
    const file = reader();
    expect(String((file.read() as Secret).reveal())).toBe(VALUE);
    const next = join(directory, 'next.key');
    writeFileSync(next, `${VALUE}-rotated`, { mode: 0o600 });
    renameSync(next, path);
    expect((file.read() as Secret).reveal()).toBe(VALUE);
    time += 1_000;
    expect((file.read() as Secret).reveal()).toBe(`${VALUE}-rotated`);
    rmSync(path);
    time += 1_000;
    expect(() => file.read()).toThrow('does not exist');
    writeFileSync(path, VALUE, { mode: 0o600 });
    expect((file.read() as Secret).reveal()).toBe(VALUE);
  });
});

describe('a command', () => {
  const shell = (script: string, more: object = {}) =>
    createSecretReader(
      {
        source: {
          kind: 'command',
          argv: ['/bin/sh', '-c', script],
          ttlMs: 60_000,
          timeoutMs: 5_000,
          ...more,
        },
        unsafeShortSecret: false,
      },
      {
        env: { PATH: '/usr/bin:/bin', HOME: '/nowhere', LANG: 'C', OTHER: 'leak-leak-leak-leak' },
        now: () => 0,
      },
    );

  test('gives its output, with an environment of PATH, HOME and LANG only', async () => {
    expect((await shell(`echo "${VALUE}$OTHER"`).read()).reveal()).toBe(VALUE);
  });

  test.each([
    ['exit 3', {}, 'exit code 3'],
    ['sleep 30', { timeoutMs: 100 }, 'did not finish within 0.1 s'],
    ['yes | head -c 100000', {}, 'more than'],
    ['printf "one\\ntwo\\n"', {}, 'more than one line'],
    [`echo ${VALUE} >&2; exit 1`, {}, 'exit code 1'],
  ])('that fails says how, and never what it printed: %s', async (script, more, reason) => {
    const failure = await Promise.resolve()
      .then(() => shell(script, more).read())
      .then(
        () => 'no failure',
        (error: Error) => error.message,
      );
    expect(failure).toContain(reason);
    expect(failure).not.toContain('Zk3v9');
  });

  test('is run once for all who wait, and not again until its ttl has passed', async () => {
    const reader = shell(`echo "${VALUE}-$$"`);
    const [one, two] = await Promise.all([reader.read(), reader.read()]);
    expect(one).toBe(two as Secret);
    expect(reader.read()).toBe(one as Secret);
  });
});

test('a systemd credential needs its directory', () => {
  const config = { source: { kind: 'systemd' as const, name: 'x' }, unsafeShortSecret: false };
  expect(() => createSecretReader(config, { env: {}, now: () => 0 }).read()).toThrow('CREDENTIALS_DIRECTORY');
});

describe('injection', () => {
  const secret = new Secret('a$&b"c%26d-0123456789');
  const request = () => ({
    headers: new Headers({ authorization: 'Bearer evil', 'x-api-key': 'evil' }),
    query: '?a=1',
  });

  test('a header replaces what stands there, with "$&" in a secret taken literally', () => {
    const into = request();
    inject(into, { kind: 'header', name: 'authorization', format: 'Bearer {secret}' }, secret);
    expect(into.headers.get('authorization')).toBe('Bearer a$&b"c%26d-0123456789');
  });

  test('basic is the base64 of user and secret', () => {
    const into = request();
    inject(into, { kind: 'basic', user: 'me' }, secret);
    expect(atob(into.headers.get('authorization')?.slice(6) ?? '')).toBe('me:a$&b"c%26d-0123456789');
  });

  test('a query parameter is percent-encoded and last', () => {
    const into = request();
    inject(into, { kind: 'query', parameter: 'key' }, secret);
    expect(into.query).toBe('?a=1&key=a%24%26b%22c%2526d-0123456789');
  });
});

test('knows its value when somebody presents it, and nothing else', () => {
  const secret = new Secret('0123456789abcdef');
  const texts = [
    '0123456789abcdef',
    '0123456789abcdeg',
    '0123456789abcde',
    '',
    '0123456789abcdef0',
    '[secret]',
  ];
  for (let round = 0; round < 2; round++)
    expect(texts.map((text) => secret.isValue(text))).toEqual([true, false, false, false, false, false]);
});
