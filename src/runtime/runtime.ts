/** The thin door to the runtime: what isoproxy needs of Bun or Deno beyond the web standards and `node:` modules. */
import type { Upstream } from '../proxy/forward.ts';
import type { BodySource } from '../proxy/response-body.ts';
import type { EndEvents, OpenWebSocket, TunnelEnd } from '../proxy/websocket.ts';

/** Where a server listens: a unix socket path, or a literal loopback address. */
export type ServeAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly hostname: string; readonly port: number };

export interface ServeOptions {
  readonly address: ServeAddress;
  readonly handle: (request: Request) => Response | Promise<Response>;
  /** Largest WebSocket message that any provider takes from a client, bytes; for servers that accept some. */
  readonly maxMessageBytes?: number;
}

/** A listening server. */
export interface Server {
  /** Stops accepting; requests in flight go on. */
  readonly stopAccepting: () => void;
  /** Closes everything, also what is in flight. */
  readonly destroy: () => void;
  /** Closes connections on which no request is in flight. */
  readonly closeIdle: () => void;
}

/** TLS and route of one upstream, from the configuration. */
export interface UpstreamRoute {
  /** PEM text that replaces the built-in CA set; undefined = the built-in set. */
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  /** `http://host:port` of a CONNECT proxy. */
  readonly proxy: string | undefined;
  /** Unix socket of the upstream. */
  readonly socket: string | undefined;
}

export interface WebSocketRuntime {
  /**
   * Answers a request that `serve` handed over with 101 and `headers`; what `handle` returns for it is then not
   * sent. Undefined if that is not possible any more.
   */
  readonly accept: (request: Request, headers: Headers, events: EndEvents) => TunnelEnd | undefined;
  /** How WebSockets reach one upstream. */
  readonly openUpstream: (route: UpstreamRoute) => OpenWebSocket;
}

export interface Runtime {
  readonly name: 'bun' | 'deno';
  readonly version: string;
  readonly serve: (options: ServeOptions) => Server;
  /** Path and query of a request as the runtime hands them over; undefined if its url is not usable. */
  readonly targetOf: (request: Request) => string | undefined;
  /** A response body that this runtime's server streams from `source`, and can cut while the client does not read. */
  readonly bodyStream: (source: BodySource) => ReadableStream<Uint8Array<ArrayBuffer>>;
  /** How requests reach one upstream: fetch, with nothing but the configuration to decide how it is reached. */
  readonly openUpstream: (route: UpstreamRoute) => Upstream;
  /** Undefined where there are none. */
  readonly webSocket: WebSocketRuntime | undefined;
  /** Writes bytes to stderr without blocking the process; resolves to how many were taken. */
  readonly writeStderr: (bytes: Uint8Array) => Promise<number>;
  /** Keeps the memory of this process from others of the same user; false where that is not possible. */
  readonly hideMemory: () => Promise<boolean>;
  /** Frees memory that is not used any more, now. */
  readonly collectGarbage: () => void;
  /** What of the configuration this runtime cannot keep: sentences, each a reason to refuse to start. */
  readonly refusals: (features: RuntimeFeatures) => readonly string[];
}

/** Configured features that not every runtime has. */
export interface RuntimeFeatures {
  readonly encodedResponses: boolean;
  readonly webSocket: boolean;
}
