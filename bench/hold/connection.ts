/** A raw connection of the load generators: what costs least beside what is measured. */
import type { Place } from '../load.ts';

export function head(method: string, path: string, headers: readonly string[]): string {
  return [`${method} ${path} HTTP/1.1`, 'host: localhost', ...headers, '', ''].join('\r\n');
}

export interface Line {
  readonly send: (bytes: Buffer) => void;
  readonly end: () => void;
}

/** A connection; what the socket does not take at once goes out as it drains. */
export async function connect(
  place: Place,
  onData: (chunk: Buffer) => void,
  onClose: () => void,
): Promise<Line> {
  let rest: Buffer | undefined;
  const flush = (socket: Bun.Socket, bytes: Buffer) => {
    const written = socket.write(bytes);
    rest = written < bytes.length ? bytes.subarray(Math.max(0, written)) : undefined;
  };
  const handlers = {
    data: (_socket: Bun.Socket, chunk: Buffer) => onData(chunk),
    drain: (socket: Bun.Socket) => rest !== undefined && flush(socket, rest),
    close: onClose,
    error: onClose,
  };
  const socket = await Bun.connect({ ...place, socket: handlers } as Parameters<typeof Bun.connect>[0]);
  return { send: (bytes) => flush(socket as Bun.Socket, bytes), end: () => socket.end() };
}
