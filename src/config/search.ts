/** Finds the configuration file. Never in the working directory: an agent may own it. */
import { existsSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { ConfigError, createProblem } from './config-error.ts';
import { absoluteVariable, type Environment } from './directories.ts';

const SYSTEM_FILE = '/etc/isoproxy/proxy.toml';

/** Files that are looked for without `--config` and `$ISOPROXY_CONFIG`, in order. */
export function searchPaths(env: Environment): string[] {
  const home = absoluteVariable(env, 'HOME');
  const config =
    absoluteVariable(env, 'XDG_CONFIG_HOME') ?? (home === undefined ? undefined : join(home, '.config'));
  return config === undefined ? [SYSTEM_FILE] : [join(config, 'isoproxy/proxy.toml'), SYSTEM_FILE];
}

/**
 * The file to read: `given` (`--config`), else `$ISOPROXY_CONFIG`, else the first of searchPaths that
 * exists. What is named explicitly is never passed over, also when it is not there.
 * @throws ConfigError if there is none.
 */
export function findConfigFile(
  given: string | undefined,
  env: Environment,
  exists: (path: string) => boolean = existsSync,
): string {
  if (given !== undefined) return given;
  const named = env['ISOPROXY_CONFIG'];
  if (named !== undefined && named !== '') {
    if (isAbsolute(named)) return named;
    throw failure(
      '$ISOPROXY_CONFIG',
      'must be an absolute path, so that the working directory has no say in it',
    );
  }
  const paths = searchPaths(env);
  const found = paths.find((path) => exists(path));
  if (found !== undefined) return found;
  throw failure(
    'configuration',
    `no file found; looked for ${paths.join(' and ')}`,
    'name it with --config FILE, or make one with isoproxy init',
  );
}

function failure(file: string, message: string, hint?: string): ConfigError {
  return new ConfigError([createProblem({ file, key: '', message, hint })]);
}
