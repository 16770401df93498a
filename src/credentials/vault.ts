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
/** A command may print another value every few seconds; so many for each credential are guarded, the latest ones. */
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
  /** What a vault that takes its place must guard as well: its values, and those that they replaced. */
  readonly retire: () => readonly Retired[];
}

/** A value that is injected no more. */
export interface Retired {
  readonly secret: Secret;
  readonly publicPrefixes: readonly string[];
  /** Which of its provider's credentials it was. */
  readonly index: number;
  /** Monotonic clock, ms. */
  readonly until: number;
}

/** @param inherited what the vault before guarded, where a reload replaces one */
export function createVault(
  configs: readonly CredentialConfig[],
  context: SourceContext,
  inherited: readonly Retired[] = [],
): Vault {
  const readers = configs.map((config) => createSecretReader(config, context));
  /** The latest first. */
  let retired = inherited;
  let latest: { secrets: readonly Secret[]; credentials: Credentials; guardUntil: number } | undefined;

  function asRetired(secret: Secret, index: number): Retired {
    const publicPrefixes = configs[index]?.publicPrefixes ?? [];
    return { secret, publicPrefixes, index, until: context.now() + RETIRED_MS };
  }

  function withSecrets(secrets: readonly Secret[]): Credentials {
    const now = context.now();
    const isSame = latest?.secrets.every((secret, i) => secret.equals(secrets[i] as Secret)) ?? false;
    if (isSame && latest !== undefined && now < latest.guardUntil) return latest.credentials;
    const isCurrent = (old: Secret) => secrets.some((secret) => secret.equals(old));
    retired = [...(latest?.secrets.map(asRetired) ?? []), ...retired]
      .filter(({ secret, until }) => until > now && !isCurrent(secret))
      .filter(
        ({ index }, at, all) => all.slice(0, at).filter((each) => each.index === index).length < MAX_RETIRED,
      );
    const credentials = {
      injections: configs.map((config, i) => ({ placement: config.placement, secret: secrets[i] as Secret })),
      automaton: buildGuard([...secrets.map(asRetired), ...retired]),
    };
    latest = { secrets, credentials, guardUntil: Math.min(...retired.map(({ until }) => until)) };
    return credentials;
  }

  function current(): Credentials | Promise<Credentials> {
    const values = readers.map((reader) => reader.read());
    return values.some((value) => value instanceof Promise)
      ? Promise.all(values).then(withSecrets)
      : withSecrets(values as Secret[]);
  }

  return { current, retire: () => [...(latest?.secrets.map(asRetired) ?? []), ...retired] };
}

function buildGuard(values: readonly Retired[]): ReflectionAutomaton | undefined {
  const guarded = values
    .filter(({ secret }) => secret.length >= MIN_SECRET_BYTES)
    .map(({ secret, publicPrefixes }) => ({
      secret,
      publicPrefixLength: publicPrefixLength(secret, publicPrefixes),
    }));
  return buildAutomaton(guarded);
}
