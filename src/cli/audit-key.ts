/** `isoproxy audit key`: the public key of the checkpoints. */
import { readOptions } from './args.ts';
import { findAuditPlace, PLACE_OPTIONS, readSigner, requireDirectory } from './audit-place.ts';
import { EXIT, type Io } from './command.ts';

export function key(args: readonly string[], io: Io): number {
  const values = readOptions('audit', args, PLACE_OPTIONS);
  const place = findAuditPlace(values, io);
  requireDirectory(place);
  const { origin, verifierKey } = readSigner(place);
  io.stdout(values.json ? `${JSON.stringify({ origin, verifier_key: verifierKey })}\n` : `${verifierKey}\n`);
  return EXIT.ok;
}
