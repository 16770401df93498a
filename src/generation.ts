/** One configuration in force: all that a reload replaces in one step. What it knows nothing of outlives it. */
import type { Answers } from './answers.ts';
import { createApp, type Handler } from './app.ts';
import type { RequestEnd, Trail } from './audit/trail.ts';
import { type Config, describeAddress } from './config/effective.ts';
import { fingerprint } from './config/fingerprint.ts';
import { describeListener } from './discovery.ts';
import type { Guards } from './guards/guards.ts';
import { createPipeline } from './pipeline.ts';
import type { AccessRecord } from './proxy/exchange.ts';
import type { Watchdog } from './proxy/watch.ts';
import type { Runtime } from './runtime/runtime.ts';
import type { Prepared } from './startup.ts';
import { VERSION } from './version.ts';

export interface Generation {
  /** From 1. */
  readonly number: number;
  readonly config: Config;
  /** What the configuration comes to, as records name it. */
  readonly fingerprint: string;
  readonly providers: Prepared['providers'];
  /** By the listener's address, which is what a listener is to those who connect to it. */
  readonly handlers: ReadonlyMap<string, Handler>;
}

/** What all generations of a process share. */
export interface GenerationContext {
  readonly runtime: Runtime;
  readonly guards: Guards;
  readonly watchdog: Watchdog;
  readonly answers: Answers;
  readonly now: () => number;
  readonly wallNow: () => number;
  readonly trail: Trail;
  readonly record: (record: AccessRecord, end: RequestEnd) => void;
  readonly isStopping: () => boolean;
  /** Are descriptors, or were they a moment ago, all taken? */
  readonly isExhausted: () => boolean;
  /** Should answers close their connection? */
  readonly isClosing: () => boolean;
  /** Request ids of a listener; they go on across reloads. */
  readonly nextId: (listener: string) => string;
}

export function createGeneration(
  number: number,
  config: Config,
  { providers, tokens }: Prepared,
  context: GenerationContext,
): Generation {
  const { runtime, guards, watchdog, answers, trail, isStopping } = context;
  const print = fingerprint(config);
  const pipeline = createPipeline({
    providers,
    rate: config.rate,
    guards,
    watchdog,
    audit: (intent) => trail.intend({ ...intent, config: print }),
    targetOf: runtime.targetOf,
    answers,
    isExhausted: context.isExhausted,
    isStopping,
  });
  const handlers = config.listeners.map((listener): [string, Handler] => {
    const { now, wallNow } = context;
    const record = (entry: AccessRecord, isIntended: boolean) =>
      context.record(entry, { isIntended, config: print });
    const nextId = () => context.nextId(listener.name);
    const handle = createApp({
      client: { config: listener, token: tokens.get(listener.name)?.read },
      pipeline,
      discovery: describeListener(config, listener, VERSION),
      isStopping,
      isClosing: context.isClosing,
      exchange: { listener: listener.name, nextId, now, wallNow, record },
    });
    return [describeAddress(listener.address), handle];
  });
  return { number, config, fingerprint: print, providers, handlers: new Map(handlers) };
}
