/** Processes of a benchmark: started in groups of their own, measured by group, and all ended at the end. */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import process from 'node:process';
import type { Place } from './load.ts';

export interface Running {
  readonly pid: number;
  readonly child: ChildProcess;
  /** Ends it and all that it has started. */
  readonly stop: () => Promise<void>;
}

const groups = new Set<number>();

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It is gone already.
  }
}

export function stopAll(): void {
  for (const pid of groups) killGroup(pid);
}

process.on('exit', stopAll);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));

export function launch(command: readonly string[], options: SpawnOptions = {}): Running {
  const [file = '', ...args] = command;
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'ignore'], ...options, detached: true });
  const { pid } = child;
  if (pid === undefined) throw new Error(`cannot start ${file}`);
  groups.add(pid);
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return {
    pid,
    child,
    stop() {
      killGroup(pid);
      return ended.then(() => void groups.delete(pid));
    },
  };
}

/** Runs a command to its end; @returns what it printed. @throws when it fails or takes too long. */
export function run(command: readonly string[], options: SpawnOptions = {}, ms = 180_000): Promise<string> {
  const { child, stop } = launch(command, options);
  let output = '';
  child.stdout?.on('data', (text) => {
    output += text;
  });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      stop();
      reject(new Error(`${command[0]} took longer than ${ms} ms`));
    }, ms);
    child.once('close', (code) => {
      clearTimeout(timer);
      groups.delete(child.pid ?? 0);
      if (code === 0) resolve(output);
      else reject(new Error(`${command.slice(0, 3).join(' ')} ended with ${code}: ${output.slice(0, 500)}`));
    });
  });
}

/** Resolves to the first line that a process prints. */
export function firstLine({ child }: Running): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout?.on('data', (piece) => {
      text += piece;
      if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')));
    });
    child.once('exit', (code) => reject(new Error(`ended with ${code} before it said anything`)));
  });
}

/** Waits until something accepts connections. */
export async function accepting(place: Place, { child }: Running, ms = 20_000): Promise<void> {
  const deadline = performance.now() + ms;
  while (performance.now() < deadline) {
    if (child.exitCode !== null) throw new Error(`ended with ${child.exitCode} before it accepted`);
    if (await tryConnect(place)) return;
    await Bun.sleep(0.5);
  }
  throw new Error('does not accept connections');
}

function tryConnect(place: Place): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = 'unix' in place ? connect(place.unix) : connect(place.port, place.hostname);
    socket.once('connect', () => resolve(socket.destroy() !== undefined));
    socket.once('error', () => resolve(false));
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** Fields of /proc/PID/stat behind the name: state is 0, parent 1, group 2, user ticks 11, system ticks 12. */
function statFields(pid: string): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function membersOf(group: number): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => statFields(pid)?.[2] === String(group));
}

const TICK_MS = 10;

/** CPU time that a group has used, ms. */
export function cpuMs(group: number): number {
  let ticks = 0;
  for (const pid of membersOf(group)) {
    const fields = statFields(pid);
    ticks += Number(fields?.[11] ?? 0) + Number(fields?.[12] ?? 0);
  }
  return ticks * TICK_MS;
}

/** Memory of a group, MiB: now, or its highest so far. */
export function memoryMiB(group: number, name: 'VmRSS' | 'VmHWM'): number {
  let kib = 0;
  for (const pid of membersOf(group)) {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    kib += Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0);
  }
  return kib / 1024;
}
