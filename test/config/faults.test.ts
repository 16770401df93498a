// The table of configuration faults: what each one is told, word for word.

import { afterAll, expect, test } from 'bun:test';
import { ConfigError, formatProblem } from '../../src/config/config-error.ts';
import { loadConfig } from '../../src/config/load.ts';
import { createWorkspace } from '../support/workspace.ts';
import { FILE_FAULTS } from './faults/file.ts';
import { LISTENER_FAULTS } from './faults/listeners.ts';
import { PROVIDER_FAULTS } from './faults/providers.ts';
import { CANARY } from './faults/snippets.ts';
import { VALUE_FAULTS } from './faults/values.ts';

const FAULTS = [...FILE_FAULTS, ...LISTENER_FAULTS, ...PROVIDER_FAULTS, ...VALUE_FAULTS];
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };
const workspace = createWorkspace();
afterAll(() => workspace.remove());

/** The problems of a file, its name replaced by FILE. */
function problemsOf(toml: string): string[] {
  const file = workspace.write('proxy.toml', toml.replaceAll('@DIR@', workspace.dir));
  try {
    loadConfig({ file, env: ENV });
  } catch (error) {
    if (error instanceof ConfigError)
      return error.problems.map((problem) => formatProblem(problem).replaceAll(file, 'FILE'));
    throw error;
  }
  return [];
}

test.each(FAULTS.map(([name, toml, ...problems]) => [name, { toml, problems }] as const))(
  '%s',
  (_, { toml, problems }) => {
    expect(problemsOf(toml)).toEqual(problems);
  },
);

test('every message is lower case, ends without a full stop and holds no value', () => {
  for (const [, toml] of FAULTS) {
    for (const problem of problemsOf(toml)) {
      expect(problem).not.toContain(CANARY);
      expect(problem).not.toMatch(/\.$/);
      const message = problem.replace(/^[^ ]+ ([^ ]+: )?/, '');
      expect(message).toMatch(/^[a-z0"*]|^FILE/);
    }
  }
});

test('the table is long, and names no fault twice', () => {
  expect(FAULTS.length).toBeGreaterThan(100);
  expect(new Set(FAULTS.map(([name]) => name)).size).toBe(FAULTS.length);
});
