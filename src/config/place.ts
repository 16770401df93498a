/** Where things stand in the files, and the one list that all problems go into. */
import {
  ConfigError,
  createProblem,
  formatKey,
  formatProblem,
  type KeyPath,
  type Problem,
} from './config-error.ts';
import type { Locator } from './locate.ts';

/** One file that was read. */
export interface Source {
  /** The file as the operator named it. */
  readonly name: string;
  /** Its absolute path. */
  readonly path: string;
  readonly locator: Locator;
}

/** A key in a file. */
export interface Place {
  readonly source: Source;
  readonly path: KeyPath;
}

/** The place of a key below `place`. */
export function at(place: Place, ...path: KeyPath): Place {
  return { source: place.source, path: [...place.path, ...path] };
}

export interface Report {
  /** Notes a problem; loading goes on, so that the operator sees all of them at once. */
  readonly problem: (place: Place, message: string, hint?: string) => void;
  /** Notes something that works but is probably not meant. */
  readonly warning: (place: Place, message: string, hint?: string) => void;
  /** @throws ConfigError with every problem so far, if there is one. */
  readonly stopOnProblems: () => void;
  readonly warnings: () => string[];
}

export function createReport(): Report {
  const problems: Problem[] = [];
  const warnings: string[] = [];
  return {
    problem: (place, message, hint) => void problems.push(describe(place, message, hint)),
    warning: (place, message, hint) => void warnings.push(formatProblem(describe(place, message, hint))),
    stopOnProblems: () => {
      if (problems.length > 0) throw new ConfigError(inFileOrder(problems));
    },
    warnings: () => [...warnings],
  };
}

function describe(place: Place, message: string, hint: string | undefined): Problem {
  const { source, path } = place;
  return createProblem({
    file: source.name,
    line: source.locator.lineOf(path),
    key: formatKey(path),
    message,
    hint,
  });
}

/** Files in the order in which they were read, and lines in order within each. */
function inFileOrder(problems: readonly Problem[]): Problem[] {
  const files = [...new Set(problems.map((problem) => problem.file))];
  return files.flatMap((file) =>
    problems.filter((problem) => problem.file === file).sort((a, b) => (a.line ?? 0) - (b.line ?? 0)),
  );
}
