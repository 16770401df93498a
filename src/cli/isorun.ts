/**
 * Reads the `credentials_v2` document of Isorun (https://docs.isorun.ai, "Endpoint Rules"): services by
 * name, each with its key and its endpoint rules. Keys are read past, never kept.
 */
import { formatKey, type KeyPath } from '../config/config-error.ts';
import { PRESETS } from '../config/presets.ts';
import { suggestHint } from '../config/suggest.ts';
import { compilePattern, PatternError } from '../proxy/pattern.ts';
import { type EndpointEntry, METHODS } from '../proxy/rules.ts';

/** A document that cannot be converted; the message names the key, never a value. */
export class ImportError extends Error {
  readonly hint: string | undefined;

  constructor(path: KeyPath, message: string, hint?: string) {
    super(`${formatKey(path)}: ${message}`);
    this.hint = hint;
  }
}

export interface ImportedService {
  /** The service's name, which is also the preset's. */
  readonly name: string;
  /** Undefined where the document lists none: the preset's own list stays in force. */
  readonly endpoints: readonly EndpointEntry[] | undefined;
}

export interface ImportedDocument {
  readonly services: readonly ImportedService[];
  /** Keys beside credentials_v2: they describe the virtual machine or its network. */
  readonly leftOut: readonly string[];
}

type Table = Readonly<Record<string, unknown>>;

/** @throws ImportError for anything that this shape does not have. */
export function readIsorun(json: unknown): ImportedDocument {
  const whole = tableOf(json, []);
  const wrapped = Object.hasOwn(whole, 'credentials_v2');
  const path: KeyPath = wrapped ? ['credentials_v2'] : [];
  const services = tableOf(wrapped ? whole['credentials_v2'] : whole, path);
  const names = Object.keys(services);
  if (names.length === 0) throw new ImportError(path, 'holds no service');
  return {
    services: names.map((name) => readService(name, services[name], [...path, name])),
    leftOut: wrapped ? Object.keys(whole).filter((key) => key !== 'credentials_v2') : [],
  };
}

function tableOf(value: unknown, path: KeyPath): Table {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Table;
  throw new ImportError(path.length === 0 ? ['document'] : path, 'must be an object');
}

function refuseUnknown(table: Table, known: readonly string[], path: KeyPath): void {
  for (const key of Object.keys(table)) {
    if (!known.includes(key))
      throw new ImportError([...path, key], 'unknown key', suggestHint(key, known, 'known keys'));
  }
}

function readService(name: string, value: unknown, path: KeyPath): ImportedService {
  if (!Object.hasOwn(PRESETS, name)) {
    const near = suggestHint(name, Object.keys(PRESETS), 'presets');
    throw new ImportError(
      path,
      'no preset of that name',
      `${near}; isoproxy init --custom makes a provider for any other API`,
    );
  }
  const service = tableOf(value, path);
  refuseUnknown(service, ['key', 'endpoints'], path);
  if (typeof service['key'] !== 'string') throw new ImportError([...path, 'key'], 'must be a string');
  const list = service['endpoints'] ?? [];
  if (!Array.isArray(list)) throw new ImportError([...path, 'endpoints'], 'must be a list');
  const entries = list.map((entry, index) => readEntry(entry, [...path, 'endpoints', index]));
  return { name, endpoints: entries.length === 0 ? undefined : withoutRepeats(entries) };
}

function readEntry(value: unknown, path: KeyPath): EndpointEntry {
  const entry = tableOf(value, path);
  refuseUnknown(entry, ['methods', 'paths'], path);
  const methods = stringsOf(entry['methods'], [...path, 'methods']).map((method) => method.toUpperCase());
  const paths = stringsOf(entry['paths'], [...path, 'paths']);
  if (paths.length === 0)
    throw new ImportError([...path, 'paths'], 'an empty list is not converted', 'list the paths, or ["/*"]');
  if (methods.some((method) => method !== '*' && !(METHODS as readonly string[]).includes(method)))
    throw new ImportError(
      [...path, 'methods'],
      'holds a method that is never forwarded',
      `methods: ${METHODS.join(', ')}`,
    );
  const all = methods.length === 0 || methods.includes('*');
  const patterns = paths.flatMap((text, index) => convertPath(text, [...path, 'paths', index]));
  return { methods: all ? ['*'] : [...new Set(methods)], paths: [...new Set(patterns)] };
}

function stringsOf(value: unknown, path: KeyPath): string[] {
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value;
  throw new ImportError(path, value === undefined ? 'required' : 'must be a list of strings');
}

/** A plain path is a prefix there: it becomes itself and everything below. A glob becomes a pattern or is refused. */
function convertPath(text: string, path: KeyPath): string[] {
  const glob = text.replace(/\/\*\*$/, '/*');
  const patterns = glob.includes('*') ? [glob] : [glob, glob.endsWith('/') ? `${glob}*` : `${glob}/*`];
  try {
    for (const pattern of patterns) compilePattern(pattern);
  } catch (error) {
    if (error instanceof PatternError) throw new ImportError(path, error.message, 'write the rule by hand');
    throw error;
  }
  return patterns;
}

function withoutRepeats(entries: readonly EndpointEntry[]): EndpointEntry[] {
  const seen = new Map(
    entries.map((entry) => [JSON.stringify([[...entry.methods].sort(), [...entry.paths].sort()]), entry]),
  );
  return [...seen.values()];
}
