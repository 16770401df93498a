/** Asks both verifiers that were written from docs/audit.md alone about a log: they have to agree with each other first. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AuditVerdict, verifyAudit } from './audit-verifier.ts';

const SCRIPT = join(import.meta.dir, 'audit_verify.py');

/** Why the Python verifier cannot be asked, or nothing. */
export const withoutPython: string | undefined =
  spawnSync('python3', ['-c', '']).status === 0 ? undefined : 'python3 is not there';

export interface AgreementOptions {
  /** The path of the chain's key; default: `hmac.key` in the directory. */
  readonly key?: string;
  /** The verifier key: only the verifier in TypeScript can check signatures, so it is asked twice. */
  readonly publicKey?: string;
}

/**
 * What both say about the log. Throws where they differ; without python3 it is what the one in TypeScript says.
 * `anchors` are texts of checkpoint files.
 */
export function bothAgree(
  directory: string,
  anchors: readonly string[] = [],
  { key = join(directory, 'hmac.key'), publicKey }: AgreementOptions = {},
): AuditVerdict {
  const verdict = verifyAudit(directory, { key, anchors });
  if (withoutPython === undefined) {
    const other = askPython(directory, anchors, key);
    const [ours, theirs] = [JSON.stringify(verdict), JSON.stringify(other)];
    if (ours !== theirs) throw new Error(`${directory}: TypeScript says ${ours}, Python says ${theirs}`);
  }
  return publicKey === undefined ? verdict : verifyAudit(directory, { key, anchors, publicKey });
}

export function askPython(directory: string, anchors: readonly string[], key: string): AuditVerdict {
  const scratch = mkdtempSync(join(tmpdir(), 'iso-anchors-'));
  try {
    const files = anchors.map((content, index) => {
      const file = join(scratch, String(index));
      writeFileSync(file, content);
      return file;
    });
    const { status, stdout, stderr } = spawnSync('python3', [SCRIPT, directory, ...files, '--key', key], {
      encoding: 'utf8',
    });
    if (status !== 0 && status !== 1) throw new Error(`audit_verify.py ended with ${status}: ${stderr}`);
    const verdict: AuditVerdict = JSON.parse(stdout);
    if (verdict.signatures !== 'not checked' || verdict.ok !== (status === 0))
      throw new Error(`audit_verify.py contradicts itself: ${status} ${stdout}`);
    return verdict;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
