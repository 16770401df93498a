/** Opening and closing of listeners. */
import type { ListenerConfig } from './config/effective.ts';
import type { Runtime, ServeOptions, Server } from './runtime/runtime.ts';
import { bindSocket, prepareDirectory } from './runtime/socket-file.ts';

export interface OpenListener {
  readonly config: ListenerConfig;
  /** Stops accepting and removes the socket file; requests in flight go on. */
  readonly stopAccepting: () => void;
  /** Closes everything, also what is in flight. */
  readonly destroy: () => void;
  readonly closeIdle: () => void;
  /** Is the socket at the path the one that was opened? Always true for TCP. */
  readonly isInPlace: () => boolean;
}

/** @throws SocketFileError or the system's error (EADDRINUSE, EACCES …) */
export async function openListener(
  config: ListenerConfig,
  runtime: Runtime,
  requests: Pick<ServeOptions, 'handle' | 'maxMessageBytes'>,
): Promise<OpenListener> {
  const { address } = config;
  if (address.kind === 'tcp') {
    const server = runtime.serve({
      address: { kind: 'tcp', hostname: address.hostname, port: address.port },
      ...requests,
    });
    return { config, ...server, isInPlace: () => true };
  }
  prepareDirectory(address.path, address.mode);
  const bind = (path: string): Server => runtime.serve({ address: { kind: 'unix', path }, ...requests });
  const { server, file } = await bindSocket(address.path, address.mode, address.group, bind, (bound) =>
    bound.destroy(),
  );
  return {
    config,
    closeIdle: server.closeIdle,
    isInPlace: file.isOurs,
    stopAccepting() {
      // The path first: a successor that binds it meanwhile keeps it.
      file.remove();
      server.stopAccepting();
    },
    destroy() {
      file.remove();
      server.destroy();
    },
  };
}
