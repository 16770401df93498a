/**
 * The one place that calls fetch. Everything that fetch would do by itself is switched off: redirects
 * (they would carry x-api-key along), decompression, environment proxies, its own timeouts.
 */
import { ProxyError } from '../errors.ts';
import type { RuleOptions } from './rules.ts';

/** Extra fetch options that the runtime needs for one upstream (TLS, proxy, unix socket); see runtime/. */
export type UpstreamOptions = Readonly<Record<string, unknown>>;

export interface UpstreamRequest {
  readonly method: string;
  /** Scheme and authority of the provider, from the configuration only. */
  readonly origin: string;
  /** Base path, canonical path and query, as judged. */
  readonly target: string;
  readonly headers: Headers;
  readonly body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  readonly signal: AbortSignal;
  readonly options: UpstreamOptions;
}

/**
 * Methods that the runtime repeats by itself when a kept-alive connection dies before any answer, and that
 * change something upstream. They get a connection of their own, on which nothing is repeated (measured,
 * RUNTIME-FACTS 22). GET, HEAD and OPTIONS may be repeated; POST and PATCH never are.
 */
const NEVER_REPEATED = new Set(['PUT', 'DELETE']);

/**
 * Sends a request and resolves at the response head.
 * @throws ProxyError bad_target if the URL parser would send something else than what was judged;
 * upstream_* for a failure; the signal's reason if the exchange was given up.
 */
export async function forward(request: UpstreamRequest): Promise<Response> {
  const url = request.origin + request.target;
  // The rules judged this text; what the URL parser makes of it must be the same text (Bun's fetch sends
  // "//x" as "/x").
  if (new URL(url).href !== url) throw new ProxyError('bad_target', 'target changes when it is normalised');
  const init = {
    method: request.method,
    headers: request.headers,
    body: request.body ?? null,
    signal: request.signal,
    redirect: 'manual',
    keepalive: !NEVER_REPEATED.has(request.method),
    duplex: 'half',
    ...request.options,
  } as RequestInit;
  try {
    return await fetch(url, init);
  } catch (error) {
    throw translateUpstreamError(error, request.signal);
  }
}

/** An error of fetch or of a response body as ours. Only the runtime's error code is kept, never its text. */
export function translateUpstreamError(error: unknown, signal: AbortSignal): ProxyError {
  if (error instanceof ProxyError) return error;
  if (signal.aborted && signal.reason instanceof ProxyError) return signal.reason;
  const { code, message } = error as { code?: unknown; message?: unknown };
  const kind = typeof code === 'string' && /^[A-Za-z0-9_]{1,64}$/.test(code) ? code : 'no code';
  // Deno's errors carry no code; its text is looked at, and not kept.
  const text = typeof code === 'string' ? code : String(message);
  if (/CERT|TLS|SSL|SELF_SIGNED|SIGNATURE|ISSUER|EPROTO|certificate/i.test(text))
    return new ProxyError('upstream_tls', kind);
  if (
    /\b(?:Malformed|Invalid|Unexpected|TooMany|Unrequested)|HTTPHeaders|Upgrade|parse|header|http message|protocol/i.test(
      text,
    )
  ) {
    return new ProxyError('upstream_invalid', kind);
  }
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
  if (!/^[0-9]{1,15}$/.test(text)) throw new ProxyError('upstream_invalid', 'malformed Content-Length');
  return Number(text);
}
