/** `isoproxy halt` and `isoproxy resume`: the kill switch. */
import { isConfigured, NO_SUCH_NAME } from '../config/halt-names.ts';
import { formatScope, type HaltScope, parseScope } from '../guards/kill-switch.ts';
import { writeHaltByHand } from '../runtime/halt-file.ts';
import { readOptions } from './args.ts';
import { CliError, type Command, EXIT, type Io, note, warn } from './command.ts';
import {
  askControl,
  CONTROL_OPTIONS,
  CONTROL_USAGE,
  type ControlPlace,
  findControl,
  NoAnswerError,
} from './control-client.ts';

export const halt: Command = {
  usage: `usage: isoproxy halt [--reason TEXT] [--provider NAME | --listener NAME] [--control PATH] [--config FILE] [--json]

Stops traffic at once: of one provider, of one listener, or, with neither, of the whole proxy. New requests get 503
"halted"; those in flight are cut within a second. It holds through restarts until isoproxy resume. If the control
socket does not answer within a second, the file "halt" in the state directory is written instead, which a running
proxy obeys, and also the next one that starts.

  --reason TEXT    why; one line of at most 200 characters, shown by status and in the log
  --provider NAME  only requests to this provider
  --listener NAME  only requests of this listener
${CONTROL_USAGE}

Exit codes: 0 halted, 69 it could not be saved or nobody could be told.
`,
  async run(args, io) {
    const values = readOptions('halt', args, {
      ...CONTROL_OPTIONS,
      reason: { type: 'string' },
      provider: { type: 'string' },
      listener: { type: 'string' },
    });
    const scope = readScope('halt', values.provider, values.listener) ?? { kind: 'all' };
    const place = findControl(values, io);
    const reason = values.reason ?? '';
    try {
      const body = { scope: formatScope(scope), reason };
      const answer = await askControl<{ saved: boolean; code: string | null; error?: string }>(
        place,
        'POST',
        '/halt',
        body,
      );
      if (answer.error !== undefined)
        throw new CliError(EXIT.usage, answer.error, 'isoproxy status lists them');
      return report(io, values.json ?? false, scope, { ...answer, by: place.socket });
    } catch (error) {
      if (!(error instanceof NoAnswerError)) throw error;
      if (place.stateDir === undefined)
        throw new CliError(
          EXIT.unavailable,
          `${error.message}; nothing is halted`,
          `with --config FILE as well, its state directory says so; by hand: echo ${formatScope(scope)} >> STATE_DIR/halt`,
        );
      // The file halts no name that is not configured, and would look as if it had; without a configuration, it may.
      if (place.config !== undefined && !isConfigured(scope, place.config))
        throw new CliError(
          EXIT.usage,
          NO_SUCH_NAME,
          `isoproxy check shows what ${place.config.file} configures`,
        );
      warn(io, error.message);
      return haltByFile(place, place.stateDir, scope, reason, values.json ?? false, io);
    }
  },
};

function haltByFile(
  place: ControlPlace,
  stateDir: string,
  scope: HaltScope,
  reason: string,
  json: boolean,
  io: Io,
): number {
  try {
    writeHaltByHand(stateDir, scope, reason);
  } catch (error) {
    const code = (error as { code?: string }).code ?? 'no code';
    throw new CliError(
      EXIT.unavailable,
      `${stateDir}/halt cannot be written: ${code}`,
      place.guessed && '--control PATH',
    );
  }
  return report(io, json, scope, { saved: true, code: null, by: `${stateDir}/halt` });
}

function report(
  io: Io,
  json: boolean,
  scope: HaltScope,
  { saved, code, by }: { saved: boolean; code: string | null; by: string },
): number {
  if (json) io.stdout(`${JSON.stringify({ halted: formatScope(scope), saved, code, by })}\n`);
  else io.stdout(`halted: ${formatScope(scope)} (${by})\n`);
  if (saved) return EXIT.ok;
  warn(io, `it could not be saved (${code}): it holds now, and will not survive a restart`);
  return EXIT.unavailable;
}

export const resume: Command = {
  usage: `usage: isoproxy resume (--all | --provider NAME | --listener NAME) [--control PATH] [--config FILE] [--json]

Lifts what isoproxy halt did. The target is named on purpose: --all lifts everything that is halted.

  --all            everything
  --provider NAME  the halt of this provider
  --listener NAME  the halt of this listener
${CONTROL_USAGE}

Exit codes: 0 resumed, or nothing was halted so; 69 it could not be saved, and stays halted.
`,
  async run(args, io) {
    const values = readOptions('resume', args, {
      ...CONTROL_OPTIONS,
      all: { type: 'boolean' },
      provider: { type: 'string' },
      listener: { type: 'string' },
    });
    const scope = readScope('resume', values.provider, values.listener);
    if ((scope === undefined) === !values.all)
      throw new CliError(
        EXIT.usage,
        'resume wants one target',
        'isoproxy resume --all, or --provider NAME, or --listener NAME',
      );
    const place = findControl(values, io);
    const answer = await askControl<{
      resumed: { scope: string; reason: string }[];
      saved: boolean;
      code: string | null;
    }>(place, 'POST', '/resume', { scope: scope === undefined ? 'everything' : formatScope(scope) });
    if (values.json) io.stdout(`${JSON.stringify(answer)}\n`);
    else if (answer.resumed.length > 0)
      for (const { scope: what, reason } of answer.resumed)
        io.stdout(`resumed: ${what}${reason && ` (${reason})`}\n`);
    if (answer.resumed.length === 0 && answer.saved) note(io, 'nothing was halted so');
    if (answer.saved) return EXIT.ok;
    throw new CliError(
      EXIT.unavailable,
      `it could not be saved (${answer.code})`,
      'mend the state directory, then resume again',
    );
  },
};

function readScope(
  command: string,
  provider: string | undefined,
  listener: string | undefined,
): HaltScope | undefined {
  if (provider !== undefined && listener !== undefined)
    throw new CliError(
      EXIT.usage,
      '--provider and --listener exclude each other',
      `isoproxy help ${command}`,
    );
  if (provider === undefined && listener === undefined) return undefined;
  const scope = parseScope(provider === undefined ? `listener ${listener}` : `provider ${provider}`);
  if (scope === undefined)
    throw new CliError(EXIT.usage, 'that is no name of a provider or listener', 'isoproxy status lists them');
  return scope;
}
