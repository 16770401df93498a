/** `isoproxy serve`: the long-running process around server.ts: clean start, signals, exit. */
import process from 'node:process';
import { type Config, describeAddress } from '../config/effective.ts';
import { loadConfig } from '../config/load.ts';
import { createLineSink, createLog, type LineSink, type Log } from '../log.ts';
import { runtime } from '../runtime/index.ts';
import { type RunningServer, startServer } from '../server.ts';
import { VERSION } from '../version.ts';
import { readOptions } from './args.ts';
import { requireCleanStart } from './clean-start.ts';
import { type Command, EXIT, type Io, warn } from './command.ts';

/** How long the last log lines may take at exit, ms. */
const FLUSH_MS = 1_000;

export const serve: Command = {
  usage: `usage: isoproxy serve [--config FILE]

Runs the proxy in the foreground until SIGTERM or SIGINT. It then stops accepting, lets requests in
flight finish for up to server.shutdown_grace, and exits 0; a second signal exits at once.

  --config FILE   configuration (default: $ISOPROXY_CONFIG, then $XDG_CONFIG_HOME/isoproxy/proxy.toml,
                  then /etc/isoproxy/proxy.toml; never the working directory)

One access line per request and one line per event go to stderr, as JSON or text ([log] format).
SIGHUP, like isoproxy reload, puts a changed configuration in force; a faulty one changes nothing.

Exit codes: 0 stopped, 69 a socket is in use, 78 the configuration or a secret is not usable.
`,
  async run(args, io) {
    const values = readOptions('serve', args, { config: { type: 'string' } });
    requireCleanStart(io);
    const isHidden = await runtime.hideMemory();
    const load = () => loadConfig({ file: values.config, env: io.env });
    const config = load();
    for (const text of config.warnings) warn(io, text);
    return runServer(config, load, io, isHidden);
  },
};

async function runServer(config: Config, load: () => Config, io: Io, isHidden: boolean): Promise<number> {
  const sink = createLineSink(runtime.writeStderr);
  const log = createLog({ ...config.log, sink, wallNow: Date.now });
  keepAlive(log);
  const now = () => performance.now();
  const server = await startServer({
    config,
    load,
    lostLogLines: sink.lost,
    runtime,
    log,
    env: io.env,
    now,
    wallNow: Date.now,
  });
  log.event('info', 'listening', {
    version: VERSION,
    runtime: `${runtime.name} ${runtime.version}`,
    config: config.file,
    memory_hidden: isHidden,
    listeners: config.listeners.map(({ name, address }) => `${name}=${describeAddress(address)}`),
  });
  return untilStopped(server, log, sink);
}

/**
 * A rejected promise or an exception that nobody caught is a bug, but it must not end every other
 * client's request: it is logged by its kind and place, never by its text.
 */
function keepAlive(log: Log): void {
  const onBug = (kind: string) => (error: unknown) => {
    const name = error instanceof Error ? error.name : typeof error;
    const code = (error as { code?: unknown } | null)?.code;
    log.event('error', kind, { name, code: typeof code === 'string' ? code.slice(0, 64) : '' });
  };
  process.on('unhandledRejection', onBug('unhandled_rejection'));
  process.on('uncaughtException', onBug('uncaught_exception'));
}

function untilStopped(server: RunningServer, log: Log, sink: LineSink): Promise<number> {
  return new Promise((resolve) => {
    let stopping = false;
    const onSignal = (signal: string) => () => {
      // Whatever goes wrong while it stops, it stops.
      handle(signal).catch(() => resolve(EXIT.internal));
    };
    async function handle(signal: string): Promise<void> {
      if (stopping) {
        log.event('warn', 'stopped_at_once', { signal, in_flight: server.inFlight() });
        await sink.flush(FLUSH_MS);
        resolve(EXIT.ok);
        return;
      }
      stopping = true;
      const graceMs = server.config().server.shutdownGraceMs;
      log.event('info', 'stopping', {
        signal,
        in_flight: server.inFlight(),
        grace_ms: graceMs,
      });
      const finished = await server.stop(graceMs);
      log.event('info', 'stopped', { finished });
      await sink.flush(FLUSH_MS);
      resolve(EXIT.ok);
    }
    process.on('SIGTERM', onSignal('SIGTERM'));
    process.on('SIGINT', onSignal('SIGINT'));
    // Its outcome is in the log; without a handler SIGHUP would end the process.
    process.on('SIGHUP', () => void server.reload().catch(() => {}));
  });
}
