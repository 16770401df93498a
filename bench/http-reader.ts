/** Reads HTTP/1.1 answers off a raw socket: counts and checks them, and costs next to nothing. */

export interface AnswerHandler {
  /** Body bytes as they come, without their framing. */
  readonly body?: (piece: Buffer) => void;
  /** `closes`: the server will close the connection, and a client has to open another. */
  readonly done: (status: number, bodyBytes: number, closes: boolean) => void;
}

const CR = 13;

/** @returns a function that takes what the socket gives; throws on what is no HTTP. */
export function createReader(handler: AnswerHandler): (chunk: Buffer) => void {
  let held: Buffer | undefined;
  let inBody = false;
  let status = 0;
  let closes = false;
  let chunked = false;
  /** Bytes of the body, or of the current chunk with its line end, that are still to come. */
  let left = 0;
  let bodyBytes = 0;

  function finish(): void {
    inBody = false;
    handler.done(status, bodyBytes, closes);
  }

  /** @returns the position behind the head, or -1 when there is more of it to come. */
  function readHead(data: Buffer, from: number): number {
    const end = data.indexOf('\r\n\r\n', from, 'latin1');
    if (end === -1) return -1;
    const head = data.toString('latin1', from, end).toLowerCase();
    if (!head.startsWith('http/1.1 ')) throw new Error(`no HTTP: ${head.slice(0, 40)}`);
    status = Number(head.slice(9, 12));
    closes = head.includes('\r\nconnection: close');
    const at = head.indexOf('\r\ncontent-length:');
    chunked = at === -1;
    if (chunked && !head.includes('\r\ntransfer-encoding:')) throw new Error('neither length nor chunking');
    left = chunked ? 0 : Number.parseInt(head.slice(at + 17, at + 40), 10);
    bodyBytes = 0;
    inBody = true;
    return end + 4;
  }

  function takeBody(data: Buffer, from: number, bytes: number): void {
    bodyBytes += bytes;
    if (bytes > 0) handler.body?.(data.subarray(from, from + bytes));
  }

  /** @returns the position reached, or -1 when a line of framing is not complete yet. */
  function readChunked(data: Buffer, from: number): number {
    if (left > 2) {
      const bytes = Math.min(left - 2, data.length - from);
      takeBody(data, from, bytes);
      left -= bytes;
      return from + bytes;
    }
    if (left > 0) {
      const bytes = Math.min(left, data.length - from);
      left -= bytes;
      return from + bytes;
    }
    const end = data.indexOf(CR, from);
    if (end === -1 || end + 1 >= data.length) return -1;
    const size = Number.parseInt(data.toString('latin1', from, end), 16);
    if (Number.isNaN(size)) throw new Error('bad chunk size');
    if (size > 0) {
      left = size + 2;
      return end + 2;
    }
    if (data.length < end + 4) return -1;
    finish();
    return end + 4;
  }

  function step(data: Buffer, at: number): number {
    if (!inBody) {
      const next = readHead(data, at);
      if (next !== -1 && !chunked && left === 0) finish();
      return next;
    }
    if (chunked) return readChunked(data, at);
    const bytes = Math.min(left, data.length - at);
    takeBody(data, at, bytes);
    left -= bytes;
    if (left === 0) finish();
    return at + bytes;
  }

  return (chunk) => {
    const data = held === undefined ? chunk : Buffer.concat([held, chunk]);
    held = undefined;
    for (let at = 0; at < data.length; ) {
      const next = step(data, at);
      if (next === -1) {
        held = Buffer.from(data.subarray(at));
        return;
      }
      at = next;
    }
  };
}
