/** "Did you mean": the nearest of the words that would have been right. */
import { isPlainKey } from './config-error.ts';

/** Keys that people bring from other tools, and ours. */
const SYNONYMS: Readonly<Record<string, string>> = {
  profile: 'network_profile',
  url: 'base_url',
  upstream: 'base_url',
  api_key: 'credential',
  key: 'credential',
  secret: 'credential',
  credentials: 'credential',
  rules: 'endpoints',
  path: 'socket',
  unix: 'socket',
  listen: 'tcp',
  listener: 'listeners',
  provider: 'providers',
  envvar: 'env',
};

/** The candidate that `word` was probably meant to be, if one is close enough. */
export function suggest(word: string, candidates: Iterable<string>): string | undefined {
  const known = [...candidates];
  const lower = word.toLowerCase().replaceAll('-', '_');
  const synonym = Object.hasOwn(SYNONYMS, lower) ? SYNONYMS[lower] : undefined;
  if (synonym !== undefined && known.includes(synonym)) return synonym;
  let best: string | undefined;
  // A third of the word may be wrong, at most three letters: beyond that a guess only misleads.
  let bestDistance = Math.min(3, Math.floor(lower.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(lower, candidate.toLowerCase().replaceAll('-', '_'));
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** `did you mean "x"?`, or else the list of what is possible, or nothing. */
export function suggestHint(word: string, candidates: Iterable<string>, what?: string): string | undefined {
  // Candidates may be names that the operator chose: one that looks like a secret is not repeated.
  const known = [...candidates].filter(isPlainKey);
  const near = suggest(word, known);
  if (near !== undefined) return `did you mean "${near}"?`;
  if (what === undefined) return undefined;
  return known.length === 0 ? `there are no ${what}` : `${what}: ${known.join(', ')}`;
}

/** Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`. */
export function editDistance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 32) return Math.max(a.length, b.length);
  let older: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let value = Math.min((row[j - 1] ?? 0) + 1, (previous[j] ?? 0) + 1, (previous[j - 1] ?? 0) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        value = Math.min(value, (older[j - 2] ?? 0) + 1);
      row.push(value);
    }
    older = previous;
    previous = row;
  }
  return previous[b.length] ?? 0;
}
