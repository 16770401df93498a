/** Opening and closing of listeners. */
import type { ListenerConfig } from './config/effective.ts';
import type { BoundTo } from './runtime/proc.ts';
import type { Runtime, ServeOptions, Server } from './runtime/runtime.ts';
import { bindSocket, prepareDirectory, SocketFileError } from './runtime/socket-file.ts';
import { StartError } from './start-error.ts';

export interface OpenListener {
  readonly config: ListenerConfig;
  /** Stops accepting and removes the socket file; requests in flight go on. */
  readonly stopAccepting: () => void;
  /** Closes everything, also what is in flight. */
  readonly destroy: () => void;
  readonly closeIdle: () => void;
  /** Takes over another mode or group of a configuration for the same address. */
  readonly reconfigure: (config: ListenerConfig) => void;
  /** Is the socket at the path the one that was opened? Always true for TCP. */
  readonly isInPlace: () => boolean;
  /** How the kernel lists what it has accepted. */
  readonly boundTo: () => BoundTo;
  /** Closes everything and accepts no more; what is at the path stays, so that nobody else takes it. */
  readonly close: () => void;
  /** Accepts again after `close`. */
  readonly reopen: () => Promise<void>;
  /** Is its address kept from others while it is closed? */
  readonly canStayClosed: boolean;
}

/**
 * Serves a unix socket that is no listener: control, metrics.
 * @throws SocketFileError or the system's error
 */
export async function openOwnSocket(
  runtime: Runtime,
  path: string,
  mode: number,
  handle: ServeOptions['handle'],
): Promise<{ readonly close: () => void }> {
  prepareDirectory(path, mode);
  const bind = (at: string): Server => runtime.serve({ address: { kind: 'unix', path: at }, handle });
  const { server, file } = await bindSocket(path, mode, undefined, bind, (bound) => bound.destroy());
  return {
    close() {
      file.remove();
      server.destroy();
    },
  };
}

/** What kept a socket or port from being opened, for the operator; `key` is where the configuration names it. */
export function listenError(key: string, where: string, error: unknown, hint?: string): StartError {
  if (error instanceof SocketFileError)
    return new StartError('unavailable', `${key}: ${error.message}`, error.hint);
  const code = (error as { code?: unknown }).code;
  const place = where === '' ? '' : ` on ${where}`;
  const why = typeof code === 'string' ? code : 'unknown error';
  return new StartError('unavailable', `${key}: cannot listen${place} (${why})`, hint);
}

/** @throws SocketFileError or the system's error (EADDRINUSE, EACCES …) */
export async function openListener(
  config: ListenerConfig,
  runtime: Runtime,
  requests: Pick<ServeOptions, 'handle' | 'maxMessageBytes'>,
): Promise<OpenListener> {
  const { address } = config;
  if (address.kind === 'tcp') {
    const { hostname, port } = address;
    const listen = () => runtime.serve({ address: { kind: 'tcp', hostname, port }, ...requests });
    return openTcp(config, port, listen);
  }
  prepareDirectory(address.path, address.mode);
  const bind = (path: string): Server => runtime.serve({ address: { kind: 'unix', path }, ...requests });
  const listen = ({ path, mode, group }: typeof address) =>
    bindSocket(path, mode, group, bind, (bound) => bound.destroy());
  let wanted = address;
  let ended = false;
  let { server, file } = await listen(address);
  let isRemoved = false;
  // Once only: when the server has stopped, its inode is free, and the successor's socket may have the same number.
  const remove = () => {
    if (!isRemoved) file.remove();
    isRemoved = true;
  };
  return {
    config,
    closeIdle: () => server.closeIdle(),
    isInPlace: () => file.isOurs(),
    boundTo: () => file.boundTo,
    canStayClosed: true,
    close: () => server.destroy(),
    async reopen() {
      if (ended) return;
      const opened = await listen(wanted);
      if (ended) {
        opened.file.remove();
        opened.server.destroy();
      } else ({ server, file } = opened);
    },
    reconfigure({ address: next }) {
      if (next.kind !== 'unix') return;
      prepareDirectory(next.path, next.mode);
      wanted = next;
      file.setMode(next.mode, next.group);
    },
    stopAccepting() {
      ended = true;
      // The path first: a successor that binds it meanwhile keeps it.
      remove();
      server.stopAccepting();
    },
    destroy() {
      ended = true;
      remove();
      server.destroy();
    },
  };
}

function openTcp(config: ListenerConfig, port: number, listen: () => Server): OpenListener {
  let ended = false;
  let server = listen();
  return {
    config,
    closeIdle: () => server.closeIdle(),
    reconfigure: () => {},
    isInPlace: () => true,
    boundTo: () => port,
    canStayClosed: false,
    close: () => server.destroy(),
    async reopen() {
      if (!ended) server = listen();
    },
    stopAccepting() {
      ended = true;
      server.stopAccepting();
    },
    destroy() {
      ended = true;
      server.destroy();
    },
  };
}
