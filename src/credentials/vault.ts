/**
 * The credentials of one provider at run time: current secrets for injection, and the automaton that
 * guards answers against them and against those they replaced a moment ago, rebuilt when a secret changes.
 */
import { buildAutomaton, type ReflectionAutomaton } from '../proxy/reflection-forms.ts';
import { type CredentialConfig, MIN_SECRET_BYTES, type Placement } from './credential.ts';
import { publicPrefixLength } from './public-prefix.ts';
import type { Secret } from './secret.ts';
import { createSecretReader, type SourceContext } from './source.ts';

/**
 * How long a replaced value stays guarded, ms. Rotation seldom revokes the old value at once, and an upstream can
 * still echo it: from a cache, in a log of past requests, in the answer to a job that began before.
 */
const RETIRED_MS = 3_600_000;
/** A command may print another value every few seconds; of each credential the latest are guarded. */
const MAX_RETIRED = 2;

/** One set of current values. */
export interface Credentials {
  readonly injections: readonly { readonly placement: Placement; readonly secret: Secret }[];
  /** Undefined when there is nothing to guard. */
  readonly automaton: ReflectionAutomaton | undefined;
}

export interface Vault {
  /** Current values; rejects with SecretError when one cannot be read. */
  readonly current: () => Credentials | Promise<Credentials>;
}

export function createVault(configs: readonly CredentialConfig[], context: SourceContext): Vault {
  const readers = configs.map((config) => createSecretReader(config, context));
  /** Replaced values by credential, the latest first. */
  const retired: Retired[][] = configs.map(() => []);
  let latest: { secrets: readonly Secret[]; credentials: Credentials; guardUntil: number } | undefined;

  function withSecrets(secrets: readonly Secret[]): Credentials {
    const now = context.now();
    const isSame = latest?.secrets.every((secret, i) => secret.equals(secrets[i] as Secret)) ?? false;
    if (isSame && latest !== undefined && now < latest.guardUntil) return latest.credentials;
    latest?.secrets.forEach((old, i) => {
      if (!old.equals(secrets[i] as Secret)) retired[i]?.unshift({ secret: old, until: now + RETIRED_MS });
    });
    const guarded = configs.map((_, i) => {
      const kept = (retired[i] ?? []).filter(({ until }) => until > now).slice(0, MAX_RETIRED);
      retired[i] = kept;
      return [secrets[i] as Secret, ...kept.map(({ secret }) => secret)];
    });
    const credentials = {
      injections: configs.map((config, i) => ({ placement: config.placement, secret: secrets[i] as Secret })),
      automaton: buildGuard(configs, guarded),
    };
    const guardUntil = Math.min(Number.POSITIVE_INFINITY, ...retired.flat().map(({ until }) => until));
    latest = { secrets, credentials, guardUntil };
    return credentials;
  }

  function current(): Credentials | Promise<Credentials> {
    const values = readers.map((reader) => reader.read());
    return values.some((value) => value instanceof Promise)
      ? Promise.all(values).then(withSecrets)
      : withSecrets(values as Secret[]);
  }

  return { current };
}

interface Retired {
  readonly secret: Secret;
  readonly until: number;
}

function buildGuard(
  configs: readonly CredentialConfig[],
  secrets: readonly (readonly Secret[])[],
): ReflectionAutomaton | undefined {
  const guarded = configs.flatMap((config, i) =>
    (secrets[i] ?? [])
      .filter((secret) => secret.length >= MIN_SECRET_BYTES)
      .map((secret) => ({ secret, publicPrefixLength: publicPrefixLength(secret, config.publicPrefixes) })),
  );
  return buildAutomaton(guarded);
}
