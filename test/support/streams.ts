// Many event streams at once, each held open by the upstream until it is told what to send.

import { DEADLINE_MS, until } from './deadline.ts';
import { connect, type Endpoint, formatRequest, type RawClient } from './raw-client.ts';
import type { Recorder, RecorderConnection } from './recorder.ts';

export interface Streams extends Disposable {
  readonly clients: readonly RawClient[];
  /** The upstream's ends, in no particular order. */
  readonly upstreams: readonly RecorderConnection[];
  /** Sends one event on each. */
  event(text: string): Promise<void>;
  /** Ends each in order. */
  finish(): Promise<void>;
}

/** Makes `up` answer `POST .../messages` with streams and opens `count` of them; returns when each has begun. */
export async function openStreams(
  up: Recorder,
  endpoint: Endpoint,
  count: number,
  target = '/api/v1/messages',
): Promise<Streams> {
  const upstreams: RecorderConnection[] = [];
  up.handle(async (request, connection) => {
    if (request.header('x-stream') === undefined) return connection.reply(200, {}, 'ok');
    await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
    await connection.chunk('data: first\n\n');
    upstreams.push(connection);
    await connection.gone;
  });
  const clients = await Promise.all(Array.from({ length: count }, () => connect(endpoint)));
  const headers = { 'x-stream': '1' };
  await Promise.all(
    clients.map(async (client) => {
      await client.send(formatRequest({ method: 'POST', target, headers, body: '{}' }));
      await client.waitFor('data: first', 10_000);
    }),
  );
  await until('all upstream ends', () => upstreams.length === count, DEADLINE_MS);
  return {
    clients,
    upstreams,
    event: async (text) => void (await Promise.all(upstreams.map((one) => one.chunk(`data: ${text}\n\n`)))),
    finish: async () => void (await Promise.all(upstreams.map((one) => one.lastChunk()))),
    [Symbol.dispose]() {
      for (const client of clients) client.close();
    },
  };
}
