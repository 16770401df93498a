/** `isoproxy denied`: what was refused lately, and the lines that would allow it. */

import { ValueError } from '../config/config-error.ts';
import { parseDuration } from '../config/units.ts';
import type { DeniedRow } from '../denied.ts';
import { compilePattern, PatternError } from '../proxy/pattern.ts';
import { readOptions } from './args.ts';
import { CliError, type Command, EXIT, type Io, note } from './command.ts';
import { askControl, CONTROL_OPTIONS, CONTROL_USAGE, findControl } from './control-client.ts';
import { endpointToml, tomlString } from './toml-text.ts';

/** Longest path of a record, characters (proxy/exchange.ts); one of this length was probably longer. */
const MAX_RECORD_PATH = 512;

interface Answer {
  readonly rows: readonly DeniedRow[];
  /** Listener -> the provider that it serves at "/"; null for the others. */
  readonly mounts: Readonly<Record<string, string | null>>;
}

export const denied: Command = {
  usage: `usage: isoproxy denied [--listener NAME] [--since 10m] [--toml] [--control PATH] [--config FILE] [--json]

Lists what the running proxy refused, counted, most recent first (the last 1,000 kinds; a restart forgets them).

  --listener NAME  only what this listener asked for
  --since TIME     only what was asked for in this time, like 10m
  --toml           print the endpoint lines that would allow it instead; read them before you paste them
${CONTROL_USAGE}

Exit codes: 0 done, 69 no proxy answers.
`,
  async run(args, io) {
    const values = readOptions('denied', args, {
      ...CONTROL_OPTIONS,
      listener: { type: 'string' },
      since: { type: 'string' },
      toml: { type: 'boolean' },
    });
    const query = new URLSearchParams();
    if (values.listener !== undefined) query.set('listener', values.listener);
    if (values.since !== undefined) query.set('since_ms', String(Date.now() - readDuration(values.since)));
    const answer = await askControl<Answer>(findControl(values, io), 'GET', `/denied?${query}`);
    if (values.json) io.stdout(`${JSON.stringify(answer.rows)}\n`);
    else if (values.toml) printToml(answer, io);
    else printTable(answer.rows, io);
    return EXIT.ok;
  },
};

function readDuration(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    if (error instanceof ValueError)
      throw new CliError(EXIT.usage, `--since: ${error.message}`, '--since 10m');
    throw error;
  }
}

function printTable(rows: readonly DeniedRow[], io: Io): void {
  if (rows.length === 0) {
    note(io, 'nothing was refused');
    return;
  }
  const cells = rows.map((row) => [
    row.last_seen.replace(/\.\d+Z$/, 'Z'),
    String(row.count),
    row.listener,
    row.code,
    row.method,
    row.path,
  ]);
  const head = ['last seen', 'count', 'listener', 'code', 'method', 'path'];
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((cell) => cell[i]?.length ?? 0)));
  for (const cell of [head, ...cells])
    io.stdout(
      `${cell.map((text, i) => text.padEnd(i === head.length - 1 ? 0 : (widths[i] ?? 0))).join('  ')}\n`,
    );
}

/** Of refused endpoints only: no line of `endpoints` would allow anything else. */
function printToml({ rows, mounts }: Answer, io: Io): void {
  const byProvider = new Map<string, Set<string>>();
  for (const { listener, provider, method, path, code } of rows) {
    if (code !== 'endpoint_not_allowed' || provider === '') continue;
    const below = mounts[listener] === provider ? path : path.slice(provider.length + 1);
    const lines = byProvider.get(provider) ?? new Set();
    const fault = whyNoRule(path, below);
    if (fault !== undefined) lines.add(`# ${tomlString(below)}: ${fault}`);
    else lines.add(`${endpointToml({ methods: [method], paths: [below] })},`);
    byProvider.set(provider, lines);
  }
  if (byProvider.size === 0) note(io, 'nothing was refused that an endpoint line would allow');
  for (const [provider, lines] of byProvider) {
    io.stdout(`# Read before you paste: this is what was asked for, not what is good to allow.\n`);
    io.stdout(`# In [providers.${provider}]:\nextra_endpoints = [\n`);
    for (const line of lines) io.stdout(`  ${line}\n`);
    io.stdout(']\n');
  }
}

/** Why no rule can name exactly this path; undefined if one can. */
function whyNoRule(path: string, below: string): string | undefined {
  if (path.length >= MAX_RECORD_PATH) return 'it is longer than what is kept of a path';
  try {
    // A "*" that was asked for is a character, and no pattern can say so.
    return compilePattern(below).exact ? undefined : 'no rule can name a "*"';
  } catch (error) {
    if (error instanceof PatternError) return error.message;
    throw error;
  }
}
