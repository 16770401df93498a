/** The tables of a provider whose keys are free: headers, default_headers, client_env. */
import type { CredentialConfig } from '../credentials/credential.ts';
import { injectedHeader } from '../credentials/inject.ts';
import { foldName } from '../proxy/header-names.ts';
import { ValueError } from './config-error.ts';
import { parseConstantHeader, parseHeaderValue } from './header-fields.ts';
import { parseVariable } from './names.ts';
import { at, type Place, type Report } from './place.ts';
import type { ProviderTable } from './schema-provider.ts';

type Table = Readonly<Record<string, string>>;

/** Runs a reader; its ValueError goes into the report. */
function attempt<T>(read: () => T, place: Place, report: Report): T | undefined {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    report.problem(place, error.message);
    return undefined;
  }
}

/** Headers of the preset with the table's own over them; names in lower case. */
export function compileHeaders(
  own: Table | undefined,
  preset: Table | undefined,
  place: Place,
  report: Report,
): ReadonlyMap<string, string> {
  const headers = new Map(Object.entries(preset ?? {}));
  const seen = new Set<string>();
  for (const [key, text] of Object.entries(own ?? {})) {
    const here = at(place, key);
    const name = attempt(() => parseConstantHeader(key), here, report);
    const value = attempt(() => parseHeaderValue(text), here, report);
    if (name === undefined || value === undefined) continue;
    // Folded, because CGI-style upstreams read "x_a" and "x-a" as one header.
    if (seen.has(foldName(name)))
      report.problem(here, 'the same header stands here twice', 'names differ only in case, "_" or "."');
    seen.add(foldName(name));
    headers.set(name, value);
  }
  return headers;
}

/** Refuses headers that a credential of the same provider sets, and names in both header tables. */
export function refuseInjectedHeaders(
  table: ProviderTable,
  credentials: readonly CredentialConfig[],
  place: Place,
  report: Report,
): void {
  const injected = new Set(credentials.map(({ placement }) => foldName(injectedHeader(placement) ?? '')));
  const always = new Set(Object.keys(table.headers ?? {}).map(foldName));
  for (const key of ['headers', 'default_headers'] as const) {
    for (const name of Object.keys(table[key] ?? {})) {
      const here = at(place, key, name);
      if (injected.has(foldName(name)))
        report.problem(here, 'the credential of this provider sets this header', 'remove it here');
      if (key === 'default_headers' && always.has(foldName(name)))
        report.problem(here, 'headers sets this one always', 'remove it from one of the two');
    }
  }
}

/** Client environment of the preset with the table's own over it. */
export function compileClientEnv(
  own: Table | undefined,
  preset: Table | undefined,
  place: Place,
  report: Report,
): ReadonlyMap<string, string> {
  const env = new Map(Object.entries(preset ?? {}));
  for (const [key, value] of Object.entries(own ?? {})) {
    const here = at(place, key);
    const name = attempt(() => parseVariable(key), here, report);
    if (value.includes('\0')) report.problem(here, 'an environment value holds no NUL');
    const unknown = [...value.matchAll(/\{([a-z_]+)\}/g)].some(
      ([, word]) => word !== 'client_base_url' && word !== 'placeholder',
    );
    if (unknown) report.problem(here, 'only {client_base_url} and {placeholder} are filled in');
    if (name !== undefined) env.set(name, value);
  }
  return env;
}
