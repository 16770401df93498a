/** The running proxy: all that `serve` and `demo` start from a configuration, how it changes, and how it stops. */
import { createAnswers } from './answers.ts';
import type { RequestEnd } from './audit/trail.ts';
import { openAudit } from './audit-trail.ts';
import type { Config } from './config/effective.ts';
import { openControl } from './control.ts';
import { createDenied } from './denied.ts';
import { ProxyError } from './errors.ts';
import { createGeneration, type Generation, type GenerationContext } from './generation.ts';
import { createConnectionFlood, LOOK_MS } from './guards/connection-flood.ts';
import { createGuards } from './guards/guards.ts';
import { createIdleConnections, TICK_MS } from './guards/idle-connections.ts';
import { createInFlight } from './guards/in-flight.ts';
import { covers, createKillSwitch, formatScope, type Halt } from './guards/kill-switch.ts';
import { createListenerSet, type Member } from './listener-set.ts';
import type { OpenListener } from './listeners.ts';
import type { Log } from './log.ts';
import { createMetrics } from './metrics.ts';
import { openMetrics } from './metrics-listener.ts';
import { problemsOf } from './problems.ts';
import type { AccessRecord } from './proxy/exchange.ts';
import { createWatchdog } from './proxy/watch.ts';
import { createRequestIds } from './request-ids.ts';
import { createHaltFile } from './runtime/halt-file.ts';
import { createConnectionCounter, descriptorLimit, openDescriptors } from './runtime/proc.ts';
import type { Runtime } from './runtime/runtime.ts';
import { StartError } from './start-error.ts';
import { prepareStart } from './startup.ts';
import { createTotals } from './totals.ts';
import { VERSION } from './version.ts';

/** How often a drain looks whether it is done, ms. */
const DRAIN_POLL_MS = 20;
/** How long WebSocket tunnels may take to close when the process stops, ms. */
const TUNNELS_CLOSE_MS = 1_000;
/** How long clients may take to read what an ended answer left in the runtime's hands, ms. */
const SETTLE_MS = 1_000;
/** How often the halt file is looked at, ms. */
const HALT_POLL_MS = 250;

export interface RunningServer {
  readonly inFlight: () => number;
  /** The configuration in force. */
  readonly config: () => Config;
  /**
   * Reads the configuration anew and puts it in force in one step; requests in flight keep theirs. Resolves to the
   * number of the generation when the new sockets accept.
   * @throws ConfigError | StartError; then nothing has changed
   */
  readonly reload: () => Promise<number>;
  /** Stops accepting, waits up to `graceMs` for what is in flight, then closes; true if all was finished. */
  readonly stop: (graceMs: number) => Promise<boolean>;
}

export interface ServerOptions {
  readonly config: Config;
  /** Reads the configuration anew. */
  readonly load: () => Config;
  readonly lostLogLines: () => number;
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
  const { runtime, log, now, wallNow } = options;
  const prepare = (config: Config, previous?: Generation['providers']) =>
    prepareStart({ config, runtime, log, context: { env: options.env, now }, previous });
  const prepared = await prepare(options.config);

  let stopping = false;
  const isStopping = () => stopping;
  const watchdog = createWatchdog(now);
  const inFlight = createInFlight();
  const killSwitch = createKillSwitch({
    file: createHaltFile(options.config.server.stateDir),
    wallNow,
    onHalt(halt) {
      const error = new ProxyError('halted', 'halted while it was in flight');
      const cut = inFlight.cut(({ listener, provider }) => covers(halt, listener, provider), error);
      log.event('warn', 'halted', { ...describeHalt(halt), cut });
      trail.event({ kind: 'halt', scope: formatScope(halt.scope), reason: halt.reason });
    },
    onResume(halt) {
      log.event('warn', 'resumed', describeHalt(halt));
      trail.event({ kind: 'resume', scope: formatScope(halt.scope), reason: halt.reason });
    },
  });
  const guards = createGuards(killSwitch, inFlight, now);
  const startedAt = wallNow();
  const reloads = { succeeded: 0, failed: 0 };
  const metrics = createMetrics({
    inFlight: guards.concurrency.counts,
    circuits: () => [...guards.circuitBreaker.states()].map(([key, state]) => ({ key, state })),
    halts: () => killSwitch.halts().map(({ scope }) => scope),
    lostLogLines: options.lostLogLines,
    audit: () => trail.status(),
    generation: () => generation.number,
    reloads: () => reloads,
    openDescriptors,
    descriptorLimit,
    version: VERSION,
    runtime: `${runtime.name} ${runtime.version}`,
    startedAt,
  });
  // Before a socket opens: a log that cannot be written is a reason not to start.
  let inForce = options.config;
  const trail = await openAudit({ config: () => inForce, env: options.env, log, now, wallNow });
  const totals = createTotals();
  const denied = createDenied();
  const answers = createAnswers({
    bodyStream: runtime.bodyStream,
    acceptWebSocket: (...request) => runtime.webSocket?.accept(...request),
  });
  const idle = createIdleConnections({
    limit: descriptorLimit(),
    countOpen: openDescriptors,
    sweep: () => {
      for (const listener of listeners.all()) listener.closeIdle();
    },
  });
  const countConnections = createConnectionCounter();
  const flood = createConnectionFlood({
    limit: descriptorLimit(),
    countOpen: openDescriptors,
    inFlight: guards.concurrency.counts,
    listeners: () => listeners.all(),
    count: (open) => {
      const counts = countConnections(open.map((listener) => listener.boundTo()));
      return new Map(open.map((listener) => [listener, counts.get(listener.boundTo()) ?? 0]));
    },
    onFlood: ({ listener, connections, pause }) =>
      log.event('warn', 'listener_flooded', { listener, connections, closed_ms: pause }),
    now,
  });
  const context: GenerationContext = {
    runtime,
    guards,
    watchdog,
    answers,
    now,
    wallNow,
    trail,
    record(entry: AccessRecord, end: RequestEnd) {
      log.access(entry);
      trail.end(entry, end);
      totals.observe(entry);
      metrics.observe(entry);
      denied.observe(entry);
    },
    isStopping,
    isExhausted: flood.isExhausted,
    isClosing: idle.isClosing,
    nextId: createRequestIds(),
  };
  let generation = createGeneration(1, options.config, prepared, context);
  const { metrics: page } = options.config;
  const listeners = createListenerSet({ runtime, otherPorts: page?.kind === 'tcp' ? [page.port] : [] });
  const { promise: started, resolve: start } = Promise.withResolvers<void>();
  /** Reloads wait for each other, and for the start. */
  let reloading: Promise<unknown> = started;

  function reload(): Promise<number> {
    const next = reloading.then(change);
    reloading = next.catch((error) => {
      reloads.failed++;
      log.event('error', 'reload_failed', { problems: problemsOf(error).map(({ text }) => text) });
    });
    return next;
  }

  async function change(): Promise<number> {
    if (stopping) throw new StartError('unavailable', 'the proxy is stopping');
    const config = options.load();
    const next = createGeneration(
      generation.number + 1,
      config,
      await prepare(config, generation.providers),
      context,
    );
    const finish = await listeners.open(next);
    // From here on nothing can fail, and nothing waits: this is the one step.
    const { shutdownGraceMs } = generation.config.server;
    for (const provider of movedProviders(generation.config, config)) guards.circuitBreaker.forget(provider);
    generation = next;
    inForce = config;
    recordConfig();
    reloads.succeeded++;
    for (const member of finish()) void retire(member, shutdownGraceMs);
    // What was opened during a stop is not what the stop closes.
    if (stopping) for (const listener of listeners.all()) listener.stopAccepting();
    log.event('info', 'reloaded', { generation: next.number, listeners: next.handlers.size });
    return next.number;
  }

  function recordConfig(): void {
    trail.event({ kind: 'config', config: generation.fingerprint, generation: generation.number });
  }

  /** Lets a listener finish what is in flight, as long as a stop of the process would, and closes it. */
  async function retire({ listener, names, retire }: Member, graceMs: number): Promise<void> {
    retire();
    listener.stopAccepting();
    listener.closeIdle();
    await drain(() => guards.concurrency.counts().some((pair) => names.has(pair.listener)), graceMs);
    await settle([listener]);
    listener.destroy();
  }

  /** The end of an answer may not be read yet when it is done: its connection closes when it is. */
  async function settle(leaving: readonly OpenListener[]): Promise<void> {
    const places = leaving.map((listener) => listener.boundTo());
    const isOpen = () => {
      const counts = countConnections(places);
      return places.some((place) => counts.has(place));
    };
    await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
    await drain(isOpen, SETTLE_MS);
  }

  async function drain(isBusy: () => boolean, ms: number): Promise<void> {
    const deadline = now() + ms;
    while (isBusy() && now() < deadline) await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
  }

  let control: { readonly close: () => void } | undefined;
  let metricsServer: { readonly close: () => void } | undefined;
  recordConfig();
  try {
    // First, because a second instance is refused here, before it touches a socket of the first.
    control = await openControl({
      runtime,
      generation: () => generation,
      guards,
      totals,
      denied,
      trail,
      reload,
      metrics,
      wallNow,
      startedAt,
    });
    metricsServer = await openMetrics(options.config.metrics, runtime, metrics);
    (await listeners.open(generation))();
  } catch (error) {
    control?.close();
    metricsServer?.close();
    await trail.close();
    throw error;
  }
  start();
  killSwitch.poll();
  const timers = [
    setInterval(idle.tick, TICK_MS),
    setInterval(flood.look, LOOK_MS),
    setInterval(killSwitch.poll, HALT_POLL_MS),
  ];

  async function stop(graceMs: number): Promise<boolean> {
    stopping = true;
    for (const listener of listeners.all()) listener.stopAccepting();
    const isBusy = () => guards.concurrency.inFlight() > 0;
    await drain(isBusy, graceMs);
    // Both ends are to hear why, and a close frame to be answered.
    if (answers.closeTunnels() > 0) await drain(isBusy, TUNNELS_CLOSE_MS);
    const finished = !isBusy();
    if (finished) await settle(listeners.all());
    for (const timer of timers) clearInterval(timer);
    for (const listener of listeners.all()) listener.destroy();
    control?.close();
    metricsServer?.close();
    watchdog.close();
    await trail.close();
    return finished;
  }

  return { inFlight: guards.concurrency.inFlight, config: () => generation.config, reload, stop };
}

/** Providers that are reached otherwise now, or not any more: circuits of the old place would keep the new one shut. */
function movedProviders(before: Config, after: Config): string[] {
  const wayTo = (config: Config, name: string) => {
    const provider = config.providers.get(name);
    return JSON.stringify([provider?.origin, provider?.basePath, provider?.upstreamSocket, provider?.tls]);
  };
  return [...before.providers.keys()].filter((name) => wayTo(before, name) !== wayTo(after, name));
}

function describeHalt(halt: Halt): Record<string, string> {
  return { scope: formatScope(halt.scope), reason: halt.reason, since: halt.since };
}
