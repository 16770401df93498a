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
  /** Base64 of key id and signature. */
  readonly signature: string;
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
      const signature = Buffer.from(note.signature, 'base64');
      const isOurs = signature.subarray(0, KEY_ID_BYTES).equals(keyId(origin, publicKey));
      return (
        isOurs &&
        note.origin === origin &&
        verify(null, Buffer.from(note.text), key, signature.subarray(KEY_ID_BYTES))
      );
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

/**
 * The notes in a file, in its order; what is no checkpoint is left out, for the file may be a journal's, or torn at its
 * end.
 */
export function parseNotes(file: string): Note[] {
  const pattern =
    /^(isoproxy-audit\/[0-9a-f]{16})\n([1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\nfirst ([1-9][0-9]{0,15})\ntime (\S+)\n\n\u2014 \1 ([A-Za-z0-9+/=]+)\n/gm;
  return [...file.matchAll(pattern)].map((match) => {
    const [whole, origin = '', size = '', head = '', first = '', time = '', signature = ''] = match;
    return {
      origin,
      size: Number(size),
      head: Buffer.from(head, 'base64').toString('hex'),
      first: Number(first),
      time,
      text: whole.slice(0, whole.indexOf('\n\n') + 1),
      signature,
    };
  });
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
