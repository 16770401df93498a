/**
 * node:http on one side or on both, with everything as it came (rawHeaders):
 * `bun node-pairs.ts PORT ORIGIN KEY CA-FILE|- serve|http fetch|http`. Left out: limits, timeouts, upgrades, CONNECT.
 */
import { readFileSync } from 'node:fs';
import { request as askHttp, createServer, Agent as HttpAgent, type IncomingMessage } from 'node:http';
import { request as askHttps, Agent as HttpsAgent } from 'node:https';
import process from 'node:process';
import { Readable } from 'node:stream';
import { type Field, hopByHop } from './message-reader.ts';

const [port, origin = '', key = '', caFile = '-', server = 'http', client = 'http'] = process.argv.slice(2);
const { protocol, hostname, port: upstreamPort, host } = new URL(origin);
const ca = caFile === '-' ? undefined : readFileSync(caFile, 'utf8');
const isTls = protocol === 'https:';
const SMALL = 64 * 1024;

interface Asked {
  readonly method: string;
  readonly target: string;
  readonly fields: readonly Field[];
  /** What is known of the body: nothing to send, all of it, or a stream. */
  readonly body: Uint8Array | Readable | undefined;
  readonly signal: AbortSignal;
}

interface Answered {
  readonly status: number;
  readonly reason: string;
  readonly fields: readonly Field[];
  readonly body: Readable | ReadableStream<Uint8Array> | null;
}

const options = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY };
const agent = isTls ? new HttpsAgent(options) : new HttpAgent(options);
const ask = isTls ? askHttps : askHttp;

function pairs(raw: readonly string[]): Field[] {
  return raw.flatMap((name, at) => (at % 2 === 0 ? [[name, raw[at + 1] ?? ''] as const] : []));
}

function outgoing({ fields, body }: Asked): Field[] {
  const dropped = hopByHop(fields).add('x-api-key').add('host');
  const kept = fields.filter(([name]) => !dropped.has(name.toLowerCase()));
  const isDeclared = kept.some(([name]) => /^content-length$/i.test(name));
  const framing: Field[] = body instanceof Readable && !isDeclared ? [['Transfer-Encoding', 'chunked']] : [];
  return [['Host', host], ...kept, ...framing, ['x-api-key', key]];
}

function askByHttp(asked: Asked): Promise<Answered> {
  const { method, target: path, body, signal } = asked;
  return new Promise((resolve, reject) => {
    // Without `servername` the name that is verified comes from the Host field.
    const tls = { servername: hostname, rejectUnauthorized: true, ...(ca && { ca }) };
    const headers = outgoing(asked).flat() as unknown as Record<string, string>;
    const request = ask(
      { hostname, port: upstreamPort, method, path, headers, agent, ...(isTls && tls) },
      (answer: IncomingMessage) => {
        const { statusCode = 502, statusMessage = '', rawHeaders } = answer;
        resolve({ status: statusCode, reason: statusMessage, fields: pairs(rawHeaders), body: answer });
      },
    );
    request.on('error', reject);
    signal.addEventListener('abort', () => request.destroy(), { once: true });
    if (body instanceof Readable) body.on('error', () => request.destroy()).pipe(request);
    else request.end(body);
  });
}

async function askByFetch(asked: Asked): Promise<Answered> {
  const { method, target, body, signal } = asked;
  const answer = await fetch(origin + target, {
    method,
    headers: outgoing(asked) as [string, string][],
    body: (body instanceof Readable ? Readable.toWeb(body) : (body ?? null)) as BodyInit | null,
    signal,
    decompress: false,
    redirect: 'manual',
    ...(ca && { tls: { ca } }),
  });
  return { status: answer.status, reason: answer.statusText, fields: [...answer.headers], body: answer.body };
}

const forward = client === 'fetch' ? askByFetch : askByHttp;

function downFields({ fields }: Answered): Field[] {
  const dropped = hopByHop(fields);
  return fields.filter(([name]) => !dropped.has(name.toLowerCase()));
}

/** node:http gives a body also to GET and HEAD: sent on by a client that frames none, it is the next request. */
function mayHaveBody(method: string): boolean {
  return method !== 'GET' && method !== 'HEAD';
}

function serveByHttp(): void {
  createServer(async (request, response) => {
    const { method = '', url: target = '', rawHeaders } = request;
    const leave = new AbortController();
    response.on('close', () => leave.abort());
    const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
    const hasBody = coding !== undefined || Number(length ?? 0) > 0;
    if (hasBody && !mayHaveBody(method)) return void response.writeHead(400, { connection: 'close' }).end();
    const body = hasBody ? request : undefined;
    try {
      const answer = await forward({ method, target, fields: pairs(rawHeaders), body, signal: leave.signal });
      const fields = downFields(answer).flat() as unknown as Record<string, string>;
      response.writeHead(answer.status, answer.reason, fields);
      if (answer.body === null) return void response.end();
      const source = answer.body instanceof Readable ? answer.body : Readable.fromWeb(answer.body as never);
      source.on('error', () => response.destroy()).pipe(response);
    } catch {
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end();
    }
  }).listen(Number(port), '127.0.0.1');
}

async function answerByServe(request: Request): Promise<Response> {
  const { method, url, headers, signal } = request;
  const length = headers.get('content-length');
  const hasBody = headers.has('transfer-encoding') || Number(length ?? 0) > 0;
  if (hasBody && request.body === null) return new Response(null, { status: 400 });
  const isSmall = Number(length ?? SMALL + 1) <= SMALL;
  const whole = hasBody && isSmall ? new Uint8Array(await request.arrayBuffer()) : undefined;
  const body = whole ?? (hasBody ? Readable.fromWeb(request.body as never) : undefined);
  const target = url.slice(url.indexOf('/', 8));
  const answer = await forward({ method, target, fields: [...headers], body, signal });
  const init = { status: answer.status, statusText: answer.reason, headers: new Headers() };
  for (const [name, value] of downFields(answer)) init.headers.append(name, value);
  const { body: source } = answer;
  const down = source instanceof Readable ? Readable.toWeb(source) : source;
  return new Response(down as BodyInit | null, init);
}

if (server === 'http') serveByHttp();
else
  Bun.serve({
    hostname: '127.0.0.1',
    port: Number(port),
    idleTimeout: 0,
    maxRequestBodySize: 2 ** 40,
    fetch: (request) => answerByServe(request).catch(() => new Response(null, { status: 502 })),
  });
