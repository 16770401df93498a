/** Compiles `credential` and `token`: exactly one placement, exactly one source. */
import { statSync } from 'node:fs';
import type { CredentialConfig, Placement, SecretSource } from '../credentials/credential.ts';
import { foldName } from '../proxy/header-names.ts';
import { at, type Place, type Report } from './place.ts';
import type { CredentialTable, SourceTable } from './schema-credential.ts';

const DEFAULT_TTL_MS = 300_000;
const DEFAULT_COMMAND_TIMEOUT_MS = 10_000;

/** What a preset contributes to a credential. */
export interface CredentialDefaults {
  readonly placement: Placement | undefined;
  readonly publicPrefixes: readonly string[];
}

/** Compiles the value of `credential`; faults go into the report. */
export function compileCredentials(
  value: 'none' | CredentialTable | readonly CredentialTable[],
  place: Place,
  defaults: CredentialDefaults,
  report: Report,
): CredentialConfig[] {
  if (value === 'none') return [];
  const tables = Array.isArray(value) ? (value as readonly CredentialTable[]) : [value as CredentialTable];
  const compiled: CredentialConfig[] = [];
  const taken = new Set<string>();
  tables.forEach((table, index) => {
    const here = Array.isArray(value) ? at(place, index) : place;
    const placement = compilePlacement(table, here, defaults.placement, report);
    const source = compileSource(table, here, report);
    if (placement === undefined || source === undefined) return;
    const slot = slotOf(placement);
    if (taken.has(slot)) {
      report.problem(
        here,
        'goes to the same place as another credential of this provider',
        'only one of them would arrive',
      );
      return;
    }
    taken.add(slot);
    const unsafeShortSecret = table.unsafe_short_secret ?? false;
    compiled.push({ placement, source, unsafeShortSecret, publicPrefixes: defaults.publicPrefixes });
  });
  return compiled;
}

/** The header or parameter that a placement occupies, folded. */
function slotOf(placement: Placement): string {
  if (placement.kind === 'query') return `query ${placement.parameter.toLowerCase()}`;
  return `header ${placement.kind === 'basic' ? 'authorization' : foldName(placement.name)}`;
}

function compilePlacement(
  table: CredentialTable,
  place: Place,
  preset: Placement | undefined,
  report: Report,
): Placement | undefined {
  const given = (['header', 'basic', 'query'] as const).filter((key) => table[key] !== undefined);
  if (given.length > 1) {
    report.problem(
      place,
      `${given.join(' and ')} exclude each other`,
      'a credential goes to exactly one place',
    );
    return undefined;
  }
  if (table.format !== undefined && table.header === undefined)
    report.problem(at(place, 'format'), 'format belongs to header', 'name the header too');
  if (table.header !== undefined)
    return { kind: 'header', name: table.header, format: table.format ?? '{secret}' };
  if (table.basic !== undefined) return { kind: 'basic', user: table.basic };
  if (table.query !== undefined) return { kind: 'query', parameter: table.query };
  if (preset === undefined)
    report.problem(place, 'does not say where the secret goes', 'add header (with format), basic or query');
  return preset;
}

/** Compiles the source of a secret: exactly one of file, env, systemd and command. */
export function compileSource(table: SourceTable, place: Place, report: Report): SecretSource | undefined {
  const given = (['file', 'env', 'systemd', 'command'] as const).filter((key) => table[key] !== undefined);
  if (given.length > 1) {
    report.problem(
      place,
      `${given.join(' and ')} exclude each other`,
      'a secret comes from exactly one source',
    );
    return undefined;
  }
  for (const key of ['ttl', 'timeout'] as const) {
    if (table[key] !== undefined && table.command === undefined)
      report.problem(at(place, key), `${key} belongs to command`, 'remove it');
  }
  if (table.file !== undefined) return { kind: 'file', path: table.file };
  if (table.env !== undefined) return { kind: 'env', variable: table.env };
  if (table.systemd !== undefined) return { kind: 'systemd', name: table.systemd };
  if (table.command !== undefined) {
    refuseWritable(table.command[0] as string, at(place, 'command'), report);
    return {
      kind: 'command',
      argv: table.command as [string, ...string[]],
      ttlMs: table.ttl ?? DEFAULT_TTL_MS,
      timeoutMs: table.timeout ?? DEFAULT_COMMAND_TIMEOUT_MS,
    };
  }
  report.problem(place, 'does not say where the secret comes from', 'add file, env, systemd or command');
  return undefined;
}

/** Whoever may write the program decides what runs as the proxy. A program that is not there yet is no fault here. */
function refuseWritable(program: string, place: Place, report: Report): void {
  const stat = statSync(program, { throwIfNoEntry: false });
  if (stat !== undefined && (stat.mode & 0o022) !== 0)
    report.problem(place, 'the program is writable by its group or others', 'chmod go-w it');
}
