/** Where the process keeps its sockets and its state, by the contract's order of defaults. */
import { isAbsolute, join } from 'node:path';
import type { ServerConfig } from './effective.ts';
import { MAX_SOCKET_BYTES } from './file-paths.ts';
import { at, type Place, type Report } from './place.ts';
import type { ServerTable } from './schema.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

/** `$NAME` if it holds an absolute path; the XDG specification wants relative ones ignored. */
export function absoluteVariable(env: Environment, name: string): string | undefined {
  const value = env[name];
  return value !== undefined && isAbsolute(value) ? value : undefined;
}

/** systemd gives several directories joined with ":" (systemd.exec(5)); the first one is ours. */
function systemdDirectory(env: Environment, name: string): string | undefined {
  const first = env[name]?.split(':')[0];
  return first !== undefined && isAbsolute(first) ? first : undefined;
}

function defaultRuntimeDir(env: Environment, isRoot: boolean): string | undefined {
  const systemd = systemdDirectory(env, 'RUNTIME_DIRECTORY');
  if (systemd !== undefined) return systemd;
  const xdg = absoluteVariable(env, 'XDG_RUNTIME_DIR');
  if (xdg !== undefined) return join(xdg, 'isoproxy');
  return isRoot ? '/run/isoproxy' : undefined;
}

/** Where `serve` keeps its state if nothing names it. */
export function defaultStateDir(env: Environment, isRoot: boolean): string | undefined {
  const systemd = systemdDirectory(env, 'STATE_DIRECTORY');
  if (systemd !== undefined) return systemd;
  const xdg = absoluteVariable(env, 'XDG_STATE_HOME');
  if (xdg !== undefined) return join(xdg, 'isoproxy');
  if (isRoot) return '/var/lib/isoproxy';
  const home = absoluteVariable(env, 'HOME');
  return home === undefined ? undefined : join(home, '.local/state/isoproxy');
}

/** `[server]` with its defaults. A directory that nothing names is a problem, and '' in the result. */
export function compileServer(
  table: ServerTable,
  place: Place,
  env: Environment,
  isRoot: boolean,
  report: Report,
): ServerConfig {
  const runtimeDir = table.runtime_dir ?? defaultRuntimeDir(env, isRoot);
  if (runtimeDir === undefined)
    report.problem(
      at(place, 'runtime_dir'),
      'required',
      'neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set',
    );
  const stateDir = table.state_dir ?? defaultStateDir(env, isRoot);
  if (stateDir === undefined)
    report.problem(
      at(place, 'state_dir'),
      'required',
      'neither $STATE_DIRECTORY, $XDG_STATE_HOME nor $HOME is set',
    );
  const controlSocket = table.control ?? join(stateDir ?? '/', 'control.sock');
  if (new TextEncoder().encode(controlSocket).length > MAX_SOCKET_BYTES)
    report.problem(
      at(place, 'control'),
      `the default in state_dir is longer than ${MAX_SOCKET_BYTES} bytes`,
      'set control to a shorter path',
    );
  return {
    runtimeDir: runtimeDir ?? '',
    stateDir: stateDir ?? '',
    controlSocket,
    shutdownGraceMs: table.shutdown_grace ?? 30_000,
    upstreamProxy: table.upstream_proxy,
    caFile: table.ca_file,
  };
}
