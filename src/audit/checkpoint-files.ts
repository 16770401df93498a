/**
 * Checkpoints as they were kept: in the log's directory, on another disk, or as the lines of a journal. Files are read
 * line by line, and of each checkpoint only what verification compares is kept.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { createNoteReader, type Note, parseNotes, type Verifier } from './checkpoint.ts';

/** What a checkpoint says of one record. */
export interface Pin {
  readonly head: string;
  /** It was kept outside of the log's directory. */
  isAnchor: boolean;
  /** Of the note that was found good. */
  readonly signature: string;
}

export interface CheckpointSet {
  /** Whose signature they have, and those in the log itself must have. */
  readonly verifier: Verifier;
  /** Number of a record -> what checkpoints say its hash is. */
  readonly pins: ReadonlyMap<number, readonly Pin[]>;
  /** How many come from outside of the directory. */
  readonly anchors: () => number;
  /** Those with this log's name and a wrong signature, and where they stand. */
  readonly forged: readonly { readonly file: string; readonly size: number }[];
  /** Names of other logs whose checkpoints come from outside -> the newest size of each. */
  readonly foreign: ReadonlyMap<string, number>;
  /** Adds what stands in a file; read the anchors first. @throws Error with the system's code */
  readonly addFile: (path: string, isAnchor: boolean) => void;
}

const CHUNK = 1024 * 1024;
/** Longest line that is looked at; a journal's can hold anything. */
const MAX_LINE = 64 * 1024;
/** Most faults and names that are kept. */
const MAX_KEPT = 1_000;

export function createCheckpointSet(verifier: Verifier): CheckpointSet {
  const pins = new Map<number, Pin[]>();
  const forged: { file: string; size: number }[] = [];
  const foreign = new Map<string, number>();
  let anchors = 0;

  function add(note: Note, file: string, isAnchor: boolean): void {
    const { origin, size, head } = note;
    if (origin !== verifier.origin) {
      if (isAnchor && (foreign.size < MAX_KEPT || foreign.has(origin)))
        foreign.set(origin, Math.max(size, foreign.get(origin) ?? 0));
      return;
    }
    const known = pins.get(size);
    const same = known?.find((pin) => pin.head === head);
    const isKnown = same?.signature === note.signature;
    if (isKnown && (same.isAnchor || !isAnchor)) return;
    if (!isKnown && !verifier.isSignedBy(note)) {
      if (forged.length < MAX_KEPT) forged.push({ file, size });
      return;
    }
    if (isAnchor) anchors++;
    if (same !== undefined) same.isAnchor ||= isAnchor;
    else pins.set(size, [...(known ?? []), { head, isAnchor, signature: note.signature }]);
  }

  return {
    verifier,
    pins,
    anchors: () => anchors,
    forged,
    foreign,
    addFile(path, isAnchor) {
      for (const note of readNotes(path)) add(note, path, isAnchor);
    },
  };
}

/** The checkpoints in a file, whatever stands between them. */
function* readNotes(path: string): Generator<Note> {
  const reader = createNoteReader();
  for (const line of readTextLines(path)) {
    if (line.includes('audit_checkpoint')) yield* parseNotes(`${noteInEvent(line)}\n`);
    yield* reader.read(line) ?? [];
  }
  yield* reader.end() ?? [];
}

/**
 * The member `note` of an event as stderr has it, in either of its formats and with whatever a journal puts before it;
 * empty if there is none.
 */
function noteInEvent(line: string): string {
  const quoted = /\bnote=("(?:[^"\\]|\\.)*")/.exec(line)?.[1];
  const json = quoted === undefined ? line.slice(Math.max(0, line.indexOf('{'))) : `{"note":${quoted}}`;
  try {
    const event = JSON.parse(json) as { event?: unknown; note?: unknown; MESSAGE?: unknown };
    const isOurs = quoted !== undefined || event.event === 'audit_checkpoint';
    if (isOurs && typeof event.note === 'string') return event.note;
    // journalctl --output=json
    return typeof event.MESSAGE === 'string' ? noteInEvent(event.MESSAGE) : '';
  } catch {
    return '';
  }
}

/** Whole lines only: the last one may still be written. */
function* readTextLines(path: string): Generator<string> {
  const fd = openSync(path, 'r');
  try {
    const buffer = Buffer.alloc(CHUNK);
    const decoder = new StringDecoder('utf8');
    let rest = '';
    for (let length = readSync(fd, buffer); length > 0; length = readSync(fd, buffer)) {
      const lines = (rest + decoder.write(buffer.subarray(0, length))).split('\n');
      rest = lines.pop() ?? '';
      if (rest.length > MAX_LINE) rest = rest.slice(0, MAX_LINE);
      yield* lines;
    }
  } finally {
    closeSync(fd);
  }
}
