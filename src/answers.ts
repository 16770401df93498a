/** The way back: what an upstream answered, to the client, as a response or as a WebSocket tunnel. */
import type { Credentials } from './credentials/vault.ts';
import { ProxyError, toProxyError } from './errors.ts';
import type { Provider } from './provider.ts';
import type { Abort } from './proxy/abort.ts';
import type { Exchange } from './proxy/exchange.ts';
import { checkResponseHead, translateUpstreamError } from './proxy/forward.ts';
import { clientHeaders } from './proxy/headers.ts';
import { carriesSecret, createScanner, holdsSecret } from './proxy/reflection.ts';
import { type BodySource, passBody } from './proxy/response-body.ts';
import type { Rule } from './proxy/rules.ts';
import type { Watch } from './proxy/watch.ts';
import { createTunnel, type EndEvents, type TunnelEnd } from './proxy/websocket.ts';
import { removeAnswerHeaders, removeHandshakeHeaders } from './proxy/websocket-handshake.ts';

/** A request on its way: what is known of it after the verdict. */
export interface Passage {
  readonly exchange: Exchange;
  readonly provider: Provider;
  readonly rule: Rule;
  readonly credentials: Credentials;
  readonly watch: Watch;
}

export interface AnswersOptions {
  /** A response body that the runtime streams; see runtime/. */
  readonly bodyStream: (source: BodySource) => ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Makes a request the client's end of a tunnel; undefined if it cannot be any more. See runtime/. */
  readonly acceptWebSocket: (request: Request, headers: Headers, events: EndEvents) => TunnelEnd | undefined;
}

export interface Answers {
  /** Passes a response on; after its head a failure can only cut the connection. */
  readonly passResponse: (passage: Passage, response: Response) => Promise<Response>;
  /**
   * Asks the upstream for a WebSocket, and the client's connection becomes one only then: an upstream that
   * refuses has its answer passed on.
   */
  readonly openTunnel: (
    passage: Passage,
    url: string,
    headers: Headers,
    protocols: readonly string[],
  ) => Promise<Response>;
  /** Closes every tunnel; returns how many there were. */
  readonly closeTunnels: () => number;
}

/**
 * An answer of at most this declared length is read whole before it is passed on: a tenth of a request's CPU, and it keeps
 * its Content-Length. It is what a socket's buffer surely takes (unix: 208 KiB by default), so that nothing is left in
 * the runtime's hands when the exchange has ended.
 */
const SMALL_ANSWER_BYTES = 64 * 1024;

/** Close codes that a record need not tell of: normal, going away, none given. */
const ORDINARY_CLOSE = [1000, 1001, 1005];

export function createAnswers(options: AnswersOptions): Answers {
  const tunnels = new Set<Abort>();

  async function passResponse(passage: Passage, response: Response): Promise<Response> {
    const { exchange, provider, rule, credentials, watch } = passage;
    const { automaton } = credentials;
    const { maxResponseBody } = provider.config.limits;
    const head = checkResponseHead(exchange.method, response, rule.options, maxResponseBody);
    const headers = passHeaders(passage, response.headers);
    const { status } = head;
    if (!head.hasBody || response.body === null) {
      exchange.end({ kind: 'done', status });
      return new Response(null, { status, headers });
    }
    const { declaredLength } = head;
    if (declaredLength !== undefined && isSmallAnswer(response.headers, declaredLength)) {
      const whole = await readSmallAnswer(passage, response, declaredLength);
      exchange.bytesOut = whole.byteLength;
      exchange.end({ kind: 'done', status });
      return new Response(whole, { status, headers });
    }
    const body = await passBody({
      source: response.body,
      limit: maxResponseBody,
      scanner: automaton === undefined ? undefined : createScanner(automaton),
      watch,
      abort: exchange.abort,
      onBytes: (bytes) => {
        exchange.bytesOut += bytes;
      },
      onEnd: (error) => {
        if (error === undefined) exchange.end({ kind: 'done', status });
        else exchange.end({ kind: 'failed', error });
      },
      onCancel: () => exchange.end({ kind: 'client_closed' }),
      translate: (error) => translateUpstreamError(error, exchange.abort),
    });
    exchange.sentStatus = status;
    return new Response(body === undefined ? null : options.bodyStream(body), { status, headers });
  }

  async function openTunnel(
    passage: Passage,
    url: string,
    headers: Headers,
    protocols: readonly string[],
  ): Promise<Response> {
    const { exchange, provider, credentials, watch } = passage;
    const { abort } = exchange;
    const { maxRequestBody, maxResponseBody } = provider.config.limits;
    const tunnel = createTunnel({
      maxClientBytes: maxRequestBody,
      scanner: credentials.automaton === undefined ? undefined : createScanner(credentials.automaton),
      watch,
      onBytesIn: (bytes) => {
        exchange.messageBytesIn += bytes;
      },
      onBytesOut: (bytes) => {
        exchange.bytesOut += bytes;
      },
      onClose: (by, code) => {
        if (!ORDINARY_CLOSE.includes(code)) exchange.note = `closed ${code} by the ${by}`;
      },
      onEnd: exchange.end,
    });
    if (provider.openWebSocket === undefined)
      throw new ProxyError('internal', 'no WebSocket in this runtime');
    // The header policy may have taken them out.
    const offered = headers.has('sec-websocket-protocol') ? protocols : [];
    removeHandshakeHeaders(headers);
    const request = { url, headers, protocols: offered, maxMessageBytes: maxResponseBody, abort };
    const answer = await provider.openWebSocket(request, tunnel.fromUpstream);
    exchange.markHead();
    if (answer.kind === 'refused') return passResponse(passage, answer.response);
    const client = accept(passage, answer.headers, tunnel.fromClient);
    if (client === undefined) {
      answer.end.terminate();
      throw new ProxyError('bad_request', 'the connection cannot be upgraded');
    }
    exchange.sentStatus = 101;
    tunnels.add(abort);
    exchange.onEnd(() => tunnels.delete(abort));
    abort.onAbort(() => tunnel.cut(toProxyError(abort.reason())));
    tunnel.start(client, answer.end);
    // The runtime has sent its own.
    return new Response(null, { status: 101 });
  }

  function accept(passage: Passage, upstream: Headers, events: EndEvents): TunnelEnd | undefined {
    const { exchange } = passage;
    if (exchange.abort.isAborted()) return undefined;
    const headers = passHeaders(passage, upstream);
    removeAnswerHeaders(headers);
    exchange.isTunnel = true;
    const end = options.acceptWebSocket(exchange.request, headers, events);
    exchange.isTunnel = end !== undefined;
    return end;
  }

  function closeTunnels(): number {
    const open = [...tunnels];
    for (const abort of open) abort.abort(new ProxyError('shutting_down', 'shutdown_grace is over'));
    return open.length;
  }

  return { passResponse, openTunnel, closeTunnels };
}

/** Events are passed on as they arrive, however many bytes were announced. */
function isSmallAnswer(headers: Headers, declaredLength: number): boolean {
  return (
    declaredLength <= SMALL_ANSWER_BYTES &&
    headers.get('content-type')?.startsWith('text/event-stream') !== true
  );
}

/** A small answer, whole: what goes wrong before its end can still be told as what it is. */
async function readSmallAnswer(
  { exchange, credentials: { automaton }, watch }: Passage,
  response: Response,
  declaredLength: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const whole = await readDeclared(response, declaredLength, watch).catch((error) => {
    throw translateUpstreamError(error, exchange.abort);
  });
  if (automaton !== undefined && holdsSecret(automaton, whole))
    throw new ProxyError('credential_reflected', 'in the response body');
  return whole;
}

async function readDeclared(
  response: Response,
  length: number,
  watch: Watch,
): Promise<Uint8Array<ArrayBuffer>> {
  const reader = (response.body as ReadableStream<Uint8Array<ArrayBuffer>>).getReader();
  let whole: Uint8Array<ArrayBuffer> | undefined;
  for (let at = 0; at < length; ) {
    watch.download('upstream');
    const { value } = await reader.read();
    if (value === undefined) throw new ProxyError('upstream_invalid', 'body shorter than declared');
    // Mostly all of it comes at once.
    if (value.byteLength === length) return value;
    whole ??= new Uint8Array(length);
    whole.set(value, at);
    at += value.byteLength;
  }
  return whole ?? new Uint8Array(0);
}

/** The upstream's headers for the client. */
function passHeaders({ exchange, provider, credentials }: Passage, upstream: Headers): Headers {
  const { automaton } = credentials;
  const { headers, dropped } = clientHeaders(
    upstream,
    provider.policy,
    (text) => automaton !== undefined && carriesSecret(automaton, text),
  );
  if (dropped > 0) exchange.note = 'credential_reflected in a response header, which was dropped';
  return headers;
}
