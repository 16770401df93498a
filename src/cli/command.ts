/** What a command is, how it talks, and the exit codes that scripts may rely on. */

/** Exit codes of the contract (sysexits(3) where one fits). */
export const EXIT = {
  ok: 0,
  denied: 1,
  unproven: 2,
  usage: 64,
  unavailable: 69,
  internal: 70,
  audit: 74,
  config: 78,
} as const;

/** The world as a command sees it; tests pass their own. */
export interface Io {
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Colour on stdout/stderr: a terminal, and NO_COLOR unset. */
  readonly color: boolean;
}

export interface Command {
  /** Full help: usage line first, then options with meaning, unit and default. */
  readonly usage: string;
  /** Runs the command; returns the exit code. Throws CliError for anything the user must know. */
  readonly run: (args: readonly string[], io: Io) => Promise<number> | number;
}

/** An error with a way out. Printed as `isoproxy: error: …` and `isoproxy: hint: …`; never holds a secret. */
export class CliError extends Error {
  readonly exitCode: number;
  readonly hint: string | undefined;

  constructor(exitCode: number, message: string, hint?: string) {
    super(message);
    this.exitCode = exitCode;
    this.hint = hint;
  }
}

/** ANSI colour around `text` where `io.color` allows it. */
export function paint(
  io: Pick<Io, 'color'>,
  style: 'red' | 'green' | 'yellow' | 'dim' | 'bold',
  text: string,
): string {
  if (!io.color) return text;
  const codes = { red: 31, green: 32, yellow: 33, dim: 2, bold: 1 };
  return `\x1b[${codes[style]}m${text}\x1b[0m`;
}

/** Prints a warning in the one voice of the program. */
export function warn(io: Io, message: string): void {
  io.stderr(`isoproxy: ${paint(io, 'yellow', 'warning:')} ${message}\n`);
}

/** Prints the way out of what was said before. */
export function hint(io: Io, message: string): void {
  io.stderr(`isoproxy: ${paint(io, 'dim', 'hint:')} ${message}\n`);
}

/** Says what was done without being asked for. */
export function note(io: Io, message: string): void {
  io.stderr(`isoproxy: ${message}\n`);
}

/** Prints an error and, if there is one, its hint. */
export function printError(io: Io, message: string, way?: string): void {
  for (const line of message.split('\n')) io.stderr(`isoproxy: ${paint(io, 'red', 'error:')} ${line}\n`);
  if (way !== undefined) hint(io, way);
}

/** What an unknown error comes to. Its text may hold anything: only its kind is shown. */
export function printInternalError(io: Io, error: unknown): void {
  const kind = error instanceof Error ? error.name : typeof error;
  printError(io, `internal error (${kind})`, 'this is a bug in isoproxy; please report what you ran');
}
