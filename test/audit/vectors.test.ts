// test/fixtures/audit, which other verifiers are tried on: it is what the script makes, and true.

import { afterAll, describe, expect, test } from 'bun:test';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { writeVectors } from '../../scripts/audit-vectors.ts';
import type { Fault } from '../../src/audit/chain.ts';
import type { Verdict } from '../../src/audit/verify.ts';
import { runCommand } from '../config/command-io.ts';
import { createWorkspace } from '../support/workspace.ts';

const FIXTURES = resolve(import.meta.dir, '../fixtures/audit');
const expected = JSON.parse(readFileSync(join(FIXTURES, 'expected.json'), 'utf8')) as Record<
  string,
  Record<'anchored' | 'alone', { exit: number; faults: Pick<Fault, 'kind' | 'from' | 'to'>[] }>
>;
const work = createWorkspace();
afterAll(() => work.remove());

function filesOf(directory: string): Record<string, string> {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8', withFileTypes: true });
  return Object.fromEntries(
    names
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => [path.slice(directory.length), readFileSync(path, 'latin1')])
      .sort(),
  );
}

test('the script makes them again, byte for byte', () => {
  writeVectors(work.path('again'));
  expect(filesOf(work.path('again'))).toEqual(filesOf(FIXTURES));
});

test('there is an expectation for each log, and a log for each', () => {
  const logs = readdirSync(FIXTURES, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  expect(logs.map((entry) => entry.name).sort()).toEqual(Object.keys(expected).sort());
});

describe.each(Object.entries(expected))('%s', (name, { anchored, alone }) => {
  // The good log has its checkpoints beside it, which anchor nothing.
  test.each([
    ['with anchors', ['--checkpoints', join(FIXTURES, 'anchors')], anchored],
    ['alone', [], alone],
  ])('%s', async (_, options, answer) => {
    const keys = ['--key', join(FIXTURES, 'hmac.key'), '--public-key', join(FIXTURES, 'public.key')];
    const args = ['audit', 'verify', '--dir', join(FIXTURES, name), ...keys, ...options, '--json'];
    const { code, out } = await runCommand(args);
    const faults = (JSON.parse(out) as Verdict).gaps.map(({ kind, from, to }) => ({ kind, from, to }));
    expect({ exit: code, faults }).toEqual(answer);
  });
});
