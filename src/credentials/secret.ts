/**
 * An opaque secret: whatever prints, serialises, inspects or interpolates it sees `[secret]`.
 *
 * The bytes live in a private field and leave through `reveal()` only, which inject.ts and the
 * reflection guard's form builder call, and nothing else (a test greps for it). JavaScript cannot erase a
 * string: copies inside the runtime's heap remain possible, and SECURITY.md says so.
 */
import { hash, timingSafeEqual } from 'node:crypto';

const REDACTED = '[secret]';

export class Secret {
  readonly #value: string;
  #digest: Uint8Array | undefined;

  constructor(value: string) {
    this.#value = value;
  }

  /** The value itself. Callers: inject.ts, proxy/reflection-forms.ts. */
  reveal(): string {
    return this.#value;
  }

  /** Length in UTF-16 units, which for a valid secret (printable ASCII) is bytes. */
  get length(): number {
    return this.#value.length;
  }

  /** True if the value begins with this public text. */
  startsWith(prefix: string): boolean {
    return this.#value.startsWith(prefix);
  }

  /** How many characters the beginning has that matches; the pattern begins with `^`. */
  beginningLength(pattern: RegExp): number {
    return pattern.exec(this.#value)?.[0].length ?? 0;
  }

  /**
   * Is `text`, which somebody presents, the value? Digests of both are compared in constant time, so that neither
   * content nor length shows in the timing (CVE-2026-23996).
   */
  isValue(text: string): boolean {
    this.#digest ??= digest(this.#value);
    return timingSafeEqual(digest(text), this.#digest);
  }

  equals(other: Secret): boolean {
    return this.#value === other.#value;
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  [Symbol.toPrimitive](): string {
    return REDACTED;
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return REDACTED;
  }

  [Symbol.for('Deno.customInspect')](): string {
    return REDACTED;
  }
}

function digest(text: string): Uint8Array {
  return hash('sha256', text, 'buffer');
}
