/**
 * The control socket: host only, 0600. An app of its own, which no listener leads to. What it is asked, it does at once
 * and says so; `isoproxy status`, `halt`, `resume`, `reload` and `denied` are its clients.
 */
import { dirname } from 'node:path';
import process from 'node:process';
import { Hono } from 'hono';
import type { AuditStatus, Trail } from './audit/trail.ts';
import { type Config, describeAddress, type ListenerConfig, reachableProviders } from './config/effective.ts';
import { isConfigured, NO_SUCH_NAME } from './config/halt-names.ts';
import type { Denied } from './denied.ts';
import type { Generation } from './generation.ts';
import type { Guards } from './guards/guards.ts';
import { bucketKey, pairKey } from './guards/keys.ts';
import { formatScope, type Halt, type HaltScope, parseScope, tidyReason } from './guards/kill-switch.ts';
import { listenError, openOwnSocket } from './listeners.ts';
import type { Metrics } from './metrics.ts';
import { problemsOf } from './problems.ts';
import type { Runtime } from './runtime/runtime.ts';
import type { Totals } from './totals.ts';
import { VERSION } from './version.ts';

const MODE = 0o600;

export interface ControlOptions {
  readonly runtime: Runtime;
  readonly generation: () => Generation;
  readonly guards: Guards;
  readonly totals: Totals;
  readonly denied: Denied;
  readonly metrics: Metrics;
  readonly trail: Trail;
  readonly reload: () => Promise<number>;
  readonly wallNow: () => number;
  /** Wall clock of the start, ms. */
  readonly startedAt: number;
}

/** `GET /status`. Fields are added, never changed. */
export interface Status {
  readonly isoproxy: 1;
  readonly version: string;
  readonly pid: number;
  /** RFC 3339 UTC. */
  readonly started_at: string;
  readonly uptime_s: number;
  /** Path of the configuration, and how often it was put in force. */
  readonly config: string;
  readonly generation: number;
  readonly halts: readonly { readonly scope: string; readonly reason: string; readonly since: string }[];
  readonly audit: AuditStatus;
  readonly listeners: readonly ListenerStatus[];
}

export interface ListenerStatus {
  readonly name: string;
  readonly address: string;
  /** Tokens in the bucket of the listener; null without a rate. */
  readonly rate_tokens: number | null;
  /** Requests that named no provider of this listener. */
  readonly denied_elsewhere: number;
  readonly providers: readonly ProviderStatus[];
}

export interface ProviderStatus {
  readonly name: string;
  readonly in_flight: number;
  readonly allowed: number;
  readonly denied: number;
  /** Refusals by error code. */
  readonly denied_by_code: Readonly<Record<string, number>>;
  readonly bytes_in: number;
  readonly bytes_out: number;
  readonly circuit: 'closed' | 'open' | 'half_open';
  /** Tokens in the buckets of the provider, and of the pair; null without a rate. */
  readonly provider_tokens: number | null;
  readonly pair_tokens: number | null;
}

/**
 * Opens the control socket of the first generation's configuration.
 * @throws StartError
 */
export async function openControl(options: ControlOptions): Promise<{ readonly close: () => void }> {
  const path = options.generation().config.server.controlSocket;
  const app = createControlApp(options);
  try {
    return await openOwnSocket(options.runtime, path, MODE, app);
  } catch (error) {
    const hint = `is ${dirname(path)} writable? set [server] control or state_dir to a directory of this user`;
    throw listenError('server.control', path, error, hint);
  }
}

/** The request handler of the control socket. */
export function createControlApp(options: ControlOptions): (request: Request) => Promise<Response> {
  const { guards, denied } = options;
  const first = options.generation().config;
  // On a unix socket the url is the runtime's own invention (docs/runtime.md 5), in which Hono finds no path
  // and no query.
  const app = new Hono({
    getPath: (request) => options.runtime.targetOf(request)?.split('?', 1)[0] ?? '/',
  });
  app.use(async (c, next) => {
    await next();
    c.res.headers.set('connection', 'close');
  });

  app.get('/status', (c) => c.json(describeStatus(options)));

  app.get('/metrics', async (c) =>
    c.body(await options.metrics.render(), 200, { 'content-type': options.metrics.contentType }),
  );

  app.get('/denied', (c) => {
    const query = new URLSearchParams(options.runtime.targetOf(c.req.raw)?.split('?')[1]);
    const since = query.get('since_ms');
    const rows = denied.rows({
      listener: query.get('listener') ?? undefined,
      since: since === null ? undefined : Number(since),
    });
    const mounts = Object.fromEntries(
      options.generation().config.listeners.map(({ name, mount }) => [name, mount ?? null]),
    );
    return c.json({ rows, mounts });
  });

  app.post('/halt', async (c) => {
    const { scope, reason } = await readHalt(c.req.raw);
    if (scope === undefined || !isConfigured(scope, options.generation().config))
      return c.json({ error: NO_SUCH_NAME }, 400);
    const { saved, code } = guards.killSwitch.halt(scope, reason);
    return c.json({ scope: formatScope(scope), saved, code: code ?? null });
  });

  app.post('/resume', async (c) => {
    const { scope, everything } = await readHalt(c.req.raw);
    const target = everything ? 'everything' : scope;
    if (target === undefined) return c.json({ error: 'no such scope' }, 400);
    const { resumed, saved, code } = guards.killSwitch.resume(target);
    return c.json({ resumed: resumed.map(haltToJson), saved, code: code ?? null });
  });

  app.post('/reload', async (c) => {
    try {
      const generation = await options.reload();
      const { config } = options.generation();
      const warnings = [...config.warnings, ...describeIgnored(first, config)];
      return c.json({ ok: true, generation, warnings, problems: [] });
    } catch (error) {
      const problems = problemsOf(error).map(({ text, hint }) => ({ text, hint: hint ?? null }));
      return c.json({ ok: false, generation: options.generation().number, warnings: [], problems }, 422);
    }
  });

  app.post('/audit/clear', async (c) => {
    const { reason } = await readHalt(c.req.raw);
    const text = tidyReason(reason);
    if (text === '') return c.json({ error: 'say why: a reason is recorded' }, 400);
    const before = options.trail.status().failure;
    const failure = await options.trail.clear(text);
    return c.json({ cleared: before, failure: failure ?? null, audit: options.trail.status() });
  });
  app.onError((_error, c) => c.json({ error: 'internal error' }, 500));
  return async (request) => app.fetch(request);
}

/** What a reload has read, and only a restart puts in force. */
function describeIgnored(first: Config, now: Config): string[] {
  const settings: [string, (config: Config) => unknown][] = [
    ['server.state_dir', ({ server }) => server.stateDir],
    ['server.control', ({ server }) => server.controlSocket],
    ['audit.durability', ({ audit }) => audit.durability],
    ['audit.key', ({ audit }) => audit.key],
    ['[log]', ({ log }) => log],
    ['[metrics]', ({ metrics }) => metrics],
  ];
  return settings
    .filter(([, read]) => JSON.stringify(read(first)) !== JSON.stringify(read(now)))
    .map(([name]) => `${name} has changed, which needs a restart`);
}

async function readHalt(request: Request) {
  const json: unknown = await request.json().catch(() => undefined);
  const body = (json ?? {}) as { scope?: unknown; reason?: unknown };
  const text = typeof body.scope === 'string' ? body.scope : '';
  return {
    scope: parseScope(text) as HaltScope | undefined,
    everything: text === 'everything',
    reason: typeof body.reason === 'string' ? body.reason : '',
  };
}

function haltToJson({ scope, reason, since }: Halt) {
  return { scope: formatScope(scope), reason, since };
}

function describeStatus(options: ControlOptions): Status {
  const { generation, guards, startedAt, wallNow } = options;
  const { config, number } = generation();
  return {
    isoproxy: 1,
    version: VERSION,
    pid: process.pid,
    started_at: new Date(startedAt).toISOString(),
    uptime_s: Math.round((wallNow() - startedAt) / 1000),
    config: config.file,
    generation: number,
    halts: guards.killSwitch.halts().map(haltToJson),
    audit: options.trail.status(),
    listeners: config.listeners.map((listener) => describeListener(listener, options)),
  };
}

function describeListener(listener: ListenerConfig, options: ControlOptions): ListenerStatus {
  const { guards, totals } = options;
  const { config } = options.generation();
  const tokens = (key: string, limit: typeof config.rate) =>
    limit === undefined ? null : Math.floor(guards.rateLimiter.level({ key, limit }) ?? limit.burst);
  const circuits = guards.circuitBreaker.states();
  const counts = guards.concurrency.counts();
  return {
    name: listener.name,
    address: describeAddress(listener.address),
    rate_tokens: tokens(bucketKey.listener(listener.name), listener.rate),
    denied_elsewhere: sum(totals.of(listener.name, '').denied),
    providers: reachableProviders(listener).map((name) => {
      const total = totals.of(listener.name, name);
      const count = counts.find((entry) => entry.listener === listener.name && entry.provider === name);
      return {
        name,
        in_flight: count?.count ?? 0,
        allowed: total.allowed,
        denied: sum(total.denied),
        denied_by_code: Object.fromEntries(total.denied),
        bytes_in: total.bytesIn,
        bytes_out: total.bytesOut,
        circuit: circuits.get(name) ?? circuits.get(pairKey(listener.name, name)) ?? 'closed',
        provider_tokens: tokens(bucketKey.provider(name), config.providers.get(name)?.rate),
        pair_tokens: tokens(bucketKey.pair(listener.name, name), config.rate),
      };
    }),
  };
}

function sum(counts: ReadonlyMap<string, number>): number {
  return [...counts.values()].reduce((a, b) => a + b, 0);
}
