/** The command table, and the one place where a command's failure becomes text and an exit code. */
import { ConfigError } from '../config/config-error.ts';
import { runtime } from '../runtime/index.ts';
import { findSecretProblems, StartError } from '../startup.ts';
import { VERSION } from '../version.ts';
import { readOptions } from './args.ts';
import { createCheckCommand } from './check.ts';
import { requireCleanStart } from './clean-start.ts';
import { CliError, type Command, EXIT, type Io, printError } from './command.ts';
import { demo } from './demo.ts';
import { explain } from './explain.ts';
import { importCommand } from './import.ts';
import { init } from './init.ts';
import { serve } from './serve.ts';

const version: Command = {
  name: 'version',
  summary: 'print the version',
  usage: 'isoproxy version\n',
  run: (args, io) => {
    readOptions('version', args, {});
    io.stdout(`isoproxy ${VERSION}\n`);
    return EXIT.ok;
  },
};

const help: Command = {
  name: 'help',
  summary: 'show this overview, or the help of one command',
  usage: 'isoproxy help [COMMAND]\n',
  run: (args, io) => {
    const [name, ...more] = args;
    if (more.length > 0)
      throw new CliError(EXIT.usage, 'help takes one command', 'isoproxy help lists the commands');
    if (name === undefined) {
      io.stdout(overview());
      return EXIT.ok;
    }
    io.stdout(findCommand(name).usage);
    return EXIT.ok;
  },
};

const check = createCheckCommand({
  checkSecrets: (config, io) => {
    requireCleanStart(io);
    return findSecretProblems(config, runtime, { env: io.env, now: () => performance.now() });
  },
});

/** All commands, in the order in which help lists them. */
export const COMMANDS: readonly Command[] = [serve, check, explain, init, demo, importCommand, version, help];

function overview(): string {
  const width = Math.max(...COMMANDS.map((command) => command.name.length)) + 2;
  const lines = COMMANDS.map((command) => `  ${command.name.padEnd(width)}${command.summary}`);
  return [
    'isoproxy: a sandboxed agent uses an API without ever holding its key',
    '',
    'usage: isoproxy COMMAND [OPTION ...]',
    '',
    ...lines,
    '',
    'isoproxy help COMMAND tells more. The configuration is found by --config, $ISOPROXY_CONFIG,',
    '$XDG_CONFIG_HOME/isoproxy/proxy.toml, /etc/isoproxy/proxy.toml; never in the working directory.',
    '',
  ].join('\n');
}

function findCommand(name: string): Command {
  const command = COMMANDS.find((candidate) => candidate.name === name);
  if (command) return command;
  throw new CliError(
    EXIT.usage,
    `unknown command ${JSON.stringify(name.slice(0, 40))}`,
    'isoproxy help lists the commands',
  );
}

/** Runs a command line (without the program's name); returns the exit code, never throws. */
export async function runCli(args: readonly string[], io: Io): Promise<number> {
  try {
    const [name, ...rest] = args;
    if (name === undefined || name === '--help' || name === '-h') {
      (name === undefined ? io.stderr : io.stdout)(overview());
      return name === undefined ? EXIT.usage : EXIT.ok;
    }
    if (name === '--version' || name === '-V') return await version.run([], io);
    const command = findCommand(name);
    const beforeDashes = rest.includes('--') ? rest.slice(0, rest.indexOf('--')) : rest;
    if (beforeDashes.includes('--help') || beforeDashes.includes('-h')) {
      io.stdout(command.usage);
      return EXIT.ok;
    }
    return await command.run(rest, io);
  } catch (error) {
    return report(error, io);
  }
}

function report(error: unknown, io: Io): number {
  if (error instanceof CliError) {
    printError(io, error.message, error.hint);
    return error.exitCode;
  }
  if (error instanceof StartError) {
    printError(io, error.message, error.hint);
    return error.kind === 'config' ? EXIT.config : EXIT.unavailable;
  }
  if (error instanceof ConfigError) {
    for (const problem of error.problems) printError(io, problem.text, problem.hint);
    return EXIT.config;
  }
  // Text of an unknown error may hold anything: only its kind is shown.
  const kind = error instanceof Error ? error.name : typeof error;
  printError(io, `internal error (${kind})`, 'this is a bug in isoproxy; please report what you ran');
  return EXIT.internal;
}
