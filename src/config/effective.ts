/**
 * The effective configuration: what is left when the file is read, checked, completed with presets and
 * defaults, and compiled. Everything after config/ sees only this; all times are ms, all sizes bytes.
 */
import type { KeyPlace } from '../audit/keys.ts';
import type { CredentialConfig, SecretSource } from '../credentials/credential.ts';
import type { CircuitLimit } from '../guards/circuit-breaker.ts';
import type { RateLimit } from '../guards/rate-limit.ts';
import type { NetworkProfile } from '../proxy/network-profile.ts';
import type { RuleSet } from '../proxy/rules.ts';

export interface Config {
  /** Absolute path of the main file: what messages call it. */
  readonly file: string;
  readonly server: ServerConfig;
  readonly listeners: readonly ListenerConfig[];
  readonly providers: ReadonlyMap<string, ProviderConfig>;
  /** For each pair of listener and provider. */
  readonly rate: RateLimit | undefined;
  readonly audit: AuditConfig;
  readonly log: { readonly level: LogLevel; readonly format: 'json' | 'text' };
  readonly metrics: MetricsAddress | undefined;
  /** Things that work but are probably not meant; `--strict` makes them errors. */
  readonly warnings: readonly string[];
}

/** `[audit]`; docs/audit.md. */
export interface AuditConfig {
  readonly durability: 'commit' | 'async' | 'off';
  readonly segmentSize: number;
  readonly maxBytes: number;
  readonly retainMs: number;
  readonly checkpointEvery: number;
  readonly checkpointIntervalMs: number;
  readonly checkpointFile: string | undefined;
  /** Key of the chain; undefined = made at the first start, in the state directory. */
  readonly key: KeyPlace | undefined;
}

/** Where the metrics page is served, besides the control socket. */
export type MetricsAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly hostname: string; readonly port: number };

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface ServerConfig {
  readonly runtimeDir: string;
  readonly stateDir: string;
  readonly controlSocket: string;
  readonly shutdownGraceMs: number;
  /** `http://host:port` of a CONNECT proxy, the only way to use one. */
  readonly upstreamProxy: string | undefined;
  /** PEM file that replaces the built-in CA set for all providers. */
  readonly caFile: string | undefined;
}

export type ListenAddress =
  | {
      readonly kind: 'unix';
      readonly path: string;
      readonly mode: number;
      readonly group: string | undefined;
    }
  | {
      readonly kind: 'tcp';
      /** Literal loopback address. */
      readonly hostname: string;
      readonly port: number;
      readonly token: SecretSource;
      /** Lower-case names a client may use in Host besides loopback. */
      readonly hosts: readonly string[];
    };

export interface ListenerConfig {
  readonly name: string;
  readonly address: ListenAddress;
  /** Names of the providers this client may reach. */
  readonly providers: readonly string[];
  /** The one provider served at "/" without prefix. */
  readonly mount: string | undefined;
  readonly networkProfile: NetworkProfile | undefined;
  /** Exact `Origin` values that are let through; a request with any other is refused. */
  readonly allowOrigins: readonly string[];
  /** Overrides the providers' cap for this client, if set. */
  readonly maxConcurrent: number | undefined;
  /** Of all its requests together. */
  readonly rate: RateLimit | undefined;
}

export interface Limits {
  readonly maxRequestBody: number;
  readonly maxResponseBody: number;
  readonly firstByteTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly totalTimeoutMs: number;
  readonly requestBodyTimeoutMs: number;
  /** Bytes per second an upload must keep up after 10 s. */
  readonly minBodyRate: number;
  /** Requests in flight per listener and provider. */
  readonly maxConcurrent: number;
}

export interface ProviderConfig {
  readonly name: string;
  readonly preset: string | undefined;
  /** `https://host[:port]`, never with a trailing slash. */
  readonly origin: string;
  /** Host name (no port) that network profiles look at. */
  readonly hostname: string;
  /** Path put before every target, `''` or `/base` without a trailing slash. */
  readonly basePath: string;
  /** Unix socket of the upstream instead of a TCP connection. */
  readonly upstreamSocket: string | undefined;
  readonly allowPrivate: boolean;
  /** Empty = `credential = "none"`. */
  readonly credentials: readonly CredentialConfig[];
  readonly rules: RuleSet;
  /** Always set on the way up; names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  /** Set when the client sent none. */
  readonly defaultHeaders: ReadonlyMap<string, string>;
  /** Removed from the client besides the fixed list; lower case. */
  readonly stripHeaders: readonly string[];
  /** Credential query parameters removed from the client; lower case. */
  readonly stripQuery: readonly string[];
  readonly allowSetCookie: boolean;
  readonly limits: Limits;
  /** Of all listeners' requests to it together. */
  readonly rate: RateLimit | undefined;
  readonly circuit: CircuitLimit | undefined;
  readonly tls: {
    readonly caFile: string | undefined;
    readonly certFile: string | undefined;
    readonly keyFile: string | undefined;
  };
  readonly client: ClientSetup;
}

/** What `run` sets up inside the sandbox; `{client_base_url}` and `{placeholder}` are still to be filled in. */
export interface ClientSetup {
  readonly env: ReadonlyMap<string, string>;
  /** Command name → arguments it needs before the user's. */
  readonly args: ReadonlyMap<string, readonly string[]>;
  /** A key of the right shape that is obviously none. */
  readonly placeholder: string;
}

/** The providers that a listener really reaches: a mount takes every path, so nothing is left for the others. */
export function reachableProviders(listener: ListenerConfig): readonly string[] {
  return listener.mount === undefined ? listener.providers : [listener.mount];
}

/** Requests that may be in flight at once, all listeners and providers together. */
export function sumCaps(
  listeners: readonly ListenerConfig[],
  providers: ReadonlyMap<string, ProviderConfig>,
): number {
  let sum = 0;
  for (const listener of listeners) {
    for (const name of reachableProviders(listener)) {
      sum += listener.maxConcurrent ?? providers.get(name)?.limits.maxConcurrent ?? 0;
    }
  }
  return sum;
}

/** A listener's address as messages name it: a path, or host and port (IPv6 in brackets). */
export function describeAddress(address: ListenAddress): string {
  if (address.kind === 'unix') return address.path;
  const host = address.hostname.includes(':') ? `[${address.hostname}]` : address.hostname;
  return `${host}:${address.port}`;
}
