/** `isoproxy run -- COMMAND`: bridge, environment and the agent itself, in one go, inside the sandbox. */
import { readFileSync } from 'node:fs';
import { askPlace } from '../sandbox/ask.ts';
import type { Bridge } from '../sandbox/bridge.ts';
import { runChild } from '../sandbox/child.ts';
import { clientSettings } from '../sandbox/client-settings.ts';
import { findExposures } from '../sandbox/exposure.ts';
import {
  defaultPatterns,
  type Found,
  findEmptyPlaces,
  findSockets,
  type Place,
  PlaceError,
  type Reachable,
  reach,
} from '../sandbox/place.ts';
import { seedClient } from '../sandbox/seed.ts';
import { readArgs } from './args.ts';
import { listenOn } from './bridge.ts';
import {
  CliError,
  type Command,
  EXIT,
  hint,
  type Io,
  note,
  printError,
  printInternalError,
  warn,
} from './command.ts';
import { printEnvironment } from './print-env.ts';

/** Exit codes that env(1), nice(1) and docker use for themselves, so that the command's own stay its own. */
const OWN_FAILURE = 125;
const NOT_EXECUTABLE = 126;
const NOT_FOUND = 127;

export const run: Command = {
  usage: `usage: isoproxy run [OPTION ...] -- COMMAND [ARGUMENT ...]

Asks the proxy what this sandbox may reach, opens a loopback port for each socket, sets what clients need in the
environment (base URLs, placeholder keys), and runs the command on this terminal. Ends with the command's exit code.

  --socket PATH       the listener's socket as mounted in the sandbox; may be given more than once
                      (default: $ISOPROXY_SOCKET, else the one of /run/isoproxy/isoproxy.sock,
                      /run/isoproxy/*/isoproxy.sock and $XDG_RUNTIME_DIR/isoproxy/*/isoproxy.sock)
  --url URL           a TCP listener instead of a socket, where host and sandbox share no files
  --token-file FILE   holds that listener's token, which clients then present as their key
  --env NAME=VALUE    set in the command's environment; wins over what the providers want; may be repeated
  --no-client-args    add no arguments to commands that the environment cannot configure (codex)
  --print-env         print shell exports instead of running a command, and leave the bridge in the background:
                      eval "$(isoproxy run --print-env)"; kill $ISOPROXY_BRIDGE_PID ends it

Exit codes: the command's own (128 + n after signal n); 125 isoproxy failed, 126 not executable, 127 not found.
`,
  async run(args, io) {
    try {
      return await runCommand(args, io);
    } catch (error) {
      if (error instanceof CliError || error instanceof PlaceError) printError(io, error.message, error.hint);
      else printInternalError(io, error);
      return OWN_FAILURE;
    }
  },
};

async function runCommand(args: readonly string[], io: Io): Promise<number> {
  const end = args.indexOf('--');
  const { values, positionals } = readArgs('run', end === -1 ? args : args.slice(0, end), {
    socket: { type: 'string', multiple: true },
    url: { type: 'string' },
    'token-file': { type: 'string' },
    env: { type: 'string', multiple: true },
    'print-env': { type: 'boolean' },
    'no-client-args': { type: 'boolean' },
  });
  const [command, ...rest] = end === -1 ? [] : args.slice(end + 1);
  if (positionals.length > 0)
    throw new CliError(EXIT.usage, 'the command goes after --', 'isoproxy run -- claude -p hello');
  if (command === undefined && !values['print-env'])
    throw new CliError(EXIT.usage, 'no command', 'isoproxy run -- claude');
  const extra = parseVariables(values.env ?? []);

  const places = choosePlaces(values, io);
  const found: Found[] = [];
  for (const place of places)
    found.push({ place, discovery: await askPlace(place, (why) => note(io, `${why}; waiting for it`)) });

  if (values['print-env']) {
    await lookAround(places, io);
    return printEnvironment({ found, command, extra, io });
  }
  const bridges: Bridge[] = [];
  try {
    const reachable = await reach(found, async (socket) => {
      const bridge = await listenOn({ hostname: '127.0.0.1', port: 0, socket });
      bridges.push(bridge);
      return `http://127.0.0.1:${bridge.port}`;
    });
    await lookAround(places, io);
    return await startClient(reachable, command as string, rest, extra, !values['no-client-args'], io);
  } finally {
    for (const bridge of bridges) bridge.close();
  }
}

/** The doctor's warnings, shortened: the agent starts all the same. */
async function lookAround(places: readonly Place[], io: Io): Promise<void> {
  const sockets = places.flatMap((place) => (place.kind === 'socket' ? [place.path] : []));
  const known = new Set(places.flatMap((place) => (place.kind === 'url' ? [place.token] : [])));
  const exposures = await findExposures({ env: io.env, sockets, patterns: defaultPatterns(io.env), known });
  for (const { message } of exposures) warn(io, message);
  if (exposures.length > 0) hint(io, 'isoproxy doctor says what to do about it');
}

async function startClient(
  reachable: readonly Reachable[],
  command: string,
  args: readonly string[],
  extra: ReadonlyMap<string, string>,
  withArgs: boolean,
  io: Io,
): Promise<number> {
  const settings = clientSettings(reachable, command, io.env);
  for (const { variable, message } of settings.conflicts) if (!extra.has(variable)) warn(io, message);
  const env = { ...io.env, ...Object.fromEntries(settings.env), ...Object.fromEntries(extra) };
  const added = withArgs ? settings.args : [];
  if (added.length > 0)
    note(io, `${command} is not configured by its environment alone; added: ${added.join(' ')}`);
  const seeded = seedClient(command, env);
  for (const text of seeded.notes) note(io, text);
  for (const text of seeded.warnings) warn(io, text);
  const end = await runChild(command, [...added, ...args], env);
  if (end.kind === 'exit') return end.code;
  if (end.code === 'ENOENT') {
    printError(io, `${command}: command not found`, 'is it installed in the sandbox, and on PATH there?');
    return NOT_FOUND;
  }
  const scriptHint = end.code === 'ENOEXEC' ? 'a script needs a first line like #!/bin/sh' : undefined;
  printError(io, `${command}: cannot be executed (${end.code})`, scriptHint);
  return NOT_EXECUTABLE;
}

interface PlaceOptions {
  readonly socket?: readonly string[] | undefined;
  readonly url?: string | undefined;
  readonly 'token-file'?: string | undefined;
}

/** @throws CliError | PlaceError when nothing, too much or nothing usable is there */
function choosePlaces(options: PlaceOptions, { env }: Io): readonly Place[] {
  if (options.url !== undefined) {
    if (options.socket !== undefined)
      throw new CliError(EXIT.usage, '--url and --socket exclude each other', 'isoproxy help run');
    return [{ kind: 'url', origin: parseOrigin(options.url), token: readToken(options['token-file']) }];
  }
  if (options['token-file'] !== undefined)
    throw new CliError(EXIT.usage, '--token-file goes with --url', 'a unix socket needs no token');
  const chosen = options.socket ?? (env['ISOPROXY_SOCKET'] ? [env['ISOPROXY_SOCKET']] : undefined);
  if (chosen !== undefined) return [...new Set(chosen)].map((path) => ({ kind: 'socket', path }));
  const patterns = defaultPatterns(env);
  const sockets = findSockets(patterns);
  const found = sockets.length > 0 ? sockets : findEmptyPlaces(patterns);
  if (found.length > 1)
    throw new PlaceError(
      `there are several sockets: ${found.join(', ')}`,
      'choose with --socket PATH (more than once for more than one)',
    );
  if (found[0] === undefined)
    throw new PlaceError(
      `no socket found; looked for ${patterns.join(', ')}`,
      "mount the directory of the listener's socket at /run/isoproxy, or name the socket with --socket PATH",
    );
  return [{ kind: 'socket', path: found[0] }];
}

function parseOrigin(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.href !== `${url.origin}/`)
    throw new CliError(EXIT.usage, '--url wants an origin', '--url http://host.docker.internal:8787');
  return url.origin;
}

function readToken(file: string | undefined): string {
  if (file === undefined)
    throw new CliError(EXIT.usage, '--url needs --token-file', "it holds the token of the host's listener");
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new PlaceError(
      `${file} cannot be read: ${(error as { code?: string }).code}`,
      'mount it into the sandbox',
    );
  }
  const token = text.trim();
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  throw new PlaceError(`${file} does not hold a token`, 'one line, without spaces or control bytes');
}

/** `NAME=VALUE` options; the last one of a name holds. */
function parseVariables(options: readonly string[]): ReadonlyMap<string, string> {
  const variables = new Map<string, string>();
  for (const option of options) {
    const match = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(option);
    if (!match)
      throw new CliError(EXIT.usage, '--env wants NAME=VALUE', '--env DEBUG=1 (a value is never printed)');
    variables.set(match[1] as string, match[2] as string);
  }
  return variables;
}
