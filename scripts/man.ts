/**
 * Prints isoproxy(1): the table of commands with their usage texts, and the exit codes of the README.
 * `make man` writes it to dist/isoproxy.1. SOURCE_DATE_EPOCH sets its date (default: that of the last commit).
 */
import { readFileSync } from 'node:fs';
import { COMMANDS } from '../src/cli/cli.ts';
import { type CommandUsage, readUsage } from '../src/cli/usage-text.ts';
import { VERSION } from '../src/version.ts';
import { sourceDate } from './source-date.ts';

/** Text in which roff sees no command, no escape and no hyphen where there is a minus; in lines as mandoc likes them. */
function roff(text: string): string {
  return text
    .replace(/(.{1,52}\S*)(?: |$)/g, (_, line: string) => `${line}\n`)
    .trimEnd()
    .replace(/\\/g, '\\e')
    .replace(/-/g, '\\-')
    .replace(/~/g, '\\(ti')
    .replace(/\^/g, '\\(ha')
    .replace(/`/g, '\\(ga')
    .replace(/^([.'])/gm, '\\&$1')
    .replace(/…/g, '...')
    .replace(
      /[^\n -~]/g,
      (character) => `\\[u${character.codePointAt(0)?.toString(16).toUpperCase().padStart(4, '0')}]`,
    );
}

const bold = (text: string): string => `\\fB${text}\\fR`;

/** Names bold, values in italics: `--config FILE`. */
function term(text: string): string {
  return roff(text)
    .replace(/(?<![\\\w-])(?:\\-)+[a-z](?:\\-|[a-z])*/g, bold)
    .replace(/\b[A-Z][A-Z0-9]+(?:\\-[A-Z]+)*\b/g, '\\fI$&\\fR');
}

function section(command: CommandUsage): string[] {
  const synopses = command.synopses.map((line) => {
    const [name = '', ...rest] = line.split(' ');
    return `.B isoproxy ${name}${rest.length === 0 ? '' : `\n${term(rest.join(' '))}`}`;
  });
  const lines = [
    `.SS ${roff(`${command.name}: ${command.summary}`).replaceAll('\n', ' ')}`,
    synopses.join('\n.br\n'),
  ];
  for (const block of command.blocks) {
    if (block.kind === 'text') lines.push('.PP', roff(block.text));
    else if (block.kind === 'term')
      lines.push('.TP', term(block.term).replaceAll('\n', ' '), roff(block.text));
    else lines.push('.PP', '.nf', roff(block.text).replaceAll('\n', ' '), '.fi');
  }
  return lines;
}

/** The rows of the README's table of exit codes, which a test holds against the source. */
function exitCodes(readme: string): string[] {
  const table = /\| exit code \|.*\n\|.*\n((?:\|.*\n)+)/.exec(readme)?.[1] ?? '';
  const rows = table.trim().split('\n');
  return rows.flatMap((row) => {
    const [, code = '', meaning = ''] = row.split('|').map((cell) => cell.trim().replaceAll('`', ''));
    return ['.TP', bold(code), roff(meaning)];
  });
}

export async function manPage(readme: string, date: Date): Promise<string> {
  const commands = await Promise.all(
    COMMANDS.map(async ({ name, summary, load }) => readUsage(name, summary, (await load()).usage)),
  );
  const files: readonly (readonly [string, string])[] = [
    [
      '/etc/isoproxy/proxy.toml',
      'the configuration of the host; of a user: $XDG_CONFIG_HOME/isoproxy/proxy.toml',
    ],
    [
      '/run/isoproxy/LISTENER/isoproxy.sock',
      'the socket of a listener; its directory is what a sandbox mounts',
    ],
  ];
  const environment: readonly (readonly [string, string])[] = [
    ['ISOPROXY_CONFIG', 'the configuration, where --config is not given'],
    ['ISOPROXY_SOCKET', 'inside the sandbox: the socket, where --socket is not given'],
    ['NO_COLOR', 'no colours on a terminal'],
  ];
  const list = (rows: readonly (readonly [string, string])[]) =>
    rows.flatMap(([name, text]) => ['.TP', bold(roff(name)), roff(text)]);
  return `${[
    '.\\" Generated from the usage texts of the commands; see scripts/man.ts.',
    `.TH ISOPROXY 1 ${date.toISOString().slice(0, 10)} "isoproxy ${VERSION}"`,
    // Neither hyphens nor wide gaps in what people copy.
    '.nh',
    '.ad l',
    '.SH NAME',
    'isoproxy \\- API access for sandboxed agents, without the key',
    '.SH SYNOPSIS',
    `${bold('isoproxy')} ${term('COMMAND')} [${term('OPTION')} ...]`,
    '.SH DESCRIPTION',
    roff(
      'isoproxy runs on the host of a sandbox. It listens on a unix socket, checks each request against an allow-list, ' +
        'injects the credential that the sandbox never sees, and forwards over HTTPS to the one configured upstream.',
    ),
    '.SH COMMANDS',
    ...commands.flatMap(section),
    '.SH EXIT STATUS',
    'Of every command but run, which ends with that of its command:',
    ...exitCodes(readme),
    '.SH ENVIRONMENT',
    ...list(environment),
    '.SH FILES',
    ...list(files),
    '.SH SEE ALSO',
    roff('README.md, proxy.toml.example and docs, which packages put into /usr/share/doc/isoproxy'),
  ].join('\n')}\n`;
}

if (import.meta.main)
  process.stdout.write(await manPage(readFileSync('README.md', 'utf8'), new Date(sourceDate() * 1000)));
