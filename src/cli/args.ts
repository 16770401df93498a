/** Command-line parsing: `node:util`'s parseArgs in the voice of the program. */
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';
import { CliError, EXIT } from './command.ts';

/**
 * Parses `args` strictly.
 * @throws CliError (64) for an unknown option or a missing value, with a hint to the command's help.
 */
export function readArgs<T extends ParseArgsOptionsConfig>(
  command: string,
  args: readonly string[],
  options: T,
) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    // parseArgs' own text is a sentence about the option; it quotes the option's name, never a value.
    const text = error instanceof Error ? (error.message.split('. ')[0] ?? '') : '';
    const message = text.charAt(0).toLowerCase() + text.slice(1).replace(/\.$/, '');
    throw new CliError(EXIT.usage, message, `isoproxy help ${command}`);
  }
}

/**
 * The same for a command that takes options only.
 * @throws CliError (64) also for any other argument: `serve other.toml` must not serve the default configuration
 */
export function readOptions<T extends ParseArgsOptionsConfig>(
  command: string,
  args: readonly string[],
  options: T,
) {
  const { values, positionals } = readArgs(command, args, options);
  if (positionals.length === 0) return values;
  const hint = 'config' in options ? 'name the file with --config FILE' : `isoproxy help ${command}`;
  throw new CliError(EXIT.usage, `${command} takes no argument`, hint);
}
