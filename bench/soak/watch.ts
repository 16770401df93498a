/** Looks at the proxy from outside: a sample a second, and every line of its stderr. */

import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Stand } from './stand.ts';

export interface Sample {
  readonly at_s: number;
  readonly requests: number;
  readonly rss_mib: number;
  readonly descriptors: number;
  /** NaN where only root may look. */
  readonly sockets: number;
  readonly threads: number;
  readonly in_flight: number;
}

export interface Watch {
  readonly sample: (atS: number, requests: number) => Promise<Sample>;
  readonly inFlightOf: (listener: string) => Promise<number>;
  readonly configGeneration: () => Promise<number>;
  readonly log: LogReader;
}

interface Status {
  readonly generation: number;
  readonly listeners: readonly {
    readonly name: string;
    readonly providers: readonly { readonly in_flight: number }[];
  }[];
}

export function createWatch({ child, pid, controlSocket }: Stand): Watch {
  const log = readLog(child.stderr);

  async function status(): Promise<Status> {
    const options = { unix: controlSocket, signal: AbortSignal.timeout(10_000) };
    return (await (await fetch('http://localhost/status', options)).json()) as Status;
  }

  const inFlight = ({ listeners }: Status, only?: string) =>
    listeners
      .filter(({ name }) => only === undefined || name === only)
      .flatMap(({ providers }) => providers)
      .reduce((sum, { in_flight }) => sum + in_flight, 0);

  return {
    log,
    inFlightOf: async (listener) => inFlight(await status(), listener),
    configGeneration: async () => (await status()).generation,
    async sample(atS, requests) {
      const text = readFileSync(`/proc/${pid}/status`, 'utf8');
      const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1]);
      // Counted before the question, whose own connection would count.
      const counts = countDescriptors(pid);
      return {
        at_s: Math.round(atS * 10) / 10,
        requests,
        rss_mib: field('VmRSS') / 1024,
        threads: field('Threads'),
        ...counts,
        in_flight: inFlight(await status()),
      };
    },
  };
}

function countDescriptors(pid: number): { descriptors: number; sockets: number } {
  const directory = `/proc/${pid}/fd`;
  try {
    const targets = readdirSync(directory).map((name) => {
      try {
        return readlinkSync(`${directory}/${name}`);
      } catch {
        return '';
      }
    });
    const open = targets.filter((target) => target !== '');
    return {
      descriptors: open.length,
      sockets: open.filter((target) => target.startsWith('socket:')).length,
    };
  } catch {
    // The memory of a served proxy is hidden from its own user, and its descriptors with it; but not how many there are.
    return { descriptors: statSync(directory).size || Number.NaN, sockets: Number.NaN };
  }
}

export interface LogReader {
  /** Request ids of access lines, by decision. */
  readonly allowed: ReadonlySet<string>;
  readonly denied: () => number;
  /** Events by name. */
  readonly events: ReadonlyMap<string, number>;
  /** Events that no day should have. */
  readonly bad: readonly string[];
}

const BAD_EVENT = /^(unhandled|uncaught)_|^audit_(failed|checkpoint_failed|segment_not_removed)$|_lost$/;

function readLog(stderr: Readable): LogReader {
  const allowed = new Set<string>();
  const events = new Map<string, number>();
  const bad: string[] = [];
  let denied = 0;
  createInterface({ input: stderr }).on('line', (line) => {
    let record: Record<string, unknown>;
    try {
      record = JSON.parse(line);
    } catch {
      // Said at the start, to whoever starts it: the include has no file yet.
      if (line.startsWith('isoproxy: warning: ')) return;
      bad.push(`no JSON: ${line.slice(0, 200)}`);
      return;
    }
    const { event, decision } = record;
    if (decision === 'allow') allowed.add(String(record['request_id']));
    else if (decision === 'deny') denied++;
    if (typeof event !== 'string') return;
    events.set(event, (events.get(event) ?? 0) + 1);
    if (BAD_EVENT.test(event)) bad.push(line.slice(0, 300));
  });
  return { allowed, events, bad, denied: () => denied };
}
