/**
 * The request target: one canonical string is computed, judged and sent, and no second parser sees
 * anything else. What cannot be one unambiguous path is refused, never repaired (Envoy
 * GHSA-xcx5-93pw-jw2w, CVE-2021-41773 and their kin are all "the proxy and the origin read it differently").
 *
 * Bun has already resolved dot segments and backslashes when it hands the target over; the result is what
 * is judged and sent. Deno hands over raw text, which meets the same checks here.
 */
import { ProxyError } from '../errors.ts';
import { charTable } from './char-table.ts';

/** Longest accepted target, bytes (RFC 9112 3 asks for at least 8000). */
export const MAX_TARGET_BYTES = 8192;

export interface Target {
  /** Canonical path, beginning with "/". */
  readonly path: string;
  /** "" or the query with its leading "?". */
  readonly query: string;
  /** True if the path holds `%2F`; only a rule with `allow_encoded_slash` lets that through. */
  readonly hasEncodedSlash: boolean;
}

const SLASH = 0x2f;
const PERCENT = 0x25;

/** RFC 3986 3.3 pchar without `%`, by character code. */
const PCHAR = charTable("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@");

/** Value of a hexadecimal digit by character code; 255 = none. */
const HEX = new Uint8Array(128).fill(255);
for (let i = 0; i < 16; i++) {
  const digit = i.toString(16);
  HEX[digit.charCodeAt(0)] = i;
  HEX[digit.toUpperCase().charCodeAt(0)] = i;
}

function refuse(reason: string): never {
  throw new ProxyError('bad_target', reason);
}

/**
 * Parses origin-form text ("/path?query").
 * @throws ProxyError bad_target with the reason, which names the kind of fault and no client text.
 */
export function parseTarget(text: string): Target {
  if (text.length > MAX_TARGET_BYTES) refuse('target over 8 KiB');
  if (text.charCodeAt(0) !== SLASH) refuse('target does not start with a slash');
  const mark = text.indexOf('?');
  const path = mark === -1 ? text : text.slice(0, mark);
  const query = mark === -1 ? '' : text.slice(mark);
  const hasEncodedSlash = checkPath(path);
  checkQuery(query);
  return { path, query, hasEncodedSlash };
}

/** Walks the path once; returns whether it holds an encoded slash. */
function checkPath(path: string): boolean {
  let encodedSlash = false;
  let highBytes = false;
  // A part is what stands between "/" or "%2F"; `dots` counts the dots that alone make it up so far.
  let partLength = 0;
  let dots = 0;
  let onlyDots = true;
  for (let i = 1; i < path.length; i++) {
    const code = path.charCodeAt(i);
    if (code === SLASH) {
      if (partLength === 0) refuse('empty segment');
      if (onlyDots && dots <= 2) refuse('dot segment');
      partLength = dots = 0;
      onlyDots = true;
      continue;
    }
    if (code === PERCENT) {
      const byte = decodeEscape(path, i);
      checkEscapedByte(byte, path, i);
      i += 2;
      if (byte === SLASH) {
        encodedSlash = true;
        if (partLength === 0) refuse('empty part before an encoded slash');
        if (onlyDots && dots <= 2) refuse('dot segment');
        partLength = dots = 0;
        onlyDots = true;
        if (i + 1 === path.length || path.charCodeAt(i + 1) === SLASH)
          refuse('empty part after an encoded slash');
        continue;
      }
      if (byte >= 0x80) highBytes = true;
      // "..%3Bx": some servers cut path parameters off after decoding (CVE-2026-73551).
      if (byte === 0x3b && onlyDots && dots >= 1 && dots <= 2) refuse('dot segment with parameters');
      onlyDots = false;
      partLength++;
      continue;
    }
    if (code > 0x7e || PCHAR[code] === 0) refuse('byte outside RFC 3986 pchar');
    if (code === 0x3b && onlyDots && dots >= 1 && dots <= 2) refuse('dot segment with parameters');
    if (code === 0x2e) dots++;
    else onlyDots = false;
    partLength++;
  }
  if (partLength > 0 && onlyDots && dots <= 2) refuse('dot segment');
  if (highBytes) checkUtf8(path);
  return encodedSlash;
}

function decodeEscape(path: string, at: number): number {
  const high = HEX[path.charCodeAt(at + 1)] ?? 255;
  const low = HEX[path.charCodeAt(at + 2)] ?? 255;
  if (high === 255 || low === 255) refuse('invalid percent-encoding');
  return high * 16 + low;
}

function checkEscapedByte(byte: number, path: string, at: number): void {
  if (byte < 0x20 || byte === 0x7f) refuse('encoded control byte');
  if (byte === 0x5c) refuse('encoded backslash');
  if (byte === 0x2e) refuse('encoded dot');
  if (byte === PERCENT) {
    const high = HEX[path.charCodeAt(at + 3)] ?? 255;
    const low = HEX[path.charCodeAt(at + 4)] ?? 255;
    if (high !== 255 && low !== 255) refuse('double encoding');
  }
}

function checkUtf8(path: string): void {
  try {
    decodeURIComponent(path);
  } catch {
    refuse('invalid UTF-8 in percent-encoding');
  }
}

function checkQuery(query: string): void {
  for (let i = 0; i < query.length; i++) {
    const code = query.charCodeAt(i);
    if (code <= 0x20 || code > 0x7e) refuse('control or non-ASCII byte in the query');
    if (code === 0x23) refuse('fragment');
    if (code !== PERCENT) continue;
    const high = HEX[query.charCodeAt(i + 1)];
    const low = HEX[query.charCodeAt(i + 2)];
    if (high === 0 && (low === 0 || low === 10 || low === 13)) refuse('encoded NUL, CR or LF in the query');
  }
}

/** The target below a provider: what rules are matched on and what follows the base path. */
export interface ProviderTarget {
  readonly provider: string;
  /** "" or a path beginning with "/". */
  readonly path: string;
}

/** Splits "/name/rest" into the provider's name and the path below it; `mount` takes the whole path. */
export function splitProvider(path: string, mount: string | undefined): ProviderTarget {
  if (mount !== undefined) return { provider: mount, path };
  const end = path.indexOf('/', 1);
  if (end === -1) return { provider: path.slice(1), path: '' };
  return { provider: path.slice(1, end), path: path.slice(end) };
}
