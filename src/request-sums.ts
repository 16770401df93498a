/**
 * What the metrics page says of finished requests, summed up as they finish. The library's own counters check, sort and
 * join their labels on every count, which was a tenth of the CPU of a request; here a pair of listener and provider is
 * looked up once, and the library gets its labels when the page is asked for.
 */
import { pairKey } from './guards/keys.ts';
import type { AccessRecord } from './proxy/exchange.ts';

/** From an answer out of a cache beside us to an hour of streaming, s. */
const BUCKETS = [
  0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600,
] as const;

/** A line of the page. */
export interface Sample {
  readonly metricName: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

/** A metric as the library's registry takes it. */
export interface SummedMetric {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'histogram';
  readonly get: () => Promise<SummedMetric & { readonly values: readonly Sample[] }>;
}

export interface RequestSums {
  readonly observe: (record: AccessRecord) => void;
  readonly metrics: readonly SummedMetric[];
}

interface Durations {
  /** Of each bucket alone, and beyond the last. */
  readonly counts: number[];
  sum: number;
}

interface PairSums {
  readonly labels: { readonly listener: string; readonly provider: string };
  /** By decision and status, a space between. */
  readonly requests: Map<string, number>;
  bytesIn: number;
  bytesOut: number;
  readonly firstByte: Durations;
  readonly duration: Durations;
}

/** @param statusLabel what a status is counted as */
export function createRequestSums(statusLabel: (status: number) => string): RequestSums {
  const pairs = new Map<string, PairSums>();

  function observe(record: AccessRecord): void {
    const { listener, provider, decision, status, ttfb_ms } = record;
    const key = pairKey(listener, provider);
    let pair = pairs.get(key);
    if (pair === undefined) {
      pair = {
        labels: { listener, provider },
        requests: new Map(),
        bytesIn: 0,
        bytesOut: 0,
        firstByte: createDurations(),
        duration: createDurations(),
      };
      pairs.set(key, pair);
    }
    const kind = `${decision} ${statusLabel(status)}`;
    pair.requests.set(kind, (pair.requests.get(kind) ?? 0) + 1);
    pair.bytesIn += record.bytes_in;
    pair.bytesOut += record.bytes_out;
    if (ttfb_ms !== null) add(pair.firstByte, ttfb_ms / 1000);
    if (decision === 'allow') add(pair.duration, record.duration_ms / 1000);
  }

  function metric(
    type: SummedMetric['type'],
    name: string,
    help: string,
    read: (pair: PairSums) => readonly Sample[],
  ): SummedMetric {
    const about = { name, help, type };
    const get = async () => ({ ...about, get, values: [...pairs.values()].flatMap(read) });
    return { ...about, get };
  }

  const counter = (name: string, help: string, read: (pair: PairSums) => number) =>
    metric('counter', name, help, (pair) => [{ metricName: name, labels: pair.labels, value: read(pair) }]);
  const histogram = (name: string, help: string, read: (pair: PairSums) => Durations) =>
    metric('histogram', name, help, (pair) => samplesOf(name, pair.labels, read(pair)));

  return {
    observe,
    metrics: [
      metric(
        'counter',
        'isoproxy_requests_total',
        'Finished requests, by what was decided (allow: forwarded; deny: refused; own: answered by the proxy) and what the client saw.',
        ({ labels, requests }) =>
          [...requests].map(([kind, value]) => {
            const [decision = '', status = ''] = kind.split(' ');
            return { metricName: 'isoproxy_requests_total', labels: { ...labels, decision, status }, value };
          }),
      ),
      counter(
        'isoproxy_request_body_bytes_total',
        'Bytes of request bodies and WebSocket messages from clients.',
        ({ bytesIn }) => bytesIn,
      ),
      counter(
        'isoproxy_response_body_bytes_total',
        'Bytes of response bodies and WebSocket messages to clients.',
        ({ bytesOut }) => bytesOut,
      ),
      histogram(
        'isoproxy_time_to_first_byte_seconds',
        "From the arrival of a request to the head of the upstream's response.",
        ({ firstByte }) => firstByte,
      ),
      histogram(
        'isoproxy_request_duration_seconds',
        'From the arrival of a forwarded request to the end of its response.',
        ({ duration }) => duration,
      ),
    ],
  };
}

function createDurations(): Durations {
  return { counts: new Array<number>(BUCKETS.length + 1).fill(0), sum: 0 };
}

function add(durations: Durations, seconds: number): void {
  let at = 0;
  while (at < BUCKETS.length && seconds > (BUCKETS[at] as number)) at++;
  durations.counts[at] = (durations.counts[at] ?? 0) + 1;
  durations.sum += seconds;
}

/** Buckets count all that is no longer than they say; a pair that has nothing to tell is absent. */
function samplesOf(name: string, labels: PairSums['labels'], { counts, sum }: Durations): readonly Sample[] {
  let count = 0;
  const buckets = [...BUCKETS, '+Inf'].map((le, index) => {
    count += counts[index] ?? 0;
    return { metricName: `${name}_bucket`, labels: { le, ...labels }, value: count };
  });
  if (count === 0) return [];
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: count },
  ];
}
