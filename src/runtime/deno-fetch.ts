/**
 * Deno's fetch, made to send a request once. By itself it sends one again, also a POST and also on a new
 * connection, when the connection dies before an answer, unless the body is a stream (measured). GET, HEAD and
 * OPTIONS may be repeated.
 */

import type { Upstream } from '../proxy/forward.ts';

type Stream = ReadableStream<Uint8Array<ArrayBuffer>>;

/** A stream of known length: a Blob is the one streamed body that Deno's fetch sends with Content-Length. */
class SizedStream extends Blob {
  readonly #source: Stream;
  readonly #size: number;

  constructor(source: Stream, size: number) {
    super();
    this.#source = source;
    this.#size = size;
  }

  override get size(): number {
    return this.#size;
  }

  override stream(): Stream {
    return this.#source;
  }
}

/** What Deno says in words, as the code that Bun and Node have for it; the first that matches. */
const CODES: readonly (readonly [RegExp, string])[] = [
  [/certificate/i, 'ERR_TLS_CERTIFICATE'],
  [/close_notify|connection reset|connection closed|broken pipe|end of file/i, 'ECONNRESET'],
  [/corrupt message|handshake|alert|tls/i, 'EPROTO'],
  [/connection refused/i, 'ECONNREFUSED'],
  [/dns error|lookup/i, 'ENOTFOUND'],
  [/parsed|too large|header|http message/i, 'InvalidHTTPResponse'],
];

const MAY_BE_REPEATED = ['GET', 'HEAD', 'OPTIONS'];

export const fetchOnce: Upstream = async (url, init) => {
  try {
    return await fetch(url, { ...init, body: bodyOf(init) });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    const { message } = ((error as Error).cause ?? error) as Error;
    // The url, which the client may choose, must not be taken for the reason.
    const text = String(message).replace(/^error sending request .*?\): /, '');
    const code = CODES.find(([pattern]) => pattern.test(text))?.[1];
    throw Object.assign(new Error(text), { code });
  }
};

function bodyOf({ method = 'GET', headers, body }: RequestInit): BodyInit | null {
  const length = new Headers(headers).get('content-length');
  if (body instanceof ReadableStream) return length === null ? body : new SizedStream(body, Number(length));
  if (MAY_BE_REPEATED.includes(method)) return body ?? null;
  // An empty one goes up chunked: the price of being sent once.
  return new Blob(body ? [body as Uint8Array<ArrayBuffer>] : []);
}
