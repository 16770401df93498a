/** What Bun offers besides: a server and a client of node:http, which keep every byte of a head as it came. */
import { Agent, request as ask, createServer } from 'node:http';
import process from 'node:process';

const [port, upstream = '', key = ''] = process.argv.slice(2);
const { hostname, port: upstreamPort } = new URL(upstream);
const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });

createServer((request, response) => {
  const headers = { ...request.headers, 'x-api-key': key, connection: 'keep-alive' };
  const { method, url: path } = request;
  const onward = ask({ hostname, port: upstreamPort, method, path, headers, agent }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.pipe(response);
  });
  onward.on('error', () => response.destroy());
  response.on('close', () => onward.destroy());
  request.pipe(onward);
}).listen(Number(port), '127.0.0.1');
