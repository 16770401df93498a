// The upstream of the long tests, in a process of its own: a recorder that keeps no bodies. It prints its port and its
// CA as one JSON line. What it answers is in the target: a path, and parameters of the query.

import { createHash, randomBytes } from 'node:crypto';
import { type RecordedRequest, type RecorderConnection, startRecorder } from '../../test/support/recorder.ts';

/** `GET /v1/sum?id=…`: what a download was. */
export interface Sum {
  bytes: number;
  sha256: string;
}

/** `GET /v1/stats`: what is open now (this request's connection is not counted), and what went wrong. */
export interface UpstreamStats {
  open: number;
  accepted: number;
  rss: number;
  problems: string[];
}

const BLOCK = 1 << 20;
const blocks: Record<string, Buffer> = {
  random: randomBytes(BLOCK),
  /** Letters, digits, - and _: what a token of an event stream looks like to the reflection guard. */
  text: Buffer.from(randomBytes(BLOCK).toString('base64url').slice(0, BLOCK)),
};
const sums = new Map<string, Sum>();

/** `bytes`, `framing` (length or chunked), `content`, `block` (bytes a write), `delay` (ms after each write), `id`. */
async function down(query: URLSearchParams, connection: RecorderConnection): Promise<void> {
  const total = Number(query.get('bytes'));
  const source = blocks[query.get('content') ?? 'random']!;
  const size = Number(query.get('block') ?? BLOCK);
  const delay = Number(query.get('delay') ?? 0);
  const chunked = query.get('framing') === 'chunked';
  const hash = createHash('sha256');
  await connection.head(200, [
    ['Content-Type', 'application/octet-stream'],
    chunked ? ['Transfer-Encoding', 'chunked'] : ['Content-Length', String(total)],
  ]);
  let sent = 0;
  while (sent < total) {
    const from = sent % BLOCK;
    const part = source.subarray(from, Math.min(from + size, BLOCK, from + total - sent));
    hash.update(part);
    if (!(await (chunked ? connection.chunk(part) : connection.write(part)))) return;
    sent += part.length;
    if (delay > 0) await Bun.sleep(delay);
  }
  sums.set(query.get('id') ?? '', { bytes: sent, sha256: hash.digest('hex') });
  if (chunked) await connection.lastChunk();
}

/** `count` events with the numbers from 1 up, `every` ms apart. */
async function events(query: URLSearchParams, connection: RecorderConnection): Promise<void> {
  const count = Number(query.get('count'));
  const every = Number(query.get('every'));
  await connection.sse(
    (async function* () {
      for (let number = 1; number <= count; number++) {
        yield `${query.get('id')} ${number}`;
        await Bun.sleep(every);
      }
    })(),
  );
}

/** Pieces of `block` bytes, `delay` ms apart, for as long as somebody takes them. */
async function endless(query: URLSearchParams, connection: RecorderConnection): Promise<void> {
  const part = blocks['text']!.subarray(0, Number(query.get('block')));
  const delay = Number(query.get('delay') ?? 0);
  await connection.head(200, { 'Content-Type': 'text/plain', 'Transfer-Encoding': 'chunked' });
  while (await connection.chunk(part)) if (delay > 0) await Promise.race([Bun.sleep(delay), connection.gone]);
}

async function answer(request: RecordedRequest, connection: RecorderConnection): Promise<unknown> {
  const url = new URL(request.target, 'http://upstream');
  switch (url.pathname) {
    case '/v1/up':
      return connection.json(200, { bytes: request.bodyBytes, sha256: request.bodySha256 } satisfies Sum);
    case '/v1/down':
      return down(url.searchParams, connection);
    case '/v1/sum':
      return connection.json(200, sums.get(url.searchParams.get('id') ?? '') ?? null);
    case '/v1/events':
      return events(url.searchParams, connection);
    case '/v1/endless':
      return endless(url.searchParams, connection);
    case '/v1/stats':
      return connection.json(200, stats(connection));
    default:
      return connection.json(200, { ok: true });
  }
}

function stats(asking: RecorderConnection): UpstreamStats {
  const others = recorder.connections.filter((record) => record.id !== asking.record.id);
  return {
    open: others.filter((record) => record.state === 'open').length,
    accepted: recorder.connections.length,
    rss: process.memoryUsage.rss(),
    problems: recorder.problems,
  };
}

const recorder = await startRecorder({ hashOnly: true, handler: answer });
console.log(JSON.stringify({ port: recorder.port, ca: recorder.ca }));
