// A record as text, where tests and benches want a line and not a batch.

import { MAX_LINE, type RecordBody, type RecordPlace, writeRecord } from '../../src/audit/record.ts';

/** The line of a record, without its newline, and its hash. */
export function sealRecord(
  place: RecordPlace,
  body: RecordBody,
  prev: string,
  key: Uint8Array,
): { readonly line: string; readonly hash: string } {
  const target = Buffer.alloc(MAX_LINE);
  const { end, hash } = writeRecord(target, 0, place, body, prev, key);
  return { line: target.toString('latin1', 0, end - 1), hash };
}
