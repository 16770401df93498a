/** Runs the schema over a parsed file and puts every fault into our words, without any value. */
import * as v from 'valibot';
import { at, type Place, type Report } from './place.ts';
import { type DocumentTable, documentSchema } from './schema.ts';
import { suggestHint } from './suggest.ts';

/** Names that a JavaScript object cannot hold safely; valibot's records skip them without a word. */
const UNSAFE_KEYS: readonly string[] = ['__proto__', 'constructor', 'prototype'];

/** Checks one file; undefined if it has faults, which are then in the report. */
export function checkDocument(raw: unknown, root: Place, report: Report): DocumentTable | undefined {
  const faulty = new Set<string>();
  const refuse = (place: Place, message: string, hint?: string) => {
    const id = JSON.stringify(place.path);
    if (faulty.has(id)) return;
    faulty.add(id);
    report.problem(place, message, hint);
  };
  checkShape(documentSchema, raw, root, refuse);
  const result = v.safeParse(documentSchema, raw);
  for (const issue of result.issues ?? []) {
    const place = at(root, ...(issue.path ?? []).map((item) => item.key as string | number));
    // checkShape has already spoken about this key, with a better text.
    const spoken = place.path.some((_, index) => faulty.has(JSON.stringify(place.path.slice(0, index + 1))));
    if (!spoken) refuse(place, describeIssue(issue));
  }
  return result.success && faulty.size === 0 ? result.output : undefined;
}

type Refuse = (place: Place, message: string, hint?: string) => void;

/**
 * What valibot does not say: all unknown keys (with the likely right one), and lists or dates where a
 * table is meant, which it takes for empty tables.
 */
function checkShape(schema: v.GenericSchema, value: unknown, place: Place, refuse: Refuse): void {
  const kind = unwrap(schema, value);
  if (kind.type === 'array') {
    if (!Array.isArray(value)) return;
    for (const [index, item] of value.entries()) checkShape(kind.item, item, at(place, index), refuse);
  } else if (kind.type === 'strict_object' || kind.type === 'record') {
    if (!isTable(value)) {
      refuse(place, 'must be a table');
      return;
    }
    for (const [key, item] of Object.entries(value)) {
      const below = at(place, key);
      if (UNSAFE_KEYS.includes(key)) refuse(below, 'this name is reserved; choose another');
      else if (kind.type === 'record') checkShape(kind.value, item, below, refuse);
      else if (Object.hasOwn(kind.entries, key))
        checkShape(kind.entries[key] as v.GenericSchema, item, below, refuse);
      else refuseUnknown(key, Object.keys(kind.entries), below, refuse);
    }
  }
}

function refuseUnknown(key: string, known: readonly string[], place: Place, refuse: Refuse): void {
  refuse(place, 'unknown key', suggestHint(key, known, 'known keys'));
}

type Kind =
  | { readonly type: 'array'; readonly item: v.GenericSchema }
  | { readonly type: 'strict_object'; readonly entries: Readonly<Record<string, v.GenericSchema>> }
  | { readonly type: 'record'; readonly value: v.GenericSchema }
  | { readonly type: 'other' };

/** The schema below optional and lazy; a pipe carries the members of its first schema. */
function unwrap(schema: v.GenericSchema, value: unknown): Kind {
  const inner = schema as unknown as {
    readonly type: string;
    readonly wrapped: v.GenericSchema;
    readonly getter: (input: unknown) => v.GenericSchema;
  };
  if (inner.type === 'optional') return unwrap(inner.wrapped, value);
  if (inner.type === 'lazy') return unwrap(inner.getter(value), value);
  if (inner.type === 'array' || inner.type === 'strict_object' || inner.type === 'record')
    return schema as unknown as Kind;
  return { type: 'other' };
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value) as unknown;
  return prototype === null || prototype === Object.prototype;
}

const EXPECTED: Readonly<Record<string, string>> = {
  string: 'must be a string',
  number: 'must be a number',
  boolean: 'must be true or false',
  array: 'must be a list',
  strict_object: 'must be a table',
  record: 'must be a table',
};

/** Our own text for an issue. Only checks carry texts of ours; a schema's own text quotes the value. */
function describeIssue(issue: v.BaseIssue<unknown>): string {
  if (issue.kind !== 'schema') return issue.message;
  const missing = issue.received === 'undefined' && issue.path?.at(-1)?.origin === 'key';
  return missing ? 'required' : (EXPECTED[issue.type] ?? 'of the wrong type');
}
