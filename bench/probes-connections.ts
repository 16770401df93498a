/** What each alternative does with connections: retries, leavers, readers that read nothing, many at once, TLS. */
import { connect, createServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { type LeafKind, testCerts } from '../test/support/certs.ts';
import type { Place } from './load.ts';
import { answering, exchange, isWhole, OK, openClient, statusOf, waitFor } from './probe-stand.ts';
import { get, type Probe, type Probed, post } from './probes.ts';
import { memoryMiB } from './processes.ts';

function resent(method: string): Probe {
  return {
    name: `${method} on a kept connection that dies before an answer reaches the upstream`,
    async find({ place, upstream }) {
      let doomed = 0;
      await upstream.use({
        data({ socket }, text) {
          if (!text.includes('X-Doomed') && !text.includes('x-doomed')) socket.write(OK);
          else {
            doomed++;
            socket.destroy();
          }
        },
      });
      await exchange(place, get('/v1/warm'));
      const request = method === 'GET' ? get('/v1/x', 'X-Doomed: 1') : post(method, '{"a":1}', 'X-Doomed: 1');
      await exchange(place, request, 1000);
      return doomed === 1 ? 'once' : `**${doomed} times**`;
    },
  };
}

/** @returns the time until the upstream's connection is closed, after the client has left. */
function leaver(name: string, answer: string): Probe {
  return {
    name,
    async find({ place, upstream }) {
      await upstream.use({
        data: ({ socket }, text) => void (text.includes('\r\n\r\n') && socket.write(answer)),
      });
      const client = await openClient(place);
      client.send(get('/v1/x'));
      await waitFor(() => upstream.text().includes('\r\n\r\n'), 1000);
      await Bun.sleep(100);
      const from = performance.now();
      client.destroy();
      const isClosed = await waitFor(
        () => upstream.arrivals().every((one) => one.closedAt() !== undefined),
        3000,
      );
      return isClosed ? `closed after ${(performance.now() - from).toFixed(0)} ms` : '**open after 3 s**';
    },
  };
}

const MANY = 200 * 2 ** 20;
const PIECE = Buffer.alloc(64 * 1024, 'x');

/** Writes for as long as somebody takes it; @returns how much was taken. */
function flood(socket: ReturnType<typeof connect>, counted: { bytes: number }): void {
  const go = () => {
    while (counted.bytes < MANY) {
      counted.bytes += PIECE.length;
      if (!socket.write(PIECE)) return void socket.once('drain', go);
    }
  };
  go();
}

const bounded = (bytes: number, grown: number) =>
  `${bytes < MANY / 2 ? 'bounded' : '**unbounded**'}: ${(bytes / 2 ** 20).toFixed(0)} MiB taken, +${Math.max(0, grown).toFixed(0)} MiB`;

async function stalledReader({ place, upstream, pid }: Probed): Promise<string> {
  const counted = { bytes: 0 };
  await upstream.use({
    data({ socket }) {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${MANY}\r\n\r\n`);
      flood(socket, counted);
    },
  });
  const before = memoryMiB(pid, 'VmRSS');
  const client = await openClient(place);
  client.socket.pause();
  client.send(get('/v1/x'));
  await Bun.sleep(1500);
  const grown = memoryMiB(pid, 'VmRSS') - before;
  client.destroy();
  return bounded(counted.bytes, grown);
}

async function stalledUpstream({ place, upstream, pid }: Probed): Promise<string> {
  const counted = { bytes: 0 };
  await upstream.use({ data: ({ socket }) => void socket.pause() });
  const before = memoryMiB(pid, 'VmRSS');
  const client = await openClient(place);
  client.send(`POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${MANY}\r\n\r\n`);
  flood(client.socket, counted);
  await Bun.sleep(1500);
  const grown = memoryMiB(pid, 'VmRSS') - before;
  client.destroy();
  return bounded(counted.bytes, grown);
}

async function inFlight({ place, upstream }: Probed): Promise<string> {
  await upstream.use({ data: () => {} });
  const clients = await Promise.all(Array.from({ length: 300 }, () => openClient(place)));
  for (const client of clients) client.send(get('/v1/x'));
  await waitFor(() => (upstream.text().match(/GET \/v1\/x/g) ?? []).length === 300, 2500);
  const arrived = (upstream.text().match(/GET \/v1\/x/g) ?? []).length;
  for (const client of clients) client.destroy();
  return `${arrived} of 300`;
}

const LONGEST_HALF_S = 20;

/** A head that never ends: as the first of a connection, or behind a whole exchange. */
async function halfHead({ place }: Probed, isFirst: boolean): Promise<string> {
  const client = await openClient(place);
  if (!isFirst) {
    client.send(get('/v1/x'));
    await client.until(isWhole);
  }
  const from = performance.now();
  client.send('GET /v1/x HTTP/1.1\r\nHost: ');
  const isClosed = await waitFor(client.closed, LONGEST_HALF_S * 1000);
  client.destroy();
  return isClosed
    ? `closed after ${((performance.now() - from) / 1000).toFixed(0)} s`
    : `open after ${LONGEST_HALF_S} s`;
}

export const CONNECTIONS: readonly Probe[] = [
  ...['GET', 'PUT', 'POST'].map(resent),
  leaver('client leaves before the answer: upstream connection', ''),
  leaver(
    'client leaves in the middle of the answer: upstream connection',
    'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n',
  ),
  { name: '200 MiB to a client that reads nothing', find: stalledReader },
  { name: '200 MiB for an upstream that reads nothing', find: stalledUpstream },
  { name: '300 requests at once: how many reach the upstream', find: inFlight },
  {
    name: 'two requests in one write: both answered',
    async find({ place, upstream }) {
      await upstream.use(answering(OK));
      const client = await openClient(place);
      client.send(get('/v1/x') + get('/v1/x'));
      const text = await client.until((seen) => (seen.match(/HTTP\/1\.1 200/g) ?? []).length === 2, 700);
      client.destroy();
      return (text.match(/HTTP\/1\.1 200/g) ?? []).length === 2 ? 'yes' : 'no';
    },
  },
  {
    name: 'half a head, first of its connection / behind a request',
    async find(probed) {
      await probed.upstream.use(answering(OK));
      return (await Promise.all([halfHead(probed, true), halfHead(probed, false)])).join(' / ');
    },
  },
];

const LEAVES: readonly (readonly [LeafKind, string])[] = [
  ['good', 'TLS: a good certificate (must pass)'],
  ['wrong-name', 'TLS: wrong name'],
  ['expired', 'TLS: expired'],
  ['self-signed', 'TLS: self-signed'],
  ['unknown-ca', 'TLS: unknown CA'],
];

export const TLS_PROBES = LEAVES.map(([, name]) => name);

/** One address, behind which the certificate changes from probe to probe. */
export async function openTlsRelay() {
  const certs = await testCerts();
  let target = 0;
  let requests = 0;
  const listen = (server: ReturnType<typeof createServer>) =>
    new Promise<number>((resolve) => {
      server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port));
    });
  const ports = new Map<LeafKind, number>();
  for (const [leaf] of LEAVES) {
    const server = createTlsServer(certs.leaves[leaf], (socket) => {
      socket.on('error', () => {});
      socket.on('data', () => {
        requests++;
        socket.end(OK.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'));
      });
    });
    server.on('tlsClientError', () => {});
    ports.set(leaf, await listen(server));
  }
  const port = await listen(
    createServer((socket) => {
      const onward = connect(target, '127.0.0.1');
      for (const one of [socket, onward]) one.on('error', () => {});
      socket.pipe(onward).pipe(socket);
    }),
  );
  return {
    port,
    ca: certs.ca,
    /** @returns the answers, in the order of `TLS_PROBES`. */
    async find(place: Place): Promise<string[]> {
      const found: string[] = [];
      for (const [leaf] of LEAVES) {
        target = ports.get(leaf) ?? 0;
        requests = 0;
        const status = statusOf(await exchange(place, get('/v1/x'), 1500));
        const refused = requests === 0 ? `refused, ${status || 'closed'}` : `**key sent**, ${status}`;
        found.push(status === 200 ? 'passes' : refused);
      }
      return found;
    },
  };
}
