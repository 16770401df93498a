/**
 * The byte forms in which an upstream may echo a secret, compiled into one automaton (Aho-Corasick with a
 * full transition table: one array look-up per byte, no backtracking).
 *
 * Forms: the secret as it is; base64 and base64url of it in the three alignments it can have inside a
 * longer text (which covers a Basic value); hexadecimal in either case. Percent- and JSON-escapes are
 * undone by the scanner in front of the automaton, so they may be mixed with any form.
 */
import type { Secret } from '../credentials/secret.ts';

/** Bytes that begin an escape: `%` and `\`. */
const ESCAPES: readonly number[] = [0x25, 0x5c];

/** Form bytes beyond the public prefix from which a partial match at a chunk's end is held back. */
const HOLD_BACK_BYTES = 16;

/** Of a longer secret (a JWT), this much of its beginning is looked for: an echo of the whole holds it. */
const MAX_FORM_BYTES = 1024;

/** A secret to look for. */
export interface SecretForms {
  readonly secret: Secret;
  /** Length of the public, constant beginning (`sk-ant-api03-`), bytes. */
  readonly publicPrefixLength: number;
}

interface Form {
  readonly text: string;
  /** Form bytes that are public. */
  readonly publicLength: number;
}

export interface ReflectionAutomaton {
  /** Next state by `state * 256 + byte`. State 0 is the start. */
  readonly next: Uint16Array | Uint32Array;
  /** 1 for each byte that means something in the start state: it begins a form, or an escape. */
  readonly begins: Uint8Array;
  /** 1 where a whole form ends. */
  readonly final: Uint8Array;
  /** Length of the shortest form, bytes: no shorter text holds one, and escapes only make a text longer. */
  readonly shortest: number;
  /** How many bytes back the longest tail to be held back begins; 0 = nothing to hold. */
  readonly hold: Uint16Array;
}

/** The automaton for a provider's secrets; undefined if there is none to guard. */
export function buildAutomaton(secrets: readonly SecretForms[]): ReflectionAutomaton | undefined {
  const forms = secrets.flatMap(formsOf);
  return forms.length === 0 ? undefined : compile(forms);
}

function formsOf(entry: SecretForms): Form[] {
  const value = entry.secret.reveal().slice(0, MAX_FORM_BYTES);
  const bytes = new TextEncoder().encode(value);
  const forms: Form[] = [{ text: value, publicLength: entry.publicPrefixLength }];
  // The scanner leaves a doubled backslash alone, so that it cannot hide the escape that follows it.
  if (value.includes('\\'))
    forms.push({ text: value.replaceAll('\\', '\\\\'), publicLength: entry.publicPrefixLength });
  // A header name reaches us in lower case.
  const lower = value.toLowerCase();
  if (lower !== value) forms.push({ text: lower, publicLength: entry.publicPrefixLength });
  for (const hex of [toHex(bytes), toHex(bytes).toUpperCase()]) {
    forms.push({ text: hex, publicLength: entry.publicPrefixLength * 2 });
  }
  for (let alignment = 0; alignment < 3; alignment++)
    forms.push(...base64Forms(bytes, alignment, entry.publicPrefixLength));
  return forms;
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Base64 characters that are wholly made of the first `byteCount` bytes. */
function base64PublicLength(byteCount: number): number {
  return Math.floor((byteCount * 8) / 6);
}

/** The part of base64 text that depends on the secret alone when it starts at byte `alignment` mod 3. */
function base64Forms(bytes: Uint8Array, alignment: number, publicPrefixLength: number): Form[] {
  const padded = new Uint8Array(alignment + bytes.length);
  padded.set(bytes, alignment);
  const encoded = btoa(String.fromCharCode(...padded)).replace(/=+$/, '');
  const skip = Math.ceil((alignment * 8) / 6);
  // The last character mixes in what follows the secret unless it ends on a 3-byte border.
  const whole = Math.floor((padded.length * 8) / 6);
  const text = encoded.slice(skip, whole);
  const publicLength = Math.max(0, base64PublicLength(alignment + publicPrefixLength) - skip);
  const urlSafe = text.replaceAll('+', '-').replaceAll('/', '_');
  return urlSafe === text
    ? [{ text, publicLength }]
    : [
        { text, publicLength },
        { text: urlSafe, publicLength },
      ];
}

interface TrieNode {
  readonly children: Map<number, number>;
  readonly depth: number;
  final: boolean;
  hold: number;
}

function compile(forms: readonly Form[]): ReflectionAutomaton {
  const nodes: TrieNode[] = [{ children: new Map(), depth: 0, final: false, hold: 0 }];
  for (const form of forms) insert(nodes, form);
  const next =
    nodes.length > 0xffff ? new Uint32Array(nodes.length * 256) : new Uint16Array(nodes.length * 256);
  const fail = new Uint32Array(nodes.length);
  const queue: number[] = [];
  for (const [byte, child] of (nodes[0] as TrieNode).children) {
    next[byte] = child;
    queue.push(child);
  }
  for (let head = 0; head < queue.length; head++) {
    const state = queue[head] as number;
    const node = nodes[state] as TrieNode;
    const back = fail[state] as number;
    const backNode = nodes[back] as TrieNode;
    // A shorter suffix may end a form, or be one to hold back, although the longer one is not.
    node.final ||= backNode.final;
    node.hold = Math.max(node.hold, backNode.hold);
    next.copyWithin(state * 256, back * 256, back * 256 + 256);
    for (const [byte, child] of node.children) {
      fail[child] = next[back * 256 + byte] as number;
      next[state * 256 + byte] = child;
      queue.push(child);
    }
  }
  const begins = new Uint8Array(256);
  for (const byte of [...(nodes[0] as TrieNode).children.keys(), ...ESCAPES]) begins[byte] = 1;
  return {
    next,
    begins,
    shortest: Math.min(...forms.map(({ text }) => text.length)),
    final: Uint8Array.from(nodes, (node) => (node.final ? 1 : 0)),
    hold: Uint16Array.from(nodes, (node) => node.hold),
  };
}

function insert(nodes: TrieNode[], form: Form): void {
  let state = 0;
  for (let i = 0; i < form.text.length; i++) {
    const byte = form.text.charCodeAt(i);
    const parent = nodes[state] as TrieNode;
    let child = parent.children.get(byte);
    if (child === undefined) {
      child = nodes.length;
      nodes.push({ children: new Map(), depth: parent.depth + 1, final: false, hold: 0 });
      parent.children.set(byte, child);
    }
    state = child;
    const node = nodes[state] as TrieNode;
    if (node.depth - form.publicLength >= HOLD_BACK_BYTES) node.hold = node.depth;
  }
  (nodes[state] as TrieNode).final = true;
}
