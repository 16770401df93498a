/** What the end-to-end runs need of this machine, and what they may have left on it. */
import { readdirSync, readFileSync } from 'node:fs';
import { boxed, works } from '../../test/support/client-side.ts';
import type { Workspace } from '../../test/support/workspace.ts';

/** Processes that name the workspace, or have something of it mounted, as those in a sandbox do. */
export function processesOf(workspace: Workspace): string[] {
  const name = workspace.dir.split('/').at(-1) as string;
  const names = (pid: string, file: string) => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8').includes(name);
    } catch {
      return false;
    }
  };
  const pids = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid));
  return pids.filter((pid) => names(pid, 'cmdline') || names(pid, 'mountinfo'));
}

/** What keeps the whole from running here. */
export function missing(): string | undefined {
  for (const tool of ['tmux -V', 'git --version', 'bash --version'])
    if (!works(tool.split(' '))) return `${tool.split(' ')[0]} is missing`;
  if (!works(['bwrap', '--version'])) return 'bwrap (bubblewrap) is missing';
  if (!works(boxed(['true']))) return 'bubblewrap may not make namespaces here';
  return undefined;
}
