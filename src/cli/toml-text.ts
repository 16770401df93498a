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
  if (entry.allow_encoded_slash) parts.push('allow_encoded_slash = true');
  return `{ ${parts.join(', ')} }`;
}

/** `endpoints = [ … ]` with one entry a line. */
export function endpointsToml(key: string, entries: readonly EndpointEntry[]): string {
  if (entries.length === 0) return `${key} = []`;
  return `${key} = [\n${entries.map((entry) => `  ${endpointToml(entry)},\n`).join('')}]`;
}
