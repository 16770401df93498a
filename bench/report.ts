/** Tables as Markdown, put into a page of docs between two marks; the rest of that page is written by hand. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { Table } from './results.ts';

const END = '<!-- end of results -->';

export function markdown({ title, note, columns, rows }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const table = [line(columns), line(columns.map(() => '---')), ...rows.map(line)].join('\n');
  return [`### ${title}`, ...(note === undefined ? [] : [note]), table].join('\n\n');
}

/** @param command that by which they are made, as the first mark has it */
export function replaceResults(file: string, command: string, text: string): void {
  const page = readFileSync(file, 'utf8');
  const mark = `<!-- results: written by \`${command}\` -->`;
  const [begin, end] = [page.indexOf(mark), page.indexOf(END)];
  if (begin === -1 || end < begin) throw new Error(`${file} lacks the marks of its results`);
  writeFileSync(file, `${page.slice(0, begin) + mark}\n\n${text}\n\n${page.slice(end)}`);
}
