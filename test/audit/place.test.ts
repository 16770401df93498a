// Which key is read: the one that was given, the configured one, or that of the directory.

import { afterAll, expect, test } from 'bun:test';
import { readChainKey } from '../../src/cli/audit-place.ts';
import type { AuditConfig } from '../../src/config/effective.ts';
import { createWorkspace } from '../support/workspace.ts';

const work = createWorkspace();
afterAll(() => work.remove());
const key = (letter: string) => letter.repeat(64);
const given = work.write('given', key('a'));
work.write('credentials/audit-key', key('b'));
const file = work.write('file', key('c'));
work.write('audit/hmac.key', key('d'));

const read = (source: AuditConfig['key'], option?: string, env: Record<string, string> = {}) => {
  const settings = { checkpointFile: undefined, key: source };
  const io = { stdout: () => {}, stderr: () => {}, env, color: false };
  return Buffer.from(readChainKey({ directory: work.path('audit'), settings }, option, io)).toString();
};

test('the first of: --key, the configured file or systemd credential, hmac.key', () => {
  const systemd: AuditConfig['key'] = { kind: 'systemd', name: 'audit-key' };
  expect(read({ kind: 'file', path: file }, given)).toBe(key('a'));
  expect(read(systemd, undefined, { CREDENTIALS_DIRECTORY: work.path('credentials') })).toBe(key('b'));
  expect(read({ kind: 'file', path: file })).toBe(key('c'));
  expect(read(undefined)).toBe(key('d'));
});

test('a credential that only the service sees: no other key is tried in its place', () => {
  expect(() => read({ kind: 'systemd', name: 'audit-key' })).toThrow(
    'the key of the chain is with the service only',
  );
});
