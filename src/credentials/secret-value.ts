/** What makes text usable as a secret. Messages name the fault and never quote the text. */
import { MIN_SECRET_BYTES } from './credential.ts';
import { Secret } from './secret.ts';

/** A secret that cannot be read or used. `message` says why and what to do; it holds no secret text. */
export class SecretError extends Error {}

/** Beginnings and words of values that people leave in by mistake. */
const PLACEHOLDERS =
  /isoproxy-placeholder|change[-_ ]?me|your[-_ ]?(?:api[-_ ]?)?(?:key|token|secret)|insert[-_ ]|replace[-_ ]?(?:me|with)|placeholder|^<.*>$|^(?:x+|\*+|\.+|0+)$|^(?:sk|ghp|gsk|hf)[-_](?:x+|\.+|\*+)$|^(?:dummy|test|example|secret|token|password|todo|none|null|undefined)$/i;

/** Does a value say by itself that it is no secret? */
export function isPlaceholder(value: string): boolean {
  return PLACEHOLDERS.test(value);
}

/**
 * Checks the raw text of a source and makes it a Secret. One trailing line break, as editors and `echo`
 * leave it, is not part of the value.
 * @throws SecretError for an empty, multi-line, non-ASCII, placeholder or too short value.
 */
export function toSecret(raw: string, unsafeShortSecret: boolean): Secret {
  const value = raw.replace(/\r?\n$/, '');
  if (value === '') throw new SecretError('is empty');
  if (/[\r\n]/.test(value))
    throw new SecretError('holds more than one line; only the secret itself belongs there');
  if (/[^\x20-\x7e]/.test(value)) throw new SecretError('holds control or non-ASCII bytes');
  if (value.trim() !== value) throw new SecretError('begins or ends with a space');
  if (isPlaceholder(value)) throw new SecretError('is a placeholder, not a secret');
  if (value.length < MIN_SECRET_BYTES && !unsafeShortSecret) {
    throw new SecretError(
      `is shorter than ${MIN_SECRET_BYTES} bytes; set unsafe_short_secret = true to accept it (the reflection guard is then off for it)`,
    );
  }
  return new Secret(value);
}
