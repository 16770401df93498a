/**
 * A WebSocket tunnel: messages go from one end to the other whole, in order, as text or binary. Each end
 * speaks the protocol on its own connection (framing, ping, close handshake); nothing of it passes but
 * messages and the close code with its reason.
 *
 * Never is a message lost without a sign: what cannot be delivered ends the tunnel. The upstream is paused
 * while the client does not keep up. The client cannot be paused (docs/runtime.md 25), so a limit stands for
 * what may wait for the upstream.
 */
import { type ErrorCode, ProxyError } from '../errors.ts';
import type { Abort } from './abort.ts';
import type { Outcome } from './exchange.ts';
import type { ReflectionScanner } from './reflection.ts';
import type { Watch } from './watch.ts';

type Bytes = Uint8Array<ArrayBufferLike>;

/** Stands for a close frame without a code (RFC 6455 7.4.1). */
export const NO_STATUS = 1005;
/** Stands for a connection that ended without a close frame. */
export const NO_CLOSE_FRAME = 1006;

/** One end of a tunnel, with its connection. */
export interface TunnelEnd {
  /** Sends a message; false if it could not be taken and is lost. */
  readonly send: (bytes: Bytes, isText: boolean) => boolean;
  /** Bytes that were sent and that the connection has not taken yet. */
  readonly waiting: () => number;
  /** Sends a close frame behind what waits, then closes the connection, within seconds. Later calls do nothing. */
  readonly close: (code: number, reason: string) => void;
  /** Cuts the connection off. */
  readonly terminate: () => void;
}

export interface UpstreamEnd extends TunnelEnd {
  /** Stops and resumes reading. */
  readonly pause: () => void;
  readonly resume: () => void;
}

/** What an end reports. */
export interface EndEvents {
  readonly message: (bytes: Bytes, isText: boolean) => void;
  /** The connection took some of what waited. */
  readonly drained: () => void;
  /** The peer broke the protocol or a limit, or the connection broke; `closed` follows. */
  readonly failed: (error: ProxyError) => void;
  /** The connection is closed; called once, and last. */
  readonly closed: (code: number, reason: string) => void;
}

/** A WebSocket asked of an upstream. */
export interface WebSocketRequest {
  /** Made by upstreamUrl. */
  readonly url: string;
  readonly headers: Headers;
  readonly protocols: readonly string[];
  /** Largest message that is taken, bytes. */
  readonly maxMessageBytes: number;
  readonly abort: Abort;
}

export type WebSocketAnswer =
  /** `headers` are those of the 101. */
  | { readonly kind: 'open'; readonly headers: Headers; readonly end: UpstreamEnd }
  | { readonly kind: 'refused'; readonly response: Response };

/** Opens WebSockets to one upstream; see runtime/. Rejects when there is no usable answer. */
export type OpenWebSocket = (request: WebSocketRequest, events: EndEvents) => Promise<WebSocketAnswer>;

/** Close codes by error; 1011 for all others (RFC 6455 7.4.1, and 1013 of the IANA registry). */
const CLOSE_CODES: Partial<Record<ErrorCode, number>> = {
  shutting_down: 1001,
  halted: 1001,
  upstream_timeout: 1001,
  bad_request: 1002,
  credential_reflected: 1008,
  request_too_large: 1009,
  response_too_large: 1009,
  overloaded: 1013,
  // In a tunnel only ever a client that does not read.
  request_timeout: 1013,
};
const INTERNAL_ERROR = 1011;

export interface TunnelOptions {
  /** Largest client message, and how much may wait for the upstream; bytes. */
  readonly maxClientBytes: number;
  readonly scanner: ReflectionScanner | undefined;
  readonly watch: Watch;
  readonly onBytesIn: (bytes: number) => void;
  readonly onBytesOut: (bytes: number) => void;
  /** Somebody ended the tunnel with a close frame. */
  readonly onClose: (by: 'client' | 'upstream', code: number) => void;
  /** Called once, when both connections are closed. */
  readonly onEnd: (outcome: Outcome) => void;
}

export interface Tunnel {
  /** What the two ends report to; what comes before `start` waits. */
  readonly fromClient: EndEvents;
  readonly fromUpstream: EndEvents;
  readonly start: (client: TunnelEnd, upstream: UpstreamEnd) => void;
  /** Gives the tunnel up; a second time, or while it is closing, cuts it off. */
  readonly cut: (error: ProxyError) => void;
}

const SWITCHING_PROTOCOLS = 101;
const DONE: Outcome = { kind: 'done', status: SWITCHING_PROTOCOLS };

export function createTunnel(options: TunnelOptions): Tunnel {
  const { scanner, watch, maxClientBytes } = options;
  let client: TunnelEnd | undefined;
  let upstream: UpstreamEnd | undefined;
  /** Messages for a client that does not keep up. */
  const queue: { readonly bytes: Bytes; readonly isText: boolean }[] = [];
  let isStalled = false;
  /** What the client is told once it has everything. */
  let farewell: { readonly code: number; readonly reason: string } | undefined;
  let outcome: Outcome | undefined;
  let clientIsOpen = true;
  let upstreamIsOpen = true;

  function fail(error: ProxyError): void {
    if (outcome !== undefined) return;
    outcome = { kind: 'failed', error };
    queue.length = 0;
    farewell = { code: CLOSE_CODES[error.code] ?? INTERNAL_ERROR, reason: `isoproxy: ${error.code}` };
    upstream?.close(farewell.code, farewell.reason);
    client?.close(farewell.code, farewell.reason);
  }

  function cut(error: ProxyError): void {
    if (outcome === undefined) {
      fail(error);
      return;
    }
    outcome = { kind: 'failed', error };
    client?.terminate();
    upstream?.terminate();
  }

  /** Sends what waits for the client as far as it keeps up, and reads on from the upstream if it does. */
  function pump(): void {
    if (client === undefined || upstream === undefined || !clientIsOpen) return;
    while (client.waiting() === 0) {
      const message = queue.shift();
      if (message === undefined) break;
      if (!client.send(message.bytes, message.isText)) {
        fail(new ProxyError('overloaded', 'the client does not keep up'));
        return;
      }
      options.onBytesOut(message.bytes.byteLength);
    }
    const stalled = client.waiting() > 0;
    if (stalled !== isStalled) {
      isStalled = stalled;
      watch.download(stalled ? 'client' : 'upstream');
      if (stalled) upstream.pause();
      else upstream.resume();
    }
    if (!stalled && farewell !== undefined) client.close(farewell.code, farewell.reason);
  }

  function finish(): void {
    if (!clientIsOpen && !upstreamIsOpen) options.onEnd(outcome ?? DONE);
  }

  /** Does `bytes` complete a credential, or end in the middle of one? Then they must not go on. */
  function reflects(bytes: Bytes): boolean {
    const result = scanner?.push(bytes);
    return result !== undefined && (result.reflected || result.clean.byteLength !== bytes.byteLength);
  }

  const fromUpstream: EndEvents = {
    message(bytes, isText) {
      if (outcome !== undefined) return;
      if (reflects(bytes)) fail(new ProxyError('credential_reflected', 'in a message'));
      else {
        if (!isStalled) watch.download('upstream');
        queue.push({ bytes, isText });
        pump();
      }
    },
    drained() {},
    failed: fail,
    closed(code, reason) {
      upstreamIsOpen = false;
      if (outcome === undefined) {
        if (reflects(new TextEncoder().encode(reason)))
          fail(new ProxyError('credential_reflected', 'in a close reason'));
        else if (code === NO_CLOSE_FRAME) {
          const error = new ProxyError('upstream_unreachable', 'closed without a close frame');
          outcome = { kind: 'failed', error };
          farewell = { code: INTERNAL_ERROR, reason: `isoproxy: ${error.code}` };
        } else {
          outcome = DONE;
          farewell = { code, reason };
          options.onClose('upstream', code);
        }
        pump();
      } else if (outcome.kind === 'done' && (upstream?.waiting() ?? 0) > 0) {
        const error = new ProxyError('upstream_unreachable', 'closed before it had every message');
        outcome = { kind: 'failed', error };
      }
      finish();
    },
  };

  const fromClient: EndEvents = {
    message(bytes, isText) {
      if (outcome !== undefined || upstream === undefined) return;
      if (bytes.byteLength > maxClientBytes)
        fail(new ProxyError('request_too_large', 'message over max_request_body'));
      else if (upstream.waiting() > maxClientBytes)
        fail(new ProxyError('overloaded', 'the upstream does not keep up'));
      else {
        if (!isStalled) watch.download('upstream');
        options.onBytesIn(bytes.byteLength);
        upstream.send(bytes, isText);
      }
    },
    drained() {
      if (isStalled) watch.download('client');
      pump();
    },
    failed: fail,
    closed(code, reason) {
      clientIsOpen = false;
      const left = code === NO_CLOSE_FRAME;
      if (outcome === undefined) {
        outcome = left ? { kind: 'client_closed' } : DONE;
        // A cut on one side is a cut on the other.
        if (left) upstream?.terminate();
        else {
          options.onClose('client', code);
          upstream?.close(code, reason);
        }
      } else if (left && outcome.kind === 'done') outcome = { kind: 'client_closed' };
      finish();
    },
  };

  function start(clientEnd: TunnelEnd, upstreamEnd: UpstreamEnd): void {
    client = clientEnd;
    upstream = upstreamEnd;
    watch.download('upstream');
    pump();
  }

  return { fromClient, fromUpstream, start, cut };
}
