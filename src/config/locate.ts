/**
 * The line of a key in TOML text, so that a message can point at it. Works on text that smol-toml has
 * accepted; on anything odd it simply knows less, and the message falls back to the table around the key.
 */
import type { KeyPath } from './config-error.ts';

export interface Locator {
  /** Line (from 1) of the key, else of the nearest table around it; undefined if nothing is known. */
  readonly lineOf: (path: KeyPath) => number | undefined;
}

/** Reads the text once and remembers where each key stands. */
export function createLocator(text: string): Locator {
  const lines = new Map<string, number>();
  try {
    scan(text, lines);
  } catch {
    // Best effort: keep what was found so far.
  }
  return {
    lineOf: (path) => {
      for (let length = path.length; length > 0; length--) {
        const line = lines.get(JSON.stringify(path.slice(0, length)));
        if (line !== undefined) return line;
      }
      return undefined;
    },
  };
}

type MutablePath = (string | number)[];

/** Walks the text and fills `lines`: JSON of each key path → its line. */
function scan(text: string, lines: Map<string, number>): void {
  let at = 0;
  let line = 1;
  /** Arrays of tables by path: the index of the element that is open. */
  const open = new Map<string, number>();

  function document(): void {
    let table: MutablePath = [];
    for (;;) {
      skipBlank();
      if (at >= text.length) return;
      if (peek() === '[') table = header();
      else pair(table);
    }
  }

  /** `[a.b]` or `[[a.b]]`; a name that is an array of tables means its last element. */
  function header(): MutablePath {
    const array = text.startsWith('[[', at);
    const headerLine = line;
    advance(array ? 2 : 1);
    const names = key();
    skipBlank();
    advance(array ? 2 : 1);
    const path: MutablePath = [];
    for (const [index, name] of names.entries()) {
      path.push(name);
      const id = JSON.stringify(path);
      if (array && index === names.length - 1) open.set(id, (open.get(id) ?? -1) + 1);
      const element = open.get(id);
      mark(path);
      if (element !== undefined) path.push(element);
    }
    // A header of its own beats an earlier mention as part of a longer one.
    lines.set(JSON.stringify(path), headerLine);
    return path;
  }

  /** `a.b = value` */
  function pair(table: readonly (string | number)[]): void {
    const path = [...table];
    for (const name of key()) {
      path.push(name);
      mark(path);
    }
    skipBlank();
    if (peek() !== '=') throw new Error('no value');
    advance(1);
    skipBlank();
    value(path);
  }

  function key(): string[] {
    const names: string[] = [];
    for (;;) {
      skipBlank();
      const quote = peek();
      if (quote === '"' || quote === "'") {
        const raw = string();
        names.push(quote === '"' ? (JSON.parse(raw) as string) : raw.slice(1, -1));
      } else {
        const bare = /[A-Za-z0-9_-]+/y;
        bare.lastIndex = at;
        const name = bare.exec(text)?.[0];
        if (name === undefined) throw new Error('no key');
        advance(name.length);
        names.push(name);
      }
      skipBlank();
      if (peek() !== '.') return names;
      advance(1);
    }
  }

  function value(path: readonly (string | number)[]): void {
    switch (peek()) {
      case '"':
      case "'":
        string();
        return;
      case '[':
        list(']', (index) => {
          const element = [...path, index];
          mark(element);
          value(element);
        });
        return;
      case '{':
        list('}', () => pair(path));
        return;
      default:
        while (at < text.length && !',]}\n#'.includes(peek())) advance(1);
    }
  }

  function list(end: string, item: (index: number) => void): void {
    advance(1);
    for (let index = 0; ; index++) {
      skipBlank();
      if (peek() === end) break;
      if (at >= text.length) throw new Error('unfinished');
      const before = at;
      item(index);
      if (at === before) throw new Error('not a value');
      skipBlank();
      if (peek() === ',') advance(1);
    }
    advance(1);
  }

  /** A string of any of the four kinds, quotes included; marks nothing. */
  function string(): string {
    const start = at;
    const quote = peek();
    const triple = quote.repeat(3);
    const end = text.startsWith(triple, start) ? triple : quote;
    advance(end.length);
    while (!text.startsWith(end, at)) {
      if (at >= text.length) throw new Error('unfinished');
      advance(quote === '"' && peek() === '\\' ? 2 : 1);
    }
    advance(end.length);
    // `""""` at the end of a multi-line string: up to two quotes belong to its content.
    while (end.length === 3 && peek() === quote) advance(1);
    return text.slice(start, at);
  }

  function skipBlank(): void {
    for (;;) {
      const char = peek();
      if (char === '#') while (at < text.length && peek() !== '\n') advance(1);
      else if (char !== '' && ' \t\r\n'.includes(char)) advance(1);
      else return;
    }
  }

  function mark(path: readonly (string | number)[]): void {
    const id = JSON.stringify(path);
    if (!lines.has(id)) lines.set(id, line);
  }

  function peek(): string {
    return text[at] ?? '';
  }

  function advance(count: number): void {
    for (let i = 0; i < count; i++) if (text[at++] === '\n') line++;
  }

  document();
}
