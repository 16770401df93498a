/**
 * Checkpoints: how long the log was, and what its last hash was, signed. A chain cannot show that its end was cut off;
 * a checkpoint that is kept elsewhere can. The text is a C2SP signed note (docs/audit.md).
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign, verify } from 'node:crypto';

export interface Checkpoint {
  /** `isoproxy-audit/<log id>`. */
  readonly origin: string;
  /** Number of the last record that it covers. */
  readonly size: number;
  /** Hash of that record, 64 hexadecimal digits. */
  readonly head: string;
  /** Number of the oldest record that is kept. */
  readonly first: number;
  /** RFC 3339, UTC, ms. */
  readonly time: string;
}

/** A checkpoint as it was read. */
export interface Note extends Checkpoint {
  /** The text that is signed. */
  readonly text: string;
  /** Base64 of key id and signature; where there are several under its name, the first. */
  readonly signature: string;
  /** The others under its name. */
  readonly moreSignatures?: readonly string[];
}

export interface Signer {
  readonly origin: string;
  /** As `isoproxy audit key` prints it. */
  readonly verifierKey: string;
  readonly sign: (checkpoint: Omit<Checkpoint, 'origin'>) => Note;
}

/** A public key with the name that it signs under. */
export interface Verifier {
  readonly origin: string;
  readonly isSignedBy: (note: Note) => boolean;
}

const ED25519 = 0x01;
const KEY_ID_BYTES = 4;
const PUBLIC_KEY_BYTES = 32;
/** SubjectPublicKeyInfo of an Ed25519 key, up to the key itself (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

/** @param pem PKCS #8 private key */
export function createSigner(pem: string): Signer {
  const privateKey = createPrivateKey(pem);
  const publicKey = rawPublicKey(createPublicKey(privateKey));
  const origin = originOf(publicKey);
  const id = keyId(origin, publicKey);
  const encoded = Buffer.concat([Buffer.of(ED25519), publicKey]).toString('base64');
  return {
    origin,
    verifierKey: `${origin}+${id.toString('hex')}+${encoded}`,
    sign(checkpoint) {
      const text = formatText({ ...checkpoint, origin });
      const signature = sign(null, Buffer.from(text), privateKey);
      return {
        ...checkpoint,
        origin,
        text,
        signature: Buffer.concat([id, signature]).toString('base64'),
      };
    },
  };
}

/** Reads a verifier key; undefined if it is none. */
export function parseVerifierKey(text: string): Verifier | undefined {
  const [, origin = '', id = '', encoded = ''] =
    /^(isoproxy-audit\/[0-9a-f]{16})\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(text.trim()) ?? [];
  const bytes = Buffer.from(encoded, 'base64');
  if (bytes.length !== 1 + PUBLIC_KEY_BYTES || bytes[0] !== ED25519) return undefined;
  const publicKey = bytes.subarray(1);
  if (originOf(publicKey) !== origin || keyId(origin, publicKey).toString('hex') !== id) return undefined;
  const key = createPublicKey({
    key: Buffer.concat([SPKI_PREFIX, publicKey]),
    format: 'der',
    type: 'spki',
  });
  return {
    origin,
    isSignedBy(note) {
      if (note.origin !== origin) return false;
      const id = keyId(origin, publicKey);
      return [note.signature, ...(note.moreSignatures ?? [])].some((encoded) => {
        const signature = Buffer.from(encoded, 'base64');
        const isOurs = signature.subarray(0, KEY_ID_BYTES).equals(id);
        return isOurs && verify(null, Buffer.from(note.text), key, signature.subarray(KEY_ID_BYTES));
      });
    },
  };
}

/** The note that a checkpoint record tells of, made anew. */
export function noteOf(record: Readonly<Record<string, unknown>>, origin: string): Note {
  const { size, head, first, signed, signature } = record;
  const checkpoint = {
    origin,
    size: Number(size),
    head: String(head),
    first: Number(first),
    time: String(signed),
  };
  return { ...checkpoint, text: formatText(checkpoint), signature: String(signature) };
}

/** The note as it stands in a file, with the blank line that parts it from the next. */
export function formatNote(note: Note): string {
  return `${note.text}\n\u2014 ${note.origin} ${note.signature}\n\n`;
}

/** Longest note that is read, lines: further text and signatures of others included. */
const MAX_NOTE_LINES = 64;
/** Base64 of four bytes of key id and 64 of signature. */
const SIGNATURE_LENGTH = 92;
const SIGNATURE = /^\u2014 (\S+) ([A-Za-z0-9+/=]+)$/;

/**
 * The notes in a text, in its order; what is no checkpoint is left out, for the file may be a journal's, and a crash may
 * have left one unfinished, at the end or in front of another.
 */
export function parseNotes(text: string): Note[] {
  const reader = createNoteReader();
  // What stands after the last newline may be unfinished.
  const lines = text.split('\n').slice(0, -1);
  const notes = lines.flatMap((line) => reader.read(line) ?? []);
  return [...notes, ...(reader.end() ?? [])];
}

/** Reads notes line by line; a note is given back with the line behind it. */
export function createNoteReader(): {
  readonly read: (line: string) => Note[] | undefined;
  readonly end: () => Note[] | undefined;
} {
  let lines: string[] | undefined;

  function finish(): Note[] | undefined {
    const note = lines === undefined ? undefined : parseNote(lines);
    lines = undefined;
    return note === undefined ? undefined : [note];
  }

  return {
    end: finish,
    read(line) {
      if (/^isoproxy-audit\/[0-9a-f]{16}$/.test(line)) {
        const before = finish();
        lines = [line];
        return before;
      }
      if (lines === undefined) return undefined;
      const isSigned = lines.at(-1)?.startsWith('\u2014 ') ?? false;
      if (isSigned && !SIGNATURE.test(line)) return finish();
      if (lines.push(line) > MAX_NOTE_LINES) lines = undefined;
      return undefined;
    },
  };
}

function parseNote(lines: readonly string[]): Note | undefined {
  const end = lines.indexOf('');
  if (end === -1) return undefined;
  const text = lines
    .slice(0, end)
    .map((line) => `${line}\n`)
    .join('');
  const [, origin = '', size = '', head = '', first = '', time = ''] =
    /^(\S+)\n([1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\nfirst ([1-9][0-9]{0,15})\ntime (\S+)\n/.exec(text) ??
    [];
  const signatures = lines.slice(end + 1).map((line) => SIGNATURE.exec(line));
  // One of another length is one that a crash left unfinished.
  const isOwn = ([, name, encoded]: RegExpExecArray) =>
    name === origin && encoded?.length === SIGNATURE_LENGTH;
  const own = signatures.flatMap((match) => (match && isOwn(match) ? [match[2] as string] : []));
  const [signature, ...moreSignatures] = own;
  if (origin === '' || signature === undefined) return undefined;
  return {
    origin,
    size: Number(size),
    head: Buffer.from(head, 'base64').toString('hex'),
    first: Number(first),
    time,
    text,
    signature,
    ...(moreSignatures.length > 0 && { moreSignatures }),
  };
}

function formatText({ origin, size, head, first, time }: Checkpoint): string {
  return `${origin}\n${size}\n${Buffer.from(head, 'hex').toString('base64')}\nfirst ${first}\ntime ${time}\n`;
}

function rawPublicKey(key: KeyObject): Buffer {
  return key.export({ format: 'der', type: 'spki' }).subarray(SPKI_PREFIX.length);
}

function originOf(publicKey: Uint8Array): string {
  return `isoproxy-audit/${createHash('sha256').update(publicKey).digest('hex').slice(0, 16)}`;
}

function keyId(origin: string, publicKey: Uint8Array): Buffer {
  return createHash('sha256')
    .update(`${origin}\n`)
    .update(Buffer.of(ED25519))
    .update(publicKey)
    .digest()
    .subarray(0, KEY_ID_BYTES);
}
