/**
 * Which header names never pass. One documented place; README.md lists them for operators.
 *
 * Names are compared folded: lower case, with `_` and `.` read as `-`, because CGI-style upstreams fold
 * them the same way (CVE-2026-54763, CVE-2025-64484: underscore twins pass a filter and act upstream).
 */

/** Folds a header name for comparison. */
export function foldName(name: string): string {
  return name.toLowerCase().replaceAll('_', '-').replaceAll('.', '-');
}

/** Hop-by-hop fields (RFC 9110 7.6.1, and the older names still seen). Stripped both ways. */
export const HOP_BY_HOP: readonly string[] = [
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-authentication-info',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
];

/** Regenerated or answered by this hop; the client's text for them is never sent on. */
export const REGENERATED: readonly string[] = ['host', 'content-length', 'expect', 'accept-encoding'];

/** Names under which clients or upstreams carry credentials. The client's are placeholders at best. */
export const CREDENTIAL_NAMES: readonly string[] = [
  'authorization',
  'cookie',
  'cookie2',
  'x-api-key',
  'api-key',
  'apikey',
  'x-apikey',
  'x-goog-api-key',
  'x-goog-iam-authorization-token',
  'private-token',
  'job-token',
  'deploy-token',
  'x-auth-token',
  'x-auth-key',
  'x-auth-email',
  'x-access-token',
  'x-amz-security-token',
  'x-authorization',
  'x-original-authorization',
  'x-forwarded-authorization',
  'ocp-apim-subscription-key',
  'x-functions-key',
  'x-vault-token',
  'x-session-token',
  'x-token',
  'x-github-token',
  'x-gitlab-token',
  'x-client-secret',
  'x-ms-authorization-auxiliary',
  'dpop',
];

/** Beginnings of WebSocket subprotocols in which clients present credentials or choose an account. */
export const CREDENTIAL_PROTOCOLS: readonly string[] = [
  // OpenAI's guide to its Realtime API over WebSocket, for browsers.
  'openai-insecure-api-key.',
  'openai-organization.',
  'openai-project.',
  // https://github.com/kubernetes/kubernetes/pull/47740
  'base64url.bearer.authorization.k8s.io.',
];

/** Fields that claim who the client is, or ask an upstream to route or act otherwise than the target says. */
export const ROUTING_NAMES: readonly string[] = [
  'forwarded',
  'via',
  'x-real-ip',
  'x-client-ip',
  'x-cluster-client-ip',
  'x-remote-addr',
  'x-remote-ip',
  'x-remote-user',
  'true-client-ip',
  'cf-connecting-ip',
  'fastly-client-ip',
  'client-ip',
  'x-host',
  'x-original-host',
  'x-original-url',
  'x-original-uri',
  'x-original-method',
  'x-rewrite-url',
  'x-rewrite-uri',
  'x-override-url',
  'x-http-method',
  'x-http-method-override',
  'x-method-override',
  'x-http-path-override',
  'x-http-host-override',
  'x-accel-redirect',
  'x-sendfile',
  // httpoxy, CVE-2016-5386: becomes HTTP_PROXY in CGI.
  'proxy',
];

/** Prefixes with the same standing as ROUTING_NAMES; `x-isoproxy-` is this proxy's own name space. */
export const REMOVED_PREFIXES: readonly string[] = [
  'x-forwarded-',
  'x-isoproxy-',
  'proxy-',
  'x-envoy-',
  'x-middleware-',
];

/** Dropped from answers: our own name space, and Alt-Svc, which points clients past the proxy (RFC 7838). */
export const RESPONSE_REMOVED: readonly string[] = [...HOP_BY_HOP, 'alt-svc'];
