/** `[metrics]`: the metrics page for whoever collects it, and nothing else. */
import type { MetricsAddress } from './config/effective.ts';
import type { Metrics } from './metrics.ts';
import type { Runtime, Server } from './runtime/runtime.ts';
import { bindSocket, prepareDirectory, SocketFileError } from './runtime/socket-file.ts';
import { StartError } from './start-error.ts';

/** Everybody on this machine may read metrics: no name in them is a secret. */
const MODE = 0o666;

/** @throws StartError */
export async function openMetrics(
  address: MetricsAddress | undefined,
  runtime: Runtime,
  metrics: Metrics,
): Promise<{ readonly close: () => void } | undefined> {
  if (address === undefined) return undefined;
  const handle = async (request: Request): Promise<Response> => {
    const headers = { connection: 'close', 'content-type': metrics.contentType };
    if (runtime.targetOf(request)?.split('?', 1)[0] !== '/metrics')
      return new Response('', { status: 404, headers });
    if (request.method !== 'GET')
      return new Response('', { status: 405, headers: { ...headers, allow: 'GET' } });
    return new Response(await metrics.render(), { headers });
  };
  try {
    if (address.kind === 'tcp') return { close: runtime.serve({ address, handle }).destroy };
    prepareDirectory(address.path, MODE);
    const bind = (path: string): Server => runtime.serve({ address: { kind: 'unix', path }, handle });
    const { server, file } = await bindSocket(address.path, MODE, undefined, bind, (bound) =>
      bound.destroy(),
    );
    return {
      close() {
        file.remove();
        server.destroy();
      },
    };
  } catch (error) {
    if (error instanceof SocketFileError)
      throw new StartError('unavailable', `metrics: ${error.message}`, error.hint);
    const code = (error as { code?: unknown }).code;
    throw new StartError(
      'unavailable',
      `metrics: cannot listen (${typeof code === 'string' ? code : 'unknown error'})`,
      'choose another port in [metrics]',
    );
  }
}
