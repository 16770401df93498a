/**
 * Endpoint rules: an allow-list. A request is forwarded only if one entry matches both its method and
 * its path. There is no order, no deny entry and no precedence.
 */
import { compilePattern, coversPattern, matchesPattern, type Pattern, PatternError } from './pattern.ts';

/** Methods that the proxy ever forwards. TRACE and CONNECT are out: they echo or tunnel (THREATS C4, P14). */
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
  /** The entry is for WebSocket upgrades (GET only). Default false. */
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
  /** Rules with wildcards, by their first literal segment ('' where the first is a wildcard). */
  readonly wild: ReadonlyMap<string, readonly Rule[]>;
}

/** Why a request was refused by the rules. */
export type DenyReason = 'no_path' | 'no_method' | 'query_name' | 'encoded_slash';

export type RuleDecision =
  | { readonly result: 'allow'; readonly rule: Rule }
  | { readonly result: 'deny'; readonly reason: DenyReason; readonly nearest: Rule | undefined };

/** What of a request the rules look at; made by target.ts. */
export interface RuleSubject {
  readonly method: string;
  /** Canonical path below the provider, with its leading slash. */
  readonly path: string;
  /** `path` split at "/", without the leading empty part. */
  readonly segments: readonly string[];
  /** Percent-decoded names of the query parameters, in order. */
  readonly queryNames: readonly string[];
  /** True if the path holds `%2F`. */
  readonly hasEncodedSlash: boolean;
}

/** A rule list that cannot be compiled; `entry` and `field` say where. */
export class RuleError extends Error {
  readonly entry: number;
  readonly field: string;

  constructor(message: string, entry: number, field: string) {
    super(message);
    this.entry = entry;
    this.field = field;
  }
}

/**
 * Compiles a provider's entries.
 * @throws RuleError for a bad pattern, an unknown method, or two entries that match the same request and
 * disagree on an option (which of them would decide is then nobody's guess).
 */
export function compileRules(entries: readonly EndpointEntry[]): RuleSet {
  const rules = entries.flatMap((entry, index) => compileEntry(entry, index));
  refuseRepeats(entries);
  refuseContradictions(rules);
  const exact = new Map<string, Rule[]>();
  const wild = new Map<string, Rule[]>();
  for (const rule of rules) {
    const key = rule.pattern.exact ? rule.pattern.text : firstLiteral(rule.pattern);
    const index = rule.pattern.exact ? exact : wild;
    const bucket = index.get(key);
    if (bucket) bucket.push(rule);
    else index.set(key, [rule]);
  }
  return { rules, exact, wild };
}

/** The first segment if it is fixed text, else '': the key of the wildcard index. */
function firstLiteral(pattern: Pattern): string {
  const first = pattern.segments[0];
  return first?.kind === 'literal' ? first.text : '';
}

function compileEntry(entry: EndpointEntry, index: number): Rule[] {
  if (entry.methods.length === 0)
    throw new RuleError('an empty list allows nothing; list methods, or ["*"] for all', index, 'methods');
  if (entry.paths.length === 0)
    throw new RuleError('an empty list allows nothing; list paths, or remove the entry', index, 'paths');
  const all = entry.methods.includes('*');
  if (all && entry.methods.length > 1)
    throw new RuleError('"*" already means every method; list it alone', index, 'methods');
  for (const method of entry.methods) {
    if (method !== '*' && !(METHODS as readonly string[]).includes(method)) {
      throw new RuleError(
        `not a method that is forwarded; use ${METHODS.join(', ')} (upper case) or "*"`,
        index,
        'methods',
      );
    }
  }
  const methods: ReadonlySet<string> = new Set(all ? METHODS : entry.methods);
  if (entry.websocket && (methods.size !== 1 || !methods.has('GET'))) {
    throw new RuleError(
      'websocket = true needs methods = ["GET"]: an upgrade is a GET (RFC 6455 4.1)',
      index,
      'websocket',
    );
  }
  const options: RuleOptions = {
    query: entry.query === undefined ? undefined : new Set(entry.query),
    websocket: entry.websocket ?? false,
    allowEncodedSlash: entry.allow_encoded_slash ?? false,
    allowEncodedResponse: entry.unsafe_allow_encoded_response ?? false,
    allowUnframedResponse: entry.unsafe_allow_unframed_response ?? false,
  };
  return entry.paths.map((text) => {
    try {
      const pattern = compilePattern(text);
      return { name: `${entry.methods.join(',')} ${text}`, entry: index, methods, pattern, options };
    } catch (error) {
      if (error instanceof PatternError) throw new RuleError(error.message, index, 'paths');
      throw error;
    }
  });
}

function refuseRepeats(entries: readonly EndpointEntry[]): void {
  const seen = new Map<string, number>();
  entries.forEach((entry, index) => {
    const key = JSON.stringify({
      ...entry,
      methods: [...entry.methods].sort(),
      paths: [...entry.paths].sort(),
    });
    const first = seen.get(key);
    if (first !== undefined)
      throw new RuleError(`equal to entry ${first + 1}; remove one of them`, index, 'paths');
    seen.set(key, index);
  });
}

function refuseContradictions(rules: readonly Rule[]): void {
  // Only pairs whose options differ matter, and options are few: group by them before comparing.
  const groups = new Map<string, Rule[]>();
  for (const rule of rules) {
    const key = optionsKey(rule.options);
    const group = groups.get(key);
    if (group) group.push(rule);
    else groups.set(key, [rule]);
  }
  if (groups.size < 2) return;
  const lists = [...groups.values()];
  for (let a = 0; a < lists.length; a++) {
    for (let b = a + 1; b < lists.length; b++) {
      for (const one of lists[a] as Rule[]) {
        for (const other of lists[b] as Rule[]) {
          if (!overlaps(one, other)) continue;
          throw new RuleError(
            `entries ${one.entry + 1} and ${other.entry + 1} (counted from 1) match the same requests but disagree on an option; merge them or make their paths distinct`,
            other.entry,
            'paths',
          );
        }
      }
    }
  }
}

function optionsKey(options: RuleOptions): string {
  const query = options.query === undefined ? '*' : JSON.stringify([...options.query].sort());
  return [
    query,
    options.websocket,
    options.allowEncodedSlash,
    options.allowEncodedResponse,
    options.allowUnframedResponse,
  ].join('|');
}

function overlaps(a: Rule, b: Rule): boolean {
  let shared = false;
  for (const method of a.methods) shared ||= b.methods.has(method);
  return shared && patternsIntersect(a.pattern, b.pattern);
}

/** Is there a path that both patterns match? Exact for this pattern language. */
function patternsIntersect(a: Pattern, b: Pattern): boolean {
  const longer = a.segments.length >= b.segments.length ? a : b;
  const shorter = longer === a ? b : a;
  if (longer.segments.length === shorter.segments.length) {
    if (longer.open !== shorter.open) return false;
  } else if (!shorter.open) return false;
  if (longer.open && !shorter.open) return false;
  return longer.segments.every((segment, i) => {
    const other = shorter.segments[i];
    if (other === undefined) return segment.kind !== 'literal' || segment.text !== '';
    if (segment.kind === 'any') return other.kind !== 'literal' || other.text !== '';
    if (other.kind === 'any') return segment.kind !== 'literal' || segment.text !== '';
    if (segment.kind === 'suffix' && other.kind === 'suffix') {
      return segment.suffix.endsWith(other.suffix) || other.suffix.endsWith(segment.suffix);
    }
    if (segment.kind === 'literal' && other.kind === 'literal') return segment.text === other.text;
    const literal = segment.kind === 'literal' ? segment.text : (other as { text: string }).text;
    const suffix = segment.kind === 'suffix' ? segment.suffix : (other as { suffix: string }).suffix;
    return literal.length > suffix.length && literal.endsWith(suffix);
  });
}

/**
 * The verdict on one request. Pure: nothing is resolved, read or dialled. `nearest` of a denial is the
 * rule that came closest (same path with another method, or an option that was not met).
 */
export function decide(set: RuleSet, subject: RuleSubject): RuleDecision {
  let reason: DenyReason = 'no_path';
  let nearest: Rule | undefined;
  const consider = (rules: readonly Rule[] | undefined): Rule | undefined => {
    for (const rule of rules ?? []) {
      if (!matchesPattern(rule.pattern, subject.path, subject.segments)) continue;
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
  const rule =
    consider(set.exact.get(subject.path)) ??
    consider(set.wild.get(subject.segments[0] ?? '')) ??
    consider(set.wild.get(''));
  if (rule) return { result: 'allow', rule };
  return { result: 'deny', reason, nearest };
}

function unmetCondition(rule: Rule, subject: RuleSubject): DenyReason | undefined {
  if (!rule.methods.has(subject.method)) return 'no_method';
  if (subject.hasEncodedSlash && !rule.options.allowEncodedSlash) return 'encoded_slash';
  const allowed = rule.options.query;
  if (allowed !== undefined && subject.queryNames.some((name) => !allowed.has(name))) return 'query_name';
  return undefined;
}

/** Rules that another rule of the same set wholly covers, so that removing them changes nothing. */
export function findCoveredRules(set: RuleSet): { readonly rule: Rule; readonly by: Rule }[] {
  const covered: { rule: Rule; by: Rule }[] = [];
  const sameText = new Map<string, Rule[]>();
  set.rules.forEach((rule) => {
    // Only an equal path or a wildcard can cover; of two equal ones, the later is the superfluous one.
    const same = sameText.get(rule.pattern.text) ?? [];
    sameText.set(rule.pattern.text, [...same, rule]);
    const wild = [...(set.wild.get(firstLiteral(rule.pattern)) ?? []), ...(set.wild.get('') ?? [])];
    const by = [...same, ...wild.filter((other) => other.pattern.text !== rule.pattern.text)].find((other) =>
      covers(other, rule),
    );
    if (by) covered.push({ rule, by });
  });
  return covered;
}

function covers(outer: Rule, inner: Rule): boolean {
  return (
    [...inner.methods].every((method) => outer.methods.has(method)) &&
    coversPattern(outer.pattern, inner.pattern) &&
    optionsKey(outer.options) === optionsKey(inner.options)
  );
}
