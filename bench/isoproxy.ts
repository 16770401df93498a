/** isoproxy's binary under measurement: its configurations, and how it is started. */
import { mkdirSync, mkdtempSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import type { Place } from './load.ts';
import type { Stand, Upstream } from './peers.ts';
import { accepting, freePort, launch, type Running, run } from './processes.ts';
import { KEY, SHORT_KEY } from './upstream.ts';

export const BIN = process.env['ISOPROXY_BIN'] ?? join(import.meta.dir, '../dist/isoproxy');

const TOKEN = 'bench-token-0123456789abcdefghijk';

export interface Setup {
  /** `tcp`: one loopback listener with a token; else unix sockets. */
  readonly listener?: 'unix' | 'tcp';
  readonly listeners?: number;
  readonly tls?: boolean;
  /** Requests in flight of each listener. */
  readonly maxConcurrent?: number;
  /** A secret that is too short for the reflection guard, which is then off. */
  readonly shortSecret?: boolean;
  /** Entries of `endpoints`. */
  readonly endpoints?: readonly string[];
  /** Further lines of `[limits]`. */
  readonly limits?: readonly string[];
  /** Further tables, whole. */
  readonly tables?: readonly string[];
  /** A table `[audit]`; by default the audit is off, where there is one. */
  readonly audit?: string;
}

export interface IsoproxyStand extends Stand {
  readonly running: Running;
  readonly startedMs: number;
}

/** Everything that the load generator asks for. */
export const ENDPOINTS = ['{ methods = ["GET", "POST"], paths = ["/v1/*", "/v1/chat/completions"] }'];
const AUDIT_OFF = '[audit]\ndurability = "off"';

let knowsAudit: Promise<boolean> | undefined;

/** @returns the file, and the place of the first listener. */
async function configure(work: string, upstream: Upstream, setup: Setup) {
  // Socket paths are short, and each listener has a directory of its own.
  const home = mkdtempSync(join(work, 'i'));
  for (const [name, text] of [
    ['key', setup.shortSecret ? SHORT_KEY : KEY],
    ['token', TOKEN],
  ] as const)
    writeFileSync(join(home, name), text, { mode: 0o600 });
  const listeners: string[] = [];
  let place: Place = { unix: join(home, 'run/l0/isoproxy.sock') };
  for (let n = 0; n < (setup.listeners ?? 1); n++) {
    listeners.push('[[listeners]]', `name = "l${n}"`, 'mount = "up"', 'providers = ["up"]');
    if (setup.listener !== 'tcp') continue;
    const port = await freePort();
    if (n === 0) place = { hostname: '127.0.0.1', port };
    listeners.push(`tcp = "127.0.0.1:${port}"`, `token = { file = "${join(home, 'token')}" }`);
  }
  const origin = setup.tls ? `https://127.0.0.1:${upstream.tlsPort}` : `http://127.0.0.1:${upstream.port}`;
  const flags = setup.tls
    ? [`ca_file = "${upstream.caFile}"`, 'unsafe_allow_private = true']
    : ['unsafe_allow_http = true'];
  mkdirSync(join(home, 'state'), { mode: 0o700 });
  const text = [
    '[server]',
    `runtime_dir = "${join(home, 'run')}"`,
    `state_dir = "${join(home, 'state')}"`,
    ...listeners,
    '[providers.up]',
    `base_url = "${origin}"`,
    ...flags,
    `credential = { header = "x-api-key", file = "${join(home, 'key')}", unsafe_short_secret = ${setup.shortSecret ?? false} }`,
    `endpoints = [\n${(setup.endpoints ?? ENDPOINTS).join(',\n')}\n]`,
    '[limits]',
    'max_request_body = "4GiB"',
    'max_response_body = "4GiB"',
    `max_concurrent = ${setup.maxConcurrent ?? 1024}`,
    ...(setup.limits ?? []),
    ...(setup.tables ?? []),
  ];
  const file = join(home, 'proxy.toml');
  const write = (audit: string | undefined) => writeFileSync(file, [...text, audit ?? '', ''].join('\n'));
  return { file, place, write };
}

/** @throws when this build refuses the configuration. */
export async function startIsoproxy(
  name: string,
  work: string,
  upstream: Upstream,
  setup: Setup = {},
): Promise<IsoproxyStand> {
  const { file, place, write } = await configure(work, upstream, setup);
  const check = () => run([BIN, 'check', '--config', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  write(setup.audit ?? AUDIT_OFF);
  knowsAudit ??= check().then(
    () => true,
    () => false,
  );
  if (!(await knowsAudit) && setup.audit === undefined) write(undefined);
  await check();
  const log = openSync(join(work, 'isoproxy.log'), 'a');
  const from = performance.now();
  const running = launch([BIN, 'serve', '--config', file], { stdio: ['ignore', 'ignore', log] });
  await accepting(place, running);
  const startedMs = performance.now() - from;
  const headers = setup.listener === 'tcp' ? [`authorization: Bearer ${TOKEN}`] : [];
  return { name, place, headers, running, startedMs };
}
