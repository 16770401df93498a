/** From `endpoints` entries to a rule set: every fault of the list is found here, at start. */
import { compilePattern, coversPattern, type Pattern, PatternError, patternsIntersect } from './pattern.ts';
import {
  type EndpointEntry,
  METHODS,
  prefixesOf,
  type Rule,
  type RuleOptions,
  type RuleSet,
} from './rules.ts';

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
  let wildDepth = 0;
  for (const rule of rules) {
    const literals = leadingLiterals(rule.pattern);
    if (!rule.pattern.exact) wildDepth = Math.max(wildDepth, literals.length);
    const key = rule.pattern.exact ? rule.pattern.text : literals.map((text) => `/${text}`).join('');
    const index = rule.pattern.exact ? exact : wild;
    const bucket = index.get(key);
    if (bucket) bucket.push(rule);
    else index.set(key, [rule]);
  }
  return { rules, exact, wild, wildDepth };
}

/** The segments before the first wildcard: the key of the wildcard index. */
function leadingLiterals({ segments }: Pattern): string[] {
  const texts: string[] = [];
  for (const segment of segments) {
    if (segment.kind !== 'literal') break;
    texts.push(segment.text);
  }
  return texts;
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

/** Rules that another rule of the same set wholly covers, so that removing them changes nothing. */
export function findCoveredRules(set: RuleSet): { readonly rule: Rule; readonly by: Rule }[] {
  const covered: { rule: Rule; by: Rule }[] = [];
  const sameText = new Map<string, Rule[]>();
  set.rules.forEach((rule) => {
    // Only an equal path or a wildcard can cover; of two equal ones, the later is the superfluous one.
    const same = sameText.get(rule.pattern.text) ?? [];
    sameText.set(rule.pattern.text, [...same, rule]);
    const wild = prefixesOf(rule.pattern.text, set.wildDepth).flatMap((prefix) => set.wild.get(prefix) ?? []);
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
