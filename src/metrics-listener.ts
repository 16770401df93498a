/** `[metrics]`: the metrics page for whoever collects it, and nothing else. */
import type { MetricsAddress } from './config/effective.ts';
import { listenError, openOwnSocket } from './listeners.ts';
import type { Metrics } from './metrics.ts';
import type { Runtime } from './runtime/runtime.ts';

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
    return await openOwnSocket(runtime, address.path, MODE, handle);
  } catch (error) {
    throw listenError('metrics', '', error, 'choose another port in [metrics]');
  }
}
