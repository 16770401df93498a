/** Secret sources: how the value of a secret is read, and when it is read again. */
import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import type { CredentialConfig, SecretSource } from './credential.ts';
import type { Secret } from './secret.ts';
import { SecretError, toSecret } from './secret-value.ts';

/** Longest secret that is read, bytes. */
const MAX_SECRET_BYTES = 16 * 1024;
/** How often a file is looked at for a change, ms. */
const FILE_CHECK_MS = 1_000;
/** After a command failed, it is not run again for this long, ms. */
const COMMAND_FAILURE_MS = 5_000;

export interface SourceContext {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Monotonic clock, ms. */
  readonly now: () => number;
}

/** A readable secret. Reads may fail at any time (SecretError): the request then fails closed. */
export interface SecretReader {
  /** The current value; synchronous unless a program has to run. */
  readonly read: () => Secret | Promise<Secret>;
}

/** How messages call a source; names where it is, not what is in it. */
export function describeSource(source: SecretSource): string {
  switch (source.kind) {
    case 'file':
      return `file ${source.path}`;
    case 'env':
      return `environment variable ${source.variable}`;
    case 'systemd':
      return `systemd credential ${source.name}`;
    case 'command':
      return `command ${source.argv[0]}`;
  }
}

export function createSecretReader(
  config: Pick<CredentialConfig, 'source' | 'unsafeShortSecret'>,
  context: SourceContext,
): SecretReader {
  const { source, unsafeShortSecret } = config;
  switch (source.kind) {
    case 'env': {
      let secret: Secret | undefined;
      const read = () => {
        secret ??= toSecret(readVariable(source.variable, context.env), unsafeShortSecret);
        return secret;
      };
      return { read };
    }
    case 'file':
      return createFileReader(() => source.path, unsafeShortSecret, context.now);
    case 'systemd':
      return createFileReader(() => systemdPath(source.name, context.env), unsafeShortSecret, context.now);
    case 'command':
      return createCommandReader(source, unsafeShortSecret, context);
  }
}

function readVariable(name: string, env: SourceContext['env']): string {
  const value = env[name];
  if (value === undefined) throw new SecretError('is not set');
  return value;
}

/** systemd.exec(5): LoadCredential= puts each credential into a file of that name. */
function systemdPath(name: string, env: SourceContext['env']): string {
  const directory = env['CREDENTIALS_DIRECTORY'];
  if (directory === undefined || !isAbsolute(directory)) {
    throw new SecretError('needs $CREDENTIALS_DIRECTORY; start the service with LoadCredential= in its unit');
  }
  return join(directory, name);
}

/**
 * Reads a secret file through one descriptor, so that what is checked is what is read.
 * @throws SecretError if it is missing, not a regular file, too open or too large.
 */
function readSecretFile(path: string): { text: string; stat: Stats } {
  let fd: number;
  try {
    // Without O_NONBLOCK a pipe in its place would block the start.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw new SecretError(openFailure(error));
  }
  try {
    const stat = fstatSync(fd);
    checkSecretFile(stat);
    const buffer = new Uint8Array(MAX_SECRET_BYTES + 1);
    const length = readSync(fd, buffer, 0, buffer.length, 0);
    if (length > MAX_SECRET_BYTES) throw new SecretError(`is larger than ${MAX_SECRET_BYTES} bytes`);
    return { text: new TextDecoder('latin1').decode(buffer.subarray(0, length)), stat };
  } finally {
    closeSync(fd);
  }
}

function openFailure(error: unknown): string {
  const code = (error as { code?: string }).code;
  if (code === 'ENOENT')
    return 'does not exist; write the secret into it, for its owner only: install -m 600 /dev/stdin FILE';
  if (code === 'EACCES') return 'cannot be opened: permission denied';
  return `cannot be opened (${code ?? (error as Error).name})`;
}

function checkSecretFile(stat: Stats): void {
  if (!stat.isFile()) throw new SecretError('is not a regular file');
  const mode = stat.mode & 0o777;
  if ((mode & 0o007) !== 0)
    throw new SecretError(`is open to every user (mode ${octal(mode)}); chmod 600 it`);
  if ((mode & 0o020) !== 0)
    throw new SecretError(`is writable by its group (mode ${octal(mode)}); chmod 600 it`);
  if ((mode & 0o050) !== 0 && stat.uid !== 0) {
    throw new SecretError(
      `is readable by its group (mode ${octal(mode)}) and not owned by root; chmod 600 it`,
    );
  }
}

function octal(mode: number): string {
  return `0${mode.toString(8).padStart(3, '0')}`;
}

function createFileReader(pathOf: () => string, unsafeShortSecret: boolean, now: () => number): SecretReader {
  let known: { secret: Secret; stat: Stats } | undefined;
  let checkedAt = Number.NEGATIVE_INFINITY;

  function isUnchanged(): boolean {
    if (known === undefined) return false;
    try {
      const stat = statSync(pathOf());
      const { stat: old } = known;
      return (
        stat.mtimeMs === old.mtimeMs &&
        stat.ctimeMs === old.ctimeMs &&
        stat.ino === old.ino &&
        stat.size === old.size
      );
    } catch {
      return false;
    }
  }

  function read(): Secret {
    const at = now();
    if (known !== undefined && at - checkedAt < FILE_CHECK_MS) return known.secret;
    if (known === undefined || !isUnchanged()) {
      // Forget the old value first: if the new one cannot be read, the request fails closed.
      known = undefined;
      const { text, stat } = readSecretFile(pathOf());
      known = { secret: toSecret(text, unsafeShortSecret), stat };
    }
    checkedAt = at;
    return known.secret;
  }

  return { read };
}

function createCommandReader(
  source: Extract<SecretSource, { kind: 'command' }>,
  unsafeShortSecret: boolean,
  context: SourceContext,
): SecretReader {
  let known: { secret: Secret; until: number } | undefined;
  let failed: { error: unknown; until: number } | undefined;
  let running: Promise<Secret> | undefined;

  async function run(): Promise<Secret> {
    try {
      const secret = toSecret(await runCommand(source, context.env), unsafeShortSecret);
      known = { secret, until: context.now() + source.ttlMs };
      failed = undefined;
      return secret;
    } catch (error) {
      known = undefined;
      failed = { error, until: context.now() + COMMAND_FAILURE_MS };
      throw error;
    } finally {
      running = undefined;
    }
  }

  function read(): Secret | Promise<Secret> {
    const at = context.now();
    if (known !== undefined && at < known.until) return known.secret;
    if (failed !== undefined && at < failed.until) throw failed.error;
    // All requests that wait for the value share one run.
    running ??= run();
    return running;
  }

  return { read };
}

async function runCommand(
  source: Extract<SecretSource, { kind: 'command' }>,
  env: SourceContext['env'],
): Promise<string> {
  const [file, ...args] = source.argv;
  const options = {
    // Nothing of the proxy's own environment but these: it may hold secrets of `env` sources.
    env: pick(env, ['PATH', 'HOME', 'LANG']),
    timeout: source.timeoutMs,
    killSignal: 'SIGKILL' as const,
    maxBuffer: MAX_SECRET_BYTES,
    encoding: 'latin1' as const,
    cwd: '/',
  };
  const { execFile } = await import('node:child_process');
  return new Promise((resolve, reject) => {
    execFile(file, args, options, (error, stdout) => {
      if (error) reject(new SecretError(commandFailure(error, source.timeoutMs)));
      else resolve(stdout);
    });
  });
}

function commandFailure(error: { code?: unknown; killed?: boolean }, timeoutMs: number): string {
  if (error.code === 'ENOENT') return 'cannot be run: no such program';
  if (error.code === 'EACCES') return 'cannot be run: permission denied';
  if (error.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER')
    return `printed more than ${MAX_SECRET_BYTES} bytes`;
  if (error.killed) return `did not finish within ${timeoutMs / 1000} s`;
  return typeof error.code === 'number' ? `failed with exit code ${error.code}` : 'failed';
}

function pick(env: SourceContext['env'], names: readonly string[]): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const name of names) {
    const value = env[name];
    if (value !== undefined) picked[name] = value;
  }
  return picked;
}
