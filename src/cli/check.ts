/** `isoproxy check`: is this configuration usable, and what does it mean? */
import { ConfigError, type Problem } from '../config/config-error.ts';
import type { Config } from '../config/effective.ts';
import { loadConfig } from '../config/load.ts';
import { readOptions } from './args.ts';
import { configToJson, formatConfig } from './check-report.ts';
import { CliError, type Command, EXIT, type Io, warn } from './command.ts';

const USAGE = `usage: isoproxy check [--config FILE] [--json] [--strict] [--secrets]

Validates the configuration and prints what is in force: sockets, rules, limits and resolved paths.
Warnings go to stderr. No secret is read and nothing is dialled, unless --secrets is given.

  --config FILE   the file to check; default: the usual search ($ISOPROXY_CONFIG,
                  ~/.config/isoproxy/proxy.toml, /etc/isoproxy/proxy.toml)
  --strict        warnings are errors (exit 78)
  --secrets       also read every secret and check its form; prints none of them
  --json          print one JSON object instead:
                  { "ok": bool, "problems": [{ "file", "line", "key", "message", "hint" }],
                    "warnings": [text], "secrets": [text] (with --secrets),
                    "config": { "file", "server", "log", "listeners": [...], "providers": [...] } or null }
                  sizes are bytes, times milliseconds; fields are added, never changed

exit: 0 usable, 78 not usable (or warnings with --strict)
`;

export interface CheckHooks {
  /** Reads every secret of the configuration; returns one line for each that cannot be used. */
  readonly checkSecrets?: (config: Config, io: Io) => Promise<string[]>;
}

interface Outcome {
  readonly config: Config | undefined;
  readonly problems: readonly Problem[];
  /** Undefined without --secrets. */
  readonly secrets: readonly string[] | undefined;
}

/** The command; `hooks` brings what reads secrets, so that this file cannot. */
export function createCheckCommand(hooks: CheckHooks = {}): Command {
  async function run(args: readonly string[], io: Io): Promise<number> {
    const values = readOptions('check', args, {
      config: { type: 'string' },
      json: { type: 'boolean' },
      strict: { type: 'boolean' },
      secrets: { type: 'boolean' },
    });
    const { config, problems } = load(values.config, io);
    const secrets = values.secrets && config !== undefined ? await readSecrets(config, io) : undefined;
    const outcome = { config, problems, secrets };
    if (values.json) return printJson(outcome, values.strict ?? false, io);
    return printText(outcome, values.strict ?? false, io);
  }

  async function readSecrets(config: Config, io: Io): Promise<string[]> {
    if (hooks.checkSecrets === undefined) throw new CliError(EXIT.usage, '--secrets is not available here');
    return hooks.checkSecrets(config, io);
  }

  return {
    usage: USAGE,
    run,
  };
}

function load(file: string | undefined, io: Io): Pick<Outcome, 'config' | 'problems'> {
  try {
    return { config: loadConfig({ file, env: io.env }), problems: [] };
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return { config: undefined, problems: error.problems };
  }
}

function isUsable({ config, secrets }: Outcome, strict: boolean): boolean {
  if (config === undefined || (secrets !== undefined && secrets.length > 0)) return false;
  return !strict || config.warnings.length === 0;
}

function printJson(outcome: Outcome, strict: boolean, io: Io): number {
  const { config, problems, secrets } = outcome;
  const ok = isUsable(outcome, strict);
  const report = {
    ok,
    problems: problems.map(({ file, line, key, message, hint }) => ({
      file,
      line: line ?? null,
      key,
      message,
      hint: hint ?? null,
    })),
    warnings: config?.warnings ?? [],
    ...(secrets === undefined ? {} : { secrets }),
    config: config === undefined ? null : configToJson(config),
  };
  io.stdout(`${JSON.stringify(report, null, 2)}\n`);
  return ok ? EXIT.ok : EXIT.config;
}

function printText(outcome: Outcome, strict: boolean, io: Io): number {
  const { config, problems, secrets } = outcome;
  if (config === undefined) throw new ConfigError(problems);
  io.stdout(formatConfig(config));
  for (const warning of config.warnings) warn(io, warning);
  if (secrets !== undefined && secrets.length > 0) throw new CliError(EXIT.config, secrets.join('\n'));
  if (!isUsable(outcome, strict))
    throw new CliError(EXIT.config, `${counted(config.warnings.length)}, and --strict was asked for`);
  const noted = config.warnings.length === 0 ? '' : ` (${counted(config.warnings.length)})`;
  io.stdout(`\nusable${secrets === undefined ? '; no secret was read' : ''}${noted}\n`);
  return EXIT.ok;
}

function counted(count: number): string {
  return count === 1 ? '1 warning' : `${count} warnings`;
}
