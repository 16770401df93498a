/** The response body on its way down: as it arrives, counted, scanned for the credential, and cut visibly. */
import { ProxyError } from '../errors.ts';
import type { ReflectionScanner } from './reflection.ts';
import type { Watch } from './watch.ts';

type Bytes = Uint8Array<ArrayBuffer>;
type Step = Awaited<ReturnType<ReadableStreamDefaultReader<Bytes>['read']>>;

/**
 * Of an answer with at most this declared length, the first piece is awaited before the head goes on; where
 * it is the whole body, the answer is sent in one piece, which keeps its Content-Length (Bun sends streamed
 * answers chunked, and their head not before the first byte of the body).
 */
const WHOLE_BODY_BYTES = 64 * 1024;

export interface ResponseBodyOptions {
  readonly source: ReadableStream<Bytes>;
  readonly declaredLength: number | undefined;
  /** Most bytes that are passed on. */
  readonly limit: number;
  readonly scanner: ReflectionScanner | undefined;
  readonly watch: Watch;
  /** Called with the size of each piece that goes to the client. */
  readonly onBytes: (bytes: number) => void;
  /** Called once: undefined after the last byte, an error when the body was cut. */
  readonly onEnd: (error: ProxyError | undefined) => void;
  /** The client stopped reading for good. */
  readonly onCancel: () => void;
  /** Aborted when the exchange is given up; must also reach a client that has stopped reading. */
  readonly signal: AbortSignal;
  /** An error of the upstream's body as a ProxyError. */
  readonly translate: (error: unknown) => ProxyError;
}

/** A body in pieces, pulled by the runtime as fast as the client takes them. */
export interface BodySource {
  /** The next piece, undefined after the last. A rejection must cut the client's connection, never end it. */
  readonly next: () => Promise<Bytes | undefined>;
  /** The client stopped reading for good. */
  readonly cancel: () => void;
  /** When it aborts, the connection must be cut, also while the client does not read. */
  readonly signal: AbortSignal;
}

/**
 * Passes a body on: whole when it is small and already there, else piece by piece. Whatever cuts the body
 * (limit, credential, upstream fault, time) breaks the client's connection off: a cut never looks like an end.
 * @throws ProxyError while the head can still say what is wrong
 */
export async function passBody(options: ResponseBodyOptions): Promise<Bytes | BodySource> {
  const { declaredLength, watch } = options;
  const reader = options.source.getReader();
  watch.download('upstream');
  if (declaredLength === undefined || declaredLength > WHOLE_BODY_BYTES || declaredLength === 0) {
    return createSource(options, reader, undefined);
  }
  const first = await reader.read().catch((error) => {
    throw options.translate(error);
  });
  if (first.done || first.value.byteLength !== declaredLength) return createSource(options, reader, first);
  return wholeBody(options, reader, first.value);
}

function wholeBody(
  options: ResponseBodyOptions,
  reader: ReadableStreamDefaultReader<Bytes>,
  body: Bytes,
): Bytes {
  if (body.byteLength > options.limit)
    throw new ProxyError('response_too_large', 'body over max_response_body');
  if (options.scanner?.push(body).reflected)
    throw new ProxyError('credential_reflected', 'in the response body');
  // The declared length has arrived, so this read meets the end of the message and frees the connection.
  reader.read().catch(ignore);
  options.onBytes(body.byteLength);
  options.onEnd(undefined);
  return body;
}

function createSource(
  options: ResponseBodyOptions,
  reader: ReadableStreamDefaultReader<Bytes>,
  first: Step | undefined,
): BodySource {
  const { scanner, watch, limit, signal } = options;
  let pending = first;
  let received = 0;
  signal.addEventListener('abort', () => cut(options.translate(signal.reason)), { once: true });

  function cut(error: ProxyError): ProxyError {
    options.onEnd(error);
    reader.cancel(error).catch(ignore);
    return error;
  }

  async function read(): Promise<Step> {
    watch.download('upstream');
    try {
      return pending ?? (await reader.read());
    } catch (error) {
      throw cut(options.translate(error));
    } finally {
      pending = undefined;
    }
  }

  /** The clean part of a piece; may be empty when all of it is held back. */
  function screen(piece: Bytes): Bytes {
    received += piece.byteLength;
    if (received > limit) throw cut(new ProxyError('response_too_large', 'body grew over max_response_body'));
    const result = scanner?.push(piece);
    if (result?.reflected) throw cut(new ProxyError('credential_reflected', 'in the response body'));
    return (result?.clean ?? piece) as Bytes;
  }

  async function next(): Promise<Bytes | undefined> {
    for (;;) {
      const step = await read();
      const clean = step.done ? ((scanner?.end() ?? EMPTY) as Bytes) : screen(step.value);
      if (clean.byteLength > 0) {
        // What was held back and turned out to be clean goes out before the end.
        if (step.done) pending = step;
        options.onBytes(clean.byteLength);
        watch.download('client');
        return clean;
      }
      if (step.done) {
        options.onEnd(undefined);
        return undefined;
      }
    }
  }

  function cancel(): void {
    options.onCancel();
    reader.cancel().catch(ignore);
  }

  return { next, cancel, signal };
}

const EMPTY: Bytes = new Uint8Array(0);

/** For promises whose failure another path already reports. */
function ignore(): void {}
