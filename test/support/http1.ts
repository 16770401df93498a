// HTTP/1.1 by hand, strict: heads to lists in wire order, bodies by length, chunks or close. It shares no code with the
// runtime's own parser, so that a test sees what was on the wire and not what a second parser made of it.

import type { ByteReader } from './byte-reader.ts';

/** Header lines in wire order, names as written, values without the white space around them (latin-1). */
export type HeaderList = [name: string, value: string][];
/** What callers may pass as headers: a list keeps order and duplicates. */
export type HeadersLike = HeaderList | Record<string, string>;

export interface Head {
  startLine: string;
  headers: HeaderList;
  raw: Buffer;
}

export type Framing = { kind: 'none' | 'chunked' | 'until-close' } | { kind: 'length'; length: number };

/** How a body ended. When not `complete`, it was cut (the input ended first) or `malformed`; `problem` says how. */
export interface BodyEnd {
  complete: boolean;
  malformed: boolean;
  problem?: string;
  trailers: HeaderList;
}

/** Where a body goes: counted and hashed always, stored if asked. */
export interface BodySink {
  readonly bytes: number;
  data(chunk: Buffer): void;
  wire(chunk: Buffer): void;
  body(): Buffer;
  rawBody(): Buffer;
  sha256(): string;
}

/** A sink; with `store` false it keeps count and hash only, for bodies of any size. */
export function createBodySink(store: boolean): BodySink {
  const hash = new Bun.CryptoHasher('sha256');
  const decoded: Buffer[] = [];
  const raw: Buffer[] = [];
  let bytes = 0;
  return {
    get bytes() {
      return bytes;
    },
    data(chunk) {
      bytes += chunk.length;
      hash.update(chunk);
      if (store) decoded.push(chunk);
    },
    wire: (chunk) => void (store && raw.push(chunk)),
    body: () => Buffer.concat(decoded),
    rawBody: () => Buffer.concat(raw),
    sha256: () => hash.copy().digest('hex'),
  };
}

/** Splits a head (start line to empty line, inclusive). Throws on what RFC 9112 forbids in a line. */
export function parseHead(raw: Buffer): Head {
  const lines = raw.toString('latin1').split('\r\n');
  const startLine = lines.shift() ?? '';
  if (/[\r\n\0]/.test(raw.toString('latin1').replaceAll('\r\n', '')))
    throw new Error('bare CR, LF or NUL in head');
  return { startLine, headers: parseFields(lines.slice(0, -2)), raw };
}

function parseFields(lines: string[]): HeaderList {
  return lines.map((line) => {
    const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line);
    if (!match) throw new Error(`malformed header line ${JSON.stringify(line)}`);
    return [match[1]!, match[2]!];
  });
}

/** All values of a header, name compared without case. */
export function headerValues(headers: HeaderList, name: string): string[] {
  return headers.filter(([key]) => key.toLowerCase() === name.toLowerCase()).map(([, value]) => value);
}

export const toHeaderList = (headers: HeadersLike): HeaderList =>
  Array.isArray(headers) ? headers : Object.entries(headers);

/** Header lines as text, each with its CRLF. */
export const formatHeaders = (headers: HeadersLike): string =>
  toHeaderList(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('');

/** How long the body is, by these headers. Throws on every ambiguity: two lengths, length and coding, odd grammar. */
function framingOf(headers: HeaderList, otherwise: 'none' | 'until-close'): Framing {
  const lengths = headerValues(headers, 'content-length');
  const codings = headerValues(headers, 'transfer-encoding');
  if (lengths.length + codings.length > 1)
    throw new Error('ambiguous framing: several length or coding headers');
  if (codings.length === 1) {
    if (codings[0]!.toLowerCase() !== 'chunked')
      throw new Error(`transfer-encoding ${JSON.stringify(codings[0])}`);
    return { kind: 'chunked' };
  }
  if (lengths.length === 0) return { kind: otherwise };
  if (!/^(0|[1-9][0-9]{0,15})$/.test(lengths[0]!))
    throw new Error(`content-length ${JSON.stringify(lengths[0])}`);
  return { kind: 'length', length: Number(lengths[0]) };
}

export const requestFraming = (headers: HeaderList): Framing => framingOf(headers, 'none');

export function responseFraming(method: string, status: number, headers: HeaderList): Framing {
  if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return { kind: 'none' };
  return framingOf(headers, 'until-close');
}

/** Reads one body into `sink`. Never throws for what the peer sent: that is `complete: false` and a `problem`. */
export async function readBody(reader: ByteReader, framing: Framing, sink: BodySink): Promise<BodyEnd> {
  switch (framing.kind) {
    case 'none':
      return whole();
    case 'length': {
      const missing = await readExactly(reader, framing.length, sink);
      return missing === 0 ? whole() : cut(`${missing} bytes missing`);
    }
    case 'until-close': {
      for (let part = await reader.read(); part; part = await reader.read()) takeBoth(sink, part);
      return reader.ended === 'fin' ? whole() : cut('connection reset');
    }
    case 'chunked':
      try {
        return whole(await readChunks(reader, sink));
      } catch (error) {
        return {
          ...cut(error instanceof Error ? error.message : String(error)),
          malformed: !(error instanceof InputCut),
        };
      }
  }
}

class InputCut extends Error {}

const whole = (trailers: HeaderList = []): BodyEnd => ({ complete: true, malformed: false, trailers });
const cut = (problem: string): BodyEnd => ({ complete: false, malformed: false, problem, trailers: [] });

function takeBoth(sink: BodySink, part: Buffer): void {
  sink.data(part);
  sink.wire(part);
}

/** Returns how many bytes were missing when the input ended. */
async function readExactly(reader: ByteReader, length: number, sink: BodySink): Promise<number> {
  let left = length;
  while (left > 0) {
    const part = await reader.read(left);
    if (!part) break;
    takeBoth(sink, part);
    left -= part.length;
  }
  return left;
}

async function readChunks(reader: ByteReader, sink: BodySink): Promise<HeaderList> {
  const line = async (what: string): Promise<string> => {
    const raw = await reader.readThrough('\r\n', 64 * 1024);
    if (!raw) throw new InputCut(`cut in ${what}`);
    sink.wire(raw);
    return raw.toString('latin1').slice(0, -2);
  };
  for (;;) {
    const head = await line('chunk size');
    const match = /^([0-9a-fA-F]{1,12})(?:[ \t]*;.*)?$/.exec(head);
    if (!match) throw new Error(`malformed chunk size ${JSON.stringify(head)}`);
    const size = Number.parseInt(match[1]!, 16);
    if (size === 0) break;
    const missing = await readExactly(reader, size, sink);
    if (missing > 0) throw new InputCut(`cut in chunk data, ${missing} bytes missing`);
    if ((await line('chunk end')) !== '') throw new Error('chunk data longer than its size');
  }
  const fields: string[] = [];
  for (let field = await line('trailer'); field !== ''; field = await line('trailer')) fields.push(field);
  return parseFields(fields);
}
