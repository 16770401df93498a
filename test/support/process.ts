// Starting the program under test: the built binary, or the same sources under Deno, in a minimal environment.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { constants } from 'node:os';
import { join, resolve } from 'node:path';
import { DEADLINE_MS, within } from './deadline.ts';
import { createWorkspace, reapAtExit } from './workspace.ts';

export const PROJECT_DIR = resolve(import.meta.dir, '../..');
const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

/**
 * The command that is isoproxy, without its arguments. `ISOPROXY_BIN` names the binary (default `dist/isoproxy`);
 * `ISOPROXY_RUNTIME=deno` runs `src/main.ts` under Deno, which may write to `dir` only.
 */
export function isoproxyCommand(dir: string): string[] {
  if (DENO) {
    return [
      join(PROJECT_DIR, 'node_modules/@deno/linux-x64-glibc/deno'),
      ...['run', '--quiet', '--no-prompt', '--no-remote', '--no-lock'],
      `--allow-read=${[dir, PROJECT_DIR, '/proc', '/etc', '/bin/sh', '/usr/bin/dash'].join(',')}`,
      `--allow-write=${dir}`,
      // Deno 2.9 wants each unix socket by its exact path; a socket bound under a private name and then renamed has none.
      '--allow-net',
      '--allow-env',
      '--allow-sys=uid,umask',
      '--allow-run=/bin/sh',
      join(PROJECT_DIR, 'src/main.ts'),
    ];
  }
  const binary = resolve(PROJECT_DIR, process.env['ISOPROXY_BIN'] ?? 'dist/isoproxy');
  if (!existsSync(binary)) throw new Error(`no binary at ${binary}: run make build, or set ISOPROXY_BIN`);
  return [binary];
}

/** What every child gets; nothing is inherited. */
const environment = (dir: string): Record<string, string> => ({
  PATH: '/usr/local/bin:/usr/bin:/bin',
  HOME: dir,
  // Deno's cache of what it has compiled: shared by all starts, and not in the workspace.
  ...(DENO && { XDG_CACHE_HOME: join(PROJECT_DIR, 'node_modules/.cache') }),
});

export interface SpawnOptions {
  /** Added to the minimal environment. */
  env?: Record<string, string>;
  /** Default: the workspace directory. */
  cwd?: string;
  /** Given to the child, then closed; `'pipe'` leaves it open until the process ends. Default: empty. */
  stdin?: string | Uint8Array | 'pipe';
}

export interface Child {
  readonly pid: number;
  /** Exit code, 128 + number for a signal; undefined while it runs. */
  readonly code: number | undefined;
  readonly exited: Promise<number>;
  stdout(): Buffer;
  stderr(): Buffer;
  /** Sends a signal, unless the process has ended. */
  kill(signal: NodeJS.Signals): void;
  /** Resident memory in bytes (VmRSS), and open file descriptors. */
  rss(): number;
  fds(): number;
}

/** Starts a command; it dies with the test process at the latest. */
export function spawn(command: string[], dir: string, options: SpawnOptions = {}): Child {
  const subprocess = Bun.spawn(command, {
    cwd: options.cwd ?? dir,
    env: { ...environment(dir), ...options.env },
    stdin: options.stdin === 'pipe' ? 'pipe' : Buffer.from((options.stdin ?? '') as string),
    stdout: 'pipe',
    stderr: 'pipe',
  });
  const reaped = reapAtExit(subprocess.pid);
  const stdout = collect(subprocess.stdout);
  const stderr = collect(subprocess.stderr);
  let code: number | undefined;
  const exited = subprocess.exited.then(async () => {
    reaped();
    const signal = subprocess.signalCode as NodeJS.Signals | null;
    const ended = signal ? 128 + constants.signals[signal] : (subprocess.exitCode ?? -1);
    // A grandchild may hold the pipes open: the exit counts, not their end.
    await within('end of output', Promise.all([stdout.done, stderr.done]), 500).catch(() => {});
    code = ended;
    return ended;
  });
  return {
    pid: subprocess.pid,
    get code() {
      return code;
    },
    exited,
    stdout: stdout.bytes,
    stderr: stderr.bytes,
    kill: (signal) => void (code === undefined && subprocess.kill(signal)),
    rss: () => {
      const status = readFileSync(`/proc/${subprocess.pid}/status`, 'utf8');
      return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
    },
    fds: () => {
      const path = `/proc/${subprocess.pid}/fd`;
      // Linux 6.2 says it as the size, also of a process whose memory is hidden from its own user; before, it is 0.
      return statSync(path).size || readdirSync(path).length;
    },
  };
}

/**
 * Why the environment and the descriptors of a served proxy cannot be looked at: its memory is hidden from its own
 * user (src/runtime/hidden-memory.ts), and so they are root's.
 */
export const HIDDEN_REASON =
  process.getuid?.() === 0 || DENO ? undefined : 'only root can look into the process';

/** Whether a process runs; one that has ended and waits to be reaped does not. */
export function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

function collect(stream: ReadableStream<Uint8Array>): { bytes(): Buffer; done: Promise<void> } {
  const chunks: Uint8Array[] = [];
  const done = (async () => {
    for await (const chunk of stream) chunks.push(chunk);
  })();
  return { bytes: () => Buffer.concat(chunks), done };
}

/** Below the ports that the kernel gives to connections; each of the runs that are made side by side has its own. */
const PORTS = { first: 10_000 + 4_000 * Number(process.env['ISOPROXY_TEST_RUN'] ?? 0), count: 3_900 };

/** A TCP port of 127.0.0.1 that was free a moment ago, for a listener that must name its port. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = PORTS.first + Math.floor(Math.random() * PORTS.count);
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((done) => server.close(done));
    return port;
  }
}

export interface RunOptions extends SpawnOptions {
  /** An existing workspace directory (HOME and default cwd); else one is made for this run. */
  dir?: string;
  ms?: number;
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
  /** Standard output as JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: a test knows what it asked for
  json(): any;
}

/** Runs one CLI command to its end; past the deadline it is killed and this throws. */
export async function run(args: string[], options: RunOptions = {}): Promise<RunResult> {
  using own = options.dir === undefined ? createWorkspace() : undefined;
  const dir = options.dir ?? own!.dir;
  const child = spawn([...isoproxyCommand(dir), ...args], dir, options);
  try {
    const code = await within(`isoproxy ${args.join(' ')}`, child.exited, options.ms ?? DEADLINE_MS);
    const stdout = child.stdout().toString();
    return { code, stdout, stderr: child.stderr().toString(), json: () => JSON.parse(stdout) };
  } finally {
    child.kill('SIGKILL');
  }
}
