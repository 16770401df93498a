/**
 * The way of a request, from top to bottom. Each step is one file; steps never import each other.
 * What a step refuses, it throws as a ProxyError; the order of the steps is the order of refusals that
 * the contract promises. Nothing is resolved or dialled before the verdict.
 */
import type { Answers } from './answers.ts';
import type { Intent } from './audit/trail.ts';
import type { ListenerConfig } from './config/effective.ts';
import { inject } from './credentials/inject.ts';
import type { Secret } from './credentials/secret.ts';
import { SecretError } from './credentials/secret-value.ts';
import { errorResponse, ProxyError, toProxyError } from './errors.ts';
import type { CircuitLimit } from './guards/circuit-breaker.ts';
import type { Guards } from './guards/guards.ts';
import { bucketsOf } from './guards/keys.ts';
import type { Charge, RateLimit } from './guards/rate-limit.ts';
import { verdictOf } from './guards/upstream-verdict.ts';
import type { Provider } from './provider.ts';
import { type Abort, unlessAborted } from './proxy/abort.ts';
import { checkHostName, checkOrigin, checkToken } from './proxy/client-check.ts';
import type { Exchange } from './proxy/exchange.ts';
import { forward, upstreamUrl } from './proxy/forward.ts';
import { checkFraming, type Framing } from './proxy/framing.ts';
import { upstreamHeaders } from './proxy/headers.ts';
import { checkDeclaredLength, checkProfile, matchRule } from './proxy/match.ts';
import { isSmallBody } from './proxy/request-body.ts';
import { keepsEncodedSlash, METHODS } from './proxy/rules.ts';
import { parseTarget, splitProvider, type Target } from './proxy/target.ts';
import type { Watch, Watchdog } from './proxy/watch.ts';
import { asksForWebSocket, checkHandshake } from './proxy/websocket-handshake.ts';

/** A listener as the pipeline sees it. */
export interface Client {
  readonly config: ListenerConfig;
  /** The current token of a TCP listener; undefined on a unix socket. */
  readonly token: (() => Secret | Promise<Secret>) | undefined;
}

/** What is known of a request that was let in: it is well-formed, and its sender may speak here. */
export interface Admitted {
  readonly client: Client;
  readonly target: Target;
  readonly framing: Framing;
}

export interface PipelineOptions {
  readonly providers: ReadonlyMap<string, Provider>;
  /** The limit of each pair of listener and provider. */
  readonly rate: RateLimit | undefined;
  readonly guards: Guards;
  readonly watchdog: Watchdog;
  /** Returns or resolves when the audit log holds that this is about to be forwarded. @throws ProxyError */
  readonly audit: (intent: Omit<Intent, 'config'>) => Promise<void> | void;
  /** Path and query of a request as the runtime hands them over. */
  readonly targetOf: (request: Request) => string | undefined;
  /** The way back. */
  readonly answers: Answers;
  /** Are descriptors, or were they a moment ago, all taken? */
  readonly isExhausted: () => boolean;
  /** True from the moment the process was told to stop. */
  readonly isStopping: () => boolean;
}

export interface Pipeline {
  readonly admit: (exchange: Exchange, client: Client) => Promise<Admitted>;
  readonly proxy: (exchange: Exchange, admitted: Admitted) => Promise<Response>;
  /** The one mapper from a thrown value to an answer; ends the exchange. */
  readonly refuse: (exchange: Exchange, thrown: unknown) => Response;
}

export function createPipeline(options: PipelineOptions): Pipeline {
  const { providers, guards, watchdog, answers } = options;

  async function admit(exchange: Exchange, client: Client): Promise<Admitted> {
    const { request, method } = exchange;
    if (!(METHODS as readonly string[]).includes(method))
      throw new ProxyError('method_not_supported', 'method not in the list');
    const target = readTarget(exchange);
    const framing = checkFraming(method, request.headers);
    checkEncodedSlash(target, client.config);
    checkOrigin(request.headers, client.config.allowOrigins);
    if (client.config.address.kind === 'tcp') checkHostName(request.headers, client.config.address.hosts);
    if (client.token !== undefined)
      checkToken(request.headers, await available(client.token, exchange.abort));
    return { client, target, framing };
  }

  async function proxy(exchange: Exchange, admitted: Admitted): Promise<Response> {
    const { client, target, framing } = admitted;
    const { provider, path } = findProvider(client.config, target);
    exchange.provider = provider.config.name;
    checkProfile(client.config.networkProfile, provider.config.hostname);
    const { method } = exchange;
    const match = matchRule(provider.config.rules, provider.credentialParameters, {
      method,
      path,
      query: target.query,
      hasEncodedSlash: target.hasEncodedSlash,
      asksForWebSocket: asksForWebSocket(method, exchange.request.headers),
    });
    exchange.rule = match.rule.name;
    const { limits } = provider.config;
    const protocols = match.rule.options.websocket ? checkHandshake(exchange.request.headers) : undefined;
    checkDeclaredLength(framing.declaredLength, limits.maxRequestBody);
    const charge = passGuards(exchange, client.config, provider);
    const watch = watchdog.watch(limits, (error) => exchange.abort.abort(error));
    exchange.onEnd(watch.stop);
    const credentials = await available(provider.vault.current, exchange.abort);
    const headers = upstreamHeaders(exchange.request.headers, provider.policy);
    const body = await readBody(exchange, framing, limits.maxRequestBody, watch, headers);
    const upstreamRequest = { headers, query: match.query };
    for (const { placement, secret } of credentials.injections) inject(upstreamRequest, placement, secret);

    const url = upstreamUrl(provider.config.origin, provider.config.basePath + path + upstreamRequest.query);

    await auditIntent(exchange, match.queryNames);
    const passage = { exchange, provider, rule: match.rule, credentials, watch };
    const streams = body instanceof ReadableStream;
    const send = () => {
      exchange.forwarded = true;
      charge.spend();
      if (protocols !== undefined) return answers.openTunnel(passage, url, headers, protocols);
      watch.upload(streams ? 'client' : 'sent');
      const { abort } = exchange;
      return forward({ method, url, headers, body, abort, upstream: provider.upstream });
    };
    const { circuit } = provider.config;
    const response = await (circuit === undefined
      ? send()
      : onTrial(exchange, provider.config.name, circuit, streams, send));
    if (protocols !== undefined) return response;
    exchange.markHead();
    return await answers.passResponse(passage, response);
  }

  /** The guards, in the order of refusals; tokens that a later refusal makes useless go back into their buckets. */
  function passGuards(exchange: Exchange, listener: ListenerConfig, { config }: Provider): Charge {
    const { name, limits, circuit } = config;
    if (options.isStopping()) throw new ProxyError('shutting_down', 'the proxy is stopping');
    guards.killSwitch.check(listener.name, name);
    exchange.onEnd(
      guards.concurrency.acquire(listener.name, name, listener.maxConcurrent ?? limits.maxConcurrent),
    );
    const abort = (error: ProxyError) => exchange.abort.abort(error);
    exchange.onEnd(guards.inFlight.add({ listener: listener.name, provider: name, abort }));
    const charge = guards.rateLimiter.take(bucketsOf(listener, config, options.rate));
    exchange.onEnd(charge.giveBack);
    try {
      if (circuit !== undefined) guards.circuitBreaker.check(listener.name, name);
    } catch (error) {
      // At once: by the end of the exchange, others would have been refused for want of them.
      charge.giveBack();
      throw error;
    }
    return charge;
  }

  /** Before anything goes upstream, the log says that it will. */
  function auditIntent(exchange: Exchange, queryNames: readonly string[]): Promise<void> | undefined {
    const { id, listener, provider, method, path, rule } = exchange;
    const intent = { request_id: id, listener, provider, method, path, rule, queryNames };
    const committed = options.audit(intent);
    // From here on it is in the log, or the log has failed.
    exchange.isIntended = true;
    return committed instanceof Promise ? unlessAborted(committed, exchange.abort) : undefined;
  }

  /** Sends, and tells the circuit breaker what the response head, or its absence, says about the upstream. */
  async function onTrial(
    exchange: Exchange,
    name: string,
    circuit: CircuitLimit,
    streams: boolean,
    send: () => Promise<Response>,
  ): Promise<Response> {
    const trial = guards.circuitBreaker.enter(exchange.listener, name, circuit, streams);
    const { abort } = exchange;
    // Without a reason of ours, it was the client that left: at once, for its probe's slot must come free whatever
    // becomes of sending.
    const leave = abort.onAbort(() => {
      if (!(abort.reason() instanceof ProxyError)) trial.settle('cancelled');
    });
    try {
      const response = await send();
      trial.settle(response.status >= 500 ? 'failure' : 'success');
      return response;
    } catch (error) {
      trial.settle(verdictOf(error, options.isExhausted));
      throw error;
    } finally {
      leave();
    }
  }

  function readTarget(exchange: Exchange): Target {
    const text = options.targetOf(exchange.request);
    if (text === undefined) throw new ProxyError('bad_target', 'no usable request url (Host or target form)');
    try {
      const target = parseTarget(text);
      exchange.path = target.path;
      return target;
    } catch (error) {
      exchange.path = printable(text);
      throw error;
    }
  }

  /** `%2F` is a 400 unless a rule of this provider keeps it for this very path; the rule decides the rest later. */
  function checkEncodedSlash(target: Target, listener: ListenerConfig): void {
    if (!target.hasEncodedSlash) return;
    const { provider, path } = splitProvider(target.path, listener.mount);
    const rules = listener.providers.includes(provider) ? providers.get(provider)?.config.rules : undefined;
    if (rules === undefined || !keepsEncodedSlash(rules, path))
      throw new ProxyError('bad_target', 'encoded slash');
  }

  /** A provider that this listener lacks is answered like one that does not exist. */
  function findProvider(listener: ListenerConfig, target: Target): { provider: Provider; path: string } {
    const { provider: name, path } = splitProvider(target.path, listener.mount);
    const provider = listener.providers.includes(name) ? providers.get(name) : undefined;
    if (provider === undefined) throw new ProxyError('unknown_provider', 'not a provider of this listener');
    return { provider, path };
  }

  function refuse(exchange: Exchange, thrown: unknown): Response {
    const error = toProxyError(thrown);
    // Whatever was asked of the upstream is not wanted any more.
    exchange.abort.abort(error);
    exchange.end(exchange.request.signal.aborted ? { kind: 'client_closed' } : { kind: 'failed', error });
    // A client that is too slow would only drip on.
    const linger = error.code === 'request_timeout' ? undefined : exchange.body.drain();
    return errorResponse(error, exchange.id, linger);
  }

  return { admit, proxy, refuse };
}

/** The path of a refused target as records show it: printable ASCII, without the query. */
function printable(text: string): string {
  const path = text.split(/[?#]/, 1)[0] ?? '';
  return path.replace(/[^\x21-\x7e]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** What `read` yields; a secret that cannot be read at the moment fails closed. */
function available<T>(read: () => T | Promise<T>, abort: Abort): T | Promise<T> {
  try {
    const value = read();
    // A command may take its time; the exchange's limits hold meanwhile.
    return value instanceof Promise ? unlessAborted(value, abort).catch(refuseUnread) : value;
  } catch (error) {
    return refuseUnread(error);
  }
}

function refuseUnread(error: unknown): never {
  if (error instanceof SecretError) throw new ProxyError('credential_unavailable', error.message);
  throw error;
}

/** The body as it goes up: nothing, bytes when small, else a counted stream. Sets Content-Length where it is known. */
function readBody(exchange: Exchange, framing: Framing, limit: number, watch: Watch, headers: Headers) {
  const { body, method, abort } = exchange;
  if (!framing.hasBody) return undefined;
  if (isSmallBody(method, framing.declaredLength)) {
    watch.upload('small_body');
    return body.readWhole(abort);
  }
  if (framing.declaredLength !== undefined) headers.set('content-length', String(framing.declaredLength));
  return body.stream(limit, watch, (error) => abort.abort(error));
}
