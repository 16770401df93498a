// The manual page, as its readers' tools see it.

import { expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { manPage } from '../../scripts/man.ts';
import { COMMANDS } from '../../src/cli/cli.ts';

const readme = readFileSync(resolve(import.meta.dir, '../../README.md'), 'utf8');
const page = await manPage(readme, new Date(0));
const isHere = (tool: string) => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0;

test('it has every command and the exit codes of the README', () => {
  const sections = [...page.matchAll(/^\.SS ([a-z]+):/gm)].map((match) => match[1] as string);
  expect(sections).toEqual(COMMANDS.map((command) => command.name));
  expect(page).toContain('.TP\n\\fB78\\fR\n');
  expect(page).toContain('"isoproxy ');
});

test('a change of the date is a change of its one line', async () => {
  const later = (await manPage(readme, new Date(86_400_000))).split('\n');
  expect(page.split('\n').filter((line, i) => line !== later[i])).toEqual([
    expect.stringMatching(/^\.TH ISOPROXY 1 1970-01-01 /),
  ]);
});

test.skipIf(!isHere('mandoc'))('mandoc has no warning (needs mandoc)', () => {
  const { stdout } = spawnSync('mandoc', ['-T', 'lint', '-W', 'warning'], { input: page, encoding: 'utf8' });
  expect(stdout).toBe('');
});

test.skipIf(!isHere('groff'))('groff has no warning (needs groff)', () => {
  const { stderr } = spawnSync('groff', ['-man', '-ww', '-z'], { input: page, encoding: 'utf8' });
  expect(stderr).toBe('');
});
