// A command run as the command line runs it, with everything it printed.

import { runCli } from '../../src/cli/cli.ts';

export interface Printed {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export async function runCommand(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Printed> {
  let out = '';
  let err = '';
  const io = {
    stdout: (text: string) => {
      out += text;
    },
    stderr: (text: string) => {
      err += text;
    },
    env,
    color: false,
  };
  const code = await runCli(args, io);
  return { code, out, err };
}
