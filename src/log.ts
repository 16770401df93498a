/**
 * What the process says while it runs: access records and events, one line each on stderr. Lines are
 * written off the request path; when nobody reads them, lines are lost and counted, never requests.
 */
import type { LogLevel } from './config/effective.ts';
import { LOG_LEVELS } from './config/effective.ts';
import type { AccessRecord } from './proxy/exchange.ts';

/**
 * Most text that waits to be written, characters. A slow reader is not the only reason: when an upstream goes away, each
 * of 10,000 streams has its line in the same moment, and those are the lines that somebody will want to read.
 */
const MAX_WAITING = 4 * 1024 * 1024;

/** Lines of this long go out in one write, ms: a write for each turn of the event loop costs ten times as much as the line. */
const GATHER_MS = 10;

/** How long a full descriptor is left alone, ms. */
const RETRY_MS = 20;

/** Values of an event's fields; never a secret (nothing that holds one is passed here). */
export type EventFields = Readonly<Record<string, string | number | boolean | readonly string[] | null>>;

export interface Log {
  readonly access: (record: AccessRecord) => void;
  /** `always`: written at every level, as `info`. */
  readonly event: (level: LogLevel | 'always', event: string, fields?: EventFields) => void;
}

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: 'json' | 'text';
  readonly sink: LineSink;
  /** Wall clock, ms since the epoch. */
  readonly wallNow: () => number;
}

export function createLog(options: LogOptions): Log {
  const threshold = LOG_LEVELS.indexOf(options.level);
  const isOn = (level: LogLevel) => LOG_LEVELS.indexOf(level) <= threshold;
  const json = options.format === 'json';
  return {
    access(record) {
      if (isOn('info')) options.sink.write(json ? JSON.stringify(record) : accessText(record));
    },
    event(severity, event, fields = {}) {
      const level = severity === 'always' ? 'info' : severity;
      if (severity !== 'always' && !isOn(level)) return;
      const time = new Date(options.wallNow()).toISOString();
      options.sink.write(
        json ? JSON.stringify({ time, level, event, ...fields }) : eventText(time, level, event, fields),
      );
    },
  };
}

function accessText(record: AccessRecord): string {
  const { time, status, decision, listener, provider, method, path, reason, error, duration_ms, request_id } =
    record;
  const why = [reason, error].filter((text) => text !== '').join(': ');
  const line = `${time} ${status} ${decision} ${listener} ${provider || '-'} ${method} ${path || '-'} ${duration_ms} ms ${request_id}`;
  return why === '' ? line : `${line} (${why})`;
}

function eventText(time: string, level: LogLevel, event: string, fields: EventFields): string {
  const rest = Object.entries(fields).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return [time, level, event, ...rest].join(' ');
}

export interface LineSink {
  readonly write: (line: string) => void;
  /** Waits until everything is written, at most `ms`. */
  readonly flush: (ms: number) => Promise<void>;
  /** Lines that were lost since the start. */
  readonly lost: () => number;
}

/**
 * Writes lines one write at a time; a write that takes long holds up nothing but further lines.
 * @param writeSome takes bytes without blocking and resolves to how many it took
 */
export function createLineSink(writeSome: (bytes: Uint8Array) => Promise<number>): LineSink {
  let waiting = '';
  let lost = 0;
  let lostInAll = 0;
  let busy = false;
  let onIdle: (() => void) | undefined;

  async function writeWaiting(): Promise<void> {
    while (waiting !== '') {
      const bytes = new TextEncoder().encode(waiting);
      waiting = '';
      // EPIPE and the like: the reader is gone, and the lines are too.
      await writeAll(bytes).catch(() => {});
    }
    busy = false;
    onIdle?.();
  }

  async function writeAll(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      try {
        at += await writeSome(bytes.subarray(at));
      } catch (error) {
        if ((error as { code?: string }).code !== 'EAGAIN') throw error;
        // Somebody made the descriptor non-blocking, and it is full.
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  return {
    write(line) {
      if (waiting.length + line.length > MAX_WAITING) {
        lost++;
        lostInAll++;
        return;
      }
      if (lost > 0) {
        waiting += `${JSON.stringify({ time: new Date().toISOString(), level: 'warn', event: 'log_lines_lost', count: lost })}\n`;
        lost = 0;
      }
      waiting += `${line}\n`;
      if (busy) return;
      busy = true;
      setTimeout(writeWaiting, GATHER_MS);
    },
    lost: () => lostInAll,
    flush(ms) {
      if (!busy) return Promise.resolve();
      return new Promise((resolve) => {
        const timer = setTimeout(resolve, ms);
        onIdle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    },
  };
}
