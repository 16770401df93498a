/**
 * An HTTP/1.1 client on Bun.connect: kept-alive connections, one request in flight on each, nothing sent twice.
 * Left out: a limit of the pool, timeouts, proxies, trailers, 101.
 */
import {
  createMessageReader,
  declaredFraming,
  type Framing,
  type Head,
  type MessageReader,
} from './message-reader.ts';

export interface Origin {
  readonly hostname: string;
  readonly port: number;
  /** With TLS: undefined is the built-in set of CAs. */
  readonly tls?: { readonly ca?: string };
}

export interface AnswerSink {
  /** 100 and its like, before the answer. */
  readonly interim?: (head: Head) => void;
  readonly head: (head: Head, status: number, framing: Framing) => void;
  readonly body: (piece: Buffer) => void;
  readonly end: () => void;
  /** Everything that one read from the socket held has been handed over. */
  readonly flush: () => void;
  /** The upstream takes more again. */
  readonly drain: () => void;
  /** Nothing comes after it; an answer whose head was handed over is cut. */
  readonly failed: (error: Error) => void;
}

export interface Exchange {
  /** @returns false when it is wise to wait for `drain`. */
  readonly write: (bytes: Uint8Array) => boolean;
  /** The request is whole: until then the connection is not used again. */
  readonly finish: () => void;
  readonly pause: () => void;
  readonly resume: () => void;
  /** Destroys the connection, unless the exchange is over. */
  readonly abort: () => void;
}

interface Connection {
  readonly send: (method: string, bytes: Uint8Array, sink: AnswerSink) => Exchange;
}

const LONGEST_HEAD = 64 * 1024;
const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: .*)?$/;

export function createClient(origin: Origin) {
  const idle: Connection[] = [];

  async function send(method: string, bytes: Uint8Array, sink: AnswerSink): Promise<Exchange> {
    // The latest first: the one that is least likely to have been closed meanwhile.
    const connection = idle.pop() ?? (await open());
    return connection.send(method, bytes, sink);
  }

  function open(): Promise<Connection> {
    const { hostname, port, tls } = origin;
    return new Promise((resolve, reject) => {
      let handlers: ReturnType<typeof createConnection> | undefined;
      const start = (socket: Bun.Socket) => {
        handlers = createConnection(socket, idle);
        resolve(handlers.connection);
      };
      const options = tls && { ...tls, rejectUnauthorized: true, serverName: hostname };
      Bun.connect({
        hostname,
        port,
        ...(options && { tls: options }),
        socket: {
          open: (socket: Bun.Socket) => tls === undefined && start(socket),
          // What is written before it is lost, and a refused certificate is told here only.
          handshake(socket: Bun.Socket, isGood: boolean, error: Error | null) {
            if (isGood && error === null && socket.authorized) return start(socket);
            socket.terminate();
            reject(error ?? new Error('not authorised'));
          },
          data: (_socket: Bun.Socket, chunk: Buffer) => handlers?.data(chunk),
          drain: () => handlers?.drain(),
          end: () => handlers?.end(),
          close(_socket: Bun.Socket, error?: Error) {
            handlers?.close(error);
            reject(error ?? new Error('closed before it was open'));
          },
          error: (_socket: Bun.Socket, error: Error) => handlers?.close(error),
        },
      } as unknown as Parameters<typeof Bun.connect>[0]).catch(reject);
    });
  }

  return { send };
}

function createConnection(socket: Bun.Socket, idle: Connection[]) {
  /** What the socket did not take yet. */
  let waiting: Uint8Array[] = [];
  let isOpen = true;
  let sink: AnswerSink | undefined;
  let method = '';
  let answered = false;
  let sent = false;
  let keep = true;

  function write(bytes: Uint8Array): boolean {
    if (waiting.length > 0) waiting.push(bytes);
    else {
      const taken = Math.max(0, socket.write(bytes));
      if (taken < bytes.length) waiting = [bytes.subarray(taken)];
    }
    return waiting.length === 0;
  }

  function drain(): void {
    const bytes = Buffer.concat(waiting);
    waiting = [];
    if (bytes.length === 0 || write(bytes)) sink?.drain();
  }

  function fail(error: Error): void {
    const failed = sink;
    sink = undefined;
    drop();
    failed?.failed(error);
  }

  function drop(): void {
    isOpen = false;
    const at = idle.indexOf(connection);
    if (at !== -1) idle.splice(at, 1);
    socket.terminate();
  }

  /** Gives the connection back when request and answer are both over, and nothing is behind the answer. */
  function settle(): void {
    if (!answered) return;
    sink = undefined;
    if (!isOpen) return;
    if (!sent || !keep || waiting.length > 0 || reader.excess() > 0) drop();
    else {
      reader.next();
      idle.push(connection);
    }
  }

  const reader: MessageReader = createMessageReader(
    {
      head(head) {
        const [, version, digits] = STATUS_LINE.exec(head.start) ?? [];
        const status = Number(digits);
        if (version === undefined || status === 101) throw new Error('no usable answer');
        if (status < 200) {
          sink?.interim?.(head);
          return undefined;
        }
        const isEmpty = method === 'HEAD' || status === 204 || status === 304;
        const framing = (isEmpty ? undefined : declaredFraming(head)) ?? (isEmpty ? 0 : 'close');
        const closes = head.fields.some(
          ([name, value]) => /^connection$/i.test(name) && /\bclose\b/i.test(value),
        );
        keep = version === '1' && !closes && framing !== 'close';
        sink?.head(head, status, framing);
        return framing;
      },
      body: (piece) => sink?.body(piece),
      end() {
        answered = true;
        sink?.end();
      },
    },
    LONGEST_HEAD,
  );

  const connection: Connection = {
    send(nextMethod, bytes, nextSink) {
      method = nextMethod;
      sink = nextSink;
      answered = false;
      sent = false;
      write(bytes);
      // An answer that this exchange does not wait for any more must not touch the next one.
      const isCurrent = () => sink === nextSink && isOpen;
      return {
        write(more) {
          if (!isCurrent()) throw new Error('the exchange is over');
          return write(more);
        },
        finish() {
          if (sink === nextSink) sent = true;
        },
        pause: () => void (isCurrent() && socket.pause()),
        resume: () => void (isCurrent() && socket.resume()),
        abort() {
          if (isCurrent()) fail(new Error('aborted'));
        },
      };
    },
  };

  return {
    connection,
    drain,
    data(chunk: Buffer) {
      // Bytes that nobody asked for are no answer to what comes next.
      if (sink === undefined) return drop();
      const current = sink;
      try {
        reader.read(chunk);
        current.flush();
        settle();
      } catch (error) {
        fail(error as Error);
      }
    },
    end() {
      if (sink === undefined) return drop();
      if (!reader.ended()) return fail(new Error('the upstream closed'));
      answered = true;
      keep = false;
      sink.end();
      sink.flush();
      settle();
    },
    close(error?: Error) {
      if (isOpen) fail(error ?? new Error('the upstream closed'));
    },
  };
}
