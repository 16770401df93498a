/**
 * Endpoint rules: an allow-list. A request is forwarded only if one entry matches both its method and
 * its path. There is no order, no deny entry and no precedence.
 */
import { matchesPattern, type Pattern } from './pattern.ts';

/** Methods that the proxy ever forwards. TRACE and CONNECT are out: they echo or tunnel. */
export const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;
export type Method = (typeof METHODS)[number];

/** One `endpoints` entry as it stands in the configuration. */
export interface EndpointEntry {
  /** Upper-case method names, or `["*"]` for all of METHODS. GET does not imply HEAD. */
  readonly methods: readonly string[];
  /** Path patterns, see pattern.ts. */
  readonly paths: readonly string[];
  /** Allowed query parameter names, compared after percent-decoding; undefined = any. */
  readonly query?: readonly string[] | undefined;
  /** The entry is for WebSocket upgrades (GET only), and for nothing else. Default false. */
  readonly websocket?: boolean | undefined;
  /** Keep `%2F` in a path as part of its segment instead of refusing it. Default false. */
  readonly allow_encoded_slash?: boolean | undefined;
  /** Pass an answer whose Content-Encoding was not asked for; the reflection guard cannot read it. Default false. */
  readonly unsafe_allow_encoded_response?: boolean | undefined;
  /** Pass an answer with neither length nor chunking, where a cut looks like an end. Default false. */
  readonly unsafe_allow_unframed_response?: boolean | undefined;
}

/** The options of an entry once defaults are filled in: what a matched request is held to. */
export interface RuleOptions {
  readonly query: ReadonlySet<string> | undefined;
  readonly websocket: boolean;
  readonly allowEncodedSlash: boolean;
  readonly allowEncodedResponse: boolean;
  readonly allowUnframedResponse: boolean;
}

/** One compiled (methods, pattern) pair of one entry. */
export interface Rule {
  /** `POST /v1/messages`: what records, `check` and `explain` call this rule. */
  readonly name: string;
  /** Index of the entry in the provider's list, from 0. */
  readonly entry: number;
  readonly methods: ReadonlySet<string>;
  readonly pattern: Pattern;
  readonly options: RuleOptions;
}

export interface RuleSet {
  readonly rules: readonly Rule[];
  /** Rules without a wildcard, by path: the common case is one map look-up. */
  readonly exact: ReadonlyMap<string, readonly Rule[]>;
  /** Rules with wildcards, by the literal segments before the first of them: `/v1/models`, '' where there is none. */
  readonly wild: ReadonlyMap<string, readonly Rule[]>;
  /** The most segments that a key of `wild` has: no path is looked up deeper, however many it has. */
  readonly wildDepth: number;
}

/** Why a request was refused by the rules. */
export type DenyReason = 'no_path' | 'no_method' | 'query_name' | 'encoded_slash' | 'websocket_only';

export type RuleDecision =
  | { readonly result: 'allow'; readonly rule: Rule }
  | { readonly result: 'deny'; readonly reason: DenyReason; readonly nearest: Rule | undefined };

/** What of a request the rules look at; made by target.ts. */
export interface RuleSubject {
  readonly method: string;
  /** Canonical path below the provider, with its leading slash. */
  readonly path: string;
  /** Percent-decoded names of the query parameters, in order. */
  readonly queryNames: readonly string[];
  /** True if the path holds `%2F`. */
  readonly hasEncodedSlash: boolean;
  /** True if the request asks for a WebSocket. A rule without that option matches it as a plain request. */
  readonly asksForWebSocket: boolean;
}

/**
 * The verdict on one request. Pure: nothing is resolved, read or dialled. `nearest` of a denial is the
 * rule that came closest (same path with another method, or an option that was not met).
 */
export function decide(set: RuleSet, subject: RuleSubject): RuleDecision {
  let reason: DenyReason = 'no_path';
  let nearest: Rule | undefined;
  const consider = (
    rules: readonly Rule[] | undefined,
    segments: readonly string[] = [],
  ): Rule | undefined => {
    for (const rule of rules ?? []) {
      if (!matchesPattern(rule.pattern, subject.path, segments)) continue;
      const unmet = unmetCondition(rule, subject);
      if (unmet === undefined) return rule;
      // A rule whose method fits and whose option does not is closer than one of another method.
      if (nearest === undefined || reason === 'no_method') {
        nearest = rule;
        reason = unmet;
      }
    }
    return undefined;
  };
  let rule = consider(set.exact.get(subject.path));
  if (rule === undefined) {
    const segments = subject.path.slice(1).split('/');
    for (const prefix of prefixesOf(subject.path, set.wildDepth))
      rule ??= consider(set.wild.get(prefix), segments);
  }
  if (rule) return { result: 'allow', rule };
  return { result: 'deny', reason, nearest };
}

/** What may stand before the first wildcard of a rule for `path`: up to `depth` of its segments, longest first, then ''. */
export function prefixesOf(path: string, depth: number): string[] {
  const prefixes = [''];
  for (let end = 0; prefixes.length <= depth; prefixes.unshift(path.slice(0, end))) {
    end = path.indexOf('/', end + 1);
    if (end === -1) break;
  }
  return prefixes;
}

function unmetCondition(rule: Rule, subject: RuleSubject): DenyReason | undefined {
  if (!rule.methods.has(subject.method)) return 'no_method';
  if (rule.options.websocket && !subject.asksForWebSocket) return 'websocket_only';
  if (subject.hasEncodedSlash && !rule.options.allowEncodedSlash) return 'encoded_slash';
  const allowed = rule.options.query;
  if (allowed !== undefined && subject.queryNames.some((name) => !allowed.has(name))) return 'query_name';
  return undefined;
}

/** Is there a rule that matches `path`, with whatever method, and keeps `%2F` in it? */
export function keepsEncodedSlash(set: RuleSet, path: string): boolean {
  const segments = path.slice(1).split('/');
  return set.rules.some(
    (rule) => rule.options.allowEncodedSlash && matchesPattern(rule.pattern, path, segments),
  );
}
