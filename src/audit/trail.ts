/** What the proxy tells the audit log, and whether it may go on. docs/audit.md says what becomes of it. */
import { ProxyError } from '../errors.ts';
import type { AccessRecord } from '../proxy/exchange.ts';
import type { AuditLog, Failure } from './log.ts';
import type { RecordBody } from './record.ts';
import type { Space } from './space.ts';

/** Refusals of a listener that are recorded one by one: so many at once, and so many in a second. */
const DENY_BURST = 100;
const DENY_RATE = 10;
/** Refusals beyond are counted, and the counts recorded so often, ms. */
export const SUMMARY_MS = 10_000;
const MAX_QUERY_NAMES = 16;
const MAX_NAME_LENGTH = 32;
const MAX_RULE_LENGTH = 96;
const MAX_PATH_LENGTH = 512;

/** What is known of a request when it is about to be forwarded. */
export interface Intent {
  readonly request_id: string;
  readonly listener: string;
  readonly provider: string;
  readonly method: string;
  readonly path: string;
  readonly queryNames: readonly string[];
  readonly rule: string;
  /** Which configuration judged it; config/fingerprint.ts. */
  readonly config: string;
}

/** What an access record does not say of its request. */
export interface RequestEnd {
  /** True if its intent was recorded. */
  readonly isIntended: boolean;
  readonly config: string;
}

export interface AuditStatus {
  readonly durability: 'commit' | 'async' | 'off';
  /** `full`: at its quota; `failed`: nothing can be written. Nothing is forwarded then. */
  readonly state: 'ok' | 'full' | 'failed';
  /** The code of the failure, and since when. */
  readonly failure: string | null;
  readonly since: string | null;
  /** Number of the last record on disk. */
  readonly records: number;
  /** Number of the last record that a checkpoint covers. */
  readonly checkpointed: number;
  /** How long the oldest record that is not on disk has waited. */
  readonly lag_ms: number;
  readonly bytes: number;
  readonly max_bytes: number;
  /** Records that could not be kept since the start. */
  readonly lost: number;
}

export interface Trail {
  /** Returns or resolves when the request may be forwarded. @throws ProxyError audit_unavailable */
  readonly intend: (intent: Intent) => Promise<void> | void;
  /** A request ended. */
  readonly end: (record: AccessRecord, end: RequestEnd) => void;
  /** An operator, or the process, did something. */
  readonly event: (body: RecordBody) => void;
  readonly status: () => AuditStatus;
  /** @returns the code of what is still wrong; undefined if all is well */
  readonly clear: (reason: string) => Promise<string | undefined>;
  readonly close: () => Promise<void>;
}

export interface TrailOptions {
  readonly log: AuditLog;
  readonly space: Space;
  readonly isAsync: boolean;
  readonly maxBytes: () => number;
  readonly checkpointed: () => number;
  /** Monotonic clock, ms. */
  readonly now: () => number;
}

interface Summary {
  readonly listener: string;
  readonly provider: string;
  readonly reason: string;
  readonly sinceUs: number;
  count: number;
}

export function createTrail(options: TrailOptions): Trail & { readonly tick: () => void } {
  const { log, space, now } = options;
  const allowances = new Map<string, { tokens: number; at: number }>();
  const summaries = new Map<string, Summary>();

  function intend(intent: Intent): Promise<void> | void {
    const { request_id, listener, provider, method, path, rule, config } = intent;
    const failure = log.failure();
    if (failure !== undefined) throw unavailable(failure.code);
    if (space.refuses(listener)) throw unavailable(space.isFull() ? 'max_bytes reached' : 'near max_bytes');
    const names = intent.queryNames.slice(0, MAX_QUERY_NAMES).map((name) => name.slice(0, MAX_NAME_LENGTH));
    const body: RecordBody = {
      kind: 'intent',
      request_id,
      listener,
      provider,
      method,
      path: path.slice(0, MAX_PATH_LENGTH),
      ...(names.length > 0 && { query_names: names }),
      rule: rule.slice(0, MAX_RULE_LENGTH),
      decision: 'allow',
      config,
    };
    space.count(listener);
    if (options.isAsync) {
      log.append(body);
      return undefined;
    }
    return log.commit(body).catch((fault) => {
      throw unavailable(fault.code);
    });
  }

  function end(record: AccessRecord, { isIntended, config }: RequestEnd): void {
    const { request_id, listener, provider, decision, reason, status, bytes_in, bytes_out } = record;
    if (decision === 'own') return;
    const result = {
      decision,
      reason,
      status,
      bytes_in,
      bytes_out,
      duration_us: Math.round(record.duration_ms * 1000),
    };
    if (isIntended) {
      log.append({ kind: 'outcome', request_id, listener, provider, ...result });
      return;
    }
    // While nothing can be written, what waits is for the ends of requests and for what operators do.
    if (log.failure() !== undefined || space.refuses(listener) || !isAllowed(listener)) {
      summarise(listener, provider, reason);
      return;
    }
    space.count(listener);
    const { method, path } = record;
    log.append({ kind: 'deny', request_id, listener, provider, method, path, ...result, config });
  }

  /** Takes one of the refusals that a listener may have recorded one by one. */
  function isAllowed(listener: string): boolean {
    const allowance = allowances.get(listener) ?? { tokens: DENY_BURST, at: now() };
    allowances.set(listener, allowance);
    const more = ((now() - allowance.at) / 1000) * DENY_RATE;
    allowance.tokens = Math.min(DENY_BURST, allowance.tokens + more);
    allowance.at = now();
    if (allowance.tokens < 1) return false;
    allowance.tokens--;
    return true;
  }

  // Names of the configuration and codes of the source: the table is bounded.
  function summarise(listener: string, provider: string, reason: string): void {
    const key = `${listener} ${provider} ${reason}`;
    const summary = summaries.get(key) ?? { listener, provider, reason, sinceUs: log.monoUs(), count: 0 };
    summary.count++;
    summaries.set(key, summary);
  }

  function recordSummaries(): void {
    for (const { listener, provider, reason, count, sinceUs } of summaries.values())
      log.append({ kind: 'deny_summary', listener, provider, reason, count, since_us: sinceUs });
    summaries.clear();
  }

  return {
    intend,
    end,
    event: log.append,
    tick() {
      if (!space.isFull() && log.failure() === undefined) recordSummaries();
      space.tick();
    },
    status() {
      const failure: Failure | undefined = log.failure();
      return {
        durability: options.isAsync ? 'async' : 'commit',
        state: failure !== undefined ? 'failed' : space.isFull() ? 'full' : 'ok',
        failure: failure?.code ?? null,
        since: failure?.since ?? null,
        records: log.head().seq,
        checkpointed: options.checkpointed(),
        lag_ms: Math.round(log.lagMs()),
        bytes: space.bytes(),
        max_bytes: options.maxBytes(),
        lost: log.lost(),
      };
    },
    async clear(reason) {
      try {
        await log.clear(reason);
        return undefined;
      } catch (fault) {
        return (fault as { code: string }).code;
      }
    },
    async close() {
      recordSummaries();
      log.append({ kind: 'stop', lost: log.lost() });
      await log.close();
    },
  };
}

/** Nothing is recorded: `durability = "off"`. */
export function createNoTrail(): Trail {
  const status: AuditStatus = {
    durability: 'off',
    state: 'ok',
    failure: null,
    since: null,
    records: 0,
    checkpointed: 0,
    lag_ms: 0,
    bytes: 0,
    max_bytes: 0,
    lost: 0,
  };
  return {
    intend: () => {},
    end: () => {},
    event: () => {},
    status: () => status,
    clear: async () => undefined,
    close: async () => {},
  };
}

function unavailable(code: string): ProxyError {
  return new ProxyError('audit_unavailable', code);
}
