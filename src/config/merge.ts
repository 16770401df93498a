/** Lays the main file and the included ones beside each other; what stands in two of them is refused. */
import { at, type Place, type Report } from './place.ts';
import type { DocumentTable } from './schema.ts';

/** A file that passed the schema. */
export interface Document {
  readonly table: DocumentTable;
  /** The file itself: the empty path in it. */
  readonly root: Place;
}

/** A table and where it was written. */
export interface Written<T> {
  readonly table: T;
  readonly place: Place;
}

/** A table under a name that the operator chose. */
export interface Named<T> extends Written<T> {
  readonly name: string;
}

type Part<K extends keyof DocumentTable> = NonNullable<DocumentTable[K]>;

export interface Merged {
  readonly server: Written<Part<'server'>> | undefined;
  readonly limits: Written<Part<'limits'>> | undefined;
  readonly audit: Written<Part<'audit'>> | undefined;
  readonly log: Written<Part<'log'>> | undefined;
  readonly metrics: Written<Part<'metrics'>> | undefined;
  readonly listeners: readonly Written<Part<'listeners'>[number]>[];
  readonly providers: readonly Named<Part<'providers'>[string]>[];
  readonly profiles: readonly Named<Part<'network_profiles'>[string]>[];
}

export function mergeDocuments(documents: readonly Document[], report: Report): Merged {
  return {
    server: single(documents, 'server', report),
    limits: single(documents, 'limits', report),
    audit: single(documents, 'audit', report),
    log: single(documents, 'log', report),
    metrics: single(documents, 'metrics', report),
    listeners: documents.flatMap(({ table, root }) =>
      (table.listeners ?? []).map((listener, index) => ({
        table: listener,
        place: at(root, 'listeners', index),
      })),
    ),
    providers: named(documents, 'providers', report),
    profiles: named(documents, 'network_profiles', report),
  };
}

/** The one table of that name; a second one would silently win or lose. */
function single<K extends 'server' | 'limits' | 'audit' | 'log' | 'metrics'>(
  documents: readonly Document[],
  key: K,
  report: Report,
): Written<Part<K>> | undefined {
  let found: Written<Part<K>> | undefined;
  for (const { table, root } of documents) {
    const part = table[key] as Part<K> | undefined;
    if (part === undefined) continue;
    const place = at(root, key);
    if (found === undefined) found = { table: part, place };
    else report.problem(place, `stands in ${found.place.source.name} too`, 'keep it in one file');
  }
  return found;
}

function named<K extends 'providers' | 'network_profiles'>(
  documents: readonly Document[],
  key: K,
  report: Report,
): Named<Part<K>[string]>[] {
  const found = new Map<string, Named<Part<K>[string]>>();
  for (const { table, root } of documents) {
    for (const [name, part] of Object.entries(table[key] ?? {})) {
      const place = at(root, key, name);
      const first = found.get(name);
      if (first === undefined) found.set(name, { name, table: part as Part<K>[string], place });
      else
        report.problem(
          place,
          `stands in ${first.place.source.name} too`,
          'keep it in one file, or choose another name',
        );
    }
  }
  return [...found.values()];
}
