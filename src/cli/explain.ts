/** `isoproxy explain`: what would happen to this request, and which line would change it. */
import type { Config, ListenerConfig } from '../config/effective.ts';
import { loadConfig } from '../config/load.ts';
import { suggestHint } from '../config/suggest.ts';
import type { Rule } from '../proxy/rules.ts';
import { readArgs } from './args.ts';
import { CliError, type Command, EXIT, type Io, paint } from './command.ts';
import { circuitToJson, formatCircuit, formatRate, rateToJson } from './guard-limits.ts';
import { canonicalTarget, judge, type Verdict } from './verdict.ts';

const USAGE = `usage: isoproxy explain [--config FILE] [--listener NAME] [--websocket] [--json] METHOD URL-PATH

Tells what would happen to a request: the verdict, the rule that decides, the target as it would be
judged and sent, the rate limits that would count it and the circuits over it, the nearest rules, and
the line of TOML that would allow it. Nothing is dialled.

  METHOD            GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS
  URL-PATH          what the client asks for, like /anthropic/v1/messages?beta=true
  --config FILE     default: the usual search
  --listener NAME   ask for this listener only; default: one verdict for each
  --websocket       the request asks for a WebSocket; METHOD is GET
  --json            print { "method", "target", "verdicts": [{ "listener", "result": "allow" | "deny", "reason",
                    "code", "provider", "rule", "entry", "sent", "nearest": [rule], "fix": { "where", "toml" },
                    "rate": [{ "bucket", "requests", "per", "burst" }],
                    "circuit": { "of": [circuit], "failures", "open", "max_open" } }] }; durations in ms,
                    what does not apply is null; fields are added, never changed

exit: 0 allowed (by every listener asked), 1 denied
`;

function run(args: readonly string[], io: Io): number {
  const { values, positionals } = readArgs('explain', args, {
    config: { type: 'string' },
    listener: { type: 'string' },
    websocket: { type: 'boolean' },
    json: { type: 'boolean' },
  });
  const [method, path] = positionals;
  if (method === undefined || path === undefined || positionals.length > 2)
    throw new CliError(EXIT.usage, 'explain wants METHOD and URL-PATH', 'isoproxy explain GET /github/user');
  if (!path.startsWith('/'))
    throw new CliError(
      EXIT.usage,
      'URL-PATH begins with "/", then the provider',
      'isoproxy explain GET /github/user',
    );
  if (values.websocket && method !== 'GET')
    throw new CliError(
      EXIT.usage,
      '--websocket wants the method GET',
      'isoproxy explain --websocket GET /openai/v1/realtime',
    );
  const config = loadConfig({ file: values.config, env: io.env });
  const target = canonicalTarget(path);
  const verdicts = chosenListeners(config, values.listener).map((listener) =>
    judge(config, listener, method, target, values.websocket),
  );
  if (values.json)
    io.stdout(`${JSON.stringify({ method, target, verdicts: verdicts.map(toJson) }, null, 2)}\n`);
  else {
    if (target !== path) io.stdout(`judged as ${method} ${target}\n`);
    for (const verdict of verdicts) io.stdout(formatVerdict(verdict, io));
  }
  return verdicts.every((verdict) => verdict.result === 'allow') ? EXIT.ok : EXIT.denied;
}

function chosenListeners(config: Config, name: string | undefined): readonly ListenerConfig[] {
  const { listeners } = config;
  if (name === undefined) {
    if (listeners.length === 0)
      throw new CliError(EXIT.config, 'the configuration has no listener', 'add [[listeners]] with a name');
    return listeners;
  }
  const found = listeners.filter((listener) => listener.name === name);
  if (found.length > 0) return found;
  const names = listeners.map((listener) => listener.name);
  throw new CliError(EXIT.usage, 'no listener has that name', suggestHint(name, names, 'listeners'));
}

function formatVerdict(verdict: Verdict, io: Io): string {
  const word = verdict.result === 'allow' ? paint(io, 'green', 'allowed') : paint(io, 'red', 'denied');
  const lines = [`${verdict.listener}: ${word}: ${verdict.reason}`];
  if (verdict.rule !== undefined) lines.push(`  rule     ${describeRule(verdict.rule, verdict.provider)}`);
  if (verdict.sent !== undefined) lines.push(`  sent as  ${verdict.sent}`);
  for (const { key, limit } of verdict.buckets ?? []) lines.push(`  rate     ${key}: ${formatRate(limit)}`);
  if (verdict.circuit !== undefined) {
    const [provider, pair] = verdict.circuit.keys;
    lines.push(`  circuit  ${provider}, and ${pair}: ${formatCircuit(verdict.circuit.limit)}`);
  }
  for (const rule of verdict.nearest ?? []) lines.push(`  nearest  ${describeRule(rule, verdict.provider)}`);
  if (verdict.fix !== undefined)
    lines.push(`  to allow it, add to ${verdict.fix.where}:`, `    ${verdict.fix.toml}`);
  return `${lines.join('\n')}\n`;
}

function describeRule(rule: Rule, provider: string | undefined): string {
  return `${rule.name}  (providers.${provider}, entry ${rule.entry + 1})`;
}

function toJson(verdict: Verdict): Record<string, unknown> {
  return {
    listener: verdict.listener,
    result: verdict.result,
    reason: verdict.reason,
    code: verdict.code ?? null,
    provider: verdict.provider ?? null,
    rule: verdict.rule?.name ?? null,
    entry: verdict.rule === undefined ? null : verdict.rule.entry + 1,
    sent: verdict.sent ?? null,
    rate: (verdict.buckets ?? []).map(({ key, limit }) => ({ bucket: key, ...rateToJson(limit) })),
    circuit: verdict.circuit ? { of: verdict.circuit.keys, ...circuitToJson(verdict.circuit.limit) } : null,
    nearest: (verdict.nearest ?? []).map((rule) => rule.name),
    fix: verdict.fix ?? null,
  };
}

export const explain: Command = {
  usage: USAGE,
  run,
};
