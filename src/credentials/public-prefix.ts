/**
 * How much of a secret's beginning is no secret. The reflection guard holds a tail back only when it matches 16 bytes
 * beyond it: were those 16 bytes known or guessable, what is held back would tell an agent that controls the chunks
 * which next byte is right, and so the whole secret, a byte at a time (reflection.ts).
 */
import type { Secret } from './secret.ts';

/** Words with separators, as issuers and people put before what is random: `sk-ant-api03-`, `acme-prod-2026-`. */
const WORDS = /^[a-z]{1,20}[0-9]{0,4}[-_.](?:(?:[a-z]{1,20}[0-9]{0,4}|[0-9]{1,4})[-_.])*/;
/** Shorter beginnings leave more than can be guessed; chance makes words in random text, too. */
const MIN_WORDS = 8;

/** A JSON Web Token (RFC 7519): header and claims are guessable text, the signature is not. */
const TOKEN = /^eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\./;

/** So much must be left that is secret, or the beginning is not taken for public, bytes. */
const MIN_REST = 24;

/** @param known public beginnings of such secrets, from the preset */
export function publicPrefixLength(secret: Secret, known: readonly string[]): number {
  const stated = known.filter((prefix) => secret.startsWith(prefix)).map((prefix) => prefix.length);
  // What the preset says is exact; behind it chance may make a word.
  if (stated.length > 0) return Math.max(...stated);
  const words = secret.beginningLength(WORDS);
  const guessed = Math.max(words >= MIN_WORDS ? words : 0, secret.beginningLength(TOKEN));
  return secret.length - guessed >= MIN_REST ? guessed : 0;
}
