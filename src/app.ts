/** The Hono app of one listener: own routes first, then the pipeline; one place maps errors to answers. */
import { Hono } from 'hono';
import type { Discovery } from './discovery.ts';
import type { Admitted, Client, Pipeline } from './pipeline.ts';
import { createExchange, type Exchange, type ExchangeOptions } from './proxy/exchange.ts';

export interface AppOptions {
  readonly client: Client;
  readonly pipeline: Pipeline;
  readonly discovery: Discovery;
  readonly isStopping: () => boolean;
  /** True when answers should close their connection; see guards/idle-connections.ts. */
  readonly isClosing: () => boolean;
  readonly exchange: ExchangeOptions;
}

/** What Hono answers here. All else is not for its router to look at: 3 us of CPU for each request (measured). */
const OWN_ROUTES = { health: '/healthz', discovery: '/.well-known/isoproxy' } as const;
const OWN_PATHS: ReadonlySet<string> = new Set(Object.values(OWN_ROUTES));

interface Bindings {
  readonly exchange: Exchange;
  readonly admitted: Admitted;
}

/** Answers a request, and closes its connection with that if the listener is retired by then. Never rejects. */
export type Handler = (request: Request, isRetired: () => boolean) => Promise<Response>;

/** The request handler of one listener. */
export function createApp(options: AppOptions): Handler {
  const { client, pipeline } = options;
  // Hono would find the path in the url by itself, decode it, and mis-route what has no usable url
  // (docs/runtime.md 5): it gets the one path that was parsed and judged.
  const app = new Hono<{ Bindings: Bindings }>({
    getPath: (_request, context) => context?.env?.admitted.target.path ?? '/',
  });

  function own(exchange: Exchange, response: Response): Response {
    exchange.end({ kind: 'done', status: response.status, own: true });
    return response;
  }

  app.get(OWN_ROUTES.health, (c) => {
    const stopping = options.isStopping();
    return own(c.env.exchange, c.text(stopping ? 'stopping\n' : 'ok\n', stopping ? 503 : 200));
  });
  app.get(OWN_ROUTES.discovery, (c) => own(c.env.exchange, c.json(options.discovery)));
  // With another method it is a path like any other.
  app.all('*', (c) => pipeline.proxy(c.env.exchange, c.env.admitted));
  app.onError((error, c) => pipeline.refuse(c.env.exchange, error));

  return async function handle(request, isRetired) {
    const exchange = createExchange(request, options.exchange);
    const onClientGone = () => {
      if (exchange.isTunnel) return;
      // In this order: the abort cuts the answer, which must not be recorded as the upstream's fault.
      exchange.end({ kind: 'client_closed' });
      exchange.abort.abort();
    };
    request.signal.addEventListener('abort', onClientGone);
    // A listener that is left on it keeps the request alive until a full collection: two thirds more CPU
    // for each request (measured).
    exchange.onEnd(() => request.signal.removeEventListener('abort', onClientGone));
    try {
      const admitted = await pipeline.admit(exchange, client);
      const isOwn = OWN_PATHS.has(admitted.target.path);
      const response = await (isOwn
        ? app.fetch(request, { exchange, admitted })
        : pipeline.proxy(exchange, admitted));
      if (options.isClosing() || options.isStopping() || isRetired())
        response.headers.set('connection', 'close');
      return response;
    } catch (error) {
      return pipeline.refuse(exchange, error);
    }
  };
}
