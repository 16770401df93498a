/**
 * WebSockets to upstreams: the `ws` package on node:https. The runtimes' own client cannot be paused, always
 * offers compression, and does not say with which status an upstream refused (docs/runtime.md 26).
 *
 * It is installed under another name: Bun replaces the name `ws` by a shim over its own client.
 */
import type { IncomingMessage } from 'node:http';
import { connect as connectPlain } from 'node:net';
import { Readable } from 'node:stream';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import { type ClientOptions, type RawData, WebSocket } from 'real-ws';
import { ProxyError } from '../errors.ts';
import type { Abort } from '../proxy/abort.ts';
import { translateUpstreamError } from '../proxy/forward.ts';
import {
  type EndEvents,
  NO_STATUS,
  type UpstreamEnd,
  type WebSocketAnswer,
  type WebSocketRequest,
} from '../proxy/websocket.ts';
import type { UpstreamRoute } from './runtime.ts';

/** How long an upstream may take to take what waits and to answer a close frame, ms. */
const CLOSE_TIMEOUT_MS = 3_000;

/** Opens a WebSocket to one upstream, with nothing but the configuration to decide how. */
export async function openWebSocket(
  route: UpstreamRoute,
  request: WebSocketRequest,
  events: EndEvents,
): Promise<WebSocketAnswer> {
  // The client may have left while this was loaded.
  if (request.abort.isAborted()) throw request.abort.reason();
  const tls = { rejectUnauthorized: true, ...defined({ ca: route.ca, cert: route.cert, key: route.key }) };
  const options: ClientOptions & { closeTimeout: number } = {
    ...tls,
    headers: Object.fromEntries(request.headers),
    // Bytes must be readable for the reflection guard, and a small message must not grow without bound.
    perMessageDeflate: false,
    followRedirects: false,
    maxPayload: request.maxMessageBytes,
    closeTimeout: CLOSE_TIMEOUT_MS,
  };
  if (route.socket !== undefined)
    options.createConnection = connectSocket(route.socket, new URL(request.url), tls);
  return handshake(new WebSocket(request.url, [...request.protocols], options), request, events);
}

/** The package has no way to a unix socket that verifies by the upstream's name. */
function connectSocket(path: string, url: URL, tls: ConnectionOptions): ClientOptions['createConnection'] {
  const servername = url.hostname;
  const connect = () =>
    url.protocol === 'https:' ? connectTls({ ...tls, path, servername }) : connectPlain(path);
  return connect as ClientOptions['createConnection'];
}

function handshake(
  socket: WebSocket,
  request: WebSocketRequest,
  events: EndEvents,
): Promise<WebSocketAnswer> {
  const { abort } = request;
  const { promise, resolve, reject } = Promise.withResolvers<WebSocketAnswer>();
  let headers = new Headers();
  let isOpen = false;
  const giveUp = () => {
    reject(abort.reason());
    socket.terminate();
  };
  const leave = abort.onAbort(giveUp);

  socket.on('upgrade', (answer) => {
    headers = headersOf(answer);
    // RFC 6455 4.2.2 lets an upstream choose none of the subprotocols that it was offered, and the client is to
    // judge that; the package takes it for an error.
    if (request.protocols.length > 0) answer.headers['sec-websocket-protocol'] ??= request.protocols[0];
  });
  socket.on('open', () => {
    isOpen = true;
    leave();
    resolve({ kind: 'open', headers, end: createEnd(socket) });
  });
  socket.on('unexpected-response', (asked, answer) => {
    leave();
    abort.onAbort(() => asked.destroy());
    // It must not be kept for another request, as the runtime would.
    const { socket: connection } = answer;
    answer.once('close', () => connection.destroy());
    try {
      resolve({ kind: 'refused', response: responseOf(answer) });
    } catch (error) {
      asked.destroy();
      reject(error);
    }
  });
  socket.on('error', (error: Error & { code?: string }) => {
    const fault = faultOf(error, abort, isOpen);
    if (isOpen) events.failed(fault);
    else reject(fault);
  });
  socket.on('message', (data: RawData, isBinary: boolean) => events.message(data as Buffer, !isBinary));
  socket.on('close', (code, reason) => {
    if (isOpen) events.closed(code, reason.toString());
  });
  return promise;
}

function createEnd(socket: WebSocket): UpstreamEnd {
  return {
    send(bytes, isText) {
      socket.send(bytes, { binary: !isText });
      return true;
    },
    waiting: () => socket.bufferedAmount,
    close(code, reason) {
      if (code === NO_STATUS) socket.close();
      else socket.close(code, reason);
    },
    terminate: () => socket.terminate(),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
  };
}

/** The package's own errors are about what the upstream said; all others are the connection's. */
function faultOf(error: Error & { code?: string }, abort: Abort, isOpen: boolean): ProxyError {
  const { code = '' } = error;
  if (code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH')
    return new ProxyError('response_too_large', 'message over max_response_body');
  if (code.startsWith('WS_ERR_')) return new ProxyError('upstream_invalid', code);
  if (code.startsWith('HPE_')) return new ProxyError('upstream_invalid', code);
  if (code === '' && !isOpen && !abort.isAborted())
    return new ProxyError('upstream_invalid', 'no proper answer to the WebSocket handshake');
  return translateUpstreamError(error, abort);
}

function headersOf(answer: IncomingMessage): Headers {
  const headers = new Headers();
  const { rawHeaders } = answer;
  for (let i = 0; i < rawHeaders.length; i += 2)
    headers.append(rawHeaders[i] as string, rawHeaders[i + 1] as string);
  return headers;
}

const NO_BODY_STATUS = [204, 205, 304];

/** The answer of an upstream that did not switch protocols, as fetch would give it. */
function responseOf(answer: IncomingMessage): Response {
  const status = answer.statusCode ?? 0;
  if (status < 200 || status > 599) throw new ProxyError('upstream_invalid', 'status outside 200-599');
  const hasBody = !NO_BODY_STATUS.includes(status);
  if (!hasBody) answer.resume();
  const body = hasBody
    ? (Readable.toWeb(answer) as unknown as ReadableStream<Uint8Array<ArrayBuffer>>)
    : null;
  return new Response(body, { status, headers: headersOf(answer) });
}

function defined(values: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values).filter((pair): pair is [string, string] => pair[1] !== undefined),
  );
}
