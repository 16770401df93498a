/** A process of the hold that is talked to by lines. */
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { reapAtExit } from '../../test/support/workspace.ts';
import { launch } from '../processes.ts';

export interface Child {
  readonly say: (line: string) => void;
  /** No more is said to it. */
  readonly end: () => void;
  /** Its next line. @throws when it has ended. */
  readonly hear: () => Promise<string>;
  readonly stop: () => Promise<void>;
}

export function startChild(file: string, argument: unknown): Child {
  const command = [process.execPath, join(import.meta.dir, file), JSON.stringify(argument)];
  const running = launch(command, { stdio: ['pipe', 'pipe', 'inherit'] });
  const forget = reapAtExit(running.pid);
  const { stdin, stdout } = running.child;
  const lines = createInterface({ input: stdout as Readable })[Symbol.asyncIterator]();
  return {
    say: (line) => void stdin?.write(`${line}\n`),
    end: () => void stdin?.end(),
    async hear() {
      const { value, done } = await lines.next();
      if (done === true) throw new Error(`${file} has ended`);
      return value as string;
    },
    async stop() {
      await running.stop();
      forget();
    },
  };
}
