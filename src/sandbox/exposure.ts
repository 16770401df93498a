/**
 * What a sandbox exposes to the agent that it should not: the other half of the proxy's promise, which only the
 * sandbox itself can keep. Everything is looked at from inside, as the agent would; nothing is read but names.
 */
import { accessSync, constants, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { PRESETS } from '../config/presets.ts';
import { searchPaths } from '../config/search.ts';
import { isPlaceholder } from '../credentials/secret-value.ts';
import { findSockets } from './place.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** One thing that should not be there. */
export interface Exposure {
  readonly message: string;
  readonly hint: string;
}

export interface ExposureOptions {
  /** The environment that processes of the sandbox can see. */
  readonly env: Environment;
  /** The sockets that are meant for this sandbox. */
  readonly sockets: readonly string[];
  /** Where other sockets may be; see place.ts. */
  readonly patterns: readonly string[];
  /** Tokens that are in the environment on purpose. */
  readonly known: ReadonlySet<string>;
}

/** How long a socket may take to accept, ms. */
const CONNECT_MS = 500;

export async function findExposures(options: ExposureOptions): Promise<readonly Exposure[]> {
  const { env, sockets, known } = options;
  return [
    ...findFiles(env),
    ...(await findControlSockets(env)),
    ...(await findOtherSockets(options)),
    ...findWritableDirectories(sockets),
    ...findDefaultRoutes(),
    ...findKeys(env, known),
  ];
}

function may(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

function list(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** The places of configuration and state: all that the defaults of `serve` would use, for root and for a user. */
function stateDirectories(env: Environment): readonly string[] {
  const home = env['HOME'];
  const user = env['XDG_STATE_HOME'] ?? (home ? join(home, '.local/state') : undefined);
  return [...(user === undefined ? [] : [join(user, 'isoproxy')]), '/var/lib/isoproxy'];
}

function findFiles(env: Environment): Exposure[] {
  const found: Exposure[] = [];
  const configured = env['ISOPROXY_CONFIG'];
  const configs = [...(configured ? [configured] : []), ...searchPaths(env)];
  const hint = 'mount only the directory of the socket; configuration, secrets and state stay on the host';
  for (const file of new Set(configs)) {
    if (may(file, constants.R_OK)) found.push({ message: `the configuration ${file} can be read`, hint });
    // Secrets lie beside it by default; which file holds one, only the configuration knows.
    const directory = dirname(file);
    for (const name of list(directory)) {
      const path = join(directory, name);
      if (path !== file && may(path, constants.R_OK)) found.push({ message: `${path} can be read`, hint });
    }
  }
  for (const directory of [...stateDirectories(env), '/run/credentials']) {
    if (list(directory).length > 0) found.push({ message: `${directory} can be read`, hint });
  }
  return found;
}

async function findControlSockets(env: Environment): Promise<Exposure[]> {
  const candidates = [
    ...stateDirectories(env).map((directory) => join(directory, 'control.sock')),
    '/run/isoproxy-control/control.sock',
  ];
  const reachable = await filterReachable(candidates);
  return reachable.map((path) => ({
    message: `the control socket ${path} can be reached: the agent could resume what was halted`,
    hint: 'keep [server] control in a directory that is not mounted',
  }));
}

async function findOtherSockets({ sockets, patterns }: ExposureOptions): Promise<Exposure[]> {
  const siblings = sockets.map((path) => `${dirname(dirname(path))}/*/isoproxy.sock`);
  const own = new Set(sockets.map(resolvePath));
  const others = findSockets([...patterns, ...siblings]).filter((path) => !own.has(resolvePath(path)));
  const reachable = await filterReachable(others);
  return reachable.map((path) => ({
    message: `the socket of another listener can be reached: ${path}`,
    hint: "mount only the directory of this sandbox's own listener",
  }));
}

/** The one name of a file that may be called by several. */
function resolvePath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

async function filterReachable(paths: readonly string[]): Promise<string[]> {
  const answers = await Promise.all(paths.map(accepts));
  return paths.filter((_path, index) => answers[index]);
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path, timeout: CONNECT_MS });
    const finish = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => finish(true));
    socket.once('timeout', () => finish(false));
    socket.once('error', () => finish(false));
  });
}

function findWritableDirectories(sockets: readonly string[]): Exposure[] {
  return [...new Set(sockets.map((path) => dirname(path)))]
    .filter((directory) => may(directory, constants.W_OK))
    .map((directory) => ({
      message: `${directory} is writable: the agent could put a socket of its own there`,
      hint: 'mount it read-only (bwrap --ro-bind, docker -v …:ro); connecting needs no write access to it',
    }));
}

/** A default route is the way past the proxy (proc_net(5), and `ip -6 route` for the second table's columns). */
function findDefaultRoutes(): Exposure[] {
  const rows = (file: string) => {
    try {
      return readFileSync(file, 'utf8')
        .trim()
        .split('\n')
        .map((line) => line.trim().split(/\s+/));
    } catch {
      return [];
    }
  };
  const v4 = rows('/proc/net/route').filter((row) => row[1] === '00000000' && row[7] === '00000000');
  const v6 = rows('/proc/net/ipv6_route').filter((row) => row[0] === '0'.repeat(32) && row[1] === '00');
  // `unreachable default` is the opposite of a way out (RTF_REJECT, in both tables).
  const isRejected = (flags = '') => (Number.parseInt(flags, 16) & 0x200) !== 0;
  const devices = [
    ...v4.filter((row) => !isRejected(row[3])).map((row) => row[0]),
    ...v6.filter((row) => !isRejected(row[8])).map((row) => row[9]),
  ].filter((name) => name !== 'lo');
  if (devices.length === 0) return [];
  return [
    {
      message: `there is a default route (${[...new Set(devices)].join(', ')}): the agent can reach hosts without the proxy`,
      hint: 'give the sandbox no network (bwrap --unshare-net, docker --network none)',
    },
  ];
}

const PREFIXES = [...new Set(Object.values(PRESETS).flatMap((preset) => preset.secret_prefixes))];
const KEY_NAMES = /(?:_API_KEY|_AUTH_TOKEN|_OAUTH_TOKEN|_TOKEN|_SECRET|_SECRET_ACCESS_KEY|_PASSWORD)$/;
/** Shorter values are no keys. */
const MIN_KEY_LENGTH = 16;

function findKeys(env: Environment, known: ReadonlySet<string>): Exposure[] {
  const isReal = ([name, value]: [string, string | undefined]) =>
    value !== undefined && looksReal(name, value) && !known.has(value);
  const own = Object.entries(env).filter(isReal);
  const names = new Set(own.map(([name]) => name));
  const found = own.map(([name]) => ({
    message: `$${name} looks like a real key`,
    hint: `start the sandbox without it: env -u ${name} …, or env -i and the variables that it needs`,
  }));
  for (const { pid, variables } of ancestorEnvironments()) {
    for (const [name] of variables.filter(isReal)) {
      if (names.has(name)) continue;
      names.add(name);
      found.push({
        message: `$${name} of process ${pid} looks like a real key, and /proc/${pid}/environ can be read`,
        hint: `start that process without it (env -i PATH="$PATH" bwrap …): bwrap --clearenv clears what comes after bwrap, not bwrap itself`,
      });
    }
  }
  return found;
}

/**
 * The environments that the processes above this one were started with, as far as they can be read. In a sandbox
 * the last of them is often the sandbox's own program, started from a person's shell (seen with bubblewrap 0.8).
 */
function ancestorEnvironments() {
  const found: { pid: string; variables: [string, string][] }[] = [];
  for (let pid = String(process.ppid); Number(pid) > 0; pid = parentOf(pid)) {
    try {
      const variables = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').filter(Boolean);
      found.push({ pid, variables: variables.map((text) => splitVariable(text)) });
    } catch {
      // Somebody else's process, or a system without /proc.
    }
  }
  return found;
}

function splitVariable(text: string): [string, string] {
  const at = text.indexOf('=');
  return [text.slice(0, at), text.slice(at + 1)];
}

function parentOf(pid: string): string {
  try {
    return /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '0';
  } catch {
    return '0';
  }
}

function looksReal(name: string, value: string): boolean {
  if (value.length < MIN_KEY_LENGTH || /\s/.test(value) || isPlaceholder(value)) return false;
  return KEY_NAMES.test(name) || PREFIXES.some((prefix) => value.startsWith(prefix));
}
