// A queue between a socket's `data` events and code that wants to read it in order.

/** How the input ended: `fin` = the peer closed its side in order, `reset` = it broke. */
export type InputEnd = 'fin' | 'reset';

export interface ByteReader {
  /** Bytes queued and not read yet. */
  readonly size: number;
  /** Set once the input ended; queued bytes stay readable. */
  readonly ended: InputEnd | undefined;
  push(chunk: Buffer): void;
  end(how: InputEnd): void;
  /** What is queued, at most `max` bytes, without copying; undefined at the end. */
  read(max?: number): Promise<Buffer | undefined>;
  /** Everything up to and including `mark`; undefined when the input ends first (its bytes stay queued). */
  readThrough(mark: string, limit?: number): Promise<Buffer | undefined>;
}

export interface ByteReaderOptions {
  /** Queued bytes above which `onFull` is called; `onRoom` follows when they are read. Default: never. */
  highWater?: number;
  onFull?(): void;
  onRoom?(): void;
}

/** Makes an empty reader for one consumer. */
export function createByteReader(options: ByteReaderOptions = {}): ByteReader {
  const highWater = options.highWater ?? Number.POSITIVE_INFINITY;
  let queue: Buffer[] = [];
  let size = 0;
  let full = false;
  let ended: InputEnd | undefined;
  let wake: (() => void) | undefined;

  const notify = () => {
    wake?.();
    wake = undefined;
  };
  const more = () => new Promise<void>((resolve) => (wake = resolve));
  const took = (bytes: Buffer): Buffer => {
    size -= bytes.length;
    if (full && size < highWater / 2) {
      full = false;
      options.onRoom?.();
    }
    return bytes;
  };

  return {
    get size() {
      return size;
    },
    get ended() {
      return ended;
    },
    push(chunk) {
      if (chunk.length === 0) return;
      queue.push(chunk);
      size += chunk.length;
      if (!full && size > highWater) {
        full = true;
        options.onFull?.();
      }
      notify();
    },
    end(how) {
      ended ??= how;
      notify();
    },
    async read(max = Number.POSITIVE_INFINITY) {
      while (queue.length === 0 && !ended) await more();
      const first = queue[0];
      if (!first) return undefined;
      if (first.length <= max) {
        queue.shift();
        return took(first);
      }
      queue[0] = first.subarray(max);
      return took(first.subarray(0, max));
    },
    async readThrough(mark, limit = 1 << 20) {
      for (;;) {
        if (queue.length > 1) queue = [Buffer.concat(queue)];
        const all = queue[0];
        const at = all?.indexOf(mark, 0, 'latin1') ?? -1;
        if (all && at >= 0) {
          const found = all.subarray(0, at + mark.length);
          queue = found.length === all.length ? [] : [all.subarray(found.length)];
          return took(found);
        }
        if (ended) return undefined;
        if (size > limit) throw new Error(`no ${JSON.stringify(mark)} within ${limit} bytes`);
        await more();
      }
    },
  };
}
