/** Deno: `Deno.serve` and Deno's HTTP clients. The only file that names Deno; its own types are declared here. */
import type { BodySource } from '../proxy/response-body.ts';
import type { Runtime, RuntimeFeatures, ServeOptions, Server, UpstreamRoute } from './runtime.ts';

interface DenoServer {
  shutdown(): Promise<void>;
}
interface DenoApi {
  version: { deno: string };
  serve(
    options: Record<string, unknown>,
    handler: (request: Request) => Response | Promise<Response>,
  ): DenoServer;
  createHttpClient(options: Record<string, unknown>): unknown;
}
declare const Deno: DenoApi;

function serve(options: ServeOptions): Server {
  const { address, handle } = options;
  const abort = new AbortController();
  const place =
    address.kind === 'unix'
      ? { transport: 'unix', path: address.path }
      : { hostname: address.hostname, port: address.port };
  const server = Deno.serve(
    {
      ...place,
      signal: abort.signal,
      onListen: () => {},
      onError: () => new Response(null, { status: 500, headers: { connection: 'close' } }),
    },
    handle,
  );
  return {
    stopAccepting: () => void server.shutdown().catch(() => {}),
    destroy: () => abort.abort(),
    // Deno has no such call; README.md lists it under what Deno does not keep.
    closeIdle: () => {},
  };
}

/**
 * Deno hands over raw text: `http+unix://<Host header, unvalidated><raw target>` on a unix socket and
 * `http://…` on TCP, and an absolute-form target with the client's own authority. Host is cut off as text,
 * so that nothing in it can become a path (RUNTIME-FACTS 18).
 */
function targetOf(request: Request): string | undefined {
  const host = request.headers.get('host');
  if (host === null) return undefined;
  for (const scheme of ['http+unix://', 'http://']) {
    const start = scheme + host;
    if (request.url.startsWith(`${start}/`)) return request.url.slice(start.length);
  }
  return undefined;
}

function bodyStream(source: BodySource): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream(
    {
      start(controller) {
        source.signal.addEventListener('abort', () => controller.error(new Error('cut')), { once: true });
      },
      async pull(controller) {
        const piece = await source.next();
        if (piece === undefined) controller.close();
        else controller.enqueue(piece);
      },
      cancel: source.cancel,
    },
    { highWaterMark: 0 },
  );
}

function upstreamOptions(route: UpstreamRoute): Record<string, unknown> {
  const options: Record<string, unknown> = { http1: true, http2: false, allowHost: true };
  if (route.ca !== undefined) options['caCerts'] = [route.ca];
  if (route.cert !== undefined) options['cert'] = route.cert;
  if (route.key !== undefined) options['key'] = route.key;
  if (route.proxy !== undefined) options['proxy'] = { transport: 'http', url: route.proxy };
  if (route.socket !== undefined) options['proxy'] = { transport: 'unix', path: route.socket };
  return { client: Deno.createHttpClient(options) };
}

function refusals(features: RuntimeFeatures): string[] {
  const found: string[] = [];
  if (features.encodedResponses) {
    found.push(
      'unsafe_allow_encoded_response cannot be kept under Deno: its fetch always decodes; use the compiled binary',
    );
  }
  return found;
}

export const denoRuntime: Runtime = {
  name: 'deno',
  get version() {
    return Deno.version.deno;
  },
  serve,
  targetOf,
  bodyStream,
  upstreamOptions,
  refusals,
};
