/** `isoproxy init`: prints a proxy.toml to start from. Writes nothing. */
import process from 'node:process';
import { parseBaseUrl, refuseUpstream } from '../config/base-url.ts';
import { ValueError } from '../config/config-error.ts';
import { parseName } from '../config/names.ts';
import { PRESETS, type Preset } from '../config/presets.ts';
import { suggestHint } from '../config/suggest.ts';
import { readArgs } from './args.ts';
import { CliError, type Command, EXIT, type Io } from './command.ts';
import { customText, findHome, headText, presetText } from './config-text.ts';

const USAGE = `usage: isoproxy init [PRESET ...] [--custom NAME --base-url URL]

Prints a commented proxy.toml for these APIs; secrets come from files under /etc/isoproxy (root) or
~/.config/isoproxy. Nothing is written. Without arguments: lists the presets.

  PRESET            an API that isoproxy knows: base URL, credential header, a careful list of endpoints
  --custom NAME     an API that isoproxy does not know; allows nothing until you list its endpoints
  --base-url URL    with --custom: https://host[:port][/base]

  isoproxy init anthropic github > ~/.config/isoproxy/proxy.toml

exit: 0 printed, 64 unknown preset or unusable name or URL
`;

function run(args: readonly string[], io: Io): number {
  const { values, positionals } = readArgs('init', args, {
    custom: { type: 'string' },
    'base-url': { type: 'string' },
  });
  const presets = [...new Set(positionals)].map((name) => [name, findPreset(name)] as const);
  const custom = readCustom(values.custom, values['base-url']);
  if (presets.length === 0 && custom === undefined) {
    io.stdout(listPresets());
    return EXIT.ok;
  }
  const names = presets.map(([name]) => name);
  if (custom !== undefined && names.includes(custom.name))
    throw new CliError(EXIT.usage, '--custom has the name of a preset in the list', 'choose another name');
  const home = findHome(io.env, process.getuid?.() === 0);
  const all = custom === undefined ? names : [...names, custom.name];
  io.stdout(headText(home, 'Made by isoproxy init.', all));
  for (const [name, preset] of presets) io.stdout(presetText(name, preset, home, undefined));
  if (custom !== undefined) io.stdout(customText(custom.name, custom.baseUrl, home));
  return EXIT.ok;
}

function findPreset(name: string): Preset {
  const preset = Object.hasOwn(PRESETS, name) ? PRESETS[name] : undefined;
  if (preset !== undefined) return preset;
  const hint = suggestHint(name, Object.keys(PRESETS), 'presets');
  throw new CliError(EXIT.usage, 'no such preset', `${hint}; --custom NAME --base-url URL for any other API`);
}

function readCustom(
  name: string | undefined,
  url: string | undefined,
): { name: string; baseUrl: string } | undefined {
  if (name === undefined && url === undefined) return undefined;
  if (name === undefined || url === undefined)
    throw new CliError(
      EXIT.usage,
      '--custom and --base-url belong together',
      'isoproxy init --custom NAME --base-url https://HOST',
    );
  try {
    parseName(name);
    const baseUrl = parseBaseUrl(url);
    const refusal = refuseUpstream(baseUrl, { allowHttp: false, allowPrivate: false, viaSocket: false });
    if (refusal !== undefined) throw new ValueError(refusal);
    return { name, baseUrl: baseUrl.origin + baseUrl.basePath };
  } catch (error) {
    if (error instanceof ValueError)
      throw new CliError(EXIT.usage, `--custom or --base-url: ${error.message}`);
    throw error;
  }
}

function listPresets(): string {
  const width = Math.max(...Object.keys(PRESETS).map((name) => name.length)) + 2;
  const lines = Object.entries(PRESETS).map(([name, { title, evidence }]) => {
    const note = evidence === 'tried' ? '' : ' (from its documentation, not tried)';
    return `  ${name.padEnd(width)}${title}${note}\n`;
  });
  return `presets:\n${lines.join('')}\nisoproxy init PRESET ... prints a configuration; --custom NAME --base-url URL for any other API\n`;
}

export const init: Command = {
  usage: USAGE,
  run,
};
