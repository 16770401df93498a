/**
 * Whom isoproxy is measured beside. Each injects one header and passes everything else on, unbuffered, without an
 * access log. Peers are looked up in $ISOPROXY_PEERS, then on PATH; who is missing is skipped and named.
 */
import { statSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import process from 'node:process';
import type { Place } from './load.ts';
import { accepting, freePort, launch, type Running, run } from './processes.ts';
import { KEY } from './upstream.ts';

export interface Upstream {
  readonly port: number;
  readonly tlsPort: number;
  /** PEM file of the CA that signed the TLS certificate. */
  readonly caFile: string;
}

/** Something that requests can be sent to. */
export interface Stand {
  readonly name: string;
  readonly place: Place;
  readonly headers: readonly string[];
  /** Undefined for what is no process of its own (the upstream itself). */
  readonly running: Running | undefined;
  /** Its answers are not the upstream's byte for byte; it knows no path but that of chat. */
  readonly chatOnly?: boolean;
}

export interface Peer {
  readonly name: string;
  readonly version: () => Promise<string>;
  readonly start: () => Promise<Stand>;
}

export interface Found {
  readonly peers: readonly Peer[];
  readonly missing: readonly string[];
}

const SCRATCH = process.env['ISOPROXY_PEERS'] ?? '';

/** A file below $ISOPROXY_PEERS. */
function inScratch(path: string): string | undefined {
  const file = join(SCRATCH, path);
  return SCRATCH !== '' && isFile(file) ? file : undefined;
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

/** A program in $ISOPROXY_PEERS, its bin folders, on PATH, or where servers live. */
function program(name: string): string | undefined {
  const path = (process.env['PATH'] ?? '').split(delimiter);
  const folders = [...path, '/usr/sbin', '/usr/local/sbin', '/usr/local/go/bin'];
  return (
    inScratch(name) ??
    inScratch(`bin/${name}`) ??
    inScratch(`mitm/bin/${name}`) ??
    folders.map((folder) => join(folder, name)).find(isFile)
  );
}

const here = import.meta.dir;
const hidden = { stdio: ['ignore', 'ignore', 'ignore'] as ['ignore', 'ignore', 'ignore'] };

export function direct(upstream: Upstream): Stand {
  const place = { hostname: '127.0.0.1', port: upstream.port };
  return { name: 'direct', place, headers: [`x-api-key: ${KEY}`], running: undefined };
}

export async function findPeers(work: string, upstream: Upstream): Promise<Found> {
  const peers: Peer[] = [];
  const missing: string[] = [];
  const origin = `http://127.0.0.1:${upstream.port}`;

  /** @param command of a port */
  function add(
    name: string,
    file: string | undefined,
    version: readonly string[],
    command: (port: number) => readonly string[],
    more: { env?: Record<string, string>; headers?: readonly string[]; chatOnly?: boolean } = {},
  ): void {
    if (file === undefined) {
      missing.push(name);
      return;
    }
    peers.push({
      name,
      async version() {
        const text = await run(version, { stdio: ['ignore', 'pipe', 'pipe'] }).catch(() => '');
        return /\d+\.\d+(\.\d+)?/.exec(text)?.[0] ?? '(version unknown)';
      },
      async start() {
        const port = await freePort();
        const env = { ...process.env, ...more.env };
        const running = launch(command(port), { ...hidden, cwd: work, env });
        const place = { hostname: '127.0.0.1', port };
        await accepting(place, running);
        return { name, place, headers: [], ...more, running };
      },
    });
  }

  const bun = process.execPath;
  const nginx = program('nginx');
  add('nginx', nginx, ['sh', '-c', `${nginx} -v 2>&1`], (port) => [
    nginx ?? '',
    '-p',
    work,
    '-e',
    'stderr',
    '-c',
    write(work, 'nginx.conf', nginxConfig(work, port, upstream.port)),
  ]);
  const haproxy = program('haproxy');
  add('haproxy', haproxy, [haproxy ?? '', '-v'], (port) => [
    haproxy ?? '',
    '-db',
    '-f',
    write(work, 'haproxy.cfg', haproxyConfig(port, upstream.port)),
  ]);
  const caddy = program('caddy');
  add(
    'Caddy',
    caddy,
    [caddy ?? '', 'version'],
    (port) => [
      caddy ?? '',
      'run',
      '--adapter',
      'caddyfile',
      '--config',
      write(work, 'Caddyfile', caddyConfig(port, upstream.port)),
    ],
    { env: { XDG_DATA_HOME: work, XDG_CONFIG_HOME: work } },
  );
  const go = program('go');
  const proxy = go === undefined ? undefined : await buildGo(go, work);
  add('Go ReverseProxy', proxy, [go ?? '', 'version'], (port) => [
    proxy ?? '',
    `127.0.0.1:${port}`,
    origin,
    KEY,
  ]);
  const portkeyRoot = 'portkey/node_modules/@portkey-ai/gateway';
  const portkey = inScratch(`${portkeyRoot}/build/start-server.js`);
  const node = program('node');
  add(
    'Portkey',
    node && portkey,
    ['grep', '-m1', '"version"', join(SCRATCH, portkeyRoot, 'package.json')],
    (port) => [node ?? '', portkey ?? '', `--port=${port}`, '--headless'],
    {
      env: { NODE_ENV: 'production', TRUSTED_CUSTOM_HOSTS: '127.0.0.1,localhost' },
      headers: [
        'x-portkey-provider: openai',
        `x-portkey-custom-host: ${origin}/v1`,
        `authorization: Bearer ${KEY}`,
      ],
      chatOnly: true,
    },
  );
  const mitmdump = program('mitmdump');
  add(
    'mitmproxy',
    mitmdump,
    [mitmdump ?? '', '--version'],
    (port) => [
      mitmdump ?? '',
      '-q',
      '--set',
      `confdir=${join(work, 'mitm')}`,
      '-s',
      join(here, 'peers/mitm.py'),
      '--mode',
      `reverse:${origin}`,
      '--listen-host',
      '127.0.0.1',
      '-p',
      String(port),
    ],
    { env: { BENCH_KEY: KEY } },
  );
  const unlimited = { env: { BUN_CONFIG_MAX_HTTP_REQUESTS: '65535' } };
  const own = (file: string, ...rest: string[]) => {
    return (port: number) => [bun, join(here, 'peers', file), String(port), origin, KEY, ...rest];
  };
  add('bare Bun', bun, [bun, '--version'], own('bun-fetch.ts'), unlimited);
  add('bare Bun, all streamed', bun, [bun, '--version'], own('bun-fetch.ts', 'stream'), unlimited);
  add('node:http in Bun', bun, [bun, '--version'], own('node-http.ts'), unlimited);
  return { peers, missing };
}

function write(work: string, name: string, text: string): string {
  const file = join(work, name);
  writeFileSync(file, text);
  return file;
}

async function buildGo(go: string, work: string): Promise<string | undefined> {
  const file = join(work, 'reverse-proxy');
  const env = {
    ...process.env,
    GOCACHE: join(here, '../dist/go-cache'),
    GOFLAGS: '-mod=mod',
    GOTOOLCHAIN: 'local',
  };
  const cwd = join(here, 'peers/reverse-proxy');
  return run([go, 'build', '-o', file, '.'], { cwd, env }).then(
    () => file,
    () => undefined,
  );
}

function nginxConfig(work: string, port: number, upstream: number): string {
  return `
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid ${work}/nginx.pid;
events { worker_connections 19000; }
http {
  access_log off;
  client_body_temp_path ${work}/body;
  proxy_temp_path ${work}/proxy;
  fastcgi_temp_path ${work}/fastcgi;
  uwsgi_temp_path ${work}/uwsgi;
  scgi_temp_path ${work}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  upstream up { server 127.0.0.1:${upstream}; keepalive 512; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / {
      proxy_pass http://up;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header x-api-key ${KEY};
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
    }
  }
}
`;
}

function haproxyConfig(port: number, upstream: number): string {
  return `
global
  nbthread 1
  maxconn 9900
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always
  option http-no-delay
frontend in
  bind 127.0.0.1:${port}
  http-request set-header x-api-key ${KEY}
  default_backend up
backend up
  server one 127.0.0.1:${upstream} pool-max-conn 512
`;
}

function caddyConfig(port: number, upstream: number): string {
  return `
{
  admin off
  auto_https off
}
http://127.0.0.1:${port}, http://localhost:${port} {
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:${upstream} {
    header_up x-api-key ${KEY}
    flush_interval -1
    transport http {
      keepalive_idle_conns_per_host 1024
    }
  }
}
`;
}
