/** What the README says that can drift: tables, commands, links and configuration, held against the source. */
import { describe, expect, test } from 'bun:test';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { COMMANDS } from '../src/cli/cli.ts';
import { EXIT } from '../src/cli/command.ts';
import { loadConfig } from '../src/config/load.ts';
import { ERRORS } from '../src/errors.ts';
import { type AccessRecord, createExchange } from '../src/proxy/exchange.ts';
import { compilePattern, matchesPattern } from '../src/proxy/pattern.ts';

const ROOT = resolve(import.meta.dir, '..');
const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');

/** Rows of the table whose header row begins with these cells. */
function table(...header: string[]): string[][] {
  const rows = readme
    .split('\n')
    .map((line) => (line.startsWith('|') ? line.split('|').slice(1, -1) : undefined));
  const start = rows.findIndex(
    (cells) => cells !== undefined && header.every((name, i) => cells[i]?.trim() === name),
  );
  const found: string[][] = [];
  for (let i = start + 2; start !== -1 && rows[i] !== undefined; i++)
    found.push(rows[i]!.map((cell) => cell.trim()));
  return found;
}

const codesIn = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1] as string);

test('the error table is the error table of the source', () => {
  const written = table('status', 'codes').flatMap(([status, cell]) =>
    [...(cell ?? '').matchAll(/`([a-z_]+)`(\*?)/g)].map(([, code, star]) => `${status} ${code}${star}`),
  );
  const real = Object.entries(ERRORS).map(
    ([code, entry]) => `${entry.status} ${code}${entry.retry ? '' : '*'}`,
  );
  expect(written.sort()).toEqual(real.sort());
});

test('the record table names every field of a record, and no other', () => {
  let record: AccessRecord | undefined;
  const exchange = createExchange(new Request('http://x/'), {
    nextId: () => 'x',
    listener: 'l',
    now: () => 0,
    wallNow: () => 0,
    record: (made) => {
      record = made;
    },
  });
  exchange.end({ kind: 'done', status: 200 });
  const written = table('field', 'meaning').flatMap(([cell]) => codesIn(cell ?? ''));
  expect(written.sort()).toEqual(Object.keys(record ?? {}).sort());
});

test('the pattern table is true', () => {
  const matches = (pattern: string, path: string) =>
    matchesPattern(compilePattern(pattern), path, path.slice(1).split('/'));
  const rows = table('pattern', 'matches', 'does not match');
  expect(rows.length).toBeGreaterThan(4);
  for (const [pattern, yes, no] of rows) {
    const text = codesIn(pattern ?? '')[0] as string;
    for (const path of codesIn(yes ?? ''))
      expect([text, path, matches(text, path)]).toEqual([text, path, true]);
    for (const path of codesIn(no ?? ''))
      expect([text, path, matches(text, path)]).toEqual([text, path, false]);
  }
});

test('every command is named, and every exit code is a real one', () => {
  const sentence = /^Commands: ((?:.+\n)+)/m.exec(readme)?.[1] ?? '';
  expect(codesIn(sentence.split('. ')[0] ?? '')).toEqual(COMMANDS.map((command) => command.name));
  const codes = table('exit code', 'meaning').map(([code]) => Number(code));
  const known: readonly number[] = Object.values(EXIT);
  expect(codes.filter((code) => !known.includes(code))).toEqual([]);
});

test('links lead to files of the project, and make targets exist', () => {
  const links = [...readme.matchAll(/\]\(([^)#]+)\)/g)]
    .map((match) => match[1] as string)
    .filter((link) => !link.startsWith('http'));
  expect(links.filter((link) => !existsSync(join(ROOT, link)))).toEqual([]);
  const makefile = readFileSync(join(ROOT, 'Makefile'), 'utf8');
  const targets = new Set(
    [...readme.matchAll(/(?:^|`)make ([a-z0-9-]+)/gm)].map((match) => match[1] as string),
  );
  expect([...targets].filter((target) => !new RegExp(`^${target}:`, 'm').test(makefile))).toEqual([]);
  for (const script of readme.matchAll(/`((?:scripts|test)\/[a-z./-]+)`/g))
    expect(existsSync(join(ROOT, script[1] as string))).toBe(true);
});

describe('configuration in the README', () => {
  const blocks = [...readme.matchAll(/```toml\n([\s\S]*?)```/g)].map((match) => match[1] as string);

  test('the first block is a whole configuration without a warning', () => {
    const directory = mkdtempSync(join(tmpdir(), 'isoproxy-readme-'));
    const file = join(directory, 'proxy.toml');
    try {
      writeFileSync(file, blocks[0] as string, { mode: 0o600 });
      const config = loadConfig({ file, env: { XDG_RUNTIME_DIR: '/run/user/1', HOME: '/home/a' } });
      expect(config.listeners.map((listener) => listener.name)).toEqual(['agent-1']);
      expect(config.warnings).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test('the TCP listener loads beside it', () => {
    const directory = mkdtempSync(join(tmpdir(), 'isoproxy-readme-'));
    const file = join(directory, 'proxy.toml');
    try {
      const both = `${blocks[0]?.replace('name = "agent-1"', 'name = "agent-1"\nproviders = ["anthropic"]')}\n${blocks[1]}`;
      writeFileSync(file, both, { mode: 0o600 });
      const config = loadConfig({ file, env: { XDG_RUNTIME_DIR: '/run/user/1', HOME: '/home/a' } });
      expect(config.listeners.map((listener) => listener.address.kind)).toEqual(['unix', 'tcp']);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
