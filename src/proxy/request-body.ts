/** The request body on its way up: read whole when small, else streamed with backpressure; always counted. */
import { ProxyError } from '../errors.ts';
import { type Abort, unlessAborted } from './abort.ts';
import type { Watch } from './watch.ts';

/**
 * POST and PATCH bodies of at most this declared length are read whole before they are sent: the runtime
 * forwards them at twice the rate of a stream (measured, docs/runtime.md 8). POST and PATCH are also the
 * methods that the runtime never repeats by itself, whatever the form of the body.
 */
const SMALL_BODY_BYTES = 64 * 1024;

/** How much of a refused request's body is still read and dropped, for how long, and how long without a byte. */
const DRAIN_BYTES = 64 * 1024 * 1024;
const DRAIN_MS = 5_000;
const DRAIN_IDLE_MS = 500;

type Bytes = Uint8Array<ArrayBuffer>;

export interface RequestBody {
  /** Body bytes read from the client so far. */
  readonly bytes: () => number;
  /** The whole body; rejects with the reason when the exchange is given up first. */
  readonly readWhole: (abort: Abort) => Promise<Bytes>;
  /**
   * The body as a stream for the upstream. One that grows over `limit` ends in an error, so that the
   * upstream sees an abort and never a complete message; `fail` is told.
   */
  readonly stream: (limit: number, watch: Watch, fail: (error: ProxyError) => void) => ReadableStream<Bytes>;
  /** Reads and drops what is left, within bounds; undefined if nothing is left to read. */
  readonly drain: () => Promise<void> | undefined;
}

/** Should this body be read whole first? */
export function isSmallBody(method: string, declaredLength: number | undefined): boolean {
  return (
    (method === 'POST' || method === 'PATCH') &&
    declaredLength !== undefined &&
    declaredLength <= SMALL_BODY_BYTES
  );
}

export function createRequestBody(request: Request): RequestBody {
  let count = 0;
  let reader: ReadableStreamDefaultReader<Bytes> | undefined;

  function openReader(): ReadableStreamDefaultReader<Bytes> | undefined {
    const source = request.body as ReadableStream<Bytes> | null;
    return source === null || source.locked ? undefined : source.getReader();
  }

  async function readWhole(abort: Abort): Promise<Bytes> {
    const body = await unlessAborted(request.bytes(), abort);
    count = body.byteLength;
    return body;
  }

  function stream(limit: number, watch: Watch, fail: (error: ProxyError) => void): ReadableStream<Bytes> {
    const source = openReader();
    reader = source;
    async function pull(controller: ReadableStreamDefaultController<Bytes>): Promise<void> {
      watch.upload('client');
      const step = await source?.read();
      if (step === undefined || step.done) {
        watch.upload('sent');
        controller.close();
        return;
      }
      count += step.value.byteLength;
      watch.uploaded(step.value.byteLength);
      if (count > limit) {
        const error = new ProxyError('request_too_large', 'body grew over max_request_body');
        fail(error);
        controller.error(error);
        return;
      }
      watch.upload('upstream');
      controller.enqueue(step.value);
    }
    // An upstream that refuses the body cancels this stream; what is left is for drain().
    return new ReadableStream<Bytes>({ pull }, { highWaterMark: 0 });
  }

  function drain(): Promise<void> | undefined {
    if (request.bodyUsed && reader === undefined) return undefined;
    reader?.releaseLock();
    const rest = openReader();
    return rest === undefined ? undefined : drop(rest);
  }

  return { bytes: () => count, readWhole, stream, drain };
}

async function drop(rest: ReadableStreamDefaultReader<Bytes>): Promise<void> {
  const until = performance.now() + DRAIN_MS;
  try {
    for (let dropped = 0; dropped < DRAIN_BYTES && performance.now() < until; ) {
      const step = await withinIdle(rest.read());
      if (step === undefined || step.done) break;
      dropped += step.value.byteLength;
    }
  } catch {
    // The client left; there is nobody to wait for.
  } finally {
    rest.cancel().catch(() => {});
  }
}

/** `step`, or undefined when it takes too long. */
function withinIdle<T>(step: Promise<T>): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const idle = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, DRAIN_IDLE_MS, undefined);
  });
  return Promise.race([step, idle]).finally(() => clearTimeout(timer));
}
