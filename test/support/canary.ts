// Random secrets, and the search for them in every form in which they could leave.

import { randomBytes } from 'node:crypto';

/** A random secret: `prefix` and 40 characters of [A-Za-z0-9_-]. */
export const makeCanary = (prefix = 'canary-'): string => prefix + randomBytes(30).toString('base64url');

/** Where and how a canary was found, e.g. `percent+base64`; `offset` counts in the decoded view. */
export interface Finding {
  form: string;
  offset: number;
}

type Bytes = string | Uint8Array;

/**
 * Finds `canary` in `bytes`: raw, base64 (three alignments, both alphabets), hex (either case), UTF-16; each also
 * behind percent escapes, JSON escapes, or both, complete or partial. Returns the first form found.
 */
export function findCanary(bytes: Bytes, canary: string): Finding | undefined {
  const raw =
    typeof bytes === 'string'
      ? Buffer.from(bytes)
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const forms = searchForms(canary);
  for (const [view, data] of views(raw)) {
    for (const form of forms) {
      const offset = (form.anyCase ? lowerCase(data) : data).indexOf(form.bytes);
      if (offset >= 0) return { form: [view, form.name].filter(Boolean).join('+') || 'raw', offset };
    }
  }
  return undefined;
}

/** Throws when `canary` is in one of the named things; the message names thing, form and place, never the value. */
export function assertClean(canary: string, seen: Record<string, Bytes>): void {
  for (const [name, bytes] of Object.entries(seen)) {
    const found = findCanary(bytes, canary);
    if (found) throw new Error(`canary leaked in ${name}: ${found.form} at ${found.offset}`);
  }
}

/** Length of the longest beginning of `canary` found raw: how much of it a cut let through. */
export function leakedPrefix(bytes: Bytes, canary: string): number {
  const haystack = Buffer.from(bytes as string);
  let length = 0;
  while (length < canary.length && haystack.includes(canary.slice(0, length + 1))) length += 1;
  return length;
}

interface Form {
  name: string;
  bytes: Buffer;
  anyCase?: boolean;
}

function searchForms(canary: string): Form[] {
  const secret = Buffer.from(canary);
  return [
    { name: '', bytes: secret },
    ...[0, 1, 2].flatMap((shift) => {
      const standard = base64Middle(secret, shift);
      const url = standard.replaceAll('+', '-').replaceAll('/', '_');
      return [
        { name: 'base64', bytes: Buffer.from(standard) },
        ...(url === standard ? [] : [{ name: 'base64url', bytes: Buffer.from(url) }]),
      ];
    }),
    { name: 'hex', bytes: Buffer.from(secret.toString('hex')), anyCase: true },
    { name: 'utf16', bytes: Buffer.from(canary, 'utf16le') },
  ];
}

/** The base64 characters that depend on `secret` alone when it stands `shift` bytes (mod 3) into the encoded text. */
function base64Middle(secret: Buffer, shift: number): string {
  const encoded = Buffer.concat([Buffer.alloc(shift), secret]).toString('base64');
  return encoded.slice(Math.ceil((shift * 8) / 6), Math.floor(((shift + secret.length) * 8) / 6));
}

/** The bytes as they are, and what is behind each layer of escapes that changes something. */
function* views(raw: Buffer): Generator<[string, Buffer]> {
  yield ['', raw];
  const percent = unescapePercent(raw);
  if (percent) yield ['percent', percent];
  const json = unescapeJson(raw);
  if (json) yield ['json', json];
  const twice = percent && unescapePercent(percent);
  if (twice) yield ['percent+percent', twice];
  const jsonPercent = json && unescapePercent(json);
  if (jsonPercent) yield ['json+percent', jsonPercent];
  const percentJson = percent && unescapeJson(percent);
  if (percentJson) yield ['percent+json', percentJson];
}

/** Undefined when there was nothing to unescape. Latin-1 text maps one byte to one character, so no byte is lost. */
function unescapePercent(bytes: Buffer): Buffer | undefined {
  if (!bytes.includes('%')) return undefined;
  return changed(bytes, (text) => text.replace(/%([0-9a-fA-F]{2})/g, (_, hex) => byteOf(hex)));
}

function unescapeJson(bytes: Buffer): Buffer | undefined {
  if (!bytes.includes('\\')) return undefined;
  return changed(bytes, (text) =>
    text
      .replace(/\\u00([0-9a-fA-F]{2})/g, (_, hex) => byteOf(hex))
      .replace(/\\x([0-9a-fA-F]{2})/g, (_, hex) => byteOf(hex))
      .replace(/\\(["\\/])/g, '$1'),
  );
}

const byteOf = (hex: string): string => String.fromCharCode(Number.parseInt(hex, 16));

function changed(bytes: Buffer, decode: (text: string) => string): Buffer | undefined {
  const before = bytes.toString('latin1');
  const after = decode(before);
  return after === before ? undefined : Buffer.from(after, 'latin1');
}

const lowerCase = (bytes: Buffer): Buffer => Buffer.from(bytes.toString('latin1').toLowerCase(), 'latin1');
