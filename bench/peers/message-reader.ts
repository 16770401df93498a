/**
 * Reads HTTP/1.1 messages of either kind off a socket, strictly: what two parsers could read in two ways is an error.
 * Left out: trailers (read over and dropped), chunk extensions (dropped), any transfer coding but chunked.
 */

export type Field = readonly [name: string, value: string];

export interface Head {
  readonly start: string;
  /** In order, with their case, duplicates included. */
  readonly fields: readonly Field[];
}

/** How a body ends: after so many bytes, or by its chunks, or with the connection. */
export type Framing = number | 'chunked' | 'close';

export interface MessageHandler {
  /** @returns undefined for an interim head, behind which another one comes. */
  readonly head: (head: Head) => Framing | undefined;
  readonly body: (piece: Buffer) => void;
  readonly end: () => void;
}

export interface MessageReader {
  /** Takes what the socket gives, to the end of one message; what is behind that is kept. @throws on what is no HTTP. */
  readonly read: (chunk: Buffer) => void;
  /** Begins the next message, with the bytes that are there already. */
  readonly next: () => void;
  /** The connection has ended in order. @returns whether the message is whole. */
  readonly ended: () => boolean;
  /** Bytes that are there behind the message. */
  readonly excess: () => number;
}

const CRLF = 2;
const LONGEST_LINE = 1024;
const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const TEXT = /^[\t\x20-\x7e\x80-\xff]*$/;
const TOKEN_LIST = /[^\s,]+/g;

export function values(fields: readonly Field[], name: string): string[] {
  return fields.filter(([one]) => one.toLowerCase() === name).map(([, value]) => value);
}

/** Names that belong to one connection, with those that `Connection` lists. */
export function hopByHop(fields: readonly Field[]): Set<string> {
  const listed = values(fields, 'connection').join(',').toLowerCase().match(TOKEN_LIST) ?? [];
  const known = 'connection keep-alive proxy-connection te trailer transfer-encoding upgrade';
  return new Set([...known.split(' '), ...listed]);
}

export function parseHead(text: string): Head {
  const [start = '', ...lines] = text.split('\r\n');
  if (!TEXT.test(start)) throw new Error('control character in a start line');
  return { start, fields: lines.map(parseField) };
}

function parseField(line: string): Field {
  const colon = line.indexOf(':');
  const name = line.slice(0, colon);
  let [from, to] = [colon + 1, line.length];
  while (isBlank(line[from])) from++;
  while (to > from && isBlank(line[to - 1])) to--;
  const value = line.slice(from, to);
  // A folded line begins with white space, which no name does.
  if (colon === -1 || !NAME.test(name) || !TEXT.test(value)) throw new Error('malformed field');
  return [name, value];
}

const isBlank = (character: string | undefined) => character === ' ' || character === '\t';

/** @returns undefined where a head declares no body. @throws where it declares one in two ways (RFC 9112, 6.3). */
export function declaredFraming({ fields }: Head): Framing | undefined {
  const lengths = values(fields, 'content-length');
  const codings = values(fields, 'transfer-encoding');
  if (codings.length > 0) {
    if (lengths.length > 0) throw new Error('both a length and a transfer coding');
    if (codings.length > 1 || codings[0]?.toLowerCase() !== 'chunked')
      throw new Error('unknown transfer coding');
    return 'chunked';
  }
  const [length] = lengths;
  if (length === undefined) return undefined;
  if (lengths.length > 1 || !/^\d{1,15}$/.test(length)) throw new Error('malformed length');
  return Number(length);
}

export function createMessageReader(handler: MessageHandler, longestHead: number): MessageReader {
  let held: Buffer | undefined;
  let state: 'head' | 'body' | 'size' | 'chunk' | 'trailers' | 'done' = 'head';
  let framing: Framing = 0;
  /** Bytes of the body or the chunk that are still to come; of a chunk with its line end. */
  let left = 0;

  function finish(): void {
    state = 'done';
    handler.end();
  }

  /** @returns the end of a block that closes with `mark`, or -1 when there is more of it to come. */
  function find(data: Buffer, from: number, mark: string, longest: number): number {
    const at = data.indexOf(mark, from, 'latin1');
    if ((at === -1 ? data.length : at) - from > longest) throw new Error('too long a head');
    return at;
  }

  function readHead(data: Buffer, from: number): number {
    const end = find(data, from, '\r\n\r\n', longestHead);
    if (end === -1) {
      // Else a head with bare line ends would be waited for without end.
      if (data.indexOf('\n\n', from, 'latin1') !== -1) throw new Error('bare LF');
      return -1;
    }
    const found = handler.head(parseHead(data.toString('latin1', from, end)));
    if (found !== undefined) {
      framing = found;
      state = framing === 'chunked' ? 'size' : 'body';
      left = typeof framing === 'number' ? framing : Number.POSITIVE_INFINITY;
      if (left === 0) finish();
    }
    return end + 4;
  }

  function readBody(data: Buffer, from: number): number {
    const bytes = Math.min(left, data.length - from);
    left -= bytes;
    handler.body(data.subarray(from, from + bytes));
    if (left === 0) finish();
    return from + bytes;
  }

  function readSize(data: Buffer, from: number): number {
    const end = find(data, from, '\r\n', LONGEST_LINE);
    if (end === -1) return -1;
    const size = /^([0-9a-fA-F]{1,12})(?:;[\t\x20-\x7e]*)?$/.exec(data.toString('latin1', from, end))?.[1];
    if (size === undefined) throw new Error('malformed chunk size');
    left = Number.parseInt(size, 16) + CRLF;
    state = left === CRLF ? 'trailers' : 'chunk';
    return end + CRLF;
  }

  function readChunk(data: Buffer, from: number): number {
    if (left > CRLF) {
      const bytes = Math.min(left - CRLF, data.length - from);
      left -= bytes;
      handler.body(data.subarray(from, from + bytes));
      return from + bytes;
    }
    if (data.length - from < CRLF) return -1;
    if (data.toString('latin1', from, from + CRLF) !== '\r\n') throw new Error('chunk without its end');
    state = 'size';
    return from + CRLF;
  }

  function readTrailers(data: Buffer, from: number): number {
    const end = find(data, from, '\r\n', longestHead);
    if (end === from) finish();
    else if (end !== -1) parseHead(`trailers\r\n${data.toString('latin1', from, end)}`);
    return end === -1 ? -1 : end + CRLF;
  }

  const steps = { head: readHead, body: readBody, size: readSize, chunk: readChunk, trailers: readTrailers };

  function run(data: Buffer): void {
    let at = 0;
    while (at < data.length && state !== 'done') {
      const next = steps[state](data, at);
      if (next === -1) break;
      at = next;
    }
    held = at < data.length ? data.subarray(at) : undefined;
  }

  return {
    read: (chunk) => run(held === undefined ? chunk : Buffer.concat([held, chunk])),
    next() {
      state = 'head';
      if (held !== undefined) run(held);
    },
    ended: () => state === 'done' || (state === 'body' && framing === 'close'),
    excess: () => held?.length ?? 0,
  };
}
