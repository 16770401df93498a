/** What a configuration comes to, as one short name: records say by it which one judged a request. */
import { createHash } from 'node:crypto';
import type { Config } from './effective.ts';

/**
 * The first 16 hexadecimal digits of the SHA-256 of the effective configuration: equal for two files that come to the
 * same. Where secrets are is part of it; what they are is not known here.
 */
export function fingerprint({ file: _file, warnings: _warnings, ...effective }: Config): string {
  const json = JSON.stringify(effective, (_key, value: unknown) => {
    if (value instanceof Map) return [...value];
    return value instanceof Set ? [...value] : value;
  });
  return createHash('sha256').update(json).digest('hex').slice(0, 16);
}
