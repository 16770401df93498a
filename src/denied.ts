/** What was refused lately, counted: the shortest way from an agent that fails to a rule that is right. */
import type { AccessRecord } from './proxy/exchange.ts';

/** Rows that are kept; beyond, the one that was asked for least recently goes. */
const MAX_ROWS = 1_000;

/** Requests that were refused for the same reason. Snake case: it is also the JSON of the control socket. */
export interface DeniedRow {
  readonly listener: string;
  /** '' where the listener has none of that name. */
  readonly provider: string;
  readonly method: string;
  /** As it was asked for, provider included; without the query. */
  readonly path: string;
  /** Error code. */
  readonly code: string;
  readonly count: number;
  /** RFC 3339 UTC. */
  readonly last_seen: string;
}

export interface DeniedFilter {
  readonly listener?: string | undefined;
  /** Only rows seen at or after this time, ms since the epoch. */
  readonly since?: number | undefined;
}

export interface Denied {
  readonly observe: (record: AccessRecord) => void;
  /** Most recent first. */
  readonly rows: (filter: DeniedFilter) => readonly DeniedRow[];
}

export function createDenied(): Denied {
  // In the order in which rows were last seen: the first is the one that may go.
  const rows = new Map<string, DeniedRow>();

  return {
    observe(record) {
      if (record.decision !== 'deny') return;
      const { listener, provider, method, path, reason: code, time } = record;
      const key = JSON.stringify([listener, provider, method, path, code]);
      const count = (rows.get(key)?.count ?? 0) + 1;
      rows.delete(key);
      rows.set(key, { listener, provider, method, path, code, count, last_seen: time });
      if (rows.size > MAX_ROWS) for (const oldest of rows.keys()) return void rows.delete(oldest);
    },
    rows({ listener, since }) {
      return [...rows.values()]
        .reverse()
        .filter((row) => listener === undefined || row.listener === listener)
        .filter((row) => since === undefined || Date.parse(row.last_seen) >= since);
    },
  };
}
