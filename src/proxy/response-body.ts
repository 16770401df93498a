/** The response body on its way down: as it arrives, counted, scanned for the credential, and cut visibly. */
import { ProxyError } from '../errors.ts';
import type { ReflectionScanner } from './reflection.ts';
import type { Watch } from './watch.ts';

/**
 * Of an answer with at most this declared length, the first piece is awaited before the head goes on; where
 * it is the whole body, the answer is sent in one piece, which keeps its Content-Length (Bun sends streamed
 * answers chunked, and their head not before the first byte of the body).
 */
const WHOLE_BODY_BYTES = 64 * 1024;

export interface ResponseBodyOptions {
  readonly source: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly declaredLength: number | undefined;
  /** Most bytes that are passed on. */
  readonly limit: number;
  readonly scanner: ReflectionScanner | undefined;
  readonly watch: Watch;
  /** Called with the size of each piece that goes to the client. */
  readonly onBytes: (bytes: number) => void;
  /** Called once: undefined after the last byte, an error when the body was cut. */
  readonly onEnd: (error: ProxyError | undefined) => void;
  /** Aborted when the exchange is given up; also reaches a client that has stopped reading. */
  readonly signal: AbortSignal;
  /** The client stopped reading. */
  readonly onCancel: () => void;
  /** An error of the upstream's body as a ProxyError. */
  readonly translate: (error: unknown) => ProxyError;
}

export type ResponseBody = Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array<ArrayBuffer>>;

/**
 * Passes a body on. Resolves to bytes when the whole of a small declared body is already there, otherwise
 * to a stream. Whatever cuts the body (limit, credential, upstream fault) makes the stream fail, so that
 * the client's connection breaks off: a cut never looks like an end.
 */
export async function passBody(options: ResponseBodyOptions): Promise<ResponseBody> {
  const { declaredLength, watch } = options;
  const reader = options.source.getReader();
  watch.enter('download_upstream');
  if (declaredLength === undefined || declaredLength > WHOLE_BODY_BYTES || declaredLength === 0) {
    return streamBody(options, reader, undefined);
  }
  const first = await reader.read().catch((error) => {
    throw options.translate(error);
  });
  if (first.done || first.value.byteLength !== declaredLength) return streamBody(options, reader, first);
  return wholeBody(options, reader, first.value);
}

/** @throws ProxyError credential_reflected or response_too_large, while the head can still say so. */
function wholeBody(
  options: ResponseBodyOptions,
  reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>,
  body: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  const error =
    options.scanner?.push(body).reflected === true
      ? new ProxyError('credential_reflected', 'in the response body')
      : body.byteLength > options.limit
        ? new ProxyError('response_too_large', 'body over max_response_body')
        : undefined;
  // The declared length has arrived, so this read meets the end of the message and frees the connection.
  reader.read().catch(ignore);
  if (error) throw error;
  options.onBytes(body.byteLength);
  options.onEnd(undefined);
  return body;
}

function streamBody(
  options: ResponseBodyOptions,
  reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>,
  first: Awaited<ReturnType<typeof reader.read>> | undefined,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const { scanner, watch, limit } = options;
  let pending = first;
  let received = 0;

  function cut(
    controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>,
    error: ProxyError,
  ): void {
    options.onEnd(error);
    controller.error(error);
    reader.cancel(error).catch(ignore);
  }

  async function pull(controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>): Promise<void> {
    try {
      // One pull hands on at least one byte, the end or an error: a piece may be held back whole.
      for (;;) {
        watch.enter('download_upstream');
        const step = pending ?? (await reader.read());
        pending = undefined;
        if (step.done) {
          finish(controller);
          return;
        }
        received += step.value.byteLength;
        if (received > limit)
          return cut(controller, new ProxyError('response_too_large', 'body grew over max_response_body'));
        const result = scanner?.push(step.value);
        if (result?.reflected)
          return cut(controller, new ProxyError('credential_reflected', 'in the response body'));
        const clean = (result?.clean ?? step.value) as Uint8Array<ArrayBuffer>;
        if (clean.byteLength === 0) continue;
        options.onBytes(clean.byteLength);
        watch.enter('download_client');
        controller.enqueue(clean);
        return;
      }
    } catch (error) {
      cut(controller, options.translate(error));
    }
  }

  function finish(controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>): void {
    const rest = scanner?.end() as Uint8Array<ArrayBuffer> | undefined;
    if (rest !== undefined && rest.byteLength > 0) {
      options.onBytes(rest.byteLength);
      controller.enqueue(rest);
    }
    options.onEnd(undefined);
    controller.close();
  }

  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      start(controller) {
        const giveUp = () => cut(controller, options.translate(options.signal.reason));
        if (options.signal.aborted) giveUp();
        else options.signal.addEventListener('abort', giveUp, { once: true });
      },
      pull,
      cancel(reason) {
        options.onCancel();
        return reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}

/** For promises whose failure another path already reports. */
function ignore(): void {}
