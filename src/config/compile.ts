/** Checked files into one Config: merge, then compile each part, then look at them together. */
import type { NetworkProfile } from '../proxy/network-profile.ts';
import { compileAudit } from './audit.ts';
import { ValueError } from './config-error.ts';
import { absoluteVariable, compileServer, type Environment } from './directories.ts';
import {
  type Config,
  type ListenerConfig,
  type MetricsAddress,
  type ProviderConfig,
  sumCaps,
} from './effective.ts';
import { refuseSharedDirectories } from './isolation.ts';
import { compileRate, DEFAULT_LIMITS } from './limits.ts';
import { compileListener, refuseSharedListeners } from './listeners.ts';
import { type Document, type Merged, mergeDocuments } from './merge.ts';
import { parseName } from './names.ts';
import { at, type Place, type Report } from './place.ts';
import { compileProvider } from './providers.ts';
import { MAX_IN_FLIGHT } from './schema-limits.ts';
import { collectWarnings, type Placed } from './warnings.ts';

/** @throws ConfigError with every problem in the report. */
export function compileDocuments(
  documents: readonly [Document, ...Document[]],
  env: Environment,
  isRoot: boolean,
  report: Report,
): Config {
  const root = documents[0].root;
  const merged = mergeDocuments(documents, report);
  const server = compileServer(
    merged.server?.table ?? {},
    merged.server?.place ?? at(root, 'server'),
    env,
    isRoot,
    report,
  );
  const audit = compileAudit(merged.audit?.table ?? {}, merged.audit?.place ?? at(root, 'audit'), report);
  const profiles = compileProfiles(merged, report);
  const providers = compileProviders(merged, report);
  const context = {
    server,
    providerNames: merged.providers.map((provider) => provider.name),
    profiles: new Map(profiles.map(({ config }) => [config.name, config])),
    count: merged.listeners.length,
  };
  const listeners: Placed<ListenerConfig>[] = [];
  for (const { table, place } of merged.listeners) {
    const config = compileListener(table, place, context, report);
    if (config !== undefined) listeners.push({ config, place });
  }
  refuseSharedListeners(listeners, report);
  // Where a part is missing, what is said about the whole would be wrong.
  report.stopOnProblems();
  refuseSharedDirectories(
    {
      server,
      audit,
      listeners,
      providers: providers.map(({ config }) => config),
      files: documents.map((document) => document.root.source.path),
      credentialsDirectory: absoluteVariable(env, 'CREDENTIALS_DIRECTORY'),
    },
    report,
  );
  const byName = new Map(providers.map(({ config }) => [config.name, config]));
  if (server.upstreamProxy !== undefined) refuseProxiedWebSockets(providers, report);
  refuseTooManyInFlight(listeners, byName, merged.limits?.place ?? at(root, 'limits'), report);
  collectWarnings({ listeners, providers, profiles, root }, report);
  const metrics = compileMetrics(merged, report);
  report.stopOnProblems();
  return {
    file: root.source.path,
    server,
    listeners: listeners.map(({ config }) => config),
    providers: byName,
    rate: compileRate(merged.limits?.table.rate),
    audit,
    log: { level: merged.log?.table.level ?? 'info', format: merged.log?.table.format ?? 'json' },
    metrics,
    warnings: report.warnings(),
  };
}

function compileMetrics({ metrics }: Merged, report: Report): MetricsAddress | undefined {
  if (metrics === undefined) return undefined;
  const { tcp, socket } = metrics.table;
  if ((tcp === undefined) === (socket === undefined))
    report.problem(metrics.place, 'needs exactly one of tcp and socket', 'tcp = "127.0.0.1:9464"');
  if (tcp !== undefined) return { kind: 'tcp', ...tcp };
  return socket === undefined ? undefined : { kind: 'unix', path: socket };
}

function checkName(name: string, place: Place, report: Report): void {
  try {
    parseName(name);
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    report.problem(place, error.message);
  }
}

function compileProfiles(merged: Merged, report: Report): Placed<NetworkProfile>[] {
  return merged.profiles.map(({ name, table, place }) => {
    checkName(name, place, report);
    return { config: { name, allow: table.allow, deny: table.deny ?? [] }, place };
  });
}

function compileProviders(merged: Merged, report: Report): Placed<ProviderConfig>[] {
  const context = { defaultLimits: DEFAULT_LIMITS, limitsTable: merged.limits?.table };
  const providers: Placed<ProviderConfig>[] = [];
  for (const { name, table, place } of merged.providers) {
    checkName(name, place, report);
    const config = compileProvider(name, table, place, context, report);
    if (config !== undefined) providers.push({ config, place });
  }
  return providers;
}

/** The client for WebSockets knows no proxy, and past it would be a way that nobody meant. */
function refuseProxiedWebSockets(providers: readonly Placed<ProviderConfig>[], report: Report): void {
  for (const { config, place } of providers) {
    const { origin, upstreamSocket, rules } = config;
    const isProxied = origin.startsWith('https:') && upstreamSocket === undefined;
    if (isProxied && rules.rules.some((rule) => rule.options.websocket))
      report.problem(
        at(place, 'endpoints'),
        'a websocket entry cannot go through server.upstream_proxy in this version',
        'remove the entry, or serve this provider by an instance without the proxy',
      );
  }
}

/** The runtime honours no more requests in flight than this; what is beyond would wait without a word. */
function refuseTooManyInFlight(
  listeners: readonly Placed<ListenerConfig>[],
  providers: ReadonlyMap<string, ProviderConfig>,
  place: Place,
  report: Report,
): void {
  const sum = sumCaps(
    listeners.map(({ config }) => config),
    providers,
  );
  if (sum > MAX_IN_FLIGHT)
    report.problem(
      at(place, 'max_concurrent'),
      `the caps of all listeners and providers add up to ${sum}, the runtime holds ${MAX_IN_FLIGHT}`,
      'lower max_concurrent in limits or in [listeners.limits]',
    );
}
