// A running isoproxy, seen from outside: its sockets, its records, its memory, its end.

import { join } from 'node:path';
import { parse } from 'smol-toml';
import { type ProxyConfig, simpleConfig } from './config.ts';
import { DEADLINE_MS, until, within } from './deadline.ts';
import { type Child, isoproxyCommand, type RunResult, run, type SpawnOptions, spawn } from './process.ts';
import { connect, type Endpoint } from './raw-client.ts';
import { createWorkspace, type Workspace } from './workspace.ts';

export {
  type ProxyConfig,
  recorderAt,
  SECRET_FILE,
  type SimpleConfigOptions,
  simpleConfig,
  twoListeners,
} from './config.ts';
export { freePort, isoproxyCommand, isRunning, type RunOptions, type RunResult, run } from './process.ts';
export { createWorkspace, type Workspace } from './workspace.ts';

/** One JSON access line. Only what tests compare often is named. */
export interface AccessRecord {
  time: string;
  request_id: string;
  listener: string;
  provider: string;
  method: string;
  path: string;
  status: number;
  decision: string;
  reason: string;
  rule: string;
  bytes_in: number;
  bytes_out: number;
  [field: string]: unknown;
}

export interface Isoproxy extends AsyncDisposable {
  readonly workspace: Workspace;
  readonly configPath: string;
  /** The running (or last) process. */
  readonly child: Child;
  /** Where a listener accepts: a socket path, or a TCP port. Default `agent-1`. */
  socket(listener?: string): string;
  endpoint(listener?: string): Endpoint;
  /** Access records so far, in the order written; other JSON lines (start, warnings, checkpoints) are in `lines()`. */
  records(): AccessRecord[];
  lines(): Record<string, unknown>[];
  /** The first record that `match` accepts; waits for it. */
  record(match: (record: AccessRecord) => boolean, ms?: number): Promise<AccessRecord>;
  /** Waits until there are `count` records and returns them all. */
  recordCount(count: number, ms?: number): Promise<AccessRecord[]>;
  /** Everything a bystander could read: both outputs, and all files below `state` and `agent-*`. For `assertClean`. */
  visible(): Record<string, Buffer>;
  rss(): number;
  fds(): number;
  signal(name: NodeJS.Signals): void;
  /** Runs `isoproxy ARGS --config FILE` beside it. */
  cli(args: string[], options?: SpawnOptions): Promise<RunResult>;
  /** Replaces the config file (0600); then `signal('SIGHUP')` or `cli(['reload'])`. */
  writeConfig(config: ProxyConfig | string): void;
  /** Sends the signal and returns the exit code (128 + n after a signal); kills and throws after `ms`. */
  stop(signal?: NodeJS.Signals, ms?: number): Promise<number>;
  /** Starts it again in the same directory, after `stop()` or a crash. Outputs and records start anew. */
  start(): Promise<void>;
}

export interface StartOptions extends SpawnOptions {
  /** Use and keep this workspace; else one is made, and removed on disposal. */
  workspace?: Workspace;
  /** Arguments after `serve --config FILE`. */
  args?: string[];
  ms?: number;
}

/** Starting failed; the process has ended. */
export class StartError extends Error {
  constructor(
    readonly code: number,
    readonly stderr: string,
  ) {
    super(`isoproxy ended with ${code} at start: ${stderr.slice(0, 2000)}`);
  }
}

/**
 * Starts isoproxy and returns when every configured listener accepts. Throws `StartError` when it exits before.
 * Hold it with `await using`, or call its `[Symbol.asyncDispose]()` in `afterAll`.
 */
export async function startIsoproxy(
  config: ProxyConfig | ((dir: string) => ProxyConfig),
  options: StartOptions = {},
): Promise<Isoproxy> {
  const workspace = options.workspace ?? createWorkspace();
  const configPath = workspace.path('proxy.toml');
  let listeners: Map<string, Endpoint> = new Map();
  let child: Child;

  const writeConfig = (next: ProxyConfig | string) => {
    const { toml, files } = typeof next === 'string' ? { toml: next, files: {} } : next;
    for (const [name, content] of Object.entries(files)) workspace.write(name, content);
    workspace.write('proxy.toml', toml);
    listeners = listenersOf(toml, workspace.dir);
  };
  const start = async () => {
    const command = [
      ...isoproxyCommand(workspace.dir),
      'serve',
      '--config',
      configPath,
      ...(options.args ?? []),
    ];
    child = spawn(command, workspace.dir, options);
    try {
      for (const endpoint of listeners.values()) await accepts(endpoint, child, options.ms ?? DEADLINE_MS);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  };
  const endpoint = (listener = 'agent-1'): Endpoint => {
    const found = listeners.get(listener);
    if (found === undefined) throw new Error(`no listener ${listener} in the config`);
    return found;
  };
  const lines = () => jsonLines(child.stderr());
  const records = () =>
    lines().filter((line) => 'request_id' in line && 'decision' in line) as AccessRecord[];
  const tail = () => child.stderr().toString().slice(-1500);
  /** Whatever a suite is about: nothing may have been thrown that nobody caught. */
  const refuseBugs = () => {
    const bugs = lines().filter(
      ({ event }) => event === 'uncaught_exception' || event === 'unhandled_rejection',
    );
    if (bugs.length > 0) throw new Error(`isoproxy has a bug: ${JSON.stringify(bugs.slice(0, 3))}`);
  };

  const proxy: Isoproxy = {
    workspace,
    configPath,
    get child() {
      return child;
    },
    endpoint,
    socket(listener) {
      const found = endpoint(listener);
      if (typeof found !== 'string') throw new Error(`listener ${listener} has no socket path`);
      return found;
    },
    lines,
    records,
    record: (match, ms = DEADLINE_MS) =>
      until(
        () => `an access record; stderr: ${tail()}`,
        () => records().find(match),
        ms,
      ),
    async recordCount(count, ms = DEADLINE_MS) {
      await until(
        () => `${count} access records; stderr: ${tail()}`,
        () => records().length >= count,
        ms,
      );
      return records();
    },
    visible() {
      const listenerDirs = Object.entries(workspace.files()).filter(([name]) => /^(state|agent-)/.test(name));
      return { stdout: child.stdout(), stderr: child.stderr(), ...Object.fromEntries(listenerDirs) };
    },
    rss: () => child.rss(),
    fds: () => child.fds(),
    signal: (name) => child.kill(name),
    cli: (args, spawnOptions) =>
      run([...args, '--config', configPath], { dir: workspace.dir, ...spawnOptions }),
    writeConfig,
    async stop(signal = 'SIGTERM', ms = DEADLINE_MS) {
      child.kill(signal);
      try {
        return await within(`exit after ${signal}; stderr: ${tail()}`, child.exited, ms);
      } finally {
        child.kill('SIGKILL');
        refuseBugs();
      }
    },
    start,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await child.exited;
      if (!options.workspace) workspace.remove();
      refuseBugs();
    },
  };

  try {
    writeConfig(typeof config === 'function' ? config(workspace.dir) : config);
    await start();
  } catch (error) {
    if (!options.workspace) workspace.remove();
    throw error;
  }
  return proxy;
}

/** `startIsoproxy` with `simpleConfig`. */
export const startSimple = (
  options: Parameters<typeof simpleConfig>[1],
  start?: StartOptions,
): Promise<Isoproxy> => startIsoproxy((dir) => simpleConfig(dir, options), start);

/** Where the listeners of a config are, by name; a text that is no TOML has none. */
function listenersOf(toml: string, dir: string): Map<string, Endpoint> {
  type Listener = { name: string; socket?: string; tcp?: string };
  let document: { listeners?: Listener[] } = {};
  try {
    document = parse(toml) as typeof document;
  } catch {}
  return new Map(
    (document.listeners ?? []).map(({ name, socket, tcp }): [string, Endpoint] => {
      if (tcp !== undefined) return [name, { port: Number(tcp.slice(tcp.lastIndexOf(':') + 1)) }];
      return [name, socket ?? join(dir, name, 'isoproxy.sock')];
    }),
  );
}

async function accepts(endpoint: Endpoint, child: Child, ms: number): Promise<void> {
  const where = () =>
    `${JSON.stringify(endpoint)} to accept; stderr: ${child.stderr().toString().slice(-1500)}`;
  await until(
    where,
    async () => {
      if (child.code !== undefined) throw new StartError(child.code, child.stderr().toString());
      const client = await connect(endpoint).catch(() => undefined);
      client?.close();
      return client !== undefined;
    },
    ms,
  );
}

function jsonLines(bytes: Buffer): Record<string, unknown>[] {
  const text = bytes.toString();
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  return whole.split('\n').flatMap((line) => {
    if (!line.startsWith('{')) return [];
    try {
      return [JSON.parse(line) as Record<string, unknown>];
    } catch {
      return [];
    }
  });
}
