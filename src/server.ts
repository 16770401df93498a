/** The running proxy: everything that `serve` and `demo` start from a configuration, and how it stops. */
import { createAnswers } from './answers.ts';
import { createApp } from './app.ts';
import { type Config, describeAddress, type ListenerConfig } from './config/effective.ts';
import { describeListener } from './discovery.ts';
import { createConcurrency } from './guards/concurrency.ts';
import { createIdleConnections, TICK_MS } from './guards/idle-connections.ts';
import { type OpenListener, openListener } from './listeners.ts';
import type { Log } from './log.ts';
import { type Client, createPipeline } from './pipeline.ts';
import { createWatchdog } from './proxy/watch.ts';
import { descriptorLimit, listeningTcpPorts, openDescriptors } from './runtime/proc.ts';
import type { Runtime } from './runtime/runtime.ts';
import { SocketFileError } from './runtime/socket-file.ts';
import { StartError } from './start-error.ts';
import { prepareStart } from './startup.ts';
import { VERSION } from './version.ts';

/** How often a drain looks whether it is done, ms. */
const DRAIN_POLL_MS = 20;
/** How long WebSocket tunnels may take to close when the process stops, ms. */
const TUNNELS_CLOSE_MS = 1_000;

export interface RunningServer {
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
  const { providers, tokens } = await prepareStart({
    config,
    runtime,
    log,
    context: { env: options.env, now },
  });

  let stopping = false;
  const isStopping = () => stopping;
  const concurrency = createConcurrency();
  const watchdog = createWatchdog(now);
  const open: OpenListener[] = [];
  const idle = createIdleConnections({
    limit: descriptorLimit(),
    countOpen: openDescriptors,
    sweep: () => {
      for (const listener of open) listener.closeIdle();
    },
  });
  const answers = createAnswers({
    bodyStream: runtime.bodyStream,
    acceptWebSocket: (...request) => runtime.webSocket?.accept(...request),
  });
  const pipeline = createPipeline({
    providers,
    concurrency,
    watchdog,
    targetOf: runtime.targetOf,
    answers,
    isStopping,
  });
  const exchange = { now, wallNow: options.wallNow, record: log.access };
  const maxMessageBytes = Math.max(
    0,
    ...[...config.providers.values()].map(({ limits }) => limits.maxRequestBody),
  );
  try {
    for (const listener of config.listeners) {
      const client: Client = { config: listener, token: tokens.get(listener.name)?.read };
      const discovery = describeListener(config, listener, VERSION);
      const handle = createApp({
        client,
        pipeline,
        discovery,
        isStopping,
        isClosing: idle.isClosing,
        exchange: { ...exchange, nextId: createIds() },
      });
      open.push(
        await openListener(listener, runtime, { handle, maxMessageBytes }).catch((error) =>
          explainListenError(listener, error),
        ),
      );
    }
    assertListening(open);
  } catch (error) {
    for (const listener of open) listener.destroy();
    throw error;
  }

  const ticker = setInterval(idle.tick, TICK_MS);

  async function stop(graceMs: number): Promise<boolean> {
    stopping = true;
    for (const listener of open) listener.stopAccepting();
    const drain = async (ms: number) => {
      const deadline = now() + ms;
      while (concurrency.inFlight() > 0 && now() < deadline)
        await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    };
    await drain(graceMs);
    // Both ends are to hear why, and a close frame to be answered.
    if (answers.closeTunnels() > 0) await drain(TUNNELS_CLOSE_MS);
    const finished = concurrency.inFlight() === 0;
    // The last bytes of the last answer are in the runtime's hands: give it a turn to write them.
    await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    clearInterval(ticker);
    for (const listener of open) listener.destroy();
    watchdog.close();
    return finished;
  }

  return { inFlight: concurrency.inFlight, stop };
}

/**
 * Request ids of one listener: unique per process start, and short enough to be read out over a telephone.
 * Clients see them: one count for all listeners would tell each sandbox how much the others ask.
 */
function createIds(): () => string {
  const boot = crypto.randomUUID().slice(0, 8);
  let count = 0;
  return () => `${boot}-${(++count).toString(36)}`;
}

function explainListenError(listener: ListenerConfig, error: unknown): never {
  if (error instanceof SocketFileError)
    throw new StartError('unavailable', `listeners.${listener.name}: ${error.message}`, error.hint);
  const where = describeAddress(listener.address);
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
