/** The open listeners of a process, and how a reload changes them: new ones first, then the rest. */
import type { Handler } from './app.ts';
import { type Config, describeAddress, type ListenerConfig } from './config/effective.ts';
import type { Generation } from './generation.ts';
import { listenError, type OpenListener, openListener } from './listeners.ts';
import { listeningTcpPorts } from './runtime/proc.ts';
import type { Runtime } from './runtime/runtime.ts';
import { StartError } from './start-error.ts';

/** A listener that is open, and what a reload may change of it while it is. */
export interface Member {
  readonly listener: OpenListener;
  /** That of the newest generation that had it. */
  readonly config: ListenerConfig;
  /** All names that it had: what is in flight counts under the one of its time. */
  readonly names: ReadonlySet<string>;
  /** Every answer closes its connection from now on. */
  readonly retire: () => void;
}

export interface ListenerSet {
  /**
   * Opens what `next` adds, and gives what it keeps its mode and group. Nothing else has changed when this fails.
   * @returns what makes the rest of the change, at once: `next` answers, and what it has no more is given back
   * @throws StartError
   */
  readonly open: (next: Pick<Generation, 'config' | 'handlers'>) => Promise<() => readonly Member[]>;
  readonly all: () => readonly OpenListener[];
}

export interface ListenerSetOptions {
  readonly runtime: Runtime;
  /** TCP ports besides those of listeners on which the process may listen. */
  readonly otherPorts: readonly number[];
}

interface OwnMember extends Member {
  config: ListenerConfig;
  readonly names: Set<string>;
  handle: Handler;
}

export function createListenerSet({ runtime, otherPorts }: ListenerSetOptions): ListenerSet {
  const members = new Map<string, OwnMember>();
  const all = () => [...members.values()].map(({ listener }) => listener);

  async function openMember(
    config: ListenerConfig,
    handle: Handler,
    maxMessageBytes: number,
  ): Promise<OwnMember> {
    let isRetired = false;
    const member: OwnMember = {
      listener: await openListener(config, runtime, {
        handle: (request) => member.handle(request, () => isRetired),
        maxMessageBytes,
      }),
      config,
      names: new Set([config.name]),
      handle,
      retire() {
        isRetired = true;
      },
    };
    return member;
  }

  async function open({ config, handlers }: Pick<Generation, 'config' | 'handlers'>) {
    const maxMessageBytes = Math.max(
      0,
      ...[...config.providers.values()].map(({ limits }) => limits.maxRequestBody),
    );
    const opened = new Map<string, OwnMember>();
    const undo: (() => void)[] = [];
    try {
      for (const listener of config.listeners) {
        const address = describeAddress(listener.address);
        // Somebody removed its socket, or put something else in its place: a new one takes over, as nobody reaches this.
        if (members.get(address)?.listener.isInPlace()) continue;
        const handle = handlers.get(address) as Handler;
        const member = await openMember(listener, handle, maxMessageBytes).catch((error) =>
          explain(listener, error),
        );
        opened.set(address, member);
      }
      assertListening([...members.values(), ...opened.values()], opened.values(), otherPorts);
      for (const listener of config.listeners) {
        const address = describeAddress(listener.address);
        const kept = members.get(address);
        if (kept === undefined || opened.has(address)) continue;
        const before = kept.config;
        undo.push(() => kept.listener.reconfigure(before));
        try {
          kept.listener.reconfigure(listener);
        } catch (error) {
          explain(listener, error);
        }
      }
    } catch (error) {
      for (const { listener } of opened.values()) listener.destroy();
      for (const restore of undo.reverse()) attempt(restore);
      throw error;
    }
    return () => {
      const replaced = [...opened.keys()].flatMap((address) => members.get(address) ?? []);
      for (const [address, member] of opened) members.set(address, member);
      return [...replaced, ...change(config, handlers)];
    };
  }

  function change(config: Config, handlers: Generation['handlers']): readonly Member[] {
    const wanted = new Map(config.listeners.map((listener) => [describeAddress(listener.address), listener]));
    const removed: Member[] = [];
    for (const [address, member] of members) {
      const next = wanted.get(address);
      if (next === undefined) {
        members.delete(address);
        removed.push(member);
        continue;
      }
      member.config = next;
      member.names.add(next.name);
      member.handle = handlers.get(address) as Handler;
    }
    return removed;
  }

  return { open, all };
}

/** What is undone stands beside the fault that is told of; a second one must not hide it. */
function attempt(restore: () => void): void {
  try {
    restore();
  } catch {}
}

function explain(listener: ListenerConfig, error: unknown): never {
  throw listenError(`listeners.${listener.name}`, describeAddress(listener.address), error);
}

/** What listens must be what was configured: every new socket in its place, and no TCP port besides. */
function assertListening(
  all: readonly Member[],
  opened: Iterable<Member>,
  otherPorts: readonly number[],
): void {
  const configured = all.flatMap(({ config }) =>
    config.address.kind === 'tcp' ? [config.address.port] : [],
  );
  const extra = listeningTcpPorts().filter(
    (port) => !configured.includes(port) && !otherPorts.includes(port),
  );
  if (extra.length > 0)
    throw new StartError(
      'unavailable',
      `the process listens on TCP port ${extra.join(', ')}, which nobody configured`,
    );
  for (const { listener } of opened) {
    if (!listener.isInPlace()) {
      throw new StartError(
        'unavailable',
        `listeners.${listener.config.name}: another process replaced the socket`,
        'stop the other instance',
      );
    }
  }
}
