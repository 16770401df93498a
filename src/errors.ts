/**
 * Every refusal and failure that a client can see: one table, one error type, one Response maker.
 *
 * The text is constant per code. It never holds a path, a host, a stack or anything secret, because it
 * crosses into the sandbox (thrown errors that hold a token are a classic leak). What went wrong in detail
 * stands in the access record, on the host.
 */

interface ErrorEntry {
  /** HTTP status of the answer. */
  readonly status: number;
  /** RFC 9457 title: the code in words. */
  readonly title: string;
  /** What the reader inside the sandbox should know or do. Constant; begins `isoproxy:` when sent. */
  readonly message: string;
  /** False: SDKs must not repeat this request by themselves (`x-should-retry: false`). */
  readonly retry: boolean;
}

const NEVER = false;
const MAYBE = true;

function entry(status: number, title: string, retry: boolean, message: string): ErrorEntry {
  return { status, title, retry, message };
}

/** The error codes of the contract, in the order of their status. */
export const ERRORS = {
  bad_target: entry(
    400,
    'Request target refused',
    NEVER,
    'the request target is not a plain, unambiguous path (dot segments, encoded slashes, doubled slashes, double encoding and control bytes are refused)',
  ),
  bad_request: entry(
    400,
    'Malformed request',
    NEVER,
    'the request is not well-formed HTTP for this proxy (Host, framing or headers)',
  ),
  client_unauthorized: entry(
    401,
    'Client token missing or wrong',
    NEVER,
    'this listener wants its client token as a bearer token or x-api-key; the upstream credential is not meant here',
  ),
  endpoint_not_allowed: entry(
    403,
    'Endpoint not allowed',
    NEVER,
    "the sandbox's allow-list does not permit this method and path; this is no login problem, and logging in again does not help; on the host, `isoproxy denied` shows what was refused and the rule that would allow it",
  ),
  profile_denied: entry(
    403,
    'Network profile denies this upstream',
    NEVER,
    "the sandbox's network profile does not permit this upstream; this is no login problem; on the host, the access log shows what was refused and `isoproxy check` the profile",
  ),
  browser_origin: entry(
    403,
    'Browser origin refused',
    NEVER,
    'requests with an Origin header are refused unless the listener lists that origin in allow_origins',
  ),
  host_not_allowed: entry(
    403,
    'Host refused',
    NEVER,
    'the Host header names neither loopback nor a name in the hosts list of this listener',
  ),
  unknown_provider: entry(
    404,
    'Unknown provider',
    NEVER,
    'no provider of that name is reachable through this socket; GET /.well-known/isoproxy lists those that are',
  ),
  method_not_supported: entry(
    405,
    'Method not supported',
    NEVER,
    'only GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS are forwarded',
  ),
  request_timeout: entry(408, 'Request timeout', MAYBE, 'the request body arrived too slowly'),
  request_too_large: entry(
    413,
    'Request too large',
    NEVER,
    'the request body is larger than this proxy forwards (max_request_body)',
  ),
  rate_limited: entry(429, 'Rate limited', MAYBE, "the sandbox's request rate is used up for now"),
  internal: entry(
    500,
    'Internal error',
    MAYBE,
    'the proxy failed; the record with this request id on the host says more',
  ),
  upstream_unreachable: entry(
    502,
    'Upstream unreachable',
    MAYBE,
    'the connection to the upstream could not be made or broke before an answer',
  ),
  upstream_tls: entry(
    502,
    'Upstream TLS failure',
    MAYBE,
    "the upstream's certificate could not be verified, or TLS failed",
  ),
  upstream_invalid: entry(
    502,
    'Invalid upstream answer',
    NEVER,
    'the upstream sent an answer that cannot be passed on safely',
  ),
  response_too_large: entry(
    502,
    'Response too large',
    NEVER,
    'the upstream announced an answer larger than this proxy forwards (max_response_body)',
  ),
  credential_reflected: entry(
    502,
    'Credential reflected',
    NEVER,
    "the upstream's answer carried the credential, so it was withheld",
  ),
  halted: entry(503, 'Halted', NEVER, 'the operator has halted this proxy'),
  overloaded: entry(
    503,
    'Overloaded',
    MAYBE,
    'too many requests are in flight for this sandbox and provider',
  ),
  circuit_open: entry(503, 'Circuit open', MAYBE, 'the upstream has failed repeatedly and is given a pause'),
  audit_unavailable: entry(
    503,
    'Audit unavailable',
    NEVER,
    'the audit log cannot be written, so nothing is forwarded',
  ),
  credential_unavailable: entry(
    503,
    'Credential unavailable',
    NEVER,
    'the credential for this provider cannot be read at the moment',
  ),
  shutting_down: entry(503, 'Shutting down', MAYBE, 'the proxy is stopping'),
  // From the bridge inside the sandbox only: there is no proxy to say it.
  proxy_unreachable: entry(
    503,
    'Proxy unreachable',
    MAYBE,
    "the proxy on the host does not answer; is `isoproxy serve` running there, and its socket's directory mounted here?",
  ),
  upstream_timeout: entry(504, 'Upstream timeout', MAYBE, 'the upstream did not answer in time'),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** A client that left before its answer was complete: in records only, never sent (nginx's 499). */
export const CLIENT_CLOSED_STATUS = 499;

/**
 * The one error type of the request path. `reason` is for the host's record only: a short, fixed phrase
 * of ours or the runtime's error code, never text of the client, the upstream or a secret.
 */
export class ProxyError extends Error {
  readonly code: ErrorCode;
  readonly reason: string;
  /** Whole seconds for `Retry-After`, where waiting helps. */
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, reason: string, retryAfter?: number) {
    super(`${code}: ${reason}`);
    this.name = 'ProxyError';
    this.code = code;
    this.reason = reason;
    this.retryAfter = retryAfter;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }
}

/** Any thrown value as a ProxyError; what is not ours becomes `internal`, with only its class name kept. */
export function toProxyError(thrown: unknown): ProxyError {
  if (thrown instanceof ProxyError) return thrown;
  const kind = thrown instanceof Error ? thrown.name : typeof thrown;
  return new ProxyError('internal', `unexpected ${kind}`);
}

/**
 * The answer for an error: RFC 9457 problem+json, with the `error` member that the Anthropic and OpenAI
 * SDKs read and the `message` that Octokit reads. Octokit shows "Unknown error" unless the content type
 * carries the charset. Every own error closes its connection, so that a client whose body was not
 * read cannot have the rest of it taken for a second request.
 *
 * @param linger settles when what is left of the request's body has been dropped. The answer goes out at
 * once and ends only then: a client that writes its whole body before it reads would otherwise meet a
 * broken pipe and never see it (nginx calls this lingering close; seen here with a 5 MB upload).
 */
export function errorResponse(error: ProxyError, requestId: string, linger?: Promise<void>): Response {
  const { status, headers, text } = describeError(error, requestId);
  return new Response(linger === undefined ? text : endAfter(text, linger), { status, headers });
}

/** The same answer for where there is no server to send a Response: the bytes of a whole HTTP/1.1 message. */
export function errorMessage(error: ProxyError): string {
  const { status, headers, text } = describeError(error, 'none');
  const head = Object.entries({ ...headers, 'content-length': String(text.length) });
  return [
    `HTTP/1.1 ${status} ${ERRORS[error.code].title}`,
    ...head.map(([name, value]) => `${name}: ${value}`),
    '',
    text,
  ].join('\r\n');
}

function describeError(error: ProxyError, requestId: string) {
  const { status, title, message, retry } = ERRORS[error.code];
  const sentence = `isoproxy: ${message}`;
  const headers: Record<string, string> = {
    'content-type': 'application/problem+json; charset=utf-8',
    'x-isoproxy-error': error.code,
    // Each of the two big SDKs reads another of these into its exception.
    'x-request-id': requestId,
    'request-id': requestId,
    'cache-control': 'no-store',
    connection: 'close',
  };
  if (!retry) headers['x-should-retry'] = 'false';
  if (error.retryAfter !== undefined) headers['retry-after'] = String(error.retryAfter);
  if (error.code === 'method_not_supported')
    headers['allow'] = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS';
  if (error.code === 'client_unauthorized') headers['www-authenticate'] = 'Bearer realm="isoproxy"';
  const body = {
    // First what a person should read: some clients print the whole object.
    message: sentence,
    error: { type: error.code, message: sentence },
    type: `urn:isoproxy:error:${error.code}`,
    title,
    status,
    code: error.code,
    request_id: requestId,
    detail: sentence,
  };
  return { status, headers, text: JSON.stringify(body) };
}

/** `text` at once, the end of the stream after `linger`. */
function endAfter(text: string, linger: Promise<void>): ReadableStream<Uint8Array> {
  let open = true;
  return new ReadableStream({
    async start(controller) {
      controller.enqueue(new TextEncoder().encode(text));
      await linger;
      if (open) controller.close();
    },
    cancel() {
      open = false;
    },
  });
}
