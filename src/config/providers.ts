/** Compiles `[providers.NAME]`: preset and table laid over each other, checked, rules compiled. */
import type { Placement } from '../credentials/credential.ts';
import { compileRules, RuleError } from '../proxy/compile-rules.ts';
import type { EndpointEntry, RuleSet } from '../proxy/rules.ts';
import { parseBaseUrl, refuseUpstream } from './base-url.ts';
import { compileCredentials } from './credentials.ts';
import type { Limits, ProviderConfig } from './effective.ts';
import { compileCircuit, compileRate, overlayLimits } from './limits.ts';
import { at, type Place, type Report } from './place.ts';
import { PRESETS, type Preset } from './presets.ts';
import { compileClientEnv, compileHeaders, refuseInjectedHeaders } from './provider-tables.ts';
import { type LimitsTable, readLimits } from './schema-limits.ts';
import type { ProviderTable } from './schema-provider.ts';
import { suggestHint } from './suggest.ts';

/** Names that a provider cannot have: the proxy's own routes come first. */
const RESERVED_NAMES: readonly string[] = ['healthz'];

export interface ProviderContext {
  /** The defaults, and what `[limits]` of the file sets. */
  readonly defaultLimits: Limits;
  readonly limitsTable: LimitsTable | undefined;
}

/** Compiles one provider; undefined if a part it cannot do without is missing or wrong. */
export function compileProvider(
  name: string,
  table: ProviderTable,
  place: Place,
  context: ProviderContext,
  report: Report,
): ProviderConfig | undefined {
  if (RESERVED_NAMES.includes(name))
    report.problem(place, 'this name is a route of the proxy itself', 'choose another');
  const preset = findPreset(table.preset, at(place, 'preset'), report);
  // An unknown preset explains everything that would be missing without it.
  if (preset === undefined && table.preset !== undefined) return undefined;
  const url = compileUpstream(table, preset, place, report);
  const credentials = compileCredential(table, preset, place, report);
  const rules = compileEndpoints(table, preset, place, report);
  const headers = compileHeaders(table.headers, preset?.headers, at(place, 'headers'), report);
  const defaultHeaders = compileHeaders(
    table.default_headers,
    preset?.default_headers,
    at(place, 'default_headers'),
    report,
  );
  refuseInjectedHeaders(table, credentials, place, report);
  refuseHalfClientCertificate(table, place, report);
  const env = compileClientEnv(table.client_env, preset?.client_env, at(place, 'client_env'), report);
  if (url === undefined || rules === undefined) return undefined;
  const { defaultLimits, limitsTable } = context;
  const presetLimits = overlayLimits(defaultLimits, readLimits(preset?.limits ?? {}));
  return {
    name,
    preset: table.preset,
    origin: url.origin,
    hostname: url.hostname,
    basePath: url.basePath,
    upstreamSocket: table.upstream_socket,
    allowPrivate: table.unsafe_allow_private ?? false,
    credentials,
    rules,
    headers,
    defaultHeaders,
    stripHeaders: [...new Set([...(preset?.strip_headers ?? []), ...(table.strip_headers ?? [])])],
    stripQuery: preset?.strip_query ?? [],
    allowSetCookie: table.allow_set_cookie ?? false,
    // What the operator wrote, anywhere, beats the preset.
    limits: overlayLimits(overlayLimits(presetLimits, limitsTable), table.limits),
    rate: compileRate(table.limits?.rate),
    circuit: compileCircuit(table.limits?.circuit ?? limitsTable?.circuit),
    tls: { caFile: table.ca_file, certFile: table.client_cert, keyFile: table.client_key },
    client: {
      env,
      args: new Map(Object.entries(preset?.client_args ?? {})),
      placeholder: preset?.placeholder ?? PLACEHOLDER,
    },
  };
}

/** What a client without a preset holds instead of a key. */
const PLACEHOLDER = 'isoproxy-placeholder-not-a-real-key';

function findPreset(name: string | undefined, place: Place, report: Report): Preset | undefined {
  if (name === undefined) return undefined;
  if (Object.hasOwn(PRESETS, name)) return PRESETS[name];
  report.problem(place, 'no such preset', suggestHint(name, Object.keys(PRESETS), 'presets'));
  return undefined;
}

function compileUpstream(table: ProviderTable, preset: Preset | undefined, place: Place, report: Report) {
  const url = table.base_url ?? (preset === undefined ? undefined : parseBaseUrl(preset.base_url));
  if (url === undefined) {
    report.problem(at(place, 'base_url'), 'required without a preset', 'add base_url = "https://HOST"');
    return undefined;
  }
  const refusal = refuseUpstream(url, {
    allowHttp: table.unsafe_allow_http ?? false,
    allowPrivate: table.unsafe_allow_private ?? false,
    viaSocket: table.upstream_socket !== undefined,
  });
  if (refusal !== undefined) report.problem(at(place, 'base_url'), refusal);
  return url;
}

function compileCredential(table: ProviderTable, preset: Preset | undefined, place: Place, report: Report) {
  const here = at(place, 'credential');
  if (table.credential === undefined) {
    report.problem(
      here,
      'required',
      'say where the secret comes from, like credential = { file = "/etc/isoproxy/NAME.key" }, or "none"',
    );
    return [];
  }
  const defaults = { placement: presetPlacement(preset), publicPrefixes: preset?.secret_prefixes ?? [] };
  return compileCredentials(table.credential, here, defaults, report);
}

function presetPlacement(preset: Preset | undefined): Placement | undefined {
  if (preset === undefined) return undefined;
  const { credential } = preset;
  if ('header' in credential) return { kind: 'header', name: credential.header, format: credential.format };
  return 'basic' in credential
    ? { kind: 'basic', user: credential.basic }
    : { kind: 'query', parameter: credential.query };
}

function compileEndpoints(
  table: ProviderTable,
  preset: Preset | undefined,
  place: Place,
  report: Report,
): RuleSet | undefined {
  const base: readonly EndpointEntry[] | undefined = table.endpoints ?? preset?.endpoints;
  const extra = table.extra_endpoints ?? [];
  if (base === undefined && extra.length === 0) {
    report.problem(
      at(place, 'endpoints'),
      'required without a preset',
      'list what is allowed; endpoints = [] allows nothing',
    );
    return undefined;
  }
  const first = base ?? [];
  try {
    return compileRules([...first, ...extra]);
  } catch (error) {
    if (!(error instanceof RuleError)) throw error;
    const own = table.endpoints !== undefined && error.entry < first.length;
    const entry = own
      ? at(place, 'endpoints', error.entry)
      : at(place, 'extra_endpoints', error.entry - first.length);
    const fromPreset = table.endpoints === undefined && first.length > 0;
    const hint =
      fromPreset && /entr(y|ies) \d/.test(error.message)
        ? `the preset's entries come first, ${first.length} in number`
        : undefined;
    report.problem(at(entry, error.field), error.message, hint);
    return undefined;
  }
}

function refuseHalfClientCertificate(table: ProviderTable, place: Place, report: Report): void {
  if (table.client_cert !== undefined && table.client_key === undefined)
    report.problem(at(place, 'client_key'), 'required with client_cert');
  if (table.client_key !== undefined && table.client_cert === undefined)
    report.problem(at(place, 'client_cert'), 'required with client_key');
}
