/**
 * The metrics page, in the Prometheus text format. docs/metrics.md lists what is on it.
 *
 * Nothing that an agent chooses becomes a label: listeners, providers and reasons are names of the
 * configuration and of the source, and statuses are folded. Otherwise one agent could fill the memory of
 * the proxy, and of whoever collects, with series that are never used again.
 *
 * prom-client is loaded in parts: its front door also loads a cluster, a push gateway, node's defaults and
 * OpenTelemetry (at start about 14 ms and 1 to 2 MiB, instead of 2 to 5 ms and less than 0.5 MiB).
 */
import process from 'node:process';
import Counter from 'prom-client/lib/counter.js';
import Gauge from 'prom-client/lib/gauge.js';
import Registry from 'prom-client/lib/registry.js';
import type { AuditStatus } from './audit/trail.ts';
import type { AccessRecord } from './proxy/exchange.ts';
import { createRequestSums } from './request-sums.ts';

export interface Metrics {
  /** Counts a finished request. */
  readonly observe: (record: AccessRecord) => void;
  /** The whole page. */
  readonly render: () => Promise<string>;
  readonly contentType: string;
}

/** Where the numbers that no record holds come from; each is asked when the page is rendered. */
export interface MetricsOptions {
  readonly inFlight: () => readonly {
    readonly listener: string;
    readonly provider: string;
    readonly count: number;
  }[];
  /** Circuits that are not closed, by provider, or by `listener provider`. */
  readonly circuits: () => readonly { readonly key: string; readonly state: 'open' | 'half_open' }[];
  readonly halts: () => readonly { readonly kind: 'all' | 'provider' | 'listener'; readonly name?: string }[];
  /** Since the start. */
  readonly lostLogLines: () => number;
  readonly audit: () => AuditStatus;
  /** Of the configuration in force; grows with each reload. */
  readonly generation: () => number;
  /** Since the start. */
  readonly reloads: () => { readonly succeeded: number; readonly failed: number };
  /** Undefined where it cannot be known. */
  readonly openDescriptors: () => number | undefined;
  /** Undefined where it cannot be known. */
  readonly descriptorLimit: () => number | undefined;
  readonly version: string;
  /** Name and version of the runtime. */
  readonly runtime: string;
  /** Wall clock, ms since the epoch. */
  readonly startedAt: number;
}

/**
 * Statuses that are counted by themselves: the registered ones (IANA), and those in wide use (499 nginx, 520-526
 * Cloudflare, 529 Anthropic). There are upstreams that answer with the very status they are asked for.
 */
const KNOWN_STATUSES = new Set([
  100, 101, 102, 103, 104, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305,
  307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421,
  422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
  520, 521, 522, 523, 524, 525, 526, 529,
]);

/** A status as a label: itself, or its class, as in `4xx`. */
function statusLabel(status: number): string {
  return KNOWN_STATUSES.has(status) ? String(status) : `${Math.trunc(status / 100)}xx`;
}

export function createMetrics(options: MetricsOptions): Metrics {
  const registry = new Registry();
  const registers = [registry];

  const sums = createRequestSums(statusLabel);
  for (const metric of sums.metrics) registry.registerMetric(metric as unknown as Counter);
  const refusals = new Counter({
    registers,
    name: 'isoproxy_refusals_total',
    help: 'Requests that ended with an error code of the proxy: refused, or given up after they were forwarded.',
    labelNames: ['listener', 'reason'],
  });
  const pair = ['listener', 'provider'] as const;
  /** A gauge whose series are those of this moment. */
  function gauge<L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    read: () => Iterable<readonly [labels: Partial<Record<L, string>>, value: number | undefined]>,
  ): void {
    new Gauge({ registers, name, help, labelNames, collect: collect(read) });
  }

  /** A counter that somebody else keeps. */
  function counter<L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    read: () => Iterable<readonly [labels: Partial<Record<L, string>>, value: number | undefined]>,
  ): void {
    new Counter({ registers, name, help, labelNames, collect: collect(read) });
  }

  gauge('isoproxy_in_flight', 'Requests in flight.', pair, () =>
    options.inFlight().map(({ count, ...labels }) => [labels, count]),
  );
  gauge(
    'isoproxy_circuit_open',
    '1 for each circuit that is not closed; without a listener, it is that of the provider for all.',
    ['listener', 'provider', 'state'],
    () => options.circuits().map(({ key, state }) => [{ ...circuitLabels(key), state }, 1]),
  );
  gauge('isoproxy_halted', '1 for each halt in force.', ['scope', 'name'], () => {
    const halts = options.halts();
    // The one that is always there, so that a rule can tell "not halted" from "no proxy".
    const all = halts.some(({ kind }) => kind === 'all') ? 1 : 0;
    const others = halts.filter(({ kind }) => kind !== 'all');
    return [
      [{ scope: 'all', name: '' }, all] as const,
      ...others.map(({ kind, name }) => [{ scope: kind, name: name ?? '' }, 1] as const),
    ];
  });
  gauge('isoproxy_config_generation', 'Number of the configuration in force.', [], () => [
    [{}, options.generation()],
  ]);
  counter('isoproxy_reloads_total', 'Reloads of the configuration, by result.', ['result'], () =>
    Object.entries(options.reloads()).map(([result, count]) => [{ result }, count]),
  );
  counter('isoproxy_log_lines_lost_total', 'Log lines that nobody read in time.', [], () => [
    [{}, options.lostLogLines()],
  ]);
  const { audit } = options;
  gauge('isoproxy_audit_failed', '1 if the audit log cannot be written: nothing is forwarded.', [], () => [
    [{}, audit().state === 'failed' ? 1 : 0],
  ]);
  gauge(
    'isoproxy_audit_lag_seconds',
    'How long the oldest audit record that is not on disk has waited.',
    [],
    () => [[{}, audit().lag_ms / 1000]],
  );
  gauge('isoproxy_audit_bytes', 'Size of the audit log.', [], () => [[{}, audit().bytes]]);
  gauge('isoproxy_audit_max_bytes', 'Size at which nothing more is forwarded.', [], () => [
    [{}, audit().max_bytes],
  ]);
  counter('isoproxy_audit_records_total', 'Records on disk since the log began.', [], () => [
    [{}, audit().records],
  ]);
  counter('isoproxy_audit_records_lost_total', 'Records that could not be kept since the start.', [], () => [
    [{}, audit().lost],
  ]);
  gauge('isoproxy_build_info', 'Always 1.', ['version', 'runtime'], () => [
    [{ version: options.version, runtime: options.runtime }, 1],
  ]);
  gauge('process_resident_memory_bytes', 'Resident memory.', [], () => [[{}, process.memoryUsage.rss()]]);
  gauge('process_open_fds', 'Open file descriptors.', [], () => [[{}, options.openDescriptors()]]);
  gauge('process_max_fds', 'Most file descriptors that may be open.', [], () => [
    [{}, options.descriptorLimit()],
  ]);
  gauge('process_start_time_seconds', 'Start of the process, since the epoch.', [], () => [
    [{}, options.startedAt / 1000],
  ]);
  counter('process_cpu_seconds_total', 'CPU time, user and system.', [], () => {
    const { user, system } = process.cpuUsage();
    return [[{}, (user + system) / 1e6]];
  });

  return {
    contentType: registry.contentType,
    render: () => registry.metrics(),
    observe(record) {
      const { listener, reason } = record;
      sums.observe(record);
      // A client that left is no refusal.
      if (reason !== '' && reason !== 'client_closed') refusals.inc({ listener, reason });
    },
  };
}

/** What sets all series of a metric anew; those without a value are absent. */
function collect<L extends string>(
  read: () => Iterable<readonly [labels: Partial<Record<L, string>>, value: number | undefined]>,
) {
  return function (this: Counter<L> | Gauge<L>): void {
    this.reset();
    for (const [labels, value] of read()) {
      // Without labels, a reset is a zero.
      if (value === undefined) this.remove(labels);
      else this.inc(labels, value);
    }
  };
}

function circuitLabels(key: string): { listener: string; provider: string } {
  const [first = '', second] = key.split(' ');
  return second === undefined ? { listener: '', provider: first } : { listener: first, provider: second };
}
