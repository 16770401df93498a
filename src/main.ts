import { writeSync } from 'node:fs';
import process from 'node:process';
import { restartClean } from './cli/clean-start.ts';
import type { Io } from './cli/command.ts';

/** Writes text whole; a reader that has gone away (`isoproxy check | head`) ends the program quietly. */
function writeTo(fd: number): (text: string) => void {
  return (text) => {
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length; ) {
      try {
        at += writeSync(fd, bytes, at);
      } catch (error) {
        const { code } = error as { code?: string };
        if (code === 'EPIPE') process.exit(0);
        if (code !== 'EAGAIN') throw error;
      }
    }
  };
}

const args = process.argv.slice(2);
const io: Io = {
  stdout: writeTo(1),
  stderr: writeTo(2),
  env: process.env,
  color: Boolean(process.stdout.isTTY && process.stderr.isTTY) && !process.env['NO_COLOR'],
};
restartClean(args[0], io);
const { runCli } = await import('./cli/cli.ts');
process.exit(await runCli(args, io));
