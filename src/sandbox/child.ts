/** Runs the sandbox's command on this terminal, and becomes as transparent as a parent can be. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import process from 'node:process';

/** How a command ended, or why it did not begin. */
export type ChildEnd =
  | { readonly kind: 'exit'; readonly code: number }
  | { readonly kind: 'not_started'; readonly code: string };

/** Signals that somebody sends to this process and means the command. */
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const;
/** Signals that a terminal sends to the whole foreground group: the command has got its own. */
const FROM_TERMINAL = ['SIGINT', 'SIGQUIT'] as const;

/**
 * Resolves when the command has ended; what it leaves running in the background is not waited for.
 * A command that a signal ended counts as 128 + its number, as in a shell.
 */
export function runChild(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<ChildEnd> {
  // What execvp(3) says of it; the runtime would throw.
  if (command === '') return Promise.resolve({ kind: 'not_started', code: 'ENOENT' });
  const handlers = new Map<NodeJS.Signals, () => void>();
  return new Promise<ChildEnd>((resolve) => {
    // Before it starts: a signal that comes at once would end this process and leave the command alone. The
    // handlers run when all of this has.
    for (const signal of FORWARDED) handlers.set(signal, () => send(child, signal));
    for (const signal of FROM_TERMINAL)
      handlers.set(signal, () => {
        if (!isForeground()) send(child, signal);
      });
    for (const [signal, handler] of handlers) process.on(signal, handler);
    const child = spawn(command, args, { stdio: 'inherit', env });
    child.once('error', (error: { code?: string }) =>
      resolve({ kind: 'not_started', code: error.code ?? 'no code' }),
    );
    child.once('exit', (code, signal) => {
      resolve({ kind: 'exit', code: code ?? 128 + (signal === null ? 0 : constants.signals[signal]) });
    });
  })
    .catch((error: { code?: unknown }): ChildEnd => {
      // Some failures to start are thrown (ENOEXEC, E2BIG).
      if (typeof error.code !== 'string') throw error;
      return { kind: 'not_started', code: error.code };
    })
    .finally(() => {
      for (const [signal, handler] of handlers) process.off(signal, handler);
    });
}

/** Not `child.kill`, which Deno heeds once. */
function send({ pid, exitCode, signalCode }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined || exitCode !== null || signalCode !== null) return;
  try {
    process.kill(pid, signal);
  } catch {
    // It has just ended, or has become another user's.
  }
}

/**
 * Is this process in the foreground of a terminal? Then a Ctrl-C reaches the command without us, and a second
 * SIGINT would mean something else to it (proc_pid_stat(5): pgrp is field 5, tpgid field 8).
 */
function isForeground(): boolean {
  try {
    const stat = readFileSync('/proc/self/stat', 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[2] === fields[5];
  } catch {
    return Boolean(process.stdin.isTTY);
  }
}
