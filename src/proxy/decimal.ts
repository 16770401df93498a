/** Decimal numbers in the text of the protocol. */

/** More than anybody sends, and always exact in a number. */
const MAX_LENGTH_DIGITS = 15;

/** A Content-Length, bytes; undefined if it is anything but digits, once (RFC 9110 8.6): the runtime joins repeats as "3, 3". */
export function parseContentLength(text: string): number | undefined {
  return isDigits(text, 0, MAX_LENGTH_DIGITS) ? Number(text) : undefined;
}

/** Is `text` from `start` on made of 1 to `most` digits? */
export function isDigits(text: string, start: number, most: number): boolean {
  const count = text.length - start;
  if (count < 1 || count > most) return false;
  for (let i = start; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x30 || code > 0x39) return false;
  }
  return true;
}
