/** Which ASCII characters may stand somewhere, by code: 1 where one may. */
export function charTable(chars: string): Uint8Array {
  const table = new Uint8Array(128);
  for (const char of chars) table[char.charCodeAt(0)] = 1;
  return table;
}

/** Is `text` from `start` up to `end` made of the characters of a table? */
export function consistsOf(table: Uint8Array, text: string, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (table[text.charCodeAt(i)] !== 1) return false;
  return true;
}
