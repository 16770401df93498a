/** What is wrong with a configuration, all of it at once, in words that hold no value from the file. */

/** Where a key stands: its names and, for array elements, their index from 0. */
export type KeyPath = readonly (string | number)[];

export interface Problem {
  /** The file as the operator named it. */
  readonly file: string;
  /** Line of the key, or of the nearest table around it; from 1. */
  readonly line?: number | undefined;
  /** `providers.github.endpoints#2.paths`; '' where the whole file is meant. */
  readonly key: string;
  /** Lower case, no full stop, never a value. */
  readonly message: string;
  /** The way out, where it is not in the message. */
  readonly hint?: string | undefined;
  /** Place and message on one line, without the hint: what follows "isoproxy: error:". */
  readonly text: string;
}

/** A problem with its text. */
export function createProblem(parts: Omit<Problem, 'text'>): Problem {
  const place = parts.line === undefined ? parts.file : `${parts.file}:${parts.line}`;
  const key = parts.key === '' ? '' : `${parts.key}: `;
  return { ...parts, text: `${place}: ${key}${parts.message}` };
}

/** A single value that cannot be used; the message says what to write instead and never quotes the value. */
export class ValueError extends Error {}

/** A configuration that cannot be used: every problem that was found, in file order. */
export class ConfigError extends Error {
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    super(problems.map(formatProblem).join('\n'));
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/** `proxy.toml:12: providers.anthropic.credental: unknown key; did you mean "credential"?` */
export function formatProblem(problem: Problem): string {
  return problem.hint === undefined ? problem.text : `${problem.text}; ${problem.hint}`;
}

/**
 * A key path in words. Array elements count from 1, marked `#`, so that nobody takes them for an index.
 * A name that does not look like a key (a secret pasted to the left of "=") is not repeated.
 */
export function formatKey(path: KeyPath): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `#${part + 1}`;
    else {
      const name = isPlainKey(part) ? part : '(key)';
      text += text === '' ? name : `.${name}`;
    }
  }
  return text;
}

/** Long and with a digit is how secrets look, and how no key of ours does. */
export function isPlainKey(name: string): boolean {
  return /^[A-Za-z0-9_.*-]{1,48}$/.test(name) && (name.length < 20 || !/[0-9]/.test(name));
}
