/** The results in docs/hold.md, between two marks; the rest of that page is written by hand. */
import { readFileSync, writeFileSync } from 'node:fs';

const BEGIN = '<!-- results: written by `make bench-hold` -->';
const END = '<!-- end of results -->';

export function writePage(file: string, text: string): void {
  const page = readFileSync(file, 'utf8');
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin === -1 || end < begin) throw new Error(`${file} lacks the marks of its results`);
  writeFileSync(file, `${page.slice(0, begin) + BEGIN}\n\n${text}\n\n${page.slice(end)}`);
}
