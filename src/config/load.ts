/**
 * From the file to the effective configuration: find, read, parse, check, merge, complete, compile. Every
 * problem goes into one report; a configuration with a problem is never used.
 */
import { resolve } from 'node:path';
import process from 'node:process';
import { parse, TomlError } from 'smol-toml';
import { compileDocuments } from './compile.ts';
import { ValueError } from './config-error.ts';
import type { Environment } from './directories.ts';
import type { Config } from './effective.ts';
import { createLocator } from './locate.ts';
import type { Document } from './merge.ts';
import { at, createReport, type Place, type Report, type Source } from './place.ts';
import { checkDocument } from './schema-check.ts';
import { findConfigFile } from './search.ts';
import { expandInclude, readConfigFile } from './source-file.ts';

export interface LoadOptions {
  /** `--config`; undefined = search as the contract says. */
  readonly file?: string | undefined;
  readonly env: Environment;
  /** User id that decides the default directories; default: the process's. */
  readonly uid?: number | undefined;
}

/**
 * Loads the configuration. Reads no secret and dials nothing.
 * @throws ConfigError with all problems that were found.
 */
export function loadConfig(options: LoadOptions): Config {
  const { env } = options;
  const report = createReport();
  const name = findConfigFile(options.file, env);
  const main = readDocument(name, resolve(name), undefined, report);
  // Without its main file, or with faults in it, there is nothing to include into.
  report.stopOnProblems();
  if (main === undefined) throw new Error('a document without problems is missing');
  const included = readIncludes(main, report);
  report.stopOnProblems();
  const isRoot = (options.uid ?? process.getuid?.()) === 0;
  return compileDocuments([main, ...included], env, isRoot, report);
}

function readIncludes(main: Document, report: Report): Document[] {
  const seen = new Set([main.root.source.path]);
  const documents: Document[] = [];
  for (const [index, pattern] of (main.table.include ?? []).entries()) {
    const place = at(main.root, 'include', index);
    for (const path of expand(pattern, place, report)) {
      if (seen.has(path)) continue;
      seen.add(path);
      const document = readDocument(path, path, place, report);
      if (document?.table.include !== undefined)
        report.problem(
          at(document.root, 'include'),
          'an included file cannot include',
          'list the files in the main file',
        );
      if (document !== undefined) documents.push(document);
    }
  }
  return documents;
}

function expand(pattern: string, place: Place, report: Report): string[] {
  try {
    const paths = expandInclude(pattern);
    if (paths.length === 0) report.warning(place, 'matches no file');
    return paths;
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    report.problem(place, error.message);
    return [];
  }
}

/** Reads, parses and checks one file; undefined if that failed, which is then in the report. */
function readDocument(
  name: string,
  path: string,
  includedAt: Place | undefined,
  report: Report,
): Document | undefined {
  let text: string;
  try {
    text = readConfigFile(path);
  } catch (error) {
    if (!(error instanceof ValueError)) throw error;
    const file = { source: sourceOf(name, path, ''), path: [] };
    const hint = includedAt === undefined ? undefined : `it is included by ${includedAt.source.name}`;
    report.problem(file, error.message, hint);
    return undefined;
  }
  try {
    const raw = parse(text);
    const root = { source: sourceOf(name, path, text), path: [] };
    const table = checkDocument(raw, root, report);
    return table === undefined ? undefined : { table, root };
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const source: Source = { name, path, locator: { lineOf: () => error.line } };
    report.problem({ source, path: [] }, describeSyntax(error));
    return undefined;
  }
}

function sourceOf(name: string, path: string, text: string): Source {
  return { name, path, locator: createLocator(text) };
}

/** smol-toml's own message quotes the lines around the fault, where a secret may stand: ours says which kind it is. */
function describeSyntax(error: TomlError): string {
  const known: readonly (readonly [string, string])[] = [
    ['trying to redefine', 'a key or table is defined twice'],
    ['unfinished string', 'a string is not closed'],
    ['control characters', 'a control character or line break stands in a string (is its quote missing?)'],
    ['invalid value', 'the value is not TOML (strings need quotes)'],
  ];
  const kind = known.find(([start]) => error.message.startsWith(`Invalid TOML document: ${start}`));
  return `not valid TOML, column ${error.column}: ${kind?.[1] ?? 'unexpected text'}`;
}
