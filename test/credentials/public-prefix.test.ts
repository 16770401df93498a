import { describe, expect, test } from 'bun:test';
import type { CredentialConfig } from '../../src/credentials/credential.ts';
import { publicPrefixLength } from '../../src/credentials/public-prefix.ts';
import { Secret } from '../../src/credentials/secret.ts';
import { createVault } from '../../src/credentials/vault.ts';
import { createScanner } from '../../src/proxy/reflection.ts';

const RANDOM = 'Zk3v9QpL0xWm7Rt2Ya8Bn4Cd6Ef1Gh5Jk0';
const HEADER = Buffer.from('{"alg":"RS256","typ":"JWT"}').toString('base64url');
const CLAIMS = Buffer.from('{"iss":"https://issuer.example","sub":"agent","exp":1800000000}').toString(
  'base64url',
);

test.each([
  [`sk-ant-api03-${RANDOM}`, 'sk-ant-api03-'],
  [`acme-prod-api-key-2026-${RANDOM}`, 'acme-prod-api-key-2026-'],
  [`service_account.${RANDOM}`, 'service_account.'],
  [`${HEADER}.${CLAIMS}.${RANDOM}`, `${HEADER}.${CLAIMS}.`],
  // Too short to matter: what is left of the sixteen bytes cannot be guessed.
  [`sk-${RANDOM}`, ''],
  [`ghp_${RANDOM}`, ''],
  [RANDOM, ''],
  // Too little would be left.
  ['only-words-make-up-this-one', ''],
  [`${HEADER}.${CLAIMS}.short`, ''],
])('of %s the public beginning is "%s"', (value, expected) => {
  expect(value.slice(0, publicPrefixLength(new Secret(value), []))).toBe(expected);
});

test('what the preset says counts, and a word that chance has made behind it does not', () => {
  const value = `sk-ant-api03-ab-${RANDOM}`;
  expect(publicPrefixLength(new Secret(value), ['sk-', 'sk-ant-api03-'])).toBe('sk-ant-api03-'.length);
});

describe('attack: an agent that controls the chunks cannot learn the next byte of', () => {
  test.each([
    ['a key of a known kind, though no preset names it', `sk-ant-api03-${RANDOM}`, 'sk-ant-api03-'],
    [
      'a key with the words of its owner before it',
      `acme-prod-api-key-2026-${RANDOM}`,
      'acme-prod-api-key-2026-',
    ],
    [
      'a token whose header and claims it can write itself',
      `${HEADER}.${CLAIMS}.${RANDOM}`,
      `${HEADER}.${CLAIMS}.`,
    ],
  ])('%s', async (_, value, known) => {
    process.env['PUBLIC_PREFIX_TEST'] = value;
    const config: CredentialConfig = {
      placement: { kind: 'header', name: 'authorization', format: 'Bearer {secret}' },
      source: { kind: 'env', variable: 'PUBLIC_PREFIX_TEST' },
      unsafeShortSecret: false,
      publicPrefixes: [],
    };
    const { automaton } = await createVault([config], { env: process.env, now: () => 0 }).current();
    delete process.env['PUBLIC_PREFIX_TEST'];
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.';
    // It need not begin at the beginning: every shorter part of what it knows is a way in, too.
    for (let right = 0; right < 9; right++) {
      for (const guess of alphabet) {
        const text = Buffer.from(known + value.slice(known.length, known.length + right) + guess);
        const { clean, reflected } = createScanner(automaton!).push(text);
        expect([guess, clean.length, reflected]).toEqual([guess, text.length, false]);
      }
    }
    // And the whole is still found, however it is cut.
    for (let cut = 1; cut < value.length; cut++) {
      const scanner = createScanner(automaton!);
      const before = scanner.push(Buffer.from(value.slice(0, cut)));
      expect([cut, before.reflected || scanner.push(Buffer.from(value.slice(cut))).reflected]).toEqual([
        cut,
        true,
      ]);
      expect(before.clean.length).toBeLessThan(known.length + 16);
    }
  });
});
