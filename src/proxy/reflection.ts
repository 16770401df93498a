/**
 * The reflection guard's scanner: finds a secret in a byte stream, however it is cut into chunks.
 *
 * Two readings of the stream go through the same automaton: the bytes as they are, and the bytes with
 * percent- and JSON-escapes undone. They are in the same state nearly always (text without escapes), and
 * then one look-up serves both; they part at an escape and rejoin a few bytes later.
 *
 * A tail is held back only when it matches at least 16 bytes of a form beyond its public prefix. Shorter
 * tails go out at once while the state is kept: holding them would tell an agent that controls the
 * chunks which of its guesses is right, one byte after another.
 */
import type { ReflectionAutomaton } from './reflection-forms.ts';

export interface ScanResult {
  /** Bytes that may go to the client now; may be empty, may be the input itself. */
  readonly clean: Uint8Array;
  /** The secret was found; nothing of this chunk may go out, and the body ends here. */
  readonly reflected: boolean;
}

export interface ReflectionScanner {
  readonly push: (chunk: Uint8Array) => ScanResult;
  /** The stream ended: what was held back, unless its last bytes made it a secret. */
  readonly end: () => ScanResult;
}

const EMPTY = new Uint8Array(0);
const utf8 = new TextEncoder();
const PERCENT = 0x25;
const BACKSLASH = 0x5c;

/** An escape is at most six bytes (`\u0041`) for one. */
const LONGEST_ESCAPE = 6;

/** Value of a hexadecimal digit by byte; 255 = none. */
const HEX = new Uint8Array(256).fill(255);
for (const digit of '0123456789abcdefABCDEF') HEX[digit.charCodeAt(0)] = Number.parseInt(digit, 16);

export function createScanner(automaton: ReflectionAutomaton): ReflectionScanner {
  const { next, begins, final, hold } = automaton;
  let plain = 0;
  let decoded = 0;
  // An escape in progress: its bytes so far (none = not in one).
  const pending = new Uint8Array(LONGEST_ESCAPE);
  let escapeLength = 0;
  let held = EMPTY;

  /** Feeds one byte of the unescaped reading; true if a form ended. */
  function feedDecoded(byte: number): boolean {
    decoded = next[decoded * 256 + byte] as number;
    return final[decoded] === 1;
  }

  /** Takes the pending escape for literal text: its first byte stands for itself, the rest is read anew. */
  function abandonEscape(): boolean {
    const bytes = pending.slice(0, escapeLength);
    escapeLength = 0;
    let found = feedDecoded(bytes[0] as number);
    for (let i = 1; i < bytes.length; i++) found = readEscaped(bytes[i] as number) || found;
    return found;
  }

  /** One byte into the unescaping reader. */
  function readEscaped(byte: number): boolean {
    if (escapeLength === 0) {
      if (byte !== PERCENT && byte !== BACKSLASH) return feedDecoded(byte);
      pending[0] = byte;
      escapeLength = 1;
      return false;
    }
    pending[escapeLength++] = byte;
    const value = decodeEscape(pending, escapeLength);
    if (value === INCOMPLETE) return false;
    if (value === NO_ESCAPE) return abandonEscape();
    escapeLength = 0;
    return feedDecoded(value);
  }

  function push(chunk: Uint8Array): ScanResult {
    const length = chunk.length;
    let found = false;
    let i = 0;
    while (i < length && !found) {
      if (plain === decoded && escapeLength === 0) {
        // Both readings agree: run one until an escape begins.
        let state = plain;
        for (; i < length; i++) {
          // Most bytes leave the start state where it is; to skip them without a look-up that waits for the one
          // before it makes the scan four times as fast (measured).
          if (state === 0) while (i < length && begins[chunk[i] as number] === 0) i++;
          if (i === length) break;
          const byte = chunk[i] as number;
          if (byte === PERCENT || byte === BACKSLASH) break;
          state = next[state * 256 + byte] as number;
          if (final[state] === 1) {
            found = true;
            break;
          }
        }
        plain = decoded = state;
        if (i === length || found) break;
      }
      const byte = chunk[i++] as number;
      plain = next[plain * 256 + byte] as number;
      found = final[plain] === 1 || readEscaped(byte);
    }
    if (found) {
      held = EMPTY;
      return { clean: EMPTY, reflected: true };
    }
    return { clean: release(chunk), reflected: false };
  }

  /** Joins what was held with the new chunk and keeps back the tail that is too much of a secret. */
  function release(chunk: Uint8Array): Uint8Array {
    let wanted = hold[plain] as number;
    // A decoded byte may have taken up to six bytes of text; too long a tail only delays, never leaks.
    const apart = decoded !== plain || escapeLength > 0;
    if (apart && hold[decoded] !== 0)
      wanted = Math.max(wanted, (hold[decoded] as number) * LONGEST_ESCAPE + escapeLength);
    if (wanted === 0 && held.length === 0) return chunk;
    const all = join(held, chunk);
    const keep = Math.min(wanted, all.length);
    held = all.slice(all.length - keep);
    return all.subarray(0, all.length - keep);
  }

  function end(): ScanResult {
    // What looked like an escape to the last stands for itself.
    let found = false;
    while (escapeLength > 0) found = abandonEscape() || found;
    const rest = held;
    held = EMPTY;
    return found ? { clean: EMPTY, reflected: true } : { clean: rest, reflected: false };
  }

  return { push, end };
}

const INCOMPLETE = -1;
const NO_ESCAPE = -2;

/** Value of `%HH`, `\uHHHH` (below 256), `\/` or `\"`; or INCOMPLETE; or NO_ESCAPE. */
function decodeEscape(bytes: Uint8Array, length: number): number {
  const last = bytes[length - 1] as number;
  if (bytes[0] === PERCENT) {
    if (HEX[last] === 255) return NO_ESCAPE;
    return length < 3 ? INCOMPLETE : (HEX[bytes[1] as number] as number) * 16 + (HEX[last] as number);
  }
  if (length === 2) {
    if (last === 0x75) return INCOMPLETE;
    return last === 0x2f || last === 0x22 ? last : NO_ESCAPE;
  }
  if (HEX[last] === 255) return NO_ESCAPE;
  if (length <= 4 && last !== 0x30) return NO_ESCAPE;
  return length < 6 ? INCOMPLETE : (HEX[bytes[4] as number] as number) * 16 + (HEX[last] as number);
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

/** Do these bytes, which are all that there is, carry a secret? */
export function holdsSecret(automaton: ReflectionAutomaton, bytes: Uint8Array): boolean {
  if (bytes.length < automaton.shortest) return false;
  const scanner = createScanner(automaton);
  return scanner.push(bytes).reflected || scanner.end().reflected;
}

/** Does `text` (a header's name or value) carry a secret? */
export function carriesSecret(automaton: ReflectionAutomaton, text: string): boolean {
  return text.length >= automaton.shortest && holdsSecret(automaton, utf8.encode(text));
}
