/**
 * The credentials of one provider at run time: current secrets for injection, and the automaton that
 * guards answers against them, rebuilt when a secret changes.
 */
import { buildAutomaton, type ReflectionAutomaton } from '../proxy/reflection-forms.ts';
import { type CredentialConfig, MIN_SECRET_BYTES, type Placement } from './credential.ts';
import type { Secret } from './secret.ts';
import { createSecretReader, type SourceContext } from './source.ts';

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
  let latest: { secrets: readonly Secret[]; credentials: Credentials } | undefined;

  function withSecrets(secrets: readonly Secret[]): Credentials {
    if (latest?.secrets.every((secret, i) => secret.equals(secrets[i] as Secret))) return latest.credentials;
    const credentials = {
      injections: configs.map((config, i) => ({ placement: config.placement, secret: secrets[i] as Secret })),
      automaton: buildGuard(configs, secrets),
    };
    latest = { secrets, credentials };
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

function buildGuard(
  configs: readonly CredentialConfig[],
  secrets: readonly Secret[],
): ReflectionAutomaton | undefined {
  const guarded = configs.flatMap((config, i) => {
    const secret = secrets[i] as Secret;
    if (secret.length < MIN_SECRET_BYTES) return [];
    return [{ secret, publicPrefixLength: publicPrefixLength(config, secret) }];
  });
  return buildAutomaton(guarded);
}

/** Length of the longest known public prefix of a secret. */
function publicPrefixLength(config: CredentialConfig, secret: Secret): number {
  return Math.max(
    0,
    ...config.publicPrefixes.filter((prefix) => secret.startsWith(prefix)).map((prefix) => prefix.length),
  );
}
