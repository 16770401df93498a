// What completions offer: read from the usage texts, and tried in the real shells.

import { describe, expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { COMMANDS } from '../../src/cli/cli.ts';
import { describeCommands } from '../../src/cli/completions.ts';
import { readUsage } from '../../src/cli/usage-text.ts';
import { runCommand } from '../config/command-io.ts';

const commands = await describeCommands(COMMANDS);
const NAMES = COMMANDS.map((command) => command.name);

test('a usage text gives its options with their values, its places and its examples', () => {
  const usage = readUsage(
    'try',
    'try it',
    `usage: isoproxy try [--config FILE] [--all] show|hide FILE
       isoproxy try drop (--name NAME | --deep)

Does this
and that.

  --config FILE  the file, which may
                 be long
  --at TIME      when
  FILE           what

  isoproxy try show x
`,
  );
  expect(usage.synopses).toEqual([
    'try [--config FILE] [--all] show|hide FILE',
    'try drop (--name NAME | --deep)',
  ]);
  expect(usage.options).toEqual([
    { name: '--config', value: 'FILE', text: 'the file, which may be long' },
    { name: '--all', value: undefined, text: '' },
    { name: '--name', value: 'NAME', text: '' },
    { name: '--deep', value: undefined, text: '' },
    { name: '--at', value: 'TIME', text: 'when' },
  ]);
  expect(usage.places).toEqual([['show', 'hide', 'drop'], ['FILE']]);
  expect(usage.blocks.map((block) => block.kind)).toEqual(['text', 'term', 'term', 'term', 'example']);
  expect(usage.blocks[0]?.text).toBe('Does this and that.');
  expect(usage.runsCommand).toBe(false);
});

test('every option that a usage text names is read from it', async () => {
  for (const { name, load } of COMMANDS) {
    const { usage } = await load();
    // Options of other programs stand in examples only.
    const described = usage.split('\n').filter((line) => /^usage:|^ {2}-/.test(line));
    const named = described.flatMap((line) => line.match(/(?<![\w-])--[a-z][a-z-]*/g) ?? []);
    const read = commands.find((command) => command.name === name)?.options.map((option) => option.name);
    expect(read).toEqual(expect.arrayContaining(named));
  }
});

test('a shell that is not known is wrong usage', async () => {
  for (const args of [[], ['tcsh'], ['bash', 'zsh'], ['toString']]) {
    const { code, out, err } = await runCommand(['completions', ...args]);
    expect([code, out]).toEqual([64, '']);
    expect(err).toContain('isoproxy completions bash, zsh, fish');
  }
});

/** What a shell offers for each of these lines. */
type Shell = (dir: string, script: string, lines: readonly string[]) => string[][];

function run(dir: string, command: string, args: string[]): string[] {
  const env = { PATH: process.env['PATH'] ?? '', HOME: dir, TERM: 'dumb' };
  const child = spawnSync(command, args, { cwd: dir, env, encoding: 'utf8', timeout: 20_000 });
  if (child.status !== 0 || child.stderr !== '')
    throw new Error(`${command}: ${child.status}\n${child.stderr}\n${child.stdout}`);
  return child.stdout.split('\n').filter((text) => text !== '');
}

const SHELLS: Record<string, Shell> = {
  bash: (dir, script, lines) =>
    lines.map((line) => {
      // As readline cuts it: "=" is a word of its own.
      const words = line
        .replace(/=/g, ' = ')
        .split(' ')
        .filter((word, i, all) => word !== '' || i === all.length - 1);
      const code = `source ${script} || exit; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _isoproxy; printf '%s\\n' "\${COMPREPLY[@]}"`;
      return run(dir, 'bash', ['--norc', '-c', code, 'bash', ...words]);
    }),
  fish: (dir, script, lines) => {
    const code = lines.map((line) => `complete -C '${line}'; echo //`).join('; ');
    const output = run(dir, 'fish', ['--no-config', '-c', `source ${script}; ${code}`]);
    return output
      .map((text) => text.split('\t')[0] ?? '')
      .join('\n')
      .split('//')
      .map((part) => part.split('\n').filter((text) => text !== ''));
  },
  // Completion works on a terminal only: the inner shell has one, and writes down what it would offer.
  zsh: (dir, script, lines) => {
    writeFileSync(
      join(dir, '.zshrc'),
      `PS1=; autoload -Uz compinit; compinit -u -D; source ${script}
compadd() {
  if [[ " $* " == *" -"[OAD]" "* ]]; then builtin compadd "$@"; return $?; fi
  local -a hits; builtin compadd -A hits "$@"
  (( $#hits )) && print -rl -- $hits >> .hits
  builtin compadd "$@"
}
next() { print // >> .hits; BUFFER=; (( ++lines < ${lines.length} )) || exit }
zle -N next; bindkey '^I' complete-word; bindkey '^X' next; setopt no_beep no_always_last_prompt
print ready
`,
    );
    const typed = lines.map((line) => `zpty -w -n z '${line}'$'\\t\\x18'\n`).join('');
    const code = `zmodload zsh/zpty; zpty z zsh -i; while zpty -r z out; do [[ $out == *ready* ]] && break; done
${typed}while zpty -r z out; do :; done; cat .hits`;
    const hits = run(dir, 'zsh', ['-f', '-c', code]).join('\n').split('//');
    return lines.map((_, i) =>
      (hits[i] ?? '')
        .replace(/\\ /g, ' ')
        .split('\n')
        .filter((text) => text !== ''),
    );
  },
};

const LINES = {
  commands: ['isoproxy ', 'isoproxy expl', 'isoproxy help comp'],
  options: [...NAMES.map((name) => `isoproxy ${name} --`), 'isoproxy check --stri'],
  files: ['isoproxy serve --config ', 'isoproxy run --socket ', 'isoproxy import isorun '],
  noFiles: ['isoproxy explain --listener ', 'isoproxy import ', 'isoproxy completions '],
  command: [
    'isoproxy run --socket x -- isopro',
    'isoproxy run --socket x -- prin',
    'isoproxy run -- cat ',
    'isoproxy serve --config=etc/',
  ],
};

describe.each(Object.keys(SHELLS))('in %s', (name) => {
  const isHere = spawnSync(name, ['--version']).status === 0;
  let offered: Promise<Map<string, string[]>> | undefined;
  const ask = async (): Promise<Map<string, string[]>> => {
    const dir = mkdtempSync(join(tmpdir(), 'isoproxy-completions-'));
    try {
      const script = join(dir, '.script');
      writeFileSync(script, (await runCommand(['completions', name])).out);
      mkdirSync(join(dir, 'etc'));
      for (const file of ['a b.toml', 'etc/x.toml']) writeFileSync(join(dir, file), '');
      const lines = Object.values(LINES).flat();
      const answers = (SHELLS[name] as Shell)(dir, script, lines);
      return new Map(
        lines.map((line, i) => [line, (answers[i] ?? []).map((text) => text.replace(/\/$/, ''))]),
      );
    } finally {
      rmSync(dir, { recursive: true });
    }
  };
  const offer = async (line: string): Promise<string[]> => {
    offered ??= ask();
    return [...new Set((await offered).get(line))].sort();
  };

  test.skipIf(!isHere)(`commands (needs ${name})`, async () => {
    expect(await offer('isoproxy ')).toEqual(expect.arrayContaining(NAMES));
    expect(await offer('isoproxy expl')).toEqual(['explain']);
    expect(await offer('isoproxy help comp')).toEqual(['completions']);
  });

  test.skipIf(!isHere)(`options of every command (needs ${name})`, async () => {
    for (const command of commands) {
      const options = command.options.map((option) => option.name);
      expect([command.name, await offer(`isoproxy ${command.name} --`)]).toEqual([
        command.name,
        expect.arrayContaining(options),
      ]);
    }
    expect(await offer('isoproxy check --stri')).toEqual(['--strict']);
  });

  test.skipIf(!isHere)(`files where files stand, and only there (needs ${name})`, async () => {
    const files = expect.arrayContaining(['a b.toml', 'etc']);
    for (const line of LINES.files) expect([line, await offer(line)]).toEqual([line, files]);
    for (const line of LINES.noFiles)
      expect((await offer(line)).filter((text) => text.includes('toml') || text === 'etc')).toEqual([]);
    expect(await offer('isoproxy completions ')).toEqual(expect.arrayContaining(['bash', 'fish', 'zsh']));
    expect(await offer('isoproxy import ')).toContain('isorun');
  });

  test.skipIf(!isHere)(`behind "run --": commands, then files (needs ${name})`, async () => {
    expect(await offer('isoproxy run --socket x -- isopro')).not.toContain('--socket');
    expect(await offer('isoproxy run --socket x -- prin')).toContain('printf');
    expect(await offer('isoproxy run -- cat ')).toContain('a b.toml');
  });

  test.skipIf(!isHere)(`an option with "=" (needs ${name})`, async () => {
    expect(await offer('isoproxy serve --config=etc/')).toEqual(
      expect.arrayContaining([expect.stringContaining('x.toml')]),
    );
  });
});
