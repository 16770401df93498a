/**
 * Sending and receiving. Everything that fetch would do by itself is switched off: redirects here (they would
 * carry x-api-key along); decompression, environment proxies and timeouts in runtime/.
 */
import { ProxyError } from '../errors.ts';
import type { Abort } from './abort.ts';
import { parseContentLength } from './decimal.ts';
import type { RuleOptions } from './rules.ts';

/** fetch, bound to the TLS settings and the route of one upstream; see runtime/. */
export type Upstream = (url: string, init: RequestInit) => Promise<Response>;

export interface UpstreamRequest {
  readonly method: string;
  /** Made by upstreamUrl. */
  readonly url: string;
  readonly headers: Headers;
  readonly body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  readonly abort: Abort;
  readonly upstream: Upstream;
}

/**
 * Methods that the runtime repeats by itself when a kept-alive connection dies before any answer, and that
 * change something upstream. They get a connection of their own, on which nothing is repeated (measured,
 * docs/runtime.md 9). GET, HEAD and OPTIONS may be repeated; POST and PATCH never are.
 */
const NEVER_REPEATED = new Set(['PUT', 'DELETE']);

/**
 * The URL of an upstream request: scheme and authority from the configuration, the rest as it was judged.
 * @throws ProxyError bad_target if the URL parser would make something else of it (Bun's fetch sends "//x" as "/x")
 */
export function upstreamUrl(origin: string, target: string): string {
  const url = origin + target;
  if (new URL(url).href !== url) throw new ProxyError('bad_target', 'target changes when it is normalised');
  return url;
}

/**
 * Sends a request and resolves at the response head.
 * @throws ProxyError upstream_* for a failure; the reason with which the exchange was given up.
 */
export async function forward(request: UpstreamRequest): Promise<Response> {
  const init = {
    method: request.method,
    headers: request.headers,
    body: request.body ?? null,
    signal: request.abort.signal(),
    redirect: 'manual',
    keepalive: !NEVER_REPEATED.has(request.method),
    duplex: 'half',
  } as RequestInit;
  try {
    return await request.upstream(request.url, init);
  } catch (error) {
    throw translateUpstreamError(error, request.abort);
  }
}

/** Error codes of the runtime that are about TLS or its certificates (`CERT_HAS_EXPIRED`, `EPROTO` …). */
const TLS_CODES = /CERT|TLS|SSL|SELF_SIGNED|SIGNATURE|ISSUER|EPROTO/;
/** … and those that are about an answer that is no HTTP (`InvalidContentLength`, `UnsupportedTransferEncoding` …). */
const ANSWER_CODES = /^(?:Malformed|Invalid|Unsupported|Unexpected|TooMany|Unrequested)|Header|Upgrade/i;

/** An error of fetch or of a response body as ours. Only the runtime's error code is kept, never its text. */
export function translateUpstreamError(error: unknown, abort: Abort): ProxyError {
  if (error instanceof ProxyError) return error;
  const reason = abort.reason();
  if (reason instanceof ProxyError) return reason;
  const { code } = error as { code?: unknown };
  const kind = typeof code === 'string' && /^[A-Za-z0-9_]{1,64}$/.test(code) ? code : 'no code';
  if (TLS_CODES.test(kind)) return new ProxyError('upstream_tls', kind);
  if (ANSWER_CODES.test(kind)) return new ProxyError('upstream_invalid', kind);
  return new ProxyError('upstream_unreachable', kind);
}

/** What the proxy needs to know of a response head before its body is passed on. */
export interface ResponseHead {
  readonly status: number;
  /** Declared length of the body, if it is framed so. */
  readonly declaredLength: number | undefined;
  readonly hasBody: boolean;
}

const NO_BODY_STATUS = new Set([204, 205, 304]);

/**
 * Checks a response head.
 * @throws ProxyError upstream_invalid for a status, encoding or framing that cannot be passed on safely;
 * response_too_large when the declared length says so.
 */
export function checkResponseHead(
  method: string,
  response: Response,
  rule: RuleOptions,
  limit: number,
): ResponseHead {
  const { status, headers } = response;
  if (status < 200 || status > 599) throw new ProxyError('upstream_invalid', 'status outside 200-599');
  const encoding = headers.get('content-encoding');
  if (encoding !== null && encoding.toLowerCase() !== 'identity' && !rule.allowEncodedResponse) {
    throw new ProxyError('upstream_invalid', 'content encoding that was not asked for');
  }
  const hasBody = method !== 'HEAD' && !NO_BODY_STATUS.has(status);
  const coding = headers.get('transfer-encoding');
  // The runtime undoes "chunked" and passes every other transfer coding on as if it were the body.
  if (coding !== null && coding.toLowerCase() !== 'chunked')
    throw new ProxyError('upstream_invalid', 'transfer coding other than chunked');
  const chunked = coding !== null;
  const declaredLength = chunked ? undefined : parseDeclaredLength(headers.get('content-length'));
  // RFC 9112 6.3: without either, the body ends where the connection does, and a cut looks complete.
  if (hasBody && !chunked && declaredLength === undefined && !rule.allowUnframedResponse) {
    throw new ProxyError('upstream_invalid', 'neither length nor chunking');
  }
  if (hasBody && declaredLength !== undefined && declaredLength > limit) {
    throw new ProxyError('response_too_large', 'declared length over max_response_body');
  }
  return { status, declaredLength, hasBody };
}

function parseDeclaredLength(text: string | null): number | undefined {
  if (text === null) return undefined;
  const length = parseContentLength(text);
  if (length === undefined) throw new ProxyError('upstream_invalid', 'malformed Content-Length');
  return length;
}
