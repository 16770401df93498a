/** What would happen to one request on one listener, and what would change it. Pure. */

import type { Config, ListenerConfig, ProviderConfig } from '../config/effective.ts';
import { editDistance, suggest } from '../config/suggest.ts';
import { credentialParameters } from '../credentials/inject.ts';
import { ERRORS, type ErrorCode, ProxyError } from '../errors.ts';
import type { CircuitLimit } from '../guards/circuit-breaker.ts';
import { bucketsOf, circuitKeys } from '../guards/keys.ts';
import type { Bucket, RateLimit } from '../guards/rate-limit.ts';
import { permitsHost } from '../proxy/network-profile.ts';
import { compilePattern } from '../proxy/pattern.ts';
import { queryNames, stripQuery } from '../proxy/query.ts';
import { type DenyReason, decide, keepsEncodedSlash, METHODS, type Rule } from '../proxy/rules.ts';
import { parseTarget, splitProvider, type Target } from '../proxy/target.ts';
import { endpointToml, tomlString } from './toml-text.ts';

export interface Verdict {
  readonly listener: string;
  readonly result: 'allow' | 'deny';
  /** Why, in words. */
  readonly reason: string;
  /** The error that the client would get. */
  readonly code?: ErrorCode;
  readonly provider?: string;
  /** The rule that decides. */
  readonly rule?: Rule;
  /** What would be sent: method and URL. */
  readonly sent?: string;
  /** The buckets that it would take a token from. */
  readonly buckets?: readonly Bucket[];
  /** The circuits that would have to be closed for it, and when they open. */
  readonly circuit?: { readonly keys: readonly string[]; readonly limit: CircuitLimit };
  /** The rules that come closest, nearest first. */
  readonly nearest?: readonly Rule[];
  /** Where to write what, so that the request is allowed. */
  readonly fix?: { readonly where: string; readonly toml: string };
}

const OWN_ROUTES: readonly string[] = ['/healthz', '/.well-known/isoproxy'];

/** The text that the pipeline would get: the HTTP server resolves dot segments and backslashes first. */
export function canonicalTarget(text: string): string {
  if (/[\x00-\x20\x7f]/.test(text)) return text;
  const origin = 'http://h';
  const href = text.startsWith('/') ? URL.parse(origin + text)?.href : undefined;
  return href?.startsWith(`${origin}/`) ? href.slice(origin.length) : text;
}

/**
 * Judges `method` and `text` (a canonical target) as the pipeline would, up to the endpoint rules.
 * @param webSocket the request asks for a WebSocket
 */
export function judge(
  config: Config,
  listener: ListenerConfig,
  method: string,
  text: string,
  webSocket = false,
): Verdict {
  const deny = (code: ErrorCode, reason: string, more: Partial<Verdict> = {}): Verdict => ({
    listener: listener.name,
    result: 'deny',
    code,
    reason: `${ERRORS[code].status} ${code}: ${reason}`,
    ...more,
  });
  if (!(METHODS as readonly string[]).includes(method))
    return deny('method_not_supported', 'this method is never forwarded');
  let target: Target;
  try {
    target = parseTarget(text);
  } catch (error) {
    if (error instanceof ProxyError) return deny(error.code, error.reason);
    throw error;
  }
  if (OWN_ROUTES.includes(target.path) && (method === 'GET' || method === 'HEAD'))
    return { listener: listener.name, result: 'allow', reason: 'answered by isoproxy itself' };
  const split = splitProvider(target.path, listener.mount);
  const asksForWebSocket = webSocket && method === 'GET';
  const ask: Ask = { method, path: split.path, asksForWebSocket, pairRate: config.rate };
  const provider = listener.providers.includes(split.provider)
    ? config.providers.get(split.provider)
    : undefined;
  const refusesSlash =
    target.hasEncodedSlash && !(provider !== undefined && keepsEncodedSlash(provider.rules, split.path));
  if (refusesSlash) {
    if (provider === undefined) return deny('bad_target', 'only a provider of this listener can keep %2F');
    return judgeRules(listener, provider, ask, target, deny);
  }
  if (provider === undefined)
    return deny('unknown_provider', ...unknownProvider(config, listener, split.provider));
  if (listener.networkProfile !== undefined && !permitsHost(listener.networkProfile, provider.hostname)) {
    const { name } = listener.networkProfile;
    return deny('profile_denied', `network profile ${name} does not permit ${provider.hostname}`, {
      provider: provider.name,
      fix: {
        where: `allow of [network_profiles.${name}] (and not in its deny)`,
        toml: tomlString(provider.hostname),
      },
    });
  }
  return judgeRules(listener, provider, ask, target, deny);
}

function unknownProvider(config: Config, listener: ListenerConfig, name: string): [string, Partial<Verdict>] {
  if (config.providers.has(name))
    return [
      'this listener does not reach that provider',
      { fix: { where: `providers of listener ${listener.name}`, toml: tomlString(name) } },
    ];
  const near = suggest(name, listener.providers);
  const known = listener.providers.map((each) => `/${each}/…`).join(', ') || 'none';
  return [
    `no such provider; ${near === undefined ? `paths begin with ${known}` : `did you mean /${near}/…?`}`,
    {},
  ];
}

type Deny = (code: ErrorCode, reason: string, more?: Partial<Verdict>) => Verdict;

const REASONS: Readonly<Record<DenyReason, string>> = {
  no_path: 'no entry has this path',
  no_method: 'an entry has this path, but not with this method',
  query_name: 'an entry has this method and path, but not a query parameter of that name',
  encoded_slash: 'an entry has this method and path, but does not keep %2F',
  websocket_only: 'an entry has this method and path, but for WebSocket upgrades only (explain --websocket)',
};

/** What is asked of a provider. */
interface Ask {
  readonly method: string;
  readonly path: string;
  readonly asksForWebSocket: boolean;
  /** The rate limit of each pair. */
  readonly pairRate: RateLimit | undefined;
}

function judgeRules(
  listener: ListenerConfig,
  provider: ProviderConfig,
  ask: Ask,
  target: Target,
  deny: Deny,
): Verdict {
  const { method, path, asksForWebSocket, pairRate } = ask;
  const placements = provider.credentials.map((credential) => credential.placement);
  const query = stripQuery(target.query, credentialParameters(provider.stripQuery, placements));
  const names = queryNames(query);
  const { hasEncodedSlash } = target;
  const subject = { ...ask, segments: path.slice(1).split('/'), queryNames: names, hasEncodedSlash };
  const decision = decide(provider.rules, subject);
  if (decision.result === 'allow') {
    const { rule } = decision;
    const origin = rule.options.websocket ? provider.origin.replace(/^http/, 'ws') : provider.origin;
    const sent = `${method} ${origin}${provider.basePath}${path}${query}`;
    const kind = rule.options.websocket
      ? ' as a WebSocket'
      : asksForWebSocket
        ? ' as a plain request: it is no websocket entry, so the upgrade stays here'
        : '';
    return {
      listener: listener.name,
      result: 'allow',
      reason: `entry ${rule.entry + 1} allows it${kind}`,
      provider: provider.name,
      rule,
      sent,
      buckets: bucketsOf(listener, provider, pairRate),
      ...(provider.circuit && {
        circuit: { keys: circuitKeys(listener.name, provider.name), limit: provider.circuit },
      }),
    };
  }
  const nearest = decision.nearest === undefined ? nearestRules(provider, method, path) : [decision.nearest];
  const refusesSlash = hasEncodedSlash && !keepsEncodedSlash(provider.rules, path);
  const code = refusesSlash || decision.reason === 'encoded_slash' ? 'bad_target' : 'endpoint_not_allowed';
  const fix =
    path === ''
      ? undefined
      : fixFor(decision.reason, decision.nearest, provider, ask, hasEncodedSlash, names);
  const reason =
    path === ''
      ? `nothing stands after /${provider.name}; the path of the API follows it`
      : REASONS[decision.reason];
  return deny(code, reason, { provider: provider.name, nearest, ...(fix === undefined ? {} : { fix }) });
}

/** At most three rules, nearest first; one with the right method beats one without. */
function nearestRules(provider: ProviderConfig, method: string, path: string): Rule[] {
  const scored = provider.rules.rules.map((rule) => ({
    rule,
    distance: editDistance(path, rule.pattern.text) + (rule.methods.has(method) ? 0 : 2),
  }));
  return scored
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 3)
    .map(({ rule }) => rule);
}

function fixFor(
  reason: DenyReason,
  nearest: Rule | undefined,
  provider: ProviderConfig,
  { method, path, asksForWebSocket }: Ask,
  encodedSlash: boolean,
  names: readonly string[],
): Verdict['fix'] {
  // Two entries that match the same path and differ in this would contradict each other.
  if (reason === 'websocket_only') return undefined;
  if (nearest !== undefined && reason === 'query_name') {
    const missing = names.filter((name) => !nearest.options.query?.has(name));
    return {
      where: `query of entry ${nearest.entry + 1} of [providers.${provider.name}]`,
      toml: missing.map(tomlString).join(', '),
    };
  }
  if (nearest !== undefined && reason === 'encoded_slash')
    return {
      where: `entry ${nearest.entry + 1} of [providers.${provider.name}]`,
      toml: 'allow_encoded_slash = true',
    };
  const pattern = writablePath(path);
  try {
    compilePattern(pattern);
  } catch {
    return undefined;
  }
  const entry = {
    methods: [method],
    paths: [pattern],
    ...(encodedSlash && { allow_encoded_slash: true }),
    ...(asksForWebSocket && { websocket: true }),
  };
  return {
    where: `[providers.${provider.name}], or the entry to its list`,
    toml: `extra_endpoints = [${endpointToml(entry)}]`,
  };
}

/** A path as a pattern: a segment that a pattern cannot spell ("%2F", lower-case escapes, "*") becomes "*". */
function writablePath(path: string): string {
  return path
    .split('/')
    .map((segment) => (/%2F|%[0-9A-F]?[a-f]|\*/.test(segment) ? '*' : segment))
    .join('/');
}
