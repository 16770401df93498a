// Path patterns: text in, matcher out. Compiled once at start; a request only compares strings.
//
//   /v1/messages                       that path
//   /v1/models/*                       one or more whole, non-empty segments below
//   /repos/*/pulls                     a middle `*` is one whole, non-empty segment
//   /v1beta/models/*:generateContent   a non-empty start of one segment before a literal in `:` or `.`
//
// No regular expression runs on the request path; README.md has the table with counter-examples.

/** A segment of a pattern: fixed text, one whole segment, or any non-empty start before `suffix`. */
export type PatternSegment =
  | { readonly kind: 'literal'; readonly text: string }
  | { readonly kind: 'any' }
  | { readonly kind: 'suffix'; readonly suffix: string };

export interface Pattern {
  /** The pattern as the operator wrote it: what records and `explain` name. */
  readonly text: string;
  readonly segments: readonly PatternSegment[];
  /** True for a trailing `/*`: one or more segments may follow. */
  readonly open: boolean;
  /** True when no wildcard occurs, so that one string comparison decides. */
  readonly exact: boolean;
}

/** A pattern that cannot be what the operator meant; the message says why, in words for a config error. */
export class PatternError extends Error {}

/** RFC 3986 3.3: pchar = unreserved / pct-encoded / sub-delims / ":" / "@"; `%` is checked apart. */
const PCHAR = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-F]{2})*$/;

/**
 * Compiles one pattern.
 * @throws PatternError naming the fault: no leading slash, empty or dot segment, a query, a stray `*`.
 */
export function compilePattern(text: string): Pattern {
  if (!text.startsWith('/')) throw new PatternError('a path starts with "/"');
  if (text.includes('?')) throw new PatternError('a path holds no "?"; allowed query names go into "query"');
  if (text.includes('#')) throw new PatternError('a path holds no "#"');
  if (text.includes('**'))
    throw new PatternError('"**" is not a pattern; a trailing "/*" already covers every depth');
  const parts = text.slice(1).split('/');
  const open = parts.length > 0 && parts[parts.length - 1] === '*';
  const fixed = open ? parts.slice(0, -1) : parts;
  const segments = fixed.map((part, index) => compileSegment(part, index === fixed.length - 1 && !open));
  return { text, segments, open, exact: !text.includes('*') };
}

function compileSegment(part: string, last: boolean): PatternSegment {
  // "/v1/" is a path of its own (a trailing slash is significant); an empty segment inside is "//".
  if (part === '' && !last) throw new PatternError('empty segment ("//")');
  const bare = part.split(';', 1)[0];
  if (bare === '.' || bare === '..') throw new PatternError('dot segments never reach a rule');
  if (!PCHAR.test(part)) {
    throw new PatternError(
      'a path holds only RFC 3986 path characters; percent-escapes are written in upper case',
    );
  }
  if (/%2[EF]|%5C|%00/.test(part))
    throw new PatternError('encoded "/", "\\", "." and NUL never reach a rule');
  const star = part.indexOf('*');
  if (star === -1) return { kind: 'literal', text: part };
  if (part === '*') return { kind: 'any' };
  const suffix = part.slice(1);
  if (star !== 0 || suffix.includes('*') || (suffix[0] !== ':' && suffix[0] !== '.')) {
    throw new PatternError(
      '"*" is a whole segment, or the start of one before a literal that begins with ":" or "."',
    );
  }
  return { kind: 'suffix', suffix };
}

/**
 * Does `path` match? `segments` is `path` split at "/", without the leading empty part, made once per
 * request. Comparison is byte for byte and case-sensitive.
 */
export function matchesPattern(pattern: Pattern, path: string, segments: readonly string[]): boolean {
  if (pattern.exact) return path === pattern.text;
  const wanted = pattern.segments;
  if (pattern.open ? segments.length <= wanted.length : segments.length !== wanted.length) return false;
  for (let i = 0; i < wanted.length; i++) {
    if (!matchesSegment(wanted[i] as PatternSegment, segments[i] as string)) return false;
  }
  // What a trailing "/*" covers is whole, non-empty segments: "/v1/models/" is not one.
  for (let i = wanted.length; i < segments.length; i++) {
    if (segments[i] === '') return false;
  }
  return true;
}

function matchesSegment(wanted: PatternSegment, segment: string): boolean {
  switch (wanted.kind) {
    case 'literal':
      return segment === wanted.text;
    case 'any':
      return segment !== '';
    case 'suffix':
      return segment.length > wanted.suffix.length && segment.endsWith(wanted.suffix);
  }
}

/** Does every path that `inner` matches also match `outer`? Used to warn of entries that change nothing. */
export function coversPattern(outer: Pattern, inner: Pattern): boolean {
  if (outer.text === inner.text) return true;
  if (outer.exact) return false;
  const wanted = outer.segments;
  const given = inner.segments;
  if (outer.open) {
    const longEnough = inner.open ? given.length >= wanted.length : given.length > wanted.length;
    if (!longEnough) return false;
    const rest = given.slice(wanted.length);
    if (rest.some((segment) => segment.kind === 'literal' && segment.text === '')) return false;
  } else if (inner.open || given.length !== wanted.length) return false;
  return wanted.every((segment, i) => coversSegment(segment, given[i] as PatternSegment));
}

function coversSegment(outer: PatternSegment, inner: PatternSegment): boolean {
  if (outer.kind === 'any') return inner.kind !== 'literal' || inner.text !== '';
  if (outer.kind === 'suffix') {
    if (inner.kind === 'any') return false;
    if (inner.kind === 'suffix') return inner.suffix.endsWith(outer.suffix);
    return matchesSegment(outer, inner.text);
  }
  return inner.kind === 'literal' && inner.text === outer.text;
}

/** Is there a path that both patterns match? Exact for this pattern language. */
export function patternsIntersect(a: Pattern, b: Pattern): boolean {
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
