import { expect, test } from 'bun:test';
import type { CredentialConfig } from '../../src/credentials/credential.ts';
import { createVault } from '../../src/credentials/vault.ts';
import { carriesSecret } from '../../src/proxy/reflection.ts';
import { createWorkspace } from '../support/workspace.ts';

const value = (n: number) => `secret-number-${n}-Zk3v9QpL0xWm7Rt2`;
const HOUR = 3_600_000;

/** A vault on one file, with a clock that is ours. */
function openVault(workspace: ReturnType<typeof createWorkspace>) {
  let now = 0;
  const path = workspace.write('key', value(0));
  const config: CredentialConfig = {
    placement: { kind: 'header', name: 'x-api-key', format: '{secret}' },
    source: { kind: 'file', path },
    unsafeShortSecret: false,
    publicPrefixes: [],
  };
  const vault = createVault([config], { env: {}, now: () => now });
  const current = async () => await vault.current();
  return {
    current,
    at: (ms: number) => {
      now = ms;
    },
    rotate: async (n: number) => {
      workspace.write('key', value(n));
      now += 2_000;
      await current();
    },
    guards: async (n: number) => carriesSecret((await current()).automaton!, `you sent ${value(n)}.`),
  };
}

test('C1 a secret that was replaced a moment ago is injected no more, and guarded for an hour', async () => {
  using workspace = createWorkspace();
  const vault = openVault(workspace);
  await vault.current();
  await vault.rotate(1);
  expect((await vault.current()).injections.map(({ secret }) => secret.reveal())).toEqual([value(1)]);
  expect([await vault.guards(0), await vault.guards(1)]).toEqual([true, true]);
  vault.at(HOUR + 1_999);
  expect(await vault.guards(0)).toBe(true);
  vault.at(HOUR + 2_001);
  expect([await vault.guards(0), await vault.guards(1)]).toEqual([false, true]);
});

test('C1 a vault that a reload puts in the place of another guards what that guarded, as long', async () => {
  using workspace = createWorkspace();
  let now = 0;
  const open = (path: string, before?: ReturnType<typeof createVault>) =>
    createVault(
      [
        {
          placement: { kind: 'header', name: 'x-api-key', format: '{secret}' },
          source: { kind: 'file', path },
          unsafeShortSecret: false,
          publicPrefixes: [],
        },
      ],
      { env: {}, now: () => now },
      before?.retire(),
    );
  const first = open(workspace.write('key-0', value(0)));
  await first.current();
  now = 1_000;
  const second = open(workspace.write('key-1', value(1)), first);
  const third = open(workspace.write('key-2', value(2)), second);
  const guards = async (vault: typeof first, n: number) =>
    carriesSecret((await vault.current()).automaton!, value(n));
  expect(await Promise.all([0, 1].map((n) => guards(second, n)))).toEqual([true, true]);
  // One that never read its secret passes on what it inherited.
  expect(await Promise.all([0, 2].map((n) => guards(third, n)))).toEqual([true, true]);
  // A provider that needs no credential any more may still echo the old one.
  const open4 = createVault([], { env: {}, now: () => now }, third.retire());
  expect(await guards(open4, 2)).toBe(true);
  now = 1_000 + HOUR;
  expect(await Promise.all([0, 2].map((n) => guards(third, n)))).toEqual([false, true]);
});

test('of many values in a row the latest are guarded, and the current one always', async () => {
  using workspace = createWorkspace();
  const vault = openVault(workspace);
  await vault.current();
  for (const n of [1, 2, 3]) await vault.rotate(n);
  expect(await Promise.all([0, 1, 2, 3].map(vault.guards))).toEqual([false, true, true, true]);
});

test('while nothing changes, the guard is the very same one', async () => {
  using workspace = createWorkspace();
  const vault = openVault(workspace);
  const first = await vault.current();
  expect(await vault.current()).toBe(first);
  await vault.rotate(1);
  const second = await vault.current();
  expect(second).not.toBe(first);
  expect(await vault.current()).toBe(second);
});
