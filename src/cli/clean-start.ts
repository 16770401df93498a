/** The clean start in the voice of the program; see runtime/environment.ts for what it is. */
import { type CleanStart, ensureCleanStart } from '../runtime/environment.ts';
import { CliError, EXIT, type Io, warn } from './command.ts';

/** Commands that read secrets or serve, and so begin with a clean environment. */
const COMMANDS: readonly (string | undefined)[] = ['serve', 'demo'];

/**
 * Restarts the process with a cleaned environment, if `command` is one that needs it. Called before the rest
 * of the program is loaded, which would otherwise be loaded twice (25 ms of a cold start, measured).
 */
export function restartClean(command: string | undefined, io: Io): void {
  if (COMMANDS.includes(command)) start(io);
}

/** @throws CliError (78) when the environment steers the runtime and cannot be cleaned. */
export function requireCleanStart(io: Io): void {
  const result = start(io);
  if (result.kind === 'clean') return;
  const hint =
    result.kind === 'refused'
      ? 'start isoproxy with a clean environment (env -i, or UnsetEnvironment= in the unit)'
      : 'this runtime cannot restart itself with a cleaned environment; unset them (env -u NAME), or use the compiled binary';
  throw new CliError(EXIT.config, `the environment steers the runtime: ${result.names.join(', ')}`, hint);
}

function start(io: Io): CleanStart {
  return ensureCleanStart((names) => {
    warn(io, `dropped from the environment, because they steer the runtime: ${names.join(', ')}`);
  });
}
