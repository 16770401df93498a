/** What `check --secrets` does beyond checking: it reads every secret, as `serve` would. */
import type { Config } from '../config/effective.ts';
import { runtime } from '../runtime/index.ts';
import { findSecretProblems } from '../startup.ts';
import { requireCleanStart } from './clean-start.ts';
import type { Io } from './command.ts';

/** One line for each secret that cannot be used. */
export function checkSecrets(config: Config, io: Io): Promise<string[]> {
  requireCleanStart(io);
  return findSecretProblems(config, runtime, { env: io.env, now: () => performance.now() });
}
