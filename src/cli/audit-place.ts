/** Where the log is that an audit command reads, and with which keys. */
import { existsSync } from 'node:fs';
import { parseVerifierKey, type Signer, type Verifier } from '../audit/checkpoint.ts';
import { AuditKeyError, hmacKeyPath, readSigner as openSigner, readHmacKey } from '../audit/keys.ts';
import { auditDirectory } from '../audit/segments.ts';
import type { AuditConfig } from '../config/effective.ts';
import { loadConfig } from '../config/load.ts';
import { CliError, EXIT, type Io } from './command.ts';

/** Options that every command here takes. */
export const PLACE_OPTIONS = {
  config: { type: 'string' },
  dir: { type: 'string' },
  json: { type: 'boolean' },
} as const;

export interface AuditPlace {
  readonly directory: string;
  /** Undefined where the directory was named, or nothing is configured. */
  readonly settings: Pick<AuditConfig, 'key' | 'checkpointFile'> | undefined;
}

/** @throws CliError, ConfigError */
export function findAuditPlace(
  values: { readonly config?: string | undefined; readonly dir?: string | undefined },
  io: Io,
): AuditPlace {
  if (values.dir === undefined) {
    const { server, audit } = loadConfig({ file: values.config, env: io.env });
    return { directory: auditDirectory(server.stateDir), settings: audit };
  }
  if (values.config !== undefined)
    throw new CliError(EXIT.usage, '--config and --dir exclude each other', 'isoproxy help audit');
  return { directory: values.dir, settings: undefined };
}

/** @throws CliError (74) if there is no directory: an empty log and none are not the same */
export function requireDirectory({ directory }: AuditPlace): void {
  if (!existsSync(directory))
    throw new CliError(
      EXIT.audit,
      `there is no audit log: ${directory} does not exist`,
      'if there was one, it was removed; only checkpoints that are kept elsewhere can tell how long it was',
    );
}

/** The key of the chain. @throws CliError (74) */
export function readChainKey({ directory, settings }: AuditPlace, given: string | undefined, io: Io) {
  const path = given ?? hmacKeyPath(directory, settings?.key, io.env['CREDENTIALS_DIRECTORY']);
  if (path === undefined)
    throw new CliError(
      EXIT.audit,
      'the key of the chain is with the service only',
      'name a copy: --key FILE',
    );
  return readKey(() => readHmacKey(path), '--key FILE');
}

/** The key that signs checkpoints. @throws CliError (74) */
export function readSigner({ directory }: AuditPlace): Signer {
  return readKey(() => openSigner(directory), '--public-key FILE');
}

/** The public key: as it was given, or that of the directory's private one. @throws CliError (64, 74) */
export function readVerifier(
  place: AuditPlace,
  given: string | undefined,
  read: (path: string) => string,
): Verifier {
  if (given === undefined) return parseVerifierKey(readSigner(place).verifierKey) as Verifier;
  const verifier = parseVerifierKey(given) ?? parseVerifierKey(read(given));
  if (verifier !== undefined) return verifier;
  throw new CliError(EXIT.audit, 'that is no public key of an audit log', 'isoproxy audit key prints it');
}

function readKey<T>(read: () => T, option: string): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof AuditKeyError) throw new CliError(EXIT.audit, error.message, option);
    throw error;
  }
}

/** Runs what reads files; a failure names the file and the system's code. @throws CliError (74) */
export function reading<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    const { code, path } = error as { code?: string; path?: string };
    if (code === undefined) throw error;
    throw new CliError(EXIT.audit, `${path ?? what}: cannot be read (${code})`);
  }
}
