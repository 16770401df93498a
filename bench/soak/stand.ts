/** The proxy under soak: its files, and how they are changed while it runs. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { renameSync, rmSync } from 'node:fs';
import process from 'node:process';
import type { Readable } from 'node:stream';
import { stringify } from 'smol-toml';
import { SECRET_FILE } from '../../test/support/config.ts';
import { freePort, type RunResult, run } from '../../test/support/process.ts';
import type { Endpoint } from '../../test/support/raw-client.ts';
import { reapAtExit, type Workspace } from '../../test/support/workspace.ts';
import { BIN } from '../isoproxy.ts';
import { accepting } from '../processes.ts';
import { makeKey } from './keys.ts';

const TOKEN = 'soak-token-0123456789abcdefghijklm';
const EXTRA_FILE = 'listeners.d/extra.toml';
const CLI_MS = 60_000;

export interface Ports {
  readonly port: number;
  readonly faultyPort: number;
}

export interface Place {
  readonly endpoint: Endpoint;
  readonly headers: readonly (readonly [string, string])[];
}

export interface Stand {
  readonly child: ChildProcessByStdio<null, null, Readable>;
  readonly pid: number;
  readonly controlSocket: string;
  readonly auditDir: string;
  readonly places: Readonly<Record<'agent-1' | 'agent-2' | 'agent-3' | 'extra', Place>>;
  readonly cli: (...args: string[]) => Promise<RunResult>;
  /** Puts a credential of this generation in the place of the last one. */
  readonly rotate: (generation: number) => void;
  /** The include file of the fourth listener: as it should be, faulty, or none. */
  readonly writeExtra: (kind: 'good' | 'faulty' | 'none') => void;
  /** The exit code, after SIGTERM. */
  readonly stop: () => Promise<number | null>;
}

export async function startStand(work: Workspace, ca: string, ports: Ports): Promise<Stand> {
  const path = work.path;
  const tcpPort = await freePort();
  const tls = { ca_file: path('ca.pem'), unsafe_allow_private: true };
  const credential = { header: 'x-api-key', file: path(SECRET_FILE) };
  const gets = ['/v1/models/*', '/v1/stream', '/v1/files/*', '/v1/status/*'];
  const provider = (port: number, rest: object = {}) => ({
    base_url: `https://localhost:${port}`,
    ...tls,
    credential,
    endpoints: [
      { methods: ['POST'], paths: ['/v1/messages', '/v1/upload'] },
      { methods: ['GET'], paths: gets },
      { methods: ['GET'], paths: ['/v1/ws'], websocket: true },
    ],
    ...rest,
  });
  const faulty = {
    endpoints: [{ methods: ['GET'], paths: ['/v1/*'] }],
    limits: { first_byte_timeout: '1s', idle_timeout: '2s' },
  };
  const names = ['up', 'spare', 'faulty', 'gone'];
  const listener = (name: string, rest: object = {}) => ({ name, providers: names, ...rest });
  const config = {
    include: [path('listeners.d/*.toml')],
    server: { runtime_dir: path('run'), state_dir: path('state') },
    listeners: [
      listener('agent-1'),
      listener('agent-2', { limits: { rate: { requests: 100_000, per: '1s' } } }),
      listener('agent-3', { tcp: `127.0.0.1:${tcpPort}`, token: { file: path('token') } }),
    ],
    providers: {
      up: provider(ports.port, { limits: { circuit: { failures: 50, open: '1s' } } }),
      spare: provider(ports.port),
      faulty: provider(ports.faultyPort, faulty),
      gone: provider(await freePort(), faulty),
    },
    limits: { rate: { requests: 100_000, per: '1s' } },
    // Segments end several times a minute, and one a minute is removed: the shortest that is allowed.
    audit: {
      segment_size: '4MiB',
      retain: '60s',
      checkpoint_interval: '1s',
      checkpoint_file: path('anchors/checkpoints'),
    },
  };
  const extra = { listeners: [{ name: 'extra', providers: ['up'] }] };
  work.write('ca.pem', ca);
  work.write('token', TOKEN);
  work.write('anchors/.keep', '');
  work.write('listeners.d/.keep', '');
  work.write(SECRET_FILE, makeKey(0));
  const configFile = work.write('proxy.toml', stringify(config));

  const cli: Stand['cli'] = (...args) =>
    run([...args, '--config', configFile], { dir: work.dir, ms: CLI_MS });
  const checked = await cli('check');
  if (checked.code !== 0) throw new Error(`the configuration is refused: ${checked.stderr}`);
  const child = spawn(BIN, ['serve', '--config', configFile], {
    cwd: work.dir,
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: work.dir },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`cannot start ${BIN}`);
  const forget = reapAtExit(pid);
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  void ended.then(forget);
  const isThere = accepting(
    { unix: path('run/agent-1/isoproxy.sock') },
    { pid, child, stop: async () => {} },
  );
  await isThere.catch(async (error: Error) => {
    child.kill('SIGKILL');
    throw new Error(`${error.message}: ${Buffer.concat(await Array.fromAsync(child.stderr))}`);
  });
  const unix = (name: string): Place => ({ endpoint: path(`run/${name}/isoproxy.sock`), headers: [] });
  return {
    child,
    pid,
    controlSocket: path('state/control.sock'),
    auditDir: path('state/audit'),
    places: {
      'agent-1': unix('agent-1'),
      'agent-2': unix('agent-2'),
      'agent-3': { endpoint: { port: tcpPort }, headers: [['authorization', `Bearer ${TOKEN}`]] },
      extra: unix('extra'),
    },
    cli,
    rotate(generation) {
      renameSync(work.write(`${SECRET_FILE}.new`, makeKey(generation)), path(SECRET_FILE));
    },
    writeExtra(kind) {
      if (kind === 'none') rmSync(path(EXTRA_FILE), { force: true });
      else work.write(EXTRA_FILE, kind === 'good' ? stringify(extra) : 'listeners = "no table"');
    },
    async stop() {
      process.kill(pid, 'SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 45_000);
      const code = await ended;
      clearTimeout(timer);
      return code;
    },
  };
}
