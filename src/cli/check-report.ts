/** The effective configuration as `check` shows it: text for people, and a stable JSON shape. */
import {
  type AuditConfig,
  type Config,
  describeAddress,
  type Limits,
  type ListenAddress,
  type ListenerConfig,
  type MetricsAddress,
  type ProviderConfig,
} from '../config/effective.ts';
import { LIMIT_KEYS } from '../config/limits.ts';
import { formatDuration, formatSize } from '../config/units.ts';
import type { CredentialConfig, Placement } from '../credentials/credential.ts';
import { describeSource } from '../credentials/source.ts';
import type { Rule } from '../proxy/rules.ts';
import { circuitToJson, formatCircuit, formatRate, rateToJson } from './guard-limits.ts';

/** Text for a terminal. Header values and command arguments are left out: a secret may stand there. */
export function formatConfig(config: Config): string {
  const { server } = config;
  const head = table([
    ['configuration', config.file],
    ['state', server.stateDir],
    ['control', server.controlSocket],
    ['shutdown grace', formatDuration(server.shutdownGraceMs)],
    ['upstream proxy', server.upstreamProxy ?? 'none'],
    ['CA set', server.caFile ?? 'built in'],
    ['rate', formatRate(config.rate) && `${formatRate(config.rate)}, for each listener and provider`],
    ['metrics', config.metrics && formatMetrics(config.metrics)],
    ['audit', formatAudit(config.audit)],
    ['log', `${config.log.level}, ${config.log.format}`],
  ]);
  const listeners = config.listeners.map((listener) => formatListener(listener, config));
  const providers = [...config.providers.values()].map(formatProvider);
  return [head, ...listeners, ...providers].join('\n');
}

function formatListener(listener: ListenerConfig, config: Config): string {
  const caps = listener.providers.map((name) => {
    const cap = listener.maxConcurrent ?? config.providers.get(name)?.limits.maxConcurrent;
    return `${name} ${cap}`;
  });
  return section(`listener ${listener.name}`, [
    ['address', formatAddress(listener.address)],
    ['providers', listener.providers.join(', ') || 'none'],
    ['mount', listener.mount],
    ['profile', listener.networkProfile?.name],
    ['origins', listener.allowOrigins.join(', ') || undefined],
    ['in flight', caps.join(', ') || undefined],
    ['rate', formatRate(listener.rate)],
  ]);
}

function formatAudit(audit: AuditConfig): string {
  if (audit.durability === 'off') return 'off';
  const { segmentSize, maxBytes, retainMs, checkpointFile } = audit;
  const sizes = `${formatSize(maxBytes)} in segments of ${formatSize(segmentSize)}, kept ${formatDuration(retainMs)}`;
  const key = audit.key === undefined ? '' : `, key from ${describeSource(audit.key)}`;
  return `${audit.durability}, ${sizes}${key}, checkpoints also to ${checkpointFile ?? 'stderr only'}`;
}

function formatMetrics(metrics: MetricsAddress): string {
  return metrics.kind === 'unix' ? metrics.path : `${metrics.hostname}:${metrics.port}`;
}

function formatAddress(address: ListenAddress): string {
  if (address.kind === 'unix') {
    const group = address.group === undefined ? '' : `, group ${address.group}`;
    return `${describeAddress(address)} (mode ${formatMode(address.mode)}${group})`;
  }
  return `${describeAddress(address)} (token from ${describeSource(address.token)})`;
}

function formatMode(mode: number): string {
  return mode.toString(8).padStart(4, '0');
}

function formatProvider(provider: ProviderConfig): string {
  const from = provider.preset === undefined ? '' : ` (preset ${provider.preset})`;
  const via = provider.upstreamSocket === undefined ? '' : ` through ${provider.upstreamSocket}`;
  const credentials = provider.credentials.map(
    (credential) => `${formatPlacement(credential.placement)} from ${describeSource(credential.source)}`,
  );
  return section(`provider ${provider.name}${from}`, [
    ['upstream', `${provider.origin}${provider.basePath}${via}`],
    ['credential', credentials.join('\n') || 'none'],
    ['allows', provider.rules.rules.map(formatRule).join('\n') || 'nothing'],
    ['sets', [...provider.headers.keys()].join(', ') || undefined],
    ['sets if absent', [...provider.defaultHeaders.keys()].join(', ') || undefined],
    [
      'strips',
      [...provider.stripHeaders, ...provider.stripQuery.map((name) => `?${name}`)].join(', ') || undefined,
    ],
    ['client env', [...provider.client.env.keys()].join(', ') || undefined],
    ['CA set', provider.tls.caFile],
    ['client cert', provider.tls.certFile],
    ['unsafe', unsafeSwitches(provider).join(', ') || undefined],
    ['limits', formatLimits(provider.limits)],
    ['rate', formatRate(provider.rate)],
    ['circuit', formatCircuit(provider.circuit)],
  ]);
}

function formatPlacement(placement: Placement): string {
  if (placement.kind === 'header') return `header ${placement.name}`;
  return placement.kind === 'basic' ? 'basic authorization' : `query parameter ${placement.parameter}`;
}

function formatRule(rule: Rule): string {
  const { options } = rule;
  const notes = [
    options.query === undefined ? '' : `query ${[...options.query].join(', ') || 'none'}`,
    options.allowEncodedSlash ? 'keeps %2F' : '',
    options.websocket ? 'websocket' : '',
    options.allowEncodedResponse ? 'unsafe: encoded response' : '',
    options.allowUnframedResponse ? 'unsafe: unframed response' : '',
  ].filter((note) => note !== '');
  return `${String(rule.entry + 1).padStart(2)}  ${rule.name}${notes.length === 0 ? '' : `  (${notes.join('; ')})`}`;
}

/** Doors that somebody opened on purpose, by the name they have in the file. */
function unsafeSwitches(provider: ProviderConfig): string[] {
  return [
    provider.origin.startsWith('http:') ? 'unsafe_allow_http' : '',
    provider.allowPrivate ? 'unsafe_allow_private' : '',
    provider.allowSetCookie ? 'allow_set_cookie' : '',
    provider.credentials.some((credential) => credential.unsafeShortSecret) ? 'unsafe_short_secret' : '',
  ].filter((name) => name !== '');
}

function formatLimits(limits: Limits): string {
  return LIMIT_KEYS.map(([key, field, unit]) => {
    const value = limits[field];
    const text =
      unit === 'size' ? formatSize(value) : unit === 'duration' ? formatDuration(value) : String(value);
    return `${key} ${text}`;
  }).join('\n');
}

type Row = readonly [string, string | undefined];

function section(title: string, rows: readonly Row[]): string {
  return `${title}\n${table(rows).replace(/^(?=.)/gm, '  ')}`;
}

/** Two columns; rows without a value are left out. */
function table(rows: readonly Row[]): string {
  return rows
    .filter((row): row is readonly [string, string] => row[1] !== undefined)
    .map(([name, value]) => `${name.padEnd(15)} ${value.replaceAll('\n', `\n${' '.repeat(16)}`)}\n`)
    .join('');
}

/** The shape of `check --json`, documented in the command's help; fields are only ever added. */
export function configToJson(config: Config): Record<string, unknown> {
  const { server } = config;
  return {
    file: config.file,
    server: {
      runtime_dir: server.runtimeDir,
      state_dir: server.stateDir,
      control: server.controlSocket,
      shutdown_grace_ms: server.shutdownGraceMs,
      upstream_proxy: server.upstreamProxy ?? null,
      ca_file: server.caFile ?? null,
    },
    rate: rateToJson(config.rate),
    audit: auditToJson(config.audit),
    log: config.log,
    metrics: config.metrics ? formatMetrics(config.metrics) : null,
    listeners: config.listeners.map((listener) => ({
      name: listener.name,
      ...addressToJson(listener.address),
      providers: listener.providers,
      mount: listener.mount ?? null,
      network_profile: listener.networkProfile?.name ?? null,
      allow_origins: listener.allowOrigins,
      max_concurrent: listener.maxConcurrent ?? null,
      rate: rateToJson(listener.rate),
    })),
    providers: [...config.providers.values()].map(providerToJson),
  };
}

function auditToJson({ key, ...audit }: AuditConfig): Record<string, unknown> {
  return {
    durability: audit.durability,
    segment_size: audit.segmentSize,
    max_bytes: audit.maxBytes,
    retain_ms: audit.retainMs,
    checkpoint_every: audit.checkpointEvery,
    checkpoint_interval_ms: audit.checkpointIntervalMs,
    checkpoint_file: audit.checkpointFile ?? null,
    key: key === undefined ? null : describeSource(key),
  };
}

function addressToJson(address: ListenAddress): Record<string, unknown> {
  if (address.kind === 'unix')
    return { socket: address.path, mode: formatMode(address.mode), group: address.group ?? null };
  return {
    tcp: { host: address.hostname, port: address.port },
    hosts: address.hosts,
    token: describeSource(address.token),
  };
}

function providerToJson(provider: ProviderConfig): Record<string, unknown> {
  return {
    name: provider.name,
    preset: provider.preset ?? null,
    base_url: provider.origin + provider.basePath,
    upstream_socket: provider.upstreamSocket ?? null,
    credentials: provider.credentials.map((credential: CredentialConfig) => ({
      placement: formatPlacement(credential.placement),
      source: describeSource(credential.source),
    })),
    rules: provider.rules.rules.map((rule) => ({
      entry: rule.entry + 1,
      methods: [...rule.methods],
      path: rule.pattern.text,
      query: rule.options.query === undefined ? null : [...rule.options.query],
      websocket: rule.options.websocket,
      allow_encoded_slash: rule.options.allowEncodedSlash,
      unsafe_allow_encoded_response: rule.options.allowEncodedResponse,
      unsafe_allow_unframed_response: rule.options.allowUnframedResponse,
    })),
    headers: [...provider.headers.keys()],
    default_headers: [...provider.defaultHeaders.keys()],
    strip_headers: provider.stripHeaders,
    strip_query: provider.stripQuery,
    client_env: [...provider.client.env.keys()],
    unsafe: unsafeSwitches(provider),
    // Bytes, milliseconds, bytes per second, requests.
    rate: rateToJson(provider.rate),
    circuit: circuitToJson(provider.circuit),
    limits: Object.fromEntries(LIMIT_KEYS.map(([key, field]) => [key, provider.limits[field]])),
  };
}
