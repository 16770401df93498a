/** Tables as Markdown, put into docs/performance.md between two marks; the rest of that page is written by hand. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { Table } from './results.ts';

const BEGIN = '<!-- results: written by `make bench` -->';
const END = '<!-- end of results -->';

export function markdown({ title, note, columns, rows }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const table = [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
  return [`### ${title}`, ...(note === undefined ? [] : [note]), table].join('\n\n');
}

export function replaceResults(file: string, text: string): void {
  const page = readFileSync(file, 'utf8');
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin === -1 || end < begin) throw new Error(`${file} lacks the marks of its results`);
  writeFileSync(file, `${page.slice(0, begin) + BEGIN}\n\n${text}\n\n${page.slice(end)}`);
}
