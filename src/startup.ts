/** What must hold before the first socket opens: features, descriptors, secrets, upstream addresses. */
import { type Config, sumCaps } from './config/effective.ts';
import { SecretError } from './credentials/secret-value.ts';
import {
  createSecretReader,
  describeSource,
  type SecretReader,
  type SourceContext,
} from './credentials/source.ts';
import { DESCRIPTOR_RESERVE, DESCRIPTORS_PER_REQUEST } from './guards/descriptors.ts';
import type { Log } from './log.ts';
import { PemFileError, type Provider, prepareProviders } from './provider.ts';
import { descriptorLimit } from './runtime/proc.ts';
import type { Runtime } from './runtime/runtime.ts';
import { StartError } from './start-error.ts';
import { reviewUpstreamAddresses } from './upstream-addresses.ts';

/** What a server needs of a configuration: providers ready for requests, and the tokens of TCP listeners. */
export interface Prepared {
  readonly providers: ReadonlyMap<string, Provider>;
  readonly tokens: ReadonlyMap<string, SecretReader>;
}

export interface StartupOptions {
  readonly config: Config;
  readonly runtime: Runtime;
  readonly log: Log;
  readonly context: SourceContext;
  /** The providers that a reload replaces. */
  readonly previous?: ReadonlyMap<string, Provider> | undefined;
}

/**
 * Checks all that can be checked before a socket opens, and reads every secret once, so that a missing one
 * is found now and not at the first request.
 * @throws StartError
 */
export async function prepareStart(options: StartupOptions): Promise<Prepared> {
  const { config, runtime, context } = options;
  checkFeatures(config, runtime);
  checkDescriptors(config);
  const prepared = prepare(config, runtime, context, options.previous);
  const problems = await readSecrets(prepared);
  if (problems.length > 0) throw new StartError('config', problems.join('\n'));
  await checkAddresses(config, options.log);
  return prepared;
}

/** Reads every secret of a configuration; returns what is wrong with them, without any value. For `check --secrets`. */
export async function findSecretProblems(
  config: Config,
  runtime: Runtime,
  context: SourceContext,
): Promise<string[]> {
  return readSecrets(prepare(config, runtime, context));
}

function prepare(
  config: Config,
  runtime: Runtime,
  context: SourceContext,
  previous?: StartupOptions['previous'],
): Prepared {
  const tokens = new Map<string, SecretReader>();
  for (const { name, address } of config.listeners) {
    if (address.kind === 'tcp')
      tokens.set(name, createSecretReader({ source: address.token, unsafeShortSecret: false }, context));
  }
  try {
    return { providers: prepareProviders(config, runtime, context, previous), tokens };
  } catch (error) {
    if (error instanceof PemFileError) throw new StartError('config', error.message);
    throw error;
  }
}

function checkFeatures(config: Config, runtime: Runtime): void {
  const options = [...config.providers.values()].flatMap(({ rules }) =>
    rules.rules.map((rule) => rule.options),
  );
  const refusals = runtime.refusals({
    encodedResponses: options.some((option) => option.allowEncodedResponse),
    webSocket: options.some((option) => option.websocket),
  });
  if (refusals.length > 0) throw new StartError('config', refusals.join('\n'));
}

/** Caps that together need more descriptors than there are would fail under load, for everybody, at night. */
function checkDescriptors(config: Config): void {
  const limit = descriptorLimit();
  if (limit === undefined) return;
  const requests = sumCaps(config.listeners, config.providers);
  const needed = requests * DESCRIPTORS_PER_REQUEST + DESCRIPTOR_RESERVE;
  if (needed <= limit) return;
  throw new StartError(
    'config',
    `the max_concurrent caps of all listeners and providers add up to ${requests} requests, which need ${needed} file descriptors; this process may open ${limit}`,
    `raise the limit (LimitNOFILE=${needed} in the unit, ulimit -n ${needed} in a shell), or lower max_concurrent`,
  );
}

async function readSecrets({ providers, tokens }: Prepared): Promise<string[]> {
  const problems: string[] = [];
  const attempt = async (where: string, source: string, read: () => unknown) => {
    try {
      await read();
    } catch (error) {
      problems.push(`${where}: ${source} ${error instanceof SecretError ? error.message : 'cannot be read'}`);
    }
  };
  for (const { config, vault } of providers.values()) {
    const sources = config.credentials.map((credential) => describeSource(credential.source)).join(' or ');
    await attempt(`providers.${config.name}.credential`, sources, vault.current);
  }
  for (const [name, reader] of tokens) await attempt(`listeners.${name}.token`, 'the token', reader.read);
  return problems;
}

async function checkAddresses(config: Config, log: Log): Promise<void> {
  // With an upstream proxy it is the proxy that resolves.
  if (config.server.upstreamProxy !== undefined) return;
  const { refused, unresolved } = await reviewUpstreamAddresses(config.providers.values());
  if (refused.length > 0) {
    throw new StartError(
      'config',
      refused
        .map(
          (name) =>
            `providers.${name}.base_url: the host resolves to a private, link-local or metadata address`,
        )
        .join('\n'),
      'set unsafe_allow_private = true for that provider if this is meant',
    );
  }
  for (const name of unresolved) log.event('warn', 'upstream_not_resolved', { provider: name });
}
