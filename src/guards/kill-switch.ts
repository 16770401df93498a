/**
 * Kill switch: what the operator has halted. Held in memory, where a halt takes effect at once, and in a file, so that
 * it survives a restart and can be set without this process (runtime/halt-file.ts).
 *
 * Every doubt is settled towards halted: a halt that cannot be saved holds until it is resumed, a resume that cannot be
 * saved does not take place.
 */
import { ProxyError } from '../errors.ts';
import { systemCode } from '../system-code.ts';

export type HaltScope =
  | { readonly kind: 'all' }
  | { readonly kind: 'provider' | 'listener'; readonly name: string };

export interface Halt {
  readonly scope: HaltScope;
  /** One printable line, at most 200 characters; may be empty. */
  readonly reason: string;
  /** RFC 3339, UTC. */
  readonly since: string;
}

/** Where halts outlive the process. */
export interface HaltFile {
  /** What the file says, `unchanged` since the last reading, or `lost`: its directory is gone. Never throws. */
  readonly read: () => readonly Halt[] | 'unchanged' | 'lost';
  /**
   * Puts what `change` makes of the file's halts in their place, durably, and returns it.
   * @throws Error with the system's code; the file may have changed nevertheless
   */
  readonly update: (change: (inFile: readonly Halt[]) => readonly Halt[]) => readonly Halt[];
}

export interface Halted {
  /** Will it survive a restart? If not, saving is tried again until it does. */
  readonly saved: boolean;
  /** Why it could not be saved: the system's code. */
  readonly code?: string;
}

export interface Resumed {
  /** What is halted no longer. */
  readonly resumed: readonly Halt[];
  /** False with nothing resumed: still halted. False with something resumed: the file may bring it back, after a power failure. */
  readonly saved: boolean;
  readonly code?: string;
}

export interface KillSwitch {
  /** @throws ProxyError halted */
  readonly check: (listener: string, provider: string) => void;
  readonly halts: () => readonly Halt[];
  /**
   * Halts in memory, announces it, then saves. Repeating a halt replaces its reason only.
   * @throws RangeError for a name that the file cannot hold
   */
  readonly halt: (scope: HaltScope, reason: string) => Halted;
  /** Resumes one scope (`all` = the halt of the whole proxy, but none of the others), or everything. */
  readonly resume: (scope: HaltScope | 'everything') => Resumed;
  /**
   * Looks at the file; cheap while nothing has changed. Called at start, where it announces what was halted before, and
   * every 250 ms. A file that somebody removed = resumed, but for halts that could not be saved.
   */
  readonly poll: () => void;
}

export interface KillSwitchOptions {
  readonly file: HaltFile;
  /** Wall clock, ms. */
  readonly wallNow: () => number;
  /** Called for each halt that is new, when it already refuses requests: streams in flight are cut here. Must not throw. */
  readonly onHalt: (halt: Halt) => void;
  /** Called for each halt that is gone. Must not throw. */
  readonly onResume: (halt: Halt) => void;
}

/** Longest reason, characters. */
const MAX_REASON = 200;
/** While halts are not saved, polls between two attempts: a sick disk shall not stall what is not halted. */
const POLLS_PER_ATTEMPT = 20;

/** A scope as it is written: `all`, `provider NAME`, `listener NAME`; undefined for anything else. */
export function parseScope(text: string): HaltScope | undefined {
  if (text === 'all') return { kind: 'all' };
  const [, kind, name] = /^(provider|listener)[ \t]+([a-z][a-z0-9-]{0,31})$/.exec(text) ?? [];
  if (kind === undefined || name === undefined) return undefined;
  return { kind: kind as 'provider' | 'listener', name };
}

export function formatScope(scope: HaltScope): string {
  return scope.kind === 'all' ? 'all' : `${scope.kind} ${scope.name}`;
}

/** One printable line: it is shown in terminals, and kept as a line of the file. */
export function tidyReason(text: string): string {
  // \p{C}: control and format characters (escape sequences, bidi overrides), lone surrogates; \p{Z}: all kinds of space.
  const line = text.replace(/[\p{C}\p{Z}]+/gu, ' ').trim();
  return [...line].slice(0, MAX_REASON).join('').trim();
}

/** @throws RangeError for a name that the file cannot hold */
export function createHalt(scope: HaltScope, reason: string, wallMs: number): Halt {
  if (parseScope(formatScope(scope)) === undefined) throw new RangeError('not a name that can be halted');
  return { scope, reason: tidyReason(reason), since: new Date(wallMs).toISOString() };
}

/** All of `halts`, with those of `more` added, or in the place of those with the same scope; that keep their time. */
export function mergeHalts(halts: readonly Halt[], more: Iterable<Halt>): Halt[] {
  const merged = byScope(halts);
  for (const halt of more) {
    const key = formatScope(halt.scope);
    merged.set(key, { ...halt, since: merged.get(key)?.since ?? halt.since });
  }
  return [...merged.values()];
}

/** Does this halt stop requests of this listener to this provider? */
export function covers(halt: Halt, listener: string, provider: string): boolean {
  const { scope } = halt;
  if (scope.kind === 'all') return true;
  return scope.name === (scope.kind === 'listener' ? listener : provider);
}

function byScope(halts: Iterable<Halt>): Map<string, Halt> {
  return new Map([...halts].map((halt) => [formatScope(halt.scope), halt]));
}

function isMeant(halt: Halt, target: HaltScope | 'everything'): boolean {
  return target === 'everything' || formatScope(halt.scope) === formatScope(target);
}

/** Begins with what the file says, so that no request gets past it before the first poll. */
export function createKillSwitch(options: KillSwitchOptions): KillSwitch {
  const { file } = options;
  let saved: readonly Halt[] = [];
  /** Halts, or newer reasons, that the file does not hold. */
  let unsaved: readonly Halt[] = [];
  let inForce: readonly Halt[] = [];
  let announced = new Map<string, Halt>();
  let pollsSinceAttempt = 0;
  let isLost = false;

  function read(): void {
    const found = file.read();
    isLost = found === 'lost';
    if (found === 'lost') {
      // Nobody resumes by removing the whole directory.
      unsaved = mergeHalts(saved, unsaved);
      saved = [];
    } else if (found !== 'unchanged') saved = found;
    inForce = mergeHalts(saved, unsaved);
  }

  /** Tells of what changed since it was last called; returns what is gone. */
  function announce(): readonly Halt[] {
    inForce = mergeHalts(saved, unsaved);
    const before = announced;
    const after = byScope(inForce);
    announced = after;
    const gone = [...before].filter(([key]) => !after.has(key)).map(([, halt]) => halt);
    for (const [key, halt] of after) if (!before.has(key)) options.onHalt(halt);
    for (const halt of gone) options.onResume(halt);
    return gone;
  }

  /** Returns the system's code if it did not work. */
  function update(change: (inFile: readonly Halt[]) => readonly Halt[]): { code?: string } {
    try {
      saved = file.update(change);
      return {};
    } catch (error) {
      // It may have gone half-way: what counts is what the file says now.
      read();
      return { code: systemCode(error) };
    }
  }

  function save(): { code?: string } {
    const wanted = unsaved;
    pollsSinceAttempt = 0;
    const result = update((inFile) => mergeHalts(inFile, wanted));
    if (result.code === undefined) unsaved = [];
    announce();
    return result;
  }

  function halt(scope: HaltScope, reason: string): Halted {
    unsaved = mergeHalts(unsaved, [createHalt(scope, reason, options.wallNow())]);
    announce();
    const wasSaved = saved.some((halt) => isMeant(halt, scope));
    const result = save();
    return { saved: result.code === undefined || wasSaved, ...result };
  }

  function resume(target: HaltScope | 'everything'): Resumed {
    read();
    announce();
    let result: { code?: string } = {};
    if (saved.some((halt) => isMeant(halt, target)))
      result = update((inFile) => inFile.filter((halt) => !isMeant(halt, target)));
    const left = byScope(saved);
    unsaved = unsaved.filter((halt) => !isMeant(halt, target) || left.has(formatScope(halt.scope)));
    const resumed = announce();
    // A directory that is gone may come back with its file, like that of a volume that was not mounted.
    if (isLost && resumed.length > 0) result = { code: 'ENOENT' };
    return { resumed, saved: result.code === undefined, ...result };
  }

  function poll(): void {
    read();
    announce();
    if (unsaved.length > 0 && ++pollsSinceAttempt >= POLLS_PER_ATTEMPT) save();
  }

  function check(listener: string, provider: string): void {
    const halt = inForce.find((halt) => covers(halt, listener, provider));
    if (halt !== undefined) throw new ProxyError('halted', `${halt.scope.kind} halted`);
  }

  read();
  return { check, halts: () => inForce, halt, resume, poll };
}
