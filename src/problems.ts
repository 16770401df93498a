/** What kept a command, a start or a reload from succeeding, for the operator. */
import { ConfigError } from './config/config-error.ts';
import { StartError } from './start-error.ts';

export interface Reported {
  readonly text: string;
  readonly hint: string | undefined;
}

/** What is wrong, in the words of `check`; of an unknown error only its kind, because its text may hold anything. */
export function problemsOf(error: unknown): readonly Reported[] {
  if (error instanceof ConfigError) return error.problems.map(({ text, hint }) => ({ text, hint }));
  if (error instanceof StartError) return [{ text: error.message, hint: error.hint }];
  const kind = error instanceof Error ? error.name : typeof error;
  return [
    { text: `internal error (${kind})`, hint: 'this is a bug in isoproxy; please report what you ran' },
  ];
}
