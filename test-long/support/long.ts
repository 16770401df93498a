// What the long tests share: an upstream process, a proxy with raised limits, a paced reader, and memory over time.

import { readFileSync } from 'node:fs';
import { connect as connectNet, type Socket } from 'node:net';
import { join } from 'node:path';
import { createByteReader } from '../../test/support/byte-reader.ts';
import { makeCanary } from '../../test/support/canary.ts';
import { until } from '../../test/support/deadline.ts';
import { type BodySink, parseHead, readBody, responseFraming } from '../../test/support/http1.ts';
import { createWorkspace, type Isoproxy, simpleConfig, startIsoproxy } from '../../test/support/isoproxy.ts';
import { spawn } from '../../test/support/process.ts';
import type { Sum, UpstreamStats } from './upstream.ts';

export const MIB = 1024 ** 2;
export const GIB = 1024 ** 3;
export const toMib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`;

export interface LongSetup extends AsyncDisposable {
  proxy: Isoproxy;
  /** Asks the upstream directly, not through the proxy. */
  stats(): Promise<UpstreamStats>;
  sum(id: string): Promise<Sum | null>;
}

/**
 * An upstream process and a proxy before it. Three providers reach the same upstream: `api` (with a credential, so with
 * the reflection guard), `open` (credential "none": no guard), `idle` (`api` with an idle_timeout of one second).
 */
export async function startLong(): Promise<LongSetup> {
  const workspace = createWorkspace();
  const upstream = spawn([process.execPath, join(import.meta.dir, 'upstream.ts')], workspace.dir);
  const said = () => upstream.stdout().toString();
  await until(
    () => `the upstream; stderr: ${upstream.stderr()}`,
    () => said().endsWith('\n'),
    20_000,
  );
  const { port, ca } = JSON.parse(said()) as { port: number; ca: string };
  const endpoints = [{ methods: ['*'], paths: ['/v1/*'] }];
  const limits = { max_request_body: '4GiB', max_response_body: '4GiB', max_concurrent: 3000 };
  const proxy = await startIsoproxy((dir) => {
    const base = {
      base_url: `https://localhost:${port}`,
      unsafe_allow_private: true,
      ca_file: join(dir, 'ca.pem'),
      endpoints,
    };
    const credential = { header: 'x-api-key', file: join(dir, 'secrets/api.key') };
    return simpleConfig(dir, {
      upstreamPort: port,
      ca,
      canary: makeCanary(),
      endpoints,
      limits,
      listener: { providers: ['api', 'open', 'idle'] },
      top: {
        providers: {
          open: { ...base, credential: 'none' },
          idle: { ...base, credential, limits: { idle_timeout: '1s' } },
        },
      },
    });
  });
  const ask = async (target: string) => {
    const answer = await fetch(`https://localhost:${port}${target}`, { tls: { ca }, keepalive: false });
    return answer.json();
  };
  return {
    proxy,
    stats: () => ask('/v1/stats') as Promise<UpstreamStats>,
    sum: (id) => ask(`/v1/sum?id=${id}`) as Promise<Sum | null>,
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      upstream.kill('SIGKILL');
      await upstream.exited;
      workspace.remove();
    },
  };
}

export interface Answer {
  status: number;
  complete: boolean;
  problem: string | undefined;
}

/** A GET on a connection of its own, read with backpressure: at most 2 MiB wait while `pace` is not done. */
export async function get(
  path: string,
  target: string,
  onData: (part: Buffer) => void,
  pace?: (bytes: number) => Promise<void> | undefined,
): Promise<Answer> {
  const socket = await openSocket(path);
  const reader = createByteReader({
    highWater: 2 * MIB,
    onFull: () => socket.pause(),
    onRoom: () => socket.resume(),
  });
  socket.on('data', (part: Buffer) => reader.push(part));
  socket.on('end', () => reader.end('fin'));
  socket.on('close', () => reader.end('reset'));
  try {
    socket.write(formatGet(target));
    const head = await reader.readThrough('\r\n\r\n');
    if (!head) return { status: 0, complete: false, problem: 'no answer' };
    const { startLine, headers } = parseHead(head);
    const status = Number(startLine.split(' ')[1]);
    const read = reader.read;
    if (pace) {
      reader.read = async (max) => {
        const part = await read(max);
        if (part) await pace(part.length);
        return part;
      };
    }
    const { complete, problem } = await readBody(
      reader,
      responseFraming('GET', status, headers),
      sink(onData),
    );
    return { status, complete, problem };
  } finally {
    socket.destroy();
  }
}

export const formatGet = (target: string): string => `GET ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`;

export function openSocket(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectNet({ path }, () => {
      socket.off('error', reject);
      socket.on('error', () => {});
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

const nothing = Buffer.alloc(0);
const sink = (data: (part: Buffer) => void): BodySink => ({
  bytes: 0,
  data,
  wire() {},
  body: () => nothing,
  rawBody: () => nothing,
  sha256: () => '',
});

export interface MemoryUse {
  before: number;
  peak: number;
  after: number;
  growth: number;
  samples: number;
}

/** Looks at the proxy's VmRSS every 100 ms until the returned function is called. */
export function watchMemory(proxy: Isoproxy): () => MemoryUse {
  const before = proxy.rss();
  let peak = before;
  let samples = 1;
  const look = () => {
    const rss = proxy.rss();
    peak = Math.max(peak, rss);
    samples += 1;
    return rss;
  };
  const timer = setInterval(look, 100);
  return () => {
    clearInterval(timer);
    const after = look();
    return { before, peak, after, growth: peak - before, samples };
  };
}

export const describeMemory = ({ before, peak, after, growth, samples }: MemoryUse): string =>
  `RSS ${toMib(before)} -> peak ${toMib(peak)} -> ${toMib(after)}, growth ${toMib(growth)} (${samples} samples)`;

/** The process's own limit of open descriptors. */
export function descriptorLimit(proxy: Isoproxy): number {
  const limits = readFileSync(`/proc/${proxy.child.pid}/limits`, 'utf8');
  return Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1]);
}

/** `until` for probes that cost something: five times a second. */
export const slowly = <T>(what: string | (() => string), probe: () => T | Promise<T>, ms: number) =>
  until(
    what,
    async () => {
      const value = await probe();
      if (!value) await Bun.sleep(200);
      return value;
    },
    ms,
  );

/** The value below which the given part (0 to 1) of the values lies. */
export function quantile(values: number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

export const describeLatency = (values: number[]): string =>
  `p50 ${quantile(values, 0.5).toFixed(2)} ms, p99 ${quantile(values, 0.99).toFixed(2)} ms, max ${quantile(values, 1).toFixed(2)} ms (${values.length} requests)`;
