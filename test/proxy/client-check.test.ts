import { expect, test } from 'bun:test';
import { Secret } from '../../src/credentials/secret.ts';
import { checkHostName, checkToken } from '../../src/proxy/client-check.ts';

const passes = (check: () => void): boolean => {
  try {
    check();
    return true;
  } catch {
    return false;
  }
};

test.each([
  ['localhost', true],
  ['LOCALHOST:8080', true],
  ['127.0.0.1', true],
  ['127.255.255.255:1', true],
  ['[::1]', true],
  ['[::1]:8080', true],
  ['[0:0:0:0:0:0:0:1]', true],
  ['listed.example:8080', true],
  ['LISTED.example', true],
  ['[fd00::1]:8080', true],
  ['fd00::1', false],
  ['[fd00::2]', false],
  ['128.0.0.1', false],
  ['127.0.0.256', false],
  // Some resolvers read it as octal.
  ['127.0.0.01', false],
  ['127.0.0.1.evil.example', false],
  ['localhost.evil.example', false],
  ['evil.example', false],
])('Host %s: %p', (host, isAllowed) => {
  const hosts = ['listed.example', 'fd00::1'];
  expect(passes(() => checkHostName(new Headers({ host }), hosts))).toBe(isAllowed);
});

test.each([
  ['Bearer token-0123456789', true],
  ['bearer token-0123456789', true],
  ['BEARER    token-0123456789', true],
  ['Bearer\ttoken-0123456789', false],
  ['Bearer \ttoken-0123456789', false],
  ['Bearertoken-0123456789', false],
  ['Bearer', false],
  ['Bearer token-0123456789x', false],
  ['Bearer token-012345678', false],
  ['Basic token-0123456789', false],
  ['token-0123456789', false],
])('Authorization %p: %p', (authorization, isRight) => {
  const token = new Secret('token-0123456789');
  expect(passes(() => checkToken(new Headers({ authorization }), token))).toBe(isRight);
});
