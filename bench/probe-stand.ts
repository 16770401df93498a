/** A raw scripted upstream and a raw client, with an alternative between them: what goes over the wire, to the byte. */
import { connect, createServer, type Socket } from 'node:net';
import type { Place } from './load.ts';

/** One connection that the alternative has opened to the upstream. */
export interface Arrival {
  readonly socket: Socket;
  readonly text: () => string;
  readonly closedAt: () => number | undefined;
}

export interface Script {
  /** Called with each piece of each connection; `text` is all of the connection since the probe began. */
  readonly data: (arrival: Arrival, text: string) => void;
}

export interface ScriptedUpstream {
  readonly port: number;
  /** Connections since the probe began. */
  readonly arrivals: () => readonly Arrival[];
  /** All that has come since the probe began, connection by connection. */
  readonly text: () => string;
  /** Begins a probe: closes what is open, and answers by this from now on. */
  readonly use: (script: Script) => Promise<void>;
}

export const OK = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok';

/** Answers each request at the end of its head, or of a JSON body. */
export function answering(answer: string | Buffer): Script {
  return {
    data({ socket }, text) {
      if (text.endsWith('\r\n\r\n') || text.endsWith('}')) socket.write(answer);
    },
  };
}

export function startScripted(): Promise<ScriptedUpstream> {
  let script: Script = answering(OK);
  let arrivals: Arrival[] = [];
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    let text = '';
    let closedAt: number | undefined;
    open.add(socket);
    const arrival: Arrival = { socket, text: () => text, closedAt: () => closedAt };
    const current = script;
    arrivals.push(arrival);
    socket.on('data', (piece) => {
      // Large uploads are counted elsewhere; heads are what is looked at.
      if (text.length < 1e6) text += piece.toString('latin1');
      if (current === script) script.data(arrival, text);
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      closedAt = performance.now();
      open.delete(socket);
    });
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      resolve({
        port,
        arrivals: () => arrivals,
        text: () => arrivals.map((arrival) => arrival.text()).join(''),
        async use(next) {
          for (const socket of open) socket.destroy();
          // The alternative is given time to see that its kept connections are gone.
          await Bun.sleep(80);
          arrivals = [];
          script = next;
        },
      });
    });
  });
}

export interface RawClient {
  readonly socket: Socket;
  readonly send: (text: string | Buffer) => void;
  readonly text: () => string;
  readonly closed: () => boolean;
  /** Waits until `test` holds, the connection is closed, or the time is up; @returns all that came. */
  readonly until: (test: (text: string) => boolean, ms?: number) => Promise<string>;
  readonly destroy: () => void;
}

export function openClient(place: Place): Promise<RawClient> {
  return new Promise((resolve, reject) => {
    const socket = 'unix' in place ? connect(place.unix) : connect(place.port, place.hostname);
    let text = '';
    let closed = false;
    socket.on('data', (piece) => {
      text += piece.toString('latin1');
    });
    socket.once('error', reject);
    for (const event of ['end', 'close'])
      socket.on(event, () => {
        closed = true;
      });
    socket.once('connect', () =>
      resolve({
        socket,
        send: (bytes) => void socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes),
        text: () => text,
        closed: () => closed,
        async until(test, ms = 1500) {
          await waitFor(() => closed || test(text), ms);
          return text;
        },
        destroy: () => void socket.destroy(),
      }),
    );
  });
}

/** @returns whether it came to hold within the time. */
export async function waitFor(test: () => boolean, ms: number): Promise<boolean> {
  const deadline = performance.now() + ms;
  while (!test()) {
    if (performance.now() > deadline) return false;
    await Bun.sleep(2);
  }
  return true;
}

/** Whether one whole answer is there: by length, by its last chunk, or without a body. */
export function isWhole(text: string): boolean {
  const end = text.indexOf('\r\n\r\n');
  if (end === -1) return false;
  const head = text.slice(0, end);
  if (/^HTTP\/1\.1 1\d\d/.test(head)) return isWhole(text.slice(end + 4));
  const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
  if (length !== undefined) return text.length - end - 4 >= Number(length);
  return (
    /\r\ntransfer-encoding: *chunked/i.test(head) &&
    /(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n$/.test(text.slice(end + 4))
  );
}

/** The status of the (last) answer; 0 where there is none. */
export function statusOf(text: string): number {
  const heads = [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)];
  return Number(heads.at(-1)?.[1] ?? 0);
}

/** One exchange on a connection of its own. */
export async function exchange(place: Place, request: string, ms = 1500): Promise<string> {
  const client = await openClient(place);
  client.send(request);
  const text = await client.until(isWhole, ms);
  client.destroy();
  return text;
}
