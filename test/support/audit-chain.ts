// The audit log of a running isoproxy, as an auditor reads it.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { GENESIS, type ReadRecord, readRecord } from '../../src/audit/record.ts';
import type { Workspace } from './workspace.ts';

export const auditDir = (workspace: Workspace): string => workspace.path('state/audit');

export function segmentPaths(workspace: Workspace): string[] {
  const directory = auditDir(workspace);
  return readdirSync(directory)
    .filter((name) => name.startsWith('log-'))
    .sort()
    .map((name) => join(directory, name));
}

/** All whole lines, each a right record in one chain without gaps; throws where it is not. */
export function readChain(workspace: Workspace): ReadRecord[] {
  const key = Buffer.from(readFileSync(join(auditDir(workspace), 'hmac.key'), 'latin1').trim());
  const records: ReadRecord[] = [];
  for (const path of segmentPaths(workspace)) {
    for (const line of readFileSync(path, 'latin1').split('\n').slice(0, -1)) {
      if (line.length > 1023) throw new Error(`a line of ${line.length} bytes`);
      const read = readRecord(line, key);
      const before = records.at(-1) ?? { seq: 0, hash: GENESIS };
      if (read?.isRight !== true) throw new Error(`record after ${before.seq} is not right: ${line}`);
      if (read.record.seq !== before.seq + 1 || read.record.prev !== before.hash)
        throw new Error(`record ${read.record.seq} does not follow ${before.seq}`);
      records.push(read.record);
    }
  }
  return records;
}
