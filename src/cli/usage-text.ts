/** Reads a command's usage text: what completions and the man page know, they know from there. */

export interface UsageOption {
  /** With its dashes. */
  readonly name: string;
  /** The name of its value (FILE, NAME=VALUE …); undefined = takes none. */
  readonly value: string | undefined;
  /** What the usage text says of it, on one line; empty if it is in the synopsis only. */
  readonly text: string;
}

/** A paragraph, a term that is explained ("--config FILE", "PRESET"), or an indented line that is an example. */
export type UsageBlock =
  | { readonly kind: 'text' | 'example'; readonly text: string }
  | { readonly kind: 'term'; readonly term: string; readonly text: string };

export interface CommandUsage {
  readonly name: string;
  /** Its line in the overview. */
  readonly summary: string;
  /** One line for each way to call the command, without `isoproxy`. */
  readonly synopses: readonly string[];
  readonly blocks: readonly UsageBlock[];
  readonly options: readonly UsageOption[];
  /** What may stand at each place after the command: literal words, and upper-case names of values. */
  readonly places: readonly (readonly string[])[];
  /** Behind `--` comes a command line of another program. */
  readonly runsCommand: boolean;
}

const OPTION = /--[a-z][a-z-]*/;
/** The value of an option stands behind it and has a capital or a digit at the front. */
const OPTION_WITH_VALUE = new RegExp(`(${OPTION.source})(?:[ =]([A-Z0-9][^\\s\\])|]*))?`, 'g');

/** Values of these names are files. */
const FILE_VALUES: readonly string[] = ['FILE', 'PATH'];

export function isFile(value: string | undefined): boolean {
  return value !== undefined && FILE_VALUES.includes(value);
}

/** The literal words of a place, and whether a file can stand there. */
export function readPlace(place: readonly string[]): { words: readonly string[]; files: boolean } {
  return { words: place.filter((word) => /^[a-z]/.test(word)), files: place.some(isFile) };
}

/** What an option is, in a few words. */
export function shorten({ text }: UsageOption): string {
  const words = text.replace(/ \{.*/, ' JSON').replace(/^default: /, '');
  return words.split(/; | \(|: /)[0]?.replace(/:$/, '') ?? '';
}

/** Parses a text whose first paragraph is the synopsis: "usage: isoproxy NAME [--option VALUE] ARGUMENT". */
export function readUsage(name: string, summary: string, usage: string): CommandUsage {
  const [head = '', ...rest] = usage.trimEnd().split('\n\n');
  const synopses = readSynopses(head);
  const blocks = rest.flatMap(readParagraph);
  return {
    name,
    summary,
    synopses,
    blocks,
    options: readOptions(synopses, blocks),
    places: readPlaces(name, synopses),
    runsCommand: synopses.some((line) => / -- COMMAND/.test(line)),
  };
}

function readSynopses(head: string): string[] {
  const lines: string[] = [];
  for (const line of head.replace(/^usage:/, '').split('\n')) {
    const start = /^\s*isoproxy (.*)$/.exec(line)?.[1];
    if (start !== undefined) lines.push(start.trim());
    else if (lines.length > 0) lines.push(`${lines.pop()} ${line.trim()}`);
  }
  return lines;
}

/** Lines at the margin are text; a line indented by two begins a term or is an example; deeper ones go on. */
function readParagraph(paragraph: string): UsageBlock[] {
  const blocks: UsageBlock[] = [];
  for (const line of paragraph.split('\n')) {
    const last = blocks.at(-1);
    const [, indent = '', content = ''] = /^( *)(.*)$/.exec(line) ?? [];
    const [, term, text] = /^(\S+(?: \S+)*) {2,}(\S.*)$/.exec(content) ?? [];
    if (indent.length === 2 && term !== undefined && text !== undefined)
      blocks.push({ kind: 'term', term, text });
    else if (indent.length === 2) blocks.push({ kind: 'example', text: content });
    else if (last !== undefined && (indent.length > 2 || last.kind === 'text'))
      blocks[blocks.length - 1] = { ...last, text: `${last.text} ${content}` };
    else blocks.push({ kind: 'text', text: content });
  }
  return blocks;
}

function readOptions(synopses: readonly string[], blocks: readonly UsageBlock[]): UsageOption[] {
  const found = new Map<string, UsageOption>();
  const add = (source: string, text: string) => {
    for (const [, name = '', value] of source.matchAll(OPTION_WITH_VALUE)) {
      const known = found.get(name);
      found.set(name, { name, value: known?.value ?? value, text: known?.text || text });
    }
  };
  for (const line of synopses) add(line, '');
  for (const block of blocks)
    if (block.kind === 'term' && block.term.startsWith('-')) add(block.term, block.text);
  return [...found.values()];
}

/** What is left of the synopses without options and without what belongs to another program. */
function readPlaces(name: string, synopses: readonly string[]): string[][] {
  const places: string[][] = [];
  for (const line of synopses) {
    const words = line
      .slice(name.length)
      .replace(/ -- .*/, '')
      .replace(OPTION_WITH_VALUE, '')
      .replace(/[[\](){}]|\.\.\./g, ' ')
      .replace(/ *\| */g, '|')
      .split(' ')
      .map((word) => word.split('|').filter((part) => part !== '' && part !== 'OPTION'))
      .filter((parts) => parts.length > 0);
    words.forEach((parts, index) => {
      places[index] = [...new Set([...(places[index] ?? []), ...parts])];
    });
  }
  return places;
}
