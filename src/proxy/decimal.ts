/** Decimal numbers in the text of the protocol. */
import { charTable, consistsOf } from './char-table.ts';

const DIGITS = charTable('0123456789');

/** More than anybody sends, and always exact in a number. */
const MAX_LENGTH_DIGITS = 15;

/** A Content-Length, bytes; undefined if it is anything but digits, once (RFC 9110 8.6): the runtime joins repeats as "3, 3". */
export function parseContentLength(text: string): number | undefined {
  return isDigits(text, 0, MAX_LENGTH_DIGITS) ? Number(text) : undefined;
}

/** Is `text` from `start` on made of 1 to `most` digits? */
export function isDigits(text: string, start: number, most: number): boolean {
  const count = text.length - start;
  return count >= 1 && count <= most && consistsOf(DIGITS, text, start, text.length);
}
