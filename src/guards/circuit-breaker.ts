/**
 * Circuit breaker: an upstream that fails again and again is given a pause, in which requests are refused at once.
 *
 * Each request passes two circuits. That of its provider counts what no client can provoke: failed connections and
 * TLS. That of its (listener, provider) pair counts timeouts and 5xx, which a client may well provoke: one sandbox
 * cannot open the circuit of another. Client aborts and 4xx, 429 among them, never count.
 */
import { ProxyError } from '../errors.ts';
import { circuitKeys } from './keys.ts';

export interface CircuitLimit {
  /** Failures in a row that open the circuit. */
  readonly failures: number;
  /** First pause, ms; doubles with each failed probe. */
  readonly openMs: number;
  /** Longest pause, ms. */
  readonly maxOpenMs: number;
}

/** What a request turned out to be: which circuit it tells about, and what. */
export type Verdict =
  /** A response head came, and it was no 5xx. */
  | 'success'
  /** No connection, or no TLS: counts for everybody. */
  | 'unreachable'
  /** A 5xx, an answer that is none: counts for this client. That a connection was made counts for everybody. */
  | 'failure'
  /** No response head in time: counts for this client. Whether there was a connection, nobody knows. */
  | 'timeout'
  /** The client left, or was too slow: says nothing about the upstream. */
  | 'cancelled';

/** A request's way through its circuits. */
export interface Trial {
  /** Reports how it went, once; later calls do nothing. */
  readonly settle: (verdict: Verdict) => void;
}

export interface CircuitBreaker {
  /**
   * Lets a request through, as the one probe where a circuit is half-open. Called when its body has arrived, or begins
   * to stream: then its client decides how long that takes, so after another pause somebody else may probe.
   * @throws ProxyError circuit_open, with the whole seconds until the next probe
   */
  readonly enter: (listener: string, provider: string, limit: CircuitLimit, streams?: boolean) => Trial;
  /**
   * Would `enter` refuse now? Asked early, so that a refused request costs nothing.
   * @throws ProxyError circuit_open
   */
  readonly check: (listener: string, provider: string) => void;
  /** What is known of this provider, and what requests under way will tell, is about another upstream. */
  readonly forget: (provider: string) => void;
  /** Circuits that are not closed, by provider, or by `listener provider`. */
  readonly states: () => ReadonlyMap<string, CircuitState>;
}

export type CircuitState = 'open' | 'half_open';

interface Circuit {
  /** In a row. */
  failures: number;
  /** End of the pause; undefined while closed. */
  openUntil: number | undefined;
  /** The length of the last pause, ms; 0 after a success. */
  pauseMs: number;
  /** The number of the probe that is under way. */
  probe: number | undefined;
  /** Until when it keeps others out. */
  probeUntil: number;
  /** The number of the last request that was let through before the circuit opened. */
  stragglers: number;
}

/** What a verdict says about one circuit. */
type Finding = 'passed' | 'failed' | 'nothing';

const OF_PROVIDER: Readonly<Record<Verdict, Finding>> = {
  success: 'passed',
  unreachable: 'failed',
  failure: 'passed',
  timeout: 'nothing',
  cancelled: 'nothing',
};

const OF_PAIR: Readonly<Record<Verdict, Finding>> = {
  success: 'passed',
  unreachable: 'nothing',
  failure: 'failed',
  timeout: 'failed',
  cancelled: 'nothing',
};

/** While a probe is under way, how long others are told to wait, s. */
const PROBE_RETRY_SECONDS = 1;

/** @param now monotonic clock, ms */
export function createCircuitBreaker(now: () => number): CircuitBreaker {
  const circuits = new Map<string, Circuit>();
  /** Requests let through so far: each is known by its number. */
  let entered = 0;
  /** The last request that was let through to an upstream that a provider had before. */
  const forgotten = new Map<string, number>();

  /** Seconds that a circuit makes a request wait; 0 = none. */
  function waitOf(circuit: Circuit | undefined, at: number): number {
    if (circuit?.openUntil === undefined) return 0;
    if (circuit.openUntil > at) return Math.ceil((circuit.openUntil - at) / 1000);
    return circuit.probe === undefined || circuit.probeUntil <= at ? 0 : PROBE_RETRY_SECONDS;
  }

  function check(listener: string, provider: string): void {
    const at = now();
    const [providerKey, pairKey] = circuitKeys(listener, provider);
    const [ofProvider, ofPair] = [circuits.get(providerKey), circuits.get(pairKey)];
    const wait = Math.max(waitOf(ofProvider, at), waitOf(ofPair, at));
    if (wait === 0) return;
    const isOpen = Math.max(ofProvider?.openUntil ?? 0, ofPair?.openUntil ?? 0) > at;
    throw new ProxyError('circuit_open', isOpen ? 'open' : 'half-open', wait);
  }

  function enter(listener: string, provider: string, limit: CircuitLimit, streams = false): Trial {
    // Both are asked before either is entered: a probe of one that the other refuses would hold its slot.
    check(listener, provider);
    const [providerKey, pairKey] = circuitKeys(listener, provider);
    const request = ++entered;
    for (const key of [providerKey, pairKey]) {
      const circuit = circuits.get(key);
      if (circuit?.openUntil === undefined) continue;
      circuit.probe = request;
      circuit.probeUntil = streams ? now() + circuit.pauseMs : Number.POSITIVE_INFINITY;
    }
    let settled = false;
    return {
      settle(verdict) {
        if (settled) return;
        settled = true;
        if (request <= (forgotten.get(provider) ?? 0)) return;
        record(providerKey, limit, request, OF_PROVIDER[verdict]);
        record(pairKey, limit, request, OF_PAIR[verdict]);
      },
    };
  }

  function record(key: string, limit: CircuitLimit, request: number, finding: Finding): void {
    const circuit = circuits.get(key);
    if (circuit === undefined) {
      if (finding === 'failed') fail(key, createCircuit(), limit, false);
      return;
    }
    const isProbe = circuit.probe === request;
    if (isProbe) circuit.probe = undefined;
    // What began before the circuit opened says nothing about how the upstream is now, not even once it is closed again.
    else if (request <= circuit.stragglers) return;
    // A probe in whose place another stands is late, but when it succeeds, the upstream is well.
    else if (circuit.openUntil !== undefined && finding !== 'passed') return;
    if (finding === 'failed') fail(key, circuit, limit, isProbe);
    else if (finding === 'passed') {
      circuit.failures = 0;
      circuit.pauseMs = 0;
      circuit.openUntil = undefined;
      circuit.probe = undefined;
    }
  }

  function fail(key: string, circuit: Circuit, limit: CircuitLimit, isProbe: boolean): void {
    circuits.set(key, circuit);
    circuit.failures++;
    if (!isProbe && circuit.failures < limit.failures) return;
    circuit.pauseMs = Math.min(limit.maxOpenMs, circuit.pauseMs === 0 ? limit.openMs : circuit.pauseMs * 2);
    circuit.openUntil = now() + circuit.pauseMs;
    circuit.stragglers = entered;
  }

  function states(): ReadonlyMap<string, CircuitState> {
    const found = new Map<string, CircuitState>();
    for (const [key, { openUntil }] of circuits)
      if (openUntil !== undefined) found.set(key, openUntil > now() ? 'open' : 'half_open');
    return found;
  }

  function forget(provider: string): void {
    forgotten.set(provider, entered);
    for (const key of circuits.keys())
      if (key === provider || key.endsWith(` ${provider}`)) circuits.delete(key);
  }

  return { check, enter, forget, states };
}

function createCircuit(): Circuit {
  return { failures: 0, openUntil: undefined, pauseMs: 0, probe: undefined, probeUntil: 0, stragglers: 0 };
}
