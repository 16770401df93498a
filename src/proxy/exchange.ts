/** One request and its answer: what the stages learn about it, and how it ends. Ends exactly once. */
import { CLIENT_CLOSED_STATUS, type ProxyError } from '../errors.ts';
import { type Abort, createAbort } from './abort.ts';
import { createRequestBody, type RequestBody } from './request-body.ts';

/** The access record of one request; README.md documents each field. */
export interface AccessRecord {
  /** RFC 3339, UTC, ms: when the request arrived. */
  readonly time: string;
  readonly request_id: string;
  readonly listener: string;
  /** Empty if none was found. */
  readonly provider: string;
  readonly method: string;
  /** Canonical path without the query; at most 512 bytes. */
  readonly path: string;
  /** What the client saw; 499 if it left before the answer's head, 101 for a WebSocket. */
  readonly status: number;
  /** `allow`: forwarded. `deny`: refused before anything was dialled. `own`: answered by the proxy's own routes. */
  readonly decision: 'allow' | 'deny' | 'own';
  /** Error code of the refusal or failure, `client_closed`, or empty. */
  readonly reason: string;
  /** The rule that allowed it, or empty. */
  readonly rule: string;
  /** Body bytes from the client; of a WebSocket, bytes of messages. */
  readonly bytes_in: number;
  /** Body bytes to the client; of a WebSocket, bytes of messages. */
  readonly bytes_out: number;
  /** From arrival to the upstream's response head, ms; null if there was none. */
  readonly ttfb_ms: number | null;
  readonly duration_ms: number;
  /** More about a failure, or how a WebSocket was closed: fixed phrases of ours or an error code of the runtime, or empty. */
  readonly error: string;
}

/** Longest path in a record, bytes. */
const MAX_RECORD_PATH = 512;

export interface Exchange {
  readonly id: string;
  readonly request: Request;
  readonly listener: string;
  readonly method: string;
  readonly body: RequestBody;
  /** Given up with a ProxyError (limits, halt) or `undefined` (the client left). */
  readonly abort: Abort;
  /** True once the audit log holds that it is about to be forwarded. */
  isIntended: boolean;
  /** True once the request may be sent; until then every end is a denial. */
  forwarded: boolean;
  path: string;
  provider: string;
  rule: string;
  /** Bytes of WebSocket messages from the client. */
  messageBytesIn: number;
  bytesOut: number;
  /** True once it is a WebSocket tunnel: then the end of its request says nothing. */
  isTunnel: boolean;
  /** Status of the answer whose head has gone out; a later failure can only cut its body. */
  sentStatus: number | undefined;
  /** What the record says besides a failure; empty if nothing. */
  note: string;
  /** Marks the arrival of the upstream's response head. */
  readonly markHead: () => void;
  /** Called at the end, in reverse order of registration. */
  readonly onEnd: (cleanup: () => void) => void;
  /** Ends the exchange: runs the clean-ups, writes the record. Later calls do nothing. */
  readonly end: (outcome: Outcome) => void;
}

export type Outcome =
  | { readonly kind: 'done'; readonly status: number; readonly own?: boolean }
  | { readonly kind: 'failed'; readonly error: ProxyError }
  | { readonly kind: 'client_closed' };

/** What all exchanges of a listener have in common. */
export interface ExchangeOptions {
  readonly listener: string;
  readonly nextId: () => string;
  /** Monotonic clock, ms. */
  readonly now: () => number;
  /** Wall clock, ms since the epoch. */
  readonly wallNow: () => number;
  readonly record: (record: AccessRecord, isIntended: boolean) => void;
}

export function createExchange(request: Request, options: ExchangeOptions): Exchange {
  const startedAt = options.now();
  const arrivedAt = options.wallNow();
  const cleanups: (() => void)[] = [];
  let headAt: number | undefined;
  let ended = false;

  const exchange: Exchange = {
    id: options.nextId(),
    request,
    listener: options.listener,
    method: request.method,
    body: createRequestBody(request),
    abort: createAbort(),
    isIntended: false,
    forwarded: false,
    path: '',
    provider: '',
    rule: '',
    messageBytesIn: 0,
    bytesOut: 0,
    isTunnel: false,
    note: '',
    sentStatus: undefined,
    markHead() {
      headAt = options.now();
    },
    onEnd(cleanup) {
      if (ended) cleanup();
      else cleanups.push(cleanup);
    },
    end(outcome) {
      if (ended) return;
      ended = true;
      for (const cleanup of cleanups.reverse()) cleanup();
      options.record(makeRecord(exchange, outcome), exchange.isIntended);
    },
  };

  function makeRecord(of: Exchange, outcome: Outcome): AccessRecord {
    const failed = outcome.kind === 'failed' ? outcome.error : undefined;
    return {
      time: new Date(arrivedAt).toISOString(),
      request_id: of.id,
      listener: of.listener,
      provider: of.provider,
      method: of.method.slice(0, 32),
      path: of.path.slice(0, MAX_RECORD_PATH),
      status: of.sentStatus ?? statusOf(outcome),
      decision: outcome.kind === 'done' && outcome.own ? 'own' : of.forwarded ? 'allow' : 'deny',
      reason: failed?.code ?? (outcome.kind === 'client_closed' ? 'client_closed' : ''),
      rule: of.rule,
      bytes_in: of.body.bytes() + of.messageBytesIn,
      bytes_out: of.bytesOut,
      ttfb_ms: headAt === undefined ? null : round(headAt - startedAt),
      duration_ms: round(options.now() - startedAt),
      error: failed?.reason ?? of.note,
    };
  }

  return exchange;
}

function statusOf(outcome: Outcome): number {
  if (outcome.kind === 'done') return outcome.status;
  return outcome.kind === 'failed' ? outcome.error.status : CLIENT_CLOSED_STATUS;
}

/** Milliseconds with microseconds, as a short number. */
function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
