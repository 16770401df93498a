/**
 * The floor: what Bun.serve and fetch cost with nothing around them but one header. Small bodies are read whole
 * first, as isoproxy reads them; "stream" as the fourth argument streams every body.
 */
import process from 'node:process';

const [port, upstream, key = '', bodies] = process.argv.slice(2);
const SMALL = 64 * 1024;

Bun.serve({
  hostname: '127.0.0.1',
  port: Number(port),
  idleTimeout: 0,
  maxRequestBodySize: 2 ** 40,
  async fetch(request) {
    const { url, method, signal } = request;
    const headers = new Headers(request.headers);
    headers.set('x-api-key', key);
    const length = Number(headers.get('content-length') ?? Number.POSITIVE_INFINITY);
    const whole = method === 'POST' && length <= SMALL && bodies !== 'stream';
    const body = method === 'GET' ? null : whole ? await request.arrayBuffer() : request.body;
    headers.delete('host');
    headers.delete('connection');
    const target = upstream + url.slice(url.indexOf('/', 8));
    const answer = await fetch(target, {
      method,
      headers,
      body,
      signal,
      decompress: false,
      redirect: 'manual',
    });
    return new Response(answer.body, answer);
  },
});
