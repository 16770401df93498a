/** The keys of the log: the one that chains it, and the one that signs its checkpoints. Made when they are not there. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../system-code.ts';
import { createSigner, parseVerifierKey, type Signer } from './checkpoint.ts';

const HMAC_KEY_FILE = 'hmac.key';
const SIGNING_KEY_FILE = 'signing.key';
/** Shortest key of the chain, bytes: what HMAC-SHA-256 can use of one. */
const MIN_KEY_BYTES = 32;

/** A key that is missing, too short or not one. The message names the file, and nothing that stands in it. */
export class AuditKeyError extends Error {}

/**
 * The key of the chain that stands in a file: its content without one trailing newline.
 * @throws AuditKeyError
 */
export function readHmacKey(path: string): Uint8Array {
  const content = read(path);
  const key = content.at(-1) === 0x0a ? content.subarray(0, -1) : content;
  if (key.length < MIN_KEY_BYTES)
    throw new AuditKeyError(`${path}: an audit key has ${MIN_KEY_BYTES} bytes or more`);
  return key;
}

/** The private key of the checkpoints, PEM. @throws AuditKeyError */
export function readSigningKey(directory: string): string {
  return read(signingKeyPath(directory)).toString('latin1');
}

/** What signs the checkpoints. @throws AuditKeyError */
export function readSigner(directory: string): Signer {
  const pem = readSigningKey(directory);
  try {
    const signer = createSigner(pem);
    if (parseVerifierKey(signer.verifierKey) !== undefined) return signer;
  } catch {
    // What a parser says of a key may quote it.
  }
  throw new AuditKeyError(`${signingKeyPath(directory)}: no Ed25519 private key`);
}

/** Where the key of the chain is, if it is not the one in the log's directory. */
export type KeyPlace =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'systemd'; readonly name: string };

/** The file of the key of the chain; undefined for a systemd credential where there are none. */
export function hmacKeyPath(
  directory: string,
  place: KeyPlace | undefined,
  credentials: string | undefined,
): string | undefined {
  if (place === undefined) return join(directory, HMAC_KEY_FILE);
  if (place.kind === 'file') return place.path;
  return credentials === undefined ? undefined : join(credentials, place.name);
}

function signingKeyPath(directory: string): string {
  return join(directory, SIGNING_KEY_FILE);
}

/** Makes the key of the chain; one that is there stays. @throws Error with the system's code */
export function makeHmacKey(directory: string): void {
  make(join(directory, HMAC_KEY_FILE), () => `${randomBytes(32).toString('hex')}\n`);
}

/** Makes the key of the checkpoints; one that is there stays. @throws Error with the system's code */
export function makeSigningKey(directory: string): void {
  make(signingKeyPath(directory), () => {
    const { privateKey } = generateKeyPairSync('ed25519');
    return privateKey.export({ format: 'pem', type: 'pkcs8' });
  });
}

/** Whole or not at all: a key that a crash left half would be one for ever. */
function make(path: string, content: () => string | Buffer): void {
  if (existsSync(path)) return;
  const temporary = `${path}.new`;
  const { O_CREAT, O_TRUNC, O_WRONLY, O_NOFOLLOW } = constants;
  const fd = openSync(temporary, O_CREAT | O_TRUNC | O_WRONLY | O_NOFOLLOW, 0o600);
  try {
    const bytes = Buffer.from(content());
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
}

function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new AuditKeyError(`${path}: cannot be read (${systemCode(error)})`);
  }
}
