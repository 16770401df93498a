/** What every section works with: the upstream, the peers, and how long it may take. */
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { startIsoproxy } from './isoproxy.ts';
import type { EventsResult, Job, RequestsResult, TransferResult } from './load.ts';
import { direct, findPeers, type Stand, type Upstream } from './peers.ts';
import { cpuMs, run } from './processes.ts';

export interface Lab {
  readonly work: string;
  readonly upstream: Upstream;
  readonly quick: boolean;
  /** Alternating rounds of each comparison. */
  readonly rounds: number;
  /** How long requests are counted in each round, seconds. */
  readonly seconds: number;
  /** Direct, isoproxy on both kinds of listeners, and every peer; started. */
  readonly stands: readonly Stand[];
  readonly missing: readonly string[];
  /** Versions of the peers, by name. */
  readonly versions: Readonly<Record<string, string>>;
}

export const UNIX = 'isoproxy (unix)';
export const TCP = 'isoproxy (TCP)';

export async function openLab(work: string, upstream: Upstream, quick: boolean): Promise<Lab> {
  const stands: Stand[] = [
    direct(upstream),
    await startIsoproxy(UNIX, work, upstream),
    await startIsoproxy(TCP, work, upstream, { listener: 'tcp' }),
  ];
  const { peers, missing } = await findPeers(work, upstream);
  const absent = [...missing];
  const versions: Record<string, string> = {};
  for (const peer of peers) {
    try {
      const stand = await peer.start();
      const probe = await requests(stand, 1, 0.1);
      if (probe.errors > 0 || probe.requests === 0) throw new Error('no good answers');
      stands.push(stand);
      versions[peer.name] = await peer.version();
    } catch (error) {
      absent.push(`${peer.name} (${(error as Error).message})`);
    }
  }
  // Compilers on the fly have done most of their work after some tens of thousands of requests.
  for (const stand of stands) {
    say(`warm-up: ${stand.name}`);
    await requests(stand, 64, quick ? 0.5 : 2.5);
  }
  const [rounds, seconds] = quick ? [1, 0.6] : [5, 1.2];
  return { work, upstream, quick, rounds, seconds, stands, missing: absent, versions };
}

async function load<T>(job: Job): Promise<T> {
  return JSON.parse(
    await run([process.execPath, join(import.meta.dir, 'load.ts'), JSON.stringify(job)]),
  ) as T;
}

export interface Requests extends RequestsResult {
  /** CPU time of the process under test for each request, us; undefined where there is none. */
  readonly cpu_us: number | undefined;
}

export async function requests(
  stand: Stand,
  connections: number,
  seconds: number,
  bytes = 1024,
): Promise<Requests> {
  const { place, headers, chatOnly: rewrites = false } = stand;
  const before = stand.running && cpuMs(stand.running.pid);
  const job: Job = { kind: 'requests', place, headers, connections, seconds, bytes, rewrites };
  const result = await load<RequestsResult>(job);
  const used = stand.running && cpuMs(stand.running.pid) - (before ?? 0);
  return { ...result, cpu_us: used && (used * 1000) / result.all };
}

export function events(
  { place, headers }: Stand,
  how: Required<Pick<Job, 'connections' | 'every' | 'count' | 'turns'>>,
): Promise<EventsResult> {
  return load({ kind: 'events', place, headers, ...how });
}

export function transfer(
  { place, headers }: Stand,
  kind: 'up' | 'down',
  bytes: number,
): Promise<TransferResult> {
  return load({ kind, place, headers, connections: 1, bytes });
}

export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function machine(): string {
  const list = cpus();
  return `${list[0]?.model.trim() ?? process.arch}, ${list.length} cores, ${process.platform} ${release()}`;
}
