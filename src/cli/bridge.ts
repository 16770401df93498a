/** `isoproxy bridge`: the byte pump alone, for sandboxes that set their environment by themselves. */
import { isIPv4, isIPv6 } from 'node:net';
import process from 'node:process';
import { isLoopbackAddress } from '../proxy/private-address.ts';
import { runtime } from '../runtime/index.ts';
import { type Bridge, type BridgeOptions, codeOf, openBridge } from '../sandbox/bridge.ts';
import { explainSocketError } from '../sandbox/place.ts';
import { readOptions } from './args.ts';
import { CliError, type Command, EXIT, warn } from './command.ts';

export const bridge: Command = {
  usage: `usage: isoproxy bridge --socket PATH --listen 127.0.0.1:PORT [--unsafe-listen]

Carries bytes between a loopback port and the listener's socket, for clients that cannot use a unix socket, until
SIGTERM or SIGINT. Prints the base URL on stdout once it listens. While the proxy on the host is restarted,
connections wait for it for up to 10 s.

  --socket PATH       the listener's socket as mounted in the sandbox (default: $ISOPROXY_SOCKET)
  --listen ADDRESS    IP:PORT to listen on; port 0 takes a free one
  --unsafe-listen     allow an address that is not loopback: everybody who reaches it can use the proxy

isoproxy run does this, sets the environment, and runs a command. Exit codes: 0 stopped, 69 cannot listen.
`,
  async run(args, io) {
    const values = readOptions('bridge', args, {
      socket: { type: 'string' },
      listen: { type: 'string' },
      'unsafe-listen': { type: 'boolean' },
    });
    const socket = values.socket ?? io.env['ISOPROXY_SOCKET'];
    if (!socket) throw new CliError(EXIT.usage, 'no socket is named', 'isoproxy bridge --socket PATH …');
    const place = parseListen(values.listen, values['unsafe-listen'] ?? false);
    const stopped = untilSignal();
    const opened = await listenOn({
      ...place,
      socket,
      onTrouble(code) {
        if (code === undefined) warn(io, `${socket}: answers again`);
        else warn(io, explainSocketError(socket, code).message);
      },
    });
    io.stdout(
      `http://${isIPv6(opened.hostname) ? `[${opened.hostname}]` : opened.hostname}:${opened.port}\n`,
    );
    await stopped;
    opened.close();
    return EXIT.ok;
  },
};

/**
 * Opens a bridge, or says why it cannot.
 * @throws CliError (69)
 */
export async function listenOn(options: Omit<BridgeOptions, 'collectGarbage'>): Promise<Bridge> {
  try {
    return await openBridge({ ...options, collectGarbage: runtime.collectGarbage });
  } catch (error) {
    throw explainListenError(options, codeOf(error));
  }
}

function explainListenError({ hostname, port }: { hostname: string; port: number }, code: string): CliError {
  const address = `${hostname}:${port}`;
  if (code === 'EADDRINUSE')
    return new CliError(EXIT.unavailable, `${address} is in use`, 'choose another port, or 0 for a free one');
  if (code === 'EADDRNOTAVAIL')
    return new CliError(
      EXIT.unavailable,
      `cannot listen on ${address}: ${isLoopbackAddress(hostname) ? 'loopback is down here' : 'no interface has that address'}`,
      isLoopbackAddress(hostname)
        ? 'bring it up when the sandbox is made: ip link set lo up (bubblewrap does so by itself, plain unshare -n does not)'
        : undefined,
    );
  if (code === 'EACCES')
    return new CliError(EXIT.unavailable, `${address}: permission denied`, 'use a port above 1023');
  return new CliError(EXIT.unavailable, `cannot listen on ${address}: ${code}`);
}

function parseListen(text: string | undefined, unsafe: boolean): { hostname: string; port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})$/.exec(text ?? '');
  const hostname = match?.[1] ?? match?.[2] ?? '';
  const port = Number(match?.[3]);
  if (!(isIPv4(hostname) || isIPv6(hostname)) || !(port <= 65_535))
    throw new CliError(
      EXIT.usage,
      '--listen wants an IP address and a port',
      'isoproxy bridge --listen 127.0.0.1:8080 --socket PATH',
    );
  if (!isLoopbackAddress(hostname) && !unsafe)
    throw new CliError(
      EXIT.usage,
      `${hostname} is not loopback: everybody who reaches it could use the proxy`,
      'use 127.0.0.1, or say --unsafe-listen',
    );
  return { hostname, port };
}

function untilSignal(): Promise<void> {
  return new Promise((resolve) => {
    process.once('SIGTERM', () => resolve());
    process.once('SIGINT', () => resolve());
  });
}
