/** Compiles `[[listeners]]`: an address, and what its client may reach. */
import { join } from 'node:path';
import type { NetworkProfile } from '../proxy/network-profile.ts';
import { ValueError } from './config-error.ts';
import { compileSource } from './credentials.ts';
import type { ListenAddress, ListenerConfig, ServerConfig } from './effective.ts';
import { parseSocketPath } from './file-paths.ts';
import { compileRate } from './limits.ts';
import { at, type Place, type Report } from './place.ts';
import type { ListenerTable } from './schema-listener.ts';
import { suggestHint } from './suggest.ts';

/** What listeners refer to. */
export interface ListenerContext {
  readonly server: ServerConfig;
  readonly providerNames: readonly string[];
  readonly profiles: ReadonlyMap<string, NetworkProfile>;
  /** Number of listeners in all files: with two or more, each says what it reaches. */
  readonly count: number;
}

/** Compiles one listener; undefined if its address has faults (they are in the report). */
export function compileListener(
  table: ListenerTable,
  place: Place,
  context: ListenerContext,
  report: Report,
): ListenerConfig | undefined {
  const providers = compileProviderNames(table, place, context, report);
  const address =
    table.tcp === undefined
      ? compileUnix(table, place, context.server, report)
      : compileTcp(table, place, report);
  if (table.mount !== undefined && !providers.includes(table.mount)) {
    // Only names of tables are shown: what stands in a list may be anything.
    const known = context.providerNames.filter((name) => providers.includes(name));
    report.problem(
      at(place, 'mount'),
      'not among the providers of this listener',
      suggestHint(table.mount, known, 'providers'),
    );
  }
  const profile =
    table.network_profile === undefined ? undefined : context.profiles.get(table.network_profile);
  if (table.network_profile !== undefined && profile === undefined)
    report.problem(
      at(place, 'network_profile'),
      'no such profile',
      suggestHint(table.network_profile, context.profiles.keys(), 'profiles'),
    );
  if (address === undefined) return undefined;
  return {
    name: table.name,
    address,
    providers,
    mount: table.mount,
    networkProfile: profile,
    allowOrigins: table.allow_origins ?? [],
    maxConcurrent: table.limits?.max_concurrent,
    rate: compileRate(table.limits?.rate),
  };
}

function compileProviderNames(
  table: ListenerTable,
  place: Place,
  context: ListenerContext,
  report: Report,
): readonly string[] {
  if (table.providers === undefined) {
    if (context.count > 1)
      report.problem(
        at(place, 'providers'),
        'required as soon as there are two listeners',
        'name what this client may reach',
      );
    return context.providerNames;
  }
  table.providers.forEach((name, index) => {
    if (!context.providerNames.includes(name))
      report.problem(
        at(place, 'providers', index),
        'no such provider',
        suggestHint(name, context.providerNames, 'providers'),
      );
  });
  return table.providers;
}

function compileTcp(table: ListenerTable, place: Place, report: Report): ListenAddress | undefined {
  for (const key of ['socket', 'mode', 'group'] as const) {
    if (table[key] !== undefined)
      report.problem(
        at(place, key),
        `${key} and tcp exclude each other`,
        'a listener is a unix socket or a loopback port',
      );
  }
  if (table.token === undefined) {
    report.problem(
      at(place, 'token'),
      'required with tcp: every local process can connect to a port',
      'add token = { file = "…" }',
    );
    return undefined;
  }
  const token = compileSource(table.token, at(place, 'token'), report);
  if (token === undefined || table.tcp === undefined) return undefined;
  return { kind: 'tcp', ...table.tcp, token, hosts: table.hosts ?? [] };
}

function compileUnix(
  table: ListenerTable,
  place: Place,
  server: ServerConfig,
  report: Report,
): ListenAddress | undefined {
  for (const key of ['token', 'hosts'] as const) {
    if (table[key] !== undefined)
      report.problem(
        at(place, key),
        `${key} belongs to tcp`,
        'on a unix socket, file permissions decide who may connect',
      );
  }
  const mode = table.mode ?? '0600';
  if (mode === '0660' && table.group === undefined)
    report.problem(at(place, 'mode'), '"0660" needs a group', 'add group = "NAME"');
  if (mode !== '0660' && table.group !== undefined)
    report.problem(
      at(place, 'group'),
      'group belongs to mode "0660"',
      'add mode = "0660", or remove the group',
    );
  const path = table.socket ?? defaultSocket(table.name, place, server, report);
  if (path === undefined) return undefined;
  return { kind: 'unix', path, mode: Number.parseInt(mode, 8), group: table.group };
}

function defaultSocket(name: string, place: Place, server: ServerConfig, report: Report): string | undefined {
  // Without a runtime directory there is a problem already.
  if (server.runtimeDir === '') return undefined;
  try {
    return parseSocketPath(join(server.runtimeDir, name, 'isoproxy.sock'));
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    report.problem(at(place, 'socket'), `the default below runtime_dir does not work: ${error.message}`);
    return undefined;
  }
}

/** Refuses two listeners that share a name, a socket or a port. */
export function refuseSharedListeners(
  listeners: readonly { readonly config: ListenerConfig; readonly place: Place }[],
  report: Report,
): void {
  const taken = new Set<string>();
  const claim = (id: string, place: Place, what: string) => {
    if (taken.has(id))
      report.problem(place, `another listener has this ${what} already`, 'give each listener its own');
    taken.add(id);
  };
  for (const { config, place } of listeners) {
    const { address } = config;
    claim(`name ${config.name}`, at(place, 'name'), 'name');
    if (address.kind === 'unix') claim(`unix ${address.path}`, at(place, 'socket'), 'socket');
    else claim(`tcp ${address.hostname} ${address.port}`, at(place, 'tcp'), 'address');
  }
}
