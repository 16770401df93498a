/** How a command finds and asks the control socket of a running proxy. */
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import process from 'node:process';
import { ConfigError } from '../config/config-error.ts';
import { defaultStateDir } from '../config/directories.ts';
import type { Config } from '../config/effective.ts';
import { loadConfig } from '../config/load.ts';
import { findConfigFile } from '../config/search.ts';
import { CliError, EXIT, type Io } from './command.ts';

/** How long an answer may take, ms. */
const ANSWER_MS = 1_000;
/** A reload may read secrets and open sockets first; the disk of an audit log may be slow. */
const LONGER_MS: Readonly<Record<string, number>> = { '/reload': 60_000, '/audit/clear': 15_000 };

/** Options that every command here takes. */
export const CONTROL_OPTIONS = {
  config: { type: 'string' },
  control: { type: 'string' },
  json: { type: 'boolean' },
} as const;

export const CONTROL_USAGE = `  --control PATH  the control socket (default: the one of the configuration, or of its defaults if it does not parse)
  --config FILE   the configuration that names it
  --json          print one JSON object`;

/** Where the proxy keeps its state and its control socket. */
export interface ControlPlace {
  readonly socket: string;
  /** Directory of the halt file; undefined where only a socket was named, and no configuration that names it as well. */
  readonly stateDir: string | undefined;
  /** Why the configuration could not be used to find them. */
  readonly guessed: string | undefined;
  /** What it configures; undefined if it cannot be used. */
  readonly config: Config | undefined;
}

/**
 * Finds the control socket. A broken configuration never stands in the way: then it is where the defaults put it.
 * @throws CliError when there is no place for it either
 */
export function findControl(
  values: { config?: string | undefined; control?: string | undefined },
  io: Io,
): ControlPlace {
  // A configuration that the usual search finds may be that of another proxy: halting that one would stop nobody here.
  const isItsOwn = (socket: string | undefined) =>
    values.control === undefined || values.config !== undefined || values.control === socket;
  try {
    const config = loadConfig({ file: values.config, env: io.env });
    const { controlSocket, stateDir } = config.server;
    return {
      socket: values.control ?? controlSocket,
      stateDir: isItsOwn(controlSocket) ? stateDir : undefined,
      guessed: undefined,
      config,
    };
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const written = readPaths(values.config, io.env);
    const stateDir = written.state_dir ?? defaultStateDir(io.env, process.getuid?.() === 0);
    const guess = written.control ?? (stateDir && join(stateDir, 'control.sock'));
    const socket = values.control ?? guess;
    if (socket === undefined)
      throw new CliError(
        EXIT.config,
        'the configuration cannot be used to find the control socket',
        '--control PATH',
      );
    const problem = error.problems[0]?.text ?? 'the configuration cannot be read';
    return {
      socket,
      stateDir: isItsOwn(guess) ? stateDir : undefined,
      guessed: values.control === undefined ? problem : undefined,
      config: undefined,
    };
  }
}

/** The paths that a configuration names in plain lines, whatever else is wrong with it. */
function readPaths(given: string | undefined, env: Io['env']): { state_dir?: string; control?: string } {
  try {
    const text = readFileSync(findConfigFile(given, env), 'utf8');
    const lines = [...text.matchAll(/^\s*(state_dir|control)\s*=\s*"([^"\\]+)"/gm)];
    return Object.fromEntries(lines.map(([, key, path]) => [key, path]));
  } catch {
    return {};
  }
}

/** No answer came: nobody listens, it is silent, or it is not for this user. */
export class NoAnswerError extends CliError {}

/**
 * Asks the control socket; resolves to the parsed answer, whatever its status.
 * @throws NoAnswerError (69)
 */
export function askControl<T>(
  place: ControlPlace,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
): Promise<T> {
  const limit = LONGER_MS[path] ?? ANSWER_MS;
  return new Promise((resolve, reject) => {
    const fail = (why: string) =>
      reject(
        new NoAnswerError(
          EXIT.unavailable,
          `no answer from ${place.socket}: ${why}`,
          place.guessed === undefined
            ? 'is isoproxy serve running, and are you the user that it runs as?'
            : `the configuration does not parse (${place.guessed}), so this is a guess; name it with --control PATH`,
        ),
      );
    const asked = request(
      {
        socketPath: place.socket,
        path,
        method,
        agent: false,
        headers: { host: 'control', 'content-type': 'application/json' },
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (piece: string) => {
          text += piece;
        });
        response.on('end', () => {
          clearTimeout(timer);
          const { statusCode = 0 } = response;
          // A listener of the proxy answers too, and in JSON.
          if (statusCode === 404) return fail('what answers there is no control socket');
          if (statusCode >= 500) return fail(`it failed (${statusCode})`);
          try {
            resolve(JSON.parse(text) as T);
          } catch {
            fail('it is not isoproxy that answers');
          }
        });
      },
    );
    const timer = setTimeout(() => {
      fail(`it is silent for ${limit / 1000} s`);
      asked.destroy();
    }, limit);
    asked.on('error', (error: { code?: string }) => {
      clearTimeout(timer);
      fail(error.code ?? 'no code');
    });
    asked.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
