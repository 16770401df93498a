/** Writing TOML for people: strings, lists and endpoint entries on one line. */
import type { EndpointEntry } from '../proxy/rules.ts';

/** A basic string; JSON's escapes are TOML's for everything but DEL. */
export function tomlString(text: string): string {
  return JSON.stringify(text).replaceAll('\x7f', '\\u007f');
}

export function tomlList(items: readonly string[]): string {
  return `[${items.map(tomlString).join(', ')}]`;
}

/** `{ methods = ["GET"], paths = ["/user"] }` */
export function endpointToml(entry: EndpointEntry): string {
  const parts = [`methods = ${tomlList(entry.methods)}`, `paths = ${tomlList(entry.paths)}`];
  if (entry.query !== undefined) parts.push(`query = ${tomlList(entry.query)}`);
  if (entry.websocket) parts.push('websocket = true');
  if (entry.allow_encoded_slash) parts.push('allow_encoded_slash = true');
  return `{ ${parts.join(', ')} }`;
}

/** Longest line of a printed entry; beyond, its paths stand one a line (a list may span lines in TOML). */
const MAX_LINE = 100;

/** `endpoints = [ … ]` with one entry a line. */
export function endpointsToml(key: string, entries: readonly EndpointEntry[]): string {
  if (entries.length === 0) return `${key} = []`;
  return `${key} = [\n${entries.map((entry) => `  ${foldPaths(endpointToml(entry), entry.paths)},\n`).join('')}]`;
}

function foldPaths(line: string, paths: readonly string[]): string {
  if (line.length <= MAX_LINE) return line;
  const lines = paths.map((path) => `    ${tomlString(path)},\n`);
  return line.replace(tomlList(paths), () => `[\n${lines.join('')}  ]`);
}
