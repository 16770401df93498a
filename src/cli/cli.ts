/** The command table, and the one place where a command's failure becomes text and an exit code. */
import { ConfigError } from '../config/config-error.ts';
import { problemsOf } from '../problems.ts';
import { StartError } from '../start-error.ts';
import { VERSION } from '../version.ts';
import { readOptions } from './args.ts';
import { CliError, type Command, EXIT, type Io, printError } from './command.ts';

/** A command in the overview. Its code is loaded when it is run: `isoproxy run` needs no proxy in its memory. */
export interface CommandEntry {
  readonly name: string;
  /** One line for the overview. */
  readonly summary: string;
  readonly load: () => Promise<Command>;
}

/** All commands, in the order in which help lists them. */
export const COMMANDS: readonly CommandEntry[] = [
  { name: 'serve', summary: 'run the proxy', load: async () => (await import('./serve.ts')).serve },
  {
    name: 'check',
    summary: 'validate the configuration and show what is in force',
    load: async () => {
      const { createCheckCommand } = await import('./check.ts');
      const { checkSecrets } = await import('./check-secrets.ts');
      return createCheckCommand({ checkSecrets });
    },
  },
  {
    name: 'explain',
    summary: 'what would happen to this request, and why',
    load: async () => (await import('./explain.ts')).explain,
  },
  {
    name: 'init',
    summary: 'print a commented proxy.toml to start from',
    load: async () => (await import('./init.ts')).init,
  },
  {
    name: 'demo',
    summary: 'see it work: an embedded upstream, an allowed and a refused call; no account needed',
    load: async () => (await import('./demo.ts')).demo,
  },
  {
    name: 'run',
    summary: 'inside the sandbox: run a command that uses the proxy',
    load: async () => (await import('./run.ts')).run,
  },
  {
    name: 'bridge',
    summary: 'inside the sandbox: a loopback port that leads to the socket',
    load: async () => (await import('./bridge.ts')).bridge,
  },
  {
    name: 'doctor',
    summary: 'inside the sandbox: what is exposed that should not be',
    load: async () => (await import('./doctor.ts')).doctor,
  },
  {
    name: 'status',
    summary: 'what the running proxy does',
    load: async () => (await import('./status.ts')).status,
  },
  {
    name: 'halt',
    summary: 'stop traffic at once, also through restarts',
    load: async () => (await import('./halt.ts')).halt,
  },
  {
    name: 'resume',
    summary: 'lift a halt',
    load: async () => (await import('./halt.ts')).resume,
  },
  {
    name: 'reload',
    summary: 'put a changed configuration in force',
    load: async () => (await import('./reload.ts')).reload,
  },
  {
    name: 'denied',
    summary: 'what was refused lately, and the TOML that would allow it',
    load: async () => (await import('./denied.ts')).denied,
  },
  {
    name: 'audit',
    summary: 'read the audit trail, and verify that it is as it was written',
    load: async () => (await import('./audit.ts')).audit,
  },
  {
    name: 'import',
    summary: 'turn a credentials_v2 document into proxy.toml',
    load: async () => (await import('./import.ts')).importCommand,
  },
  {
    name: 'completions',
    summary: 'print the completion script of a shell',
    load: async () => (await import('./completions.ts')).createCompletionsCommand(COMMANDS),
  },
  { name: 'version', summary: 'print the version', load: async () => version },
  {
    name: 'help',
    summary: 'show this overview, or the help of one command',
    load: async () => help,
  },
];

const version: Command = {
  usage: 'usage: isoproxy version\n',
  run: (args, io) => {
    readOptions('version', args, {});
    io.stdout(`isoproxy ${VERSION}\n`);
    return EXIT.ok;
  },
};

const help: Command = {
  usage: 'usage: isoproxy help [COMMAND]\n',
  run: async (args, io) => {
    const [name, ...more] = args;
    if (more.length > 0)
      throw new CliError(EXIT.usage, 'help takes one command', 'isoproxy help lists the commands');
    io.stdout(name === undefined ? overview() : (await loadCommand(name)).usage);
    return EXIT.ok;
  },
};

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

async function loadCommand(name: string): Promise<Command> {
  const entry = COMMANDS.find((candidate) => candidate.name === name);
  if (entry) return entry.load();
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
    const command = await loadCommand(name);
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
  for (const { text, hint } of problemsOf(error)) printError(io, text, hint);
  if (error instanceof StartError) return EXIT[error.kind];
  return error instanceof ConfigError ? EXIT.config : EXIT.internal;
}
