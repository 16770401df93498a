/** `isoproxy import isorun FILE`: turns a document of another proxy into a proxy.toml. Writes nothing. */
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { formatKey } from '../config/config-error.ts';
import { PRESETS, type Preset } from '../config/presets.ts';
import { readArgs } from './args.ts';
import { CliError, type Command, EXIT, type Io, warn } from './command.ts';
import { findHome, headText, presetText } from './config-text.ts';
import { ImportError, type ImportedDocument, readIsorun } from './isorun.ts';

const USAGE = `usage: isoproxy import isorun FILE

Prints a proxy.toml with the meaning of an Isorun credentials_v2 document. The keys in it are not
printed: each provider reads its secret from a file that a comment names.

  FILE   JSON of this shape, alone or under "credentials_v2" of a whole sandbox request:
         { "SERVICE": { "key": "…", "endpoints": [{ "methods": ["POST"], "paths": ["/v1/x"] }] } }

SERVICE is the name of a preset (isoproxy init lists them). A plain path is a prefix there: "/v1/x"
becomes "/v1/x" and "/v1/x/*"; empty methods become ["*"]. A service without endpoints keeps the
preset's own, narrower list. Any other key is an error.

exit: 0 printed, 64 usage, 78 a document of another shape
`;

function run(args: readonly string[], io: Io): number {
  const { positionals } = readArgs('import', args, {});
  const [format, file] = positionals;
  if (format !== 'isorun' || file === undefined || positionals.length > 2)
    throw new CliError(EXIT.usage, 'import wants a format and a file', 'isoproxy import isorun FILE');
  const { services, leftOut } = readDocument(file);
  if (leftOut.length > 0)
    warn(
      io,
      `not converted, because it is not about credentials: ${leftOut.map((key) => formatKey([key])).join(', ')}`,
    );
  const home = findHome(io.env, process.getuid?.() === 0);
  const names = services.map((service) => service.name);
  io.stdout(headText(home, 'Made by isoproxy import isorun.', names));
  for (const { name, endpoints } of services) {
    if (endpoints === undefined)
      warn(
        io,
        `${name} lists no endpoints, which allows everything there; here the preset's narrower list is in force`,
      );
    io.stdout(presetText(name, PRESETS[name] as Preset, home, endpoints));
  }
  return EXIT.ok;
}

function readDocument(file: string): ImportedDocument {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    // A parser's message quotes the text around the fault, and this document holds keys.
    if (error instanceof SyntaxError) throw new CliError(EXIT.config, 'the file is not valid JSON');
    const code = (error as { code?: string }).code ?? 'unknown error';
    throw new CliError(EXIT.config, `the file cannot be read (${code})`);
  }
  try {
    return readIsorun(json);
  } catch (error) {
    if (error instanceof ImportError) throw new CliError(EXIT.config, error.message, error.hint);
    throw error;
  }
}

export const importCommand: Command = {
  usage: USAGE,
  run,
};
