// What the tests of the client side (run, bridge, doctor, print-env) share: providers, a terminal, other users.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import process from 'node:process';
import { stringify } from 'smol-toml';
import { DEADLINE_MS, until, within } from './deadline.ts';
import { fakeAnthropic, fakeOpenai } from './fake-apis.ts';
import { isoproxyCommand, type ProxyConfig } from './isoproxy.ts';
import { type Child, spawn } from './process.ts';
import { type Recorder, startRecorder } from './recorder.ts';
import { reapAtExit } from './workspace.ts';

/**
 * These suites try what the compiled binary does as the parent of another process; under Deno the same source works,
 * but only with permissions for all it may start, read and signal, which nobody would give it.
 */
export const SKIP_REASON =
  process.env['ISOPROXY_RUNTIME'] === 'deno'
    ? 'under Deno: the client side is the binary’s; Deno would need every permission'
    : undefined;

/** The end of a block's name: why it is skipped, if it is. */
export const skipped = (reason: string | undefined): string =>
  reason === undefined ? '' : ` (skipped: ${reason})`;

/** The Bun that runs the tests also runs clients inside. */
export const BUN = process.execPath;

export interface Apis extends AsyncDisposable {
  readonly anthropic: Recorder;
  readonly openai: Recorder;
}

export async function startApis(): Promise<Apis> {
  const [anthropic, openai] = await Promise.all([
    startRecorder({ handler: fakeAnthropic() }),
    startRecorder({ handler: fakeOpenai() }),
  ]);
  return {
    anthropic,
    openai,
    [Symbol.asyncDispose]: async () => void (await Promise.all([anthropic.close(), openai.close()])),
  };
}

type Table = Record<string, unknown>;

/** Both presets on the fake APIs; `listeners` as in the config, without their sockets. */
export function presetConfig(
  dir: string,
  apis: Apis,
  keys: Record<'anthropic' | 'openai', string>,
  listeners: Table[],
  over: { anthropic?: Table; openai?: Table; files?: Record<string, string> } = {},
): ProxyConfig {
  const provider = (name: 'anthropic' | 'openai') => ({
    preset: name,
    base_url: `https://localhost:${apis[name].port}`,
    ca_file: join(dir, 'ca.pem'),
    unsafe_allow_private: true,
    credential: { file: join(dir, `secrets/${name}`) },
    ...over[name],
  });
  const toml = stringify({
    server: { runtime_dir: dir, state_dir: join(dir, 'state') },
    listeners: listeners.map((listener) =>
      'tcp' in listener
        ? listener
        : { socket: join(dir, String(listener['name']), 'isoproxy.sock'), ...listener },
    ),
    providers: { anthropic: provider('anthropic'), openai: provider('openai') },
  });
  return {
    toml,
    files: {
      'ca.pem': apis.anthropic.ca,
      'secrets/anthropic': keys.anthropic,
      'secrets/openai': keys.openai,
      ...over.files,
    },
  };
}

/** Starts isoproxy with these arguments; `dir` is its HOME and working directory. */
export function start(dir: string, args: string[], options: Parameters<typeof spawn>[2] = {}): Child {
  return spawn([...isoproxyCommand(dir), ...args], dir, options);
}

/** Waits for text on a child's output and returns all of that output. */
export async function seen(child: Child, text: string | RegExp, ms = DEADLINE_MS): Promise<string> {
  const all = () => child.stdout().toString();
  return await until(
    () => `${text} on stdout; got ${all().slice(-500)}; stderr ${child.stderr().toString().slice(-1500)}`,
    () => {
      const found = typeof text === 'string' ? all().includes(text) : text.test(all());
      return (found || (child.code !== undefined && fail(child, text))) && all();
    },
    ms,
  );
}

function fail(child: Child, text: string | RegExp): never {
  throw new Error(
    `ended with ${child.code} before ${text}; stdout ${child.stdout()}; stderr ${child.stderr()}`,
  );
}

/** A command on a pseudo-terminal of its own, as the leader of its session. */
export interface Terminal extends Disposable {
  readonly pid: number;
  readonly exited: Promise<number>;
  readonly text: () => string;
  readonly seen: (what: string | RegExp) => Promise<string>;
  readonly type: (text: string) => void;
  readonly resize: (columns: number, rows: number) => void;
}

export function openTerminal(command: string[], dir: string, env: Record<string, string> = {}): Terminal {
  const pieces: Buffer[] = [];
  const subprocess = Bun.spawn(command, {
    cwd: dir,
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: dir, TERM: 'xterm', ...env },
    terminal: { cols: 101, rows: 33, data: (_, bytes) => void pieces.push(Buffer.from(bytes)) },
  });
  const reaped = reapAtExit(subprocess.pid);
  const terminal = subprocess.terminal;
  if (terminal === undefined) throw new Error('no terminal');
  const text = () => Buffer.concat(pieces).toString();
  return {
    pid: subprocess.pid,
    exited: within(`the end of ${command.join(' ')}`, subprocess.exited, 8000).finally(reaped),
    text,
    seen: (what) =>
      until(
        () => `${what} on the terminal; got ${JSON.stringify(text())}`,
        () => (typeof what === 'string' ? text().includes(what) : what.test(text())) && text(),
      ),
    type: (typed) => void terminal.write(typed),
    resize: (columns, rows) => terminal.resize(columns, rows),
    [Symbol.dispose]() {
      if (subprocess.exitCode === null) subprocess.kill('SIGKILL');
      terminal.close();
    },
  };
}

/** A server on a unix socket that is no isoproxy. */
export async function startStranger(path: string, onClient: (socket: Socket) => void): Promise<Disposable> {
  const clients = new Set<Socket>();
  const server: Server = createServer((socket) => {
    clients.add(socket);
    socket.on('error', () => {});
    onClient(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    [Symbol.dispose]() {
      server.close();
      for (const client of clients) client.destroy();
    },
  };
}

/** A socket file whose server was killed. */
export function leaveDeadSocket(path: string): void {
  const script = `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, 9))`;
  Bun.spawnSync([BUN, '-e', script, path]);
  if (!existsSync(path)) throw new Error('no dead socket');
}

/** Answers whatever comes with these bytes, and ends. */
export const answering = (bytes: string) => (socket: Socket) =>
  void socket.once('data', () => socket.end(bytes));

/** Answers with a JSON document. */
export function answeringJson(document: unknown): (socket: Socket) => void {
  const body = JSON.stringify(document);
  return answering(
    `HTTP/1.1 200 OK\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** Does a command end with 0 here? For what not every machine allows. */
export function works(command: string[]): boolean {
  try {
    return Bun.spawnSync(command, { stdout: 'ignore', stderr: 'ignore', stdin: 'ignore' }).exitCode === 0;
  } catch {
    return false;
  }
}

const NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];

/** The start of a command line that runs the rest as another user, or why there is none. */
export function asNobody(): string[] | string {
  const [binary] = isoproxyCommand('/');
  if (process.getuid?.() !== 0) return 'only root can become another user';
  if (!works([...NOBODY, binary as string, 'version']))
    return 'setpriv is missing, or nobody cannot read the binary';
  return NOBODY;
}

/** A network namespace with loopback down. */
export const UNSHARE_NET = ['unshare', '-n'];

export interface Box {
  /** Added to an otherwise empty environment. */
  env?: Record<string, string>;
  /** What bubblewrap itself, PID 1 inside, is started with. */
  outerEnv?: Record<string, string>;
  /** Read-only and writable mounts: path inside -> path outside. */
  ro?: Record<string, string>;
  rw?: Record<string, string>;
}

/** The binary, and Bun, as they are called inside a box. */
export const BOXED = '/run/bin/isoproxy';
export const BOXED_BUN = '/run/bin/bun';

const SYSTEM = ['/usr', '/bin', '/sbin', '/lib', '/lib64', '/etc/ld.so.cache', '/etc/alternatives'];

/** A command in a bubblewrap sandbox with no network, no host files but the system's, and an empty environment. */
export function boxed(command: string[], box: Box = {}): string[] {
  const [binary] = isoproxyCommand('/');
  const mounts = (option: string, table: Record<string, string> = {}) =>
    Object.entries(table).flatMap(([inside, outside]) => [option, outside, inside]);
  const outer = { PATH: process.env['PATH'] ?? '', ...box.outerEnv };
  return [
    ...['env', '-i', ...Object.entries(outer).map(([name, value]) => `${name}=${value}`)],
    ...['bwrap', '--unshare-all', '--die-with-parent', '--clearenv', '--dev', '/dev', '--proc', '/proc'],
    ...SYSTEM.filter((path) => existsSync(path)).flatMap((path) => ['--ro-bind', path, path]),
    ...['--tmpfs', '/tmp', '--dir', '/home/agent', '--dir', '/var/lib', '--dir', '/run/isoproxy'],
    ...mounts('--ro-bind', { [BOXED]: binary as string, [BOXED_BUN]: BUN }),
    ...mounts('--ro-bind', box.ro),
    ...mounts('--bind', box.rw),
    ...['--chdir', '/home/agent'],
    ...Object.entries({ PATH: '/usr/bin:/bin', HOME: '/home/agent', ...box.env }).flatMap(([name, value]) => [
      '--setenv',
      name,
      value,
    ]),
    '--',
    ...command,
  ];
}

export const BOX_REASON =
  SKIP_REASON ??
  (works(boxed([BOXED, 'version'])) ? undefined : 'bubblewrap is missing or may not make namespaces here');

/** Processes, by pid, whose command line names `what`. */
export function processesNaming(what: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(what);
      } catch {
        return false;
      }
    })
    .map(Number);
}
