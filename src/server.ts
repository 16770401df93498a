/** The running proxy: everything that `serve` and `demo` start from a configuration, and how it stops. */
import { createApp } from './app.ts';
import type { Config, ListenerConfig } from './config/effective.ts';
import { createSecretReader, describeSource, type SourceContext } from './credentials/source.ts';
import { describeListener } from './discovery.ts';
import { createConcurrency } from './guards/concurrency.ts';
import { createDescriptorGauge, DESCRIPTOR_RESERVE, DESCRIPTORS_PER_REQUEST } from './guards/descriptors.ts';
import { type OpenListener, openListener } from './listeners.ts';
import type { Log } from './log.ts';
import { type Client, createPipeline } from './pipeline.ts';
import { type Provider, prepareProviders } from './provider.ts';
import { createWatchdog } from './proxy/watch.ts';
import { descriptorLimit, listeningTcpPorts, openDescriptors } from './runtime/proc.ts';
import type { Runtime } from './runtime/runtime.ts';
import { SocketFileError } from './runtime/socket-file.ts';
import { reviewUpstreamAddresses } from './upstream-addresses.ts';
import { VERSION } from './version.ts';

/** How often idle client connections are closed, ms. */
const IDLE_SWEEP_MS = 60_000;
/** How often descriptors are counted, ms. */
const GAUGE_MS = 1_000;
/** How often a drain looks whether it is done, ms. */
const DRAIN_POLL_MS = 20;

/** A start that failed for a reason that the operator can mend. */
export class StartError extends Error {
  readonly kind: 'config' | 'unavailable';
  readonly hint: string | undefined;

  constructor(kind: 'config' | 'unavailable', message: string, hint?: string) {
    super(message);
    this.kind = kind;
    this.hint = hint;
  }
}

export interface RunningServer {
  readonly listeners: readonly ListenerConfig[];
  readonly inFlight: () => number;
  /** Stops accepting, waits up to `graceMs` for what is in flight, then closes; true if all was finished. */
  readonly stop: (graceMs: number) => Promise<boolean>;
}

export interface ServerOptions {
  readonly config: Config;
  readonly runtime: Runtime;
  readonly log: Log;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Monotonic clock, ms. */
  readonly now: () => number;
  /** Wall clock, ms since the epoch. */
  readonly wallNow: () => number;
}

/** @throws StartError */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { config, runtime, log, now } = options;
  const context: SourceContext = { env: options.env, now };
  checkFeatures(config, runtime);
  checkDescriptors(config);
  const providers = readProviders(config, runtime, context);
  const tokens = createTokenReaders(config, context);
  const problems = await readSecrets(providers, tokens);
  if (problems.length > 0)
    throw new StartError('config', problems.join('\n'), 'see "Credentials" in the README');
  await checkAddresses(config, log);

  let stopping = false;
  const isStopping = () => stopping;
  const concurrency = createConcurrency();
  const watchdog = createWatchdog(now);
  const gauge = createDescriptorGauge(descriptorLimit(), openDescriptors);
  const pipeline = createPipeline({
    providers,
    concurrency,
    watchdog,
    targetOf: runtime.targetOf,
    isStopping,
    isUnderPressure: gauge.isAboveHalf,
  });
  const exchange = { now, wallNow: options.wallNow, record: log.access, nextId: createIds() };
  const open: OpenListener[] = [];
  try {
    for (const listener of config.listeners) {
      const client: Client = { config: listener, token: tokens.get(listener.name)?.read };
      const discovery = describeListener(config, listener, VERSION);
      const handle = createApp({ client, pipeline, discovery, isStopping, exchange });
      open.push(
        await openListener(listener, runtime, handle).catch((error) => explainListenError(listener, error)),
      );
    }
    assertListening(open);
  } catch (error) {
    for (const listener of open) listener.destroy();
    throw error;
  }

  const sweep = () => {
    for (const listener of open) listener.closeIdle();
  };
  const sweeper = setInterval(sweep, IDLE_SWEEP_MS);
  const gauger = setInterval(() => {
    gauge.measure();
    if (gauge.isAboveHalf()) sweep();
  }, GAUGE_MS);

  async function stop(graceMs: number): Promise<boolean> {
    stopping = true;
    for (const listener of open) listener.stopAccepting();
    const deadline = now() + graceMs;
    while (concurrency.inFlight() > 0 && now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    const finished = concurrency.inFlight() === 0;
    // The last bytes of the last answer are in the runtime's hands: give it a turn to write them.
    await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    clearInterval(sweeper);
    clearInterval(gauger);
    for (const listener of open) listener.destroy();
    watchdog.close();
    return finished;
  }

  return { listeners: config.listeners, inFlight: concurrency.inFlight, stop };
}

/** Request ids: unique per process start, and short enough to be read out over a telephone. */
function createIds(): () => string {
  const boot = crypto.randomUUID().slice(0, 8);
  let count = 0;
  return () => `${boot}-${(++count).toString(36)}`;
}

function checkFeatures(config: Config, runtime: Runtime): void {
  const all = [...config.providers.values()];
  const refusals = runtime.refusals({
    caFile: config.server.caFile !== undefined || all.some((provider) => provider.tls.caFile !== undefined),
    encodedResponses: all.some((provider) =>
      provider.rules.rules.some((rule) => rule.options.allowEncodedResponse),
    ),
  });
  if (refusals.length > 0) throw new StartError('config', refusals.join('\n'));
}

/** Caps that together need more descriptors than there are would fail under load, for everybody, at night. */
function checkDescriptors(config: Config): void {
  const limit = descriptorLimit();
  if (limit === undefined) return;
  let requests = 0;
  for (const listener of config.listeners) {
    for (const name of listener.mount === undefined ? listener.providers : [listener.mount]) {
      requests += listener.maxConcurrent ?? config.providers.get(name)?.limits.maxConcurrent ?? 0;
    }
  }
  const needed = requests * DESCRIPTORS_PER_REQUEST + DESCRIPTOR_RESERVE;
  if (needed <= limit) return;
  throw new StartError(
    'config',
    `the max_concurrent caps of all listeners and providers add up to ${requests} requests, which need ${needed} file descriptors; this process may open ${limit}`,
    `raise the limit (LimitNOFILE=${needed} in the unit, ulimit -n ${needed} in a shell), or lower max_concurrent`,
  );
}

function readProviders(config: Config, runtime: Runtime, context: SourceContext): Map<string, Provider> {
  try {
    return prepareProviders(config, runtime, context);
  } catch (error) {
    throw new StartError('config', error instanceof Error ? error.message : 'a provider cannot be prepared');
  }
}

function createTokenReaders(config: Config, context: SourceContext) {
  const readers = new Map<string, ReturnType<typeof createSecretReader>>();
  for (const { name, address } of config.listeners) {
    if (address.kind === 'tcp')
      readers.set(name, createSecretReader({ source: address.token, unsafeShortSecret: false }, context));
  }
  return readers;
}

/** Reads every secret once, so that a missing one is found now and not at the first request. */
async function readSecrets(
  providers: ReadonlyMap<string, Provider>,
  tokens: ReadonlyMap<string, { read: () => unknown }>,
): Promise<string[]> {
  const problems: string[] = [];
  const attempt = async (where: string, source: string, read: () => unknown) => {
    try {
      await read();
    } catch (error) {
      problems.push(`${where}: ${source} ${error instanceof Error ? error.message : 'cannot be read'}`);
    }
  };
  for (const provider of providers.values()) {
    const sources = provider.config.credentials
      .map((credential) => describeSource(credential.source))
      .join(' or ');
    await attempt(`providers.${provider.config.name}.credential`, sources, provider.vault.current);
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

function explainListenError(listener: ListenerConfig, error: unknown): never {
  if (error instanceof SocketFileError)
    throw new StartError('unavailable', `listeners.${listener.name}: ${error.message}`, error.hint);
  const where =
    listener.address.kind === 'unix'
      ? listener.address.path
      : `${listener.address.hostname}:${listener.address.port}`;
  const code = (error as { code?: unknown }).code;
  throw new StartError(
    'unavailable',
    `listeners.${listener.name}: cannot listen on ${where} (${typeof code === 'string' ? code : 'unknown error'})`,
  );
}

/** What listens must be what was configured: every socket in its place, and no TCP port besides. */
function assertListening(open: readonly OpenListener[]): void {
  const configured = open.flatMap(({ config }) =>
    config.address.kind === 'tcp' ? [config.address.port] : [],
  );
  const extra = listeningTcpPorts().filter((port) => !configured.includes(port));
  if (extra.length > 0)
    throw new StartError(
      'unavailable',
      `the process listens on TCP port ${extra.join(', ')}, which nobody configured`,
    );
  for (const listener of open) {
    if (!listener.isInPlace()) {
      throw new StartError(
        'unavailable',
        `listeners.${listener.config.name}: another process replaced the socket`,
        'stop the other instance',
      );
    }
  }
}
