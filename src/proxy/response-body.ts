/** The response body on its way down: as it arrives, counted, scanned for the credential, and cut visibly. */
import { ProxyError } from '../errors.ts';
import type { Abort } from './abort.ts';
import type { ReflectionScanner } from './reflection.ts';
import type { Watch } from './watch.ts';

type Bytes = Uint8Array<ArrayBuffer>;

export interface ResponseBodyOptions {
  readonly source: ReadableStream<Bytes>;
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
  /** That of the exchange; must also reach a client that has stopped reading. */
  readonly abort: Abort;
  /** An error of the upstream's body as a ProxyError. */
  readonly translate: (error: unknown) => ProxyError;
}

/** A body in pieces, pulled by the runtime as fast as the client takes them. */
export interface BodySource {
  /** The next piece, undefined after the last. A rejection must cut the client's connection, never end it. */
  readonly next: () => Promise<Bytes | undefined>;
  /** The client stopped reading for good. */
  readonly cancel: () => void;
  /** When it is given up, the connection must be cut, also while the client does not read. */
  readonly abort: Abort;
}

/**
 * Passes a body on; undefined if it turns out to be empty. The head waits for the first piece: Bun completes a head only
 * with the first byte of its body anyway (measured), and until then a failure can still be told as what it is.
 *
 * Whatever cuts the body later (limit, credential, upstream fault, time) breaks the client's connection
 * off: a cut never looks like an end.
 * @throws ProxyError while the head can still say what is wrong
 */
export async function passBody(options: ResponseBodyOptions): Promise<BodySource | undefined> {
  const source = createSource(options);
  let first = await source.next();
  if (first === undefined) return undefined;
  async function next(): Promise<Bytes | undefined> {
    if (first === undefined) return source.next();
    const piece = first;
    first = undefined;
    return piece;
  }
  return { ...source, next };
}

function createSource(options: ResponseBodyOptions): BodySource {
  const { scanner, watch, limit, abort } = options;
  const reader = options.source.getReader();
  let received = 0;
  let finished = false;
  let fault: ProxyError | undefined;
  // Not yet there when the callback comes at once.
  let leave: (() => void) | undefined;
  leave = abort.onAbort(() => cut(options.translate(abort.reason())));

  function end(error: ProxyError | undefined): void {
    leave?.();
    options.onEnd(error);
  }

  function cut(error: ProxyError): ProxyError {
    fault ??= error;
    end(error);
    reader.cancel(error).catch(ignore);
    return error;
  }

  async function read(): Promise<Bytes | undefined> {
    watch.download('upstream');
    try {
      return (await reader.read()).value;
    } catch (error) {
      throw cut(options.translate(error));
    }
  }

  /** The clean part of a piece, or of what was held back at the end; may be empty when all of it is held back. */
  function screen(piece: Bytes | undefined): Bytes {
    received += piece?.byteLength ?? 0;
    if (received > limit) throw cut(new ProxyError('response_too_large', 'body grew over max_response_body'));
    const result = piece === undefined ? scanner?.end() : scanner?.push(piece);
    if (result?.reflected) throw cut(new ProxyError('credential_reflected', 'in the response body'));
    return (result?.clean ?? piece ?? EMPTY) as Bytes;
  }

  async function next(): Promise<Bytes | undefined> {
    while (!finished) {
      const piece = await read();
      // A stream that was cancelled ends as if it were whole.
      if (fault !== undefined) throw fault;
      finished = piece === undefined;
      const clean = screen(piece);
      if (clean.byteLength === 0) continue;
      options.onBytes(clean.byteLength);
      watch.download('client');
      return clean;
    }
    end(undefined);
    return undefined;
  }

  function cancel(): void {
    options.onCancel();
    reader.cancel().catch(ignore);
  }

  return { next, cancel, abort };
}

const EMPTY: Bytes = new Uint8Array(0);

/** For promises whose failure another path already reports. */
function ignore(): void {}
