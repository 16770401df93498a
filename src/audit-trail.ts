/** Opens the audit log of a configuration: keys, lock, recovery, the first record; and what is done from time to time. */
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseVerifierKey, type Verifier } from './audit/checkpoint.ts';
import { checkpointFile, createCheckpoints } from './audit/checkpoints.ts';
import {
  AuditKeyError,
  hmacKeyPath,
  makeHmacKey,
  makeSigningKey,
  readHmacKey,
  readSigner,
} from './audit/keys.ts';
import { lock } from './audit/lock.ts';
import { createAuditLog } from './audit/log.ts';
import { recover } from './audit/recover.ts';
import { createSegmentFiles } from './audit/segment-file.ts';
import { auditDirectory, listSegments } from './audit/segments.ts';
import { createSpace } from './audit/space.ts';
import { createNoTrail, createTrail, SUMMARY_MS, type Trail } from './audit/trail.ts';
import type { Environment } from './config/directories.ts';
import type { AuditConfig, Config } from './config/effective.ts';
import type { Log } from './log.ts';
import { StartError } from './start-error.ts';
import { systemCode } from './system-code.ts';
import { VERSION } from './version.ts';

const TICK_MS = 1_000;
/** Longer than any disk that works takes for a sync, ms. */
const STALL_MS = 10_000;
/** How often a hundredth of the segments is removed, if old enough: a clock that jumps ahead must not empty the log at once, ms. */
const REMOVE_MS = 60_000;

export interface AuditOptions {
  /** The configuration in force: what a reload changes of `[audit]`. */
  readonly config: () => Config;
  readonly env: Environment;
  readonly log: Log;
  readonly now: () => number;
  readonly wallNow: () => number;
}

/**
 * Resolves when the record of the start is on disk.
 * @throws StartError
 */
export async function openAudit(options: AuditOptions): Promise<Trail> {
  const { log, now, wallNow } = options;
  const { server, audit } = options.config();
  if (audit.durability === 'off') return createNoTrail();
  const current = () => options.config().audit;
  const directory = auditDirectory(server.stateDir);
  const release = prepareDirectory(directory);
  try {
    const { key, signer } = openKeys(directory, audit, options.env);
    const bootId = crypto.randomUUID().slice(0, 8);
    const verifier = parseVerifierKey(signer.verifierKey) as Verifier;
    const found = recover({ directory, key, verifier, checkpointFile: audit.checkpointFile, bootId });
    const files = createSegmentFiles(directory);
    const space = createSpace({
      directory,
      maxBytes: () => current().maxBytes,
      listeners: () => options.config().listeners.length,
      retainMs: () => current().retainMs,
      wallNow,
    });
    const checkpoints = createCheckpoints({
      signer,
      files: () => [checkpointFile(directory), current().checkpointFile].filter((file) => file !== undefined),
      every: () => current().checkpointEvery,
      intervalMs: () => current().checkpointIntervalMs,
      first: found.first,
      size: found.checkpointed,
      onNote: ({ text, origin, signature, size }) =>
        log.event('always', 'audit_checkpoint', { size, note: `${text}\n\u2014 ${origin} ${signature}\n` }),
      onFault: (file, code) => log.event('error', 'audit_checkpoint_failed', { file, code }),
      now,
      wallNow,
    });
    const auditLog = createAuditLog({
      files,
      key,
      bootId,
      head: found.head,
      segment: found.segment && files.open(found.segment.first, found.segment.size),
      segmentAgeMs: found.segment === undefined ? 0 : wallNow() - found.segment.bornAt,
      isAsync: audit.durability === 'async',
      stallMs: STALL_MS,
      segmentSize: () => current().segmentSize,
      checkpoints,
      onGrowth: space.grew,
      onFailure: ({ code }) => log.event('error', 'audit_failed', { code }),
      now,
      wallNow,
    });
    if (found.torn !== undefined) auditLog.append({ kind: 'recovered', ...found.torn });
    const logId = signer.origin.slice(signer.origin.indexOf('/') + 1);
    await auditLog.commit({
      kind: 'start',
      version: VERSION,
      log_id: logId,
      durability: audit.durability,
      clean: found.isClean,
    });
    const trail = createTrail({
      log: auditLog,
      space,
      isAsync: audit.durability === 'async',
      maxBytes: () => current().maxBytes,
      checkpointed: checkpoints.size,
      now,
    });

    /** Announced before it is done, so that nobody can take it for a log whose beginning was cut off. */
    async function removeExpired(): Promise<void> {
      for (let left = Math.ceil(listSegments(directory).length / 100); left > 0; left--) {
        const expired = auditLog.failure() === undefined ? space.expired() : undefined;
        if (expired === undefined) return;
        await auditLog.announce(space.firstAfter(expired));
        space.remove(expired);
        log.event('info', 'audit_segment_removed', { segment: expired.name });
      }
    }
    const onRemoveFault = (error: unknown) =>
      log.event('error', 'audit_segment_not_removed', { code: systemCode(error) });
    const remove = () => void removeExpired().catch(onRemoveFault);
    remove();
    const timers = [
      setInterval(auditLog.tick, TICK_MS),
      setInterval(trail.tick, SUMMARY_MS),
      setInterval(remove, REMOVE_MS),
    ];
    return {
      ...trail,
      async close() {
        for (const timer of timers) clearInterval(timer);
        await trail.close();
        release();
      },
    };
  } catch (error) {
    release();
    if (error instanceof StartError) throw error;
    if (error instanceof AuditKeyError) throw new StartError('audit', error.message);
    throw cannotWrite(directory, error);
  }
}

/** Makes the directory and locks it. Returns what releases it. */
function prepareDirectory(directory: string): () => void {
  let release: (() => void) | undefined;
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    if ((statSync(directory).mode & 0o022) !== 0)
      throw new StartError(
        'audit',
        `${directory} is writable by its group or others`,
        `chmod 0700 ${directory}`,
      );
    release = lock(join(directory, 'lock'));
  } catch (error) {
    if (error instanceof StartError) throw error;
    throw cannotWrite(directory, error);
  }
  if (release === undefined)
    throw new StartError(
      'unavailable',
      `another isoproxy writes the audit log in ${directory}`,
      'stop it, or give this instance a server.state_dir of its own',
    );
  return release;
}

/** The keys; made where there is no log yet, because one that is made beside a log would not fit it. */
function openKeys(directory: string, audit: AuditConfig, env: Environment) {
  const isNew = listSegments(directory).length === 0;
  if (isNew) {
    makeSigningKey(directory);
    if (audit.key === undefined) makeHmacKey(directory);
  }
  return {
    key: readHmacKey(keyPath(directory, audit, env)),
    signer: readSigner(directory),
  };
}

/** Where the key of the chain stands. @throws StartError */
function keyPath(directory: string, { key }: AuditConfig, env: Environment): string {
  const path = hmacKeyPath(directory, key, env['CREDENTIALS_DIRECTORY']);
  if (path !== undefined) return path;
  throw new StartError(
    'audit',
    'audit.key: systemd needs $CREDENTIALS_DIRECTORY',
    'start the service with LoadCredential= in its unit',
  );
}

function cannotWrite(directory: string, error: unknown): StartError {
  return new StartError(
    'audit',
    `the audit log in ${directory} cannot be written (${systemCode(error)})`,
    'make room or mend the permissions; without a log of what was asked, nothing is forwarded (docs/audit.md)',
  );
}
