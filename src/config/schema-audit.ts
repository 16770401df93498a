/** `[audit]`: docs/audit.md. */
import * as v from 'valibot';
import { parsePath } from './file-paths.ts';
import { parseCredentialName } from './names.ts';
import { count, duration, size, text, word } from './schema-values.ts';

export const DURABILITIES = ['commit', 'async', 'off'] as const;

const GIB = 1024 ** 3;
const DAY = 86_400_000;

export const auditSchema = v.strictObject({
  /**
   * "commit": a request is forwarded when its record is on disk. "async": records are written in batches, half a second
   * of them may be lost. "off": no audit log; check warns. Default "commit".
   */
  durability: v.optional(word(DURABILITIES)),
  /** A segment ends when it is this large (or a day old), size. Default "64MiB". */
  segment_size: v.optional(size(64 * 1024, 4 * GIB)),
  /** Of all segments, size; near it the noisiest listener is refused first. Default "4GiB". */
  max_bytes: v.optional(size(1024 * 1024, 1024 * GIB)),
  /** Segments whose last record is older are removed, duration. Default "400d". */
  retain: v.optional(duration(60_000, 36_500 * DAY)),
  /** Records between two checkpoints at most. Default 1000. */
  checkpoint_every: v.optional(count(1_000_000)),
  /** Time between two checkpoints at most, while there are new records, duration. Default "60s". */
  checkpoint_interval: v.optional(duration(1_000, DAY)),
  /** A file that checkpoints go to besides the state directory: where this host's thief cannot reach. Default: none. */
  checkpoint_file: v.optional(text(parsePath)),
  /** The key of the chain. Default: made at the first start, in the state directory. */
  key: v.optional(
    v.strictObject({
      /** Path of a file that holds the key alone, 32 bytes or more. */
      file: v.optional(text(parsePath)),
      /** Name of a systemd credential (LoadCredential=). */
      systemd: v.optional(text(parseCredentialName)),
    }),
  ),
});
export type AuditTable = v.InferOutput<typeof auditSchema>;
