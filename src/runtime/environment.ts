/**
 * The clean start: before a secret is read, the process rids itself of every environment variable by which
 * somebody else could steer the runtime (a proxy, a trust anchor, a debugger, verbose request logging).
 */
import process from 'node:process';

/** Set by the restart itself; its presence with this value says that the environment is the cleaned one. */
const MAX_REQUESTS_VARIABLE = 'BUN_CONFIG_MAX_HTTP_REQUESTS';
/** Bun's default of 256 requests in flight is per process; higher values than this are not honoured (docs/runtime.md 4). */
const MAX_REQUESTS = '65535';

/** Variables that act before any code of ours runs: dropping them comes too late, so they are refused. */
const REFUSED = /^(?:BUN_OPTIONS|BUN_BE_BUN|BUN_INSPECT.*)$/;

/** Variables that steer the runtime, its TLS or its proxying. */
const DROPPED =
  /^(?:.*_PROXY|NODE_.*|SSL_.*|SSLKEYLOGFILE|OPENSSL_.*|BUN_.*|JSC_.*|DENO_.*|UV_.*|NO_PROXY)$/i;

export interface EnvironmentReview {
  /** Names whose presence is a reason not to start. */
  readonly refused: readonly string[];
  /** Names that are removed. */
  readonly dropped: readonly string[];
  /** The environment without them. */
  readonly cleaned: Readonly<Record<string, string>>;
}

/** Sorts an environment; pure. */
export function reviewEnvironment(env: Readonly<Record<string, string | undefined>>): EnvironmentReview {
  const refused: string[] = [];
  const dropped: string[] = [];
  const cleaned: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value === undefined) continue;
    if (REFUSED.test(name)) refused.push(name);
    else if (name === MAX_REQUESTS_VARIABLE && value === MAX_REQUESTS) cleaned[name] = value;
    else if (DROPPED.test(name)) dropped.push(name);
    else cleaned[name] = value;
  }
  return { refused, dropped, cleaned };
}

/** How a start goes on after the environment was looked at. */
export type CleanStart =
  | { readonly kind: 'clean' }
  | { readonly kind: 'refused'; readonly names: readonly string[] }
  /** Only where the process cannot restart itself. */
  | { readonly kind: 'dirty'; readonly names: readonly string[] };

/**
 * Restarts the process with a cleaned environment if it needs one (same pid, so supervisors notice
 * nothing). Returns only if no restart is needed, or none is possible.
 * @param onDropped called with the names just before the restart, for the one warning about them
 */
export function ensureCleanStart(onDropped: (names: readonly string[]) => void): CleanStart {
  const review = reviewEnvironment(process.env);
  const runtimeArguments = process.execArgv.length > 0 ? ['runtime arguments'] : [];
  if ('Bun' in globalThis) {
    const refused = [...review.refused, ...runtimeArguments];
    if (refused.length > 0) return { kind: 'refused', names: refused };
    if (review.dropped.length === 0 && review.cleaned[MAX_REQUESTS_VARIABLE] === MAX_REQUESTS)
      return { kind: 'clean' };
    if (review.dropped.length > 0) onDropped(review.dropped);
    restart({ ...review.cleaned, [MAX_REQUESTS_VARIABLE]: MAX_REQUESTS });
  }
  // Deno cannot replace its process: what it would obey must not be there in the first place.
  const obeyed = [...review.refused, ...review.dropped];
  return obeyed.length === 0 ? { kind: 'clean' } : { kind: 'dirty', names: obeyed };
}

/** The command line of this program, without its arguments. */
export function ownCommand(): [string, ...string[]] {
  // In the compiled binary argv[1] is a path inside it; run from source, it is the script.
  const script = process.argv[1] ?? '';
  const compiled = script.startsWith('/$bunfs/');
  return [process.execPath, ...(compiled ? [] : [...process.execArgv, script])];
}

function restart(env: Record<string, string>): never {
  const argv = [...ownCommand(), ...process.argv.slice(2)];
  (process as unknown as { execve(file: string, argv: string[], env: Record<string, string>): never }).execve(
    process.execPath,
    argv,
    env,
  );
  throw new Error('execve returned');
}
