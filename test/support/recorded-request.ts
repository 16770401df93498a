// One request as the recording upstream saw it on the wire.

import type { ByteReader } from './byte-reader.ts';
import {
  createBodySink,
  type HeaderList,
  headerValues,
  parseHead,
  readBody,
  requestFraming,
} from './http1.ts';

/** One request as it was on the wire. Recorded when its head is there; the body's fields grow as it arrives. */
export interface RecordedRequest {
  /** Id of its connection. */
  connection: number;
  method: string;
  /** The request target, byte for byte. */
  target: string;
  version: string;
  rawHead: Buffer;
  headers: HeaderList;
  /** The only or first value of a header, and all of them; names compared without case. */
  header(name: string): string | undefined;
  headerAll(name: string): string[];
  /** Decoded body, and as framed on the wire; both empty with `hashOnly`. */
  body: Buffer;
  rawBody: Buffer;
  bodyBytes: number;
  bodySha256: string;
  trailers: HeaderList;
  /** `cut`: the connection ended or the framing broke before the body did. */
  state: 'reading' | 'complete' | 'cut';
}

/** A request of which only the head has arrived. Throws on what is no HTTP/1 request line or header. */
export function beginRequest(raw: Buffer, connection: number): RecordedRequest {
  const { startLine, headers } = parseHead(raw);
  const match = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^ ]+) (HTTP\/1\.[01])$/.exec(startLine);
  if (!match) throw new Error(`malformed request line ${JSON.stringify(startLine)}`);
  const headerAll = (name: string) => headerValues(headers, name);
  return {
    connection,
    method: match[1]!,
    target: match[2]!,
    version: match[3]!,
    rawHead: raw,
    headers,
    header: (name) => headerAll(name)[0],
    headerAll,
    body: Buffer.alloc(0),
    rawBody: Buffer.alloc(0),
    bodyBytes: 0,
    bodySha256: '',
    trailers: [],
    state: 'reading',
  };
}

/** Reads the body into the request. Throws when it is malformed; a peer that leaves in its midst makes it `cut`. */
export async function receiveBody(
  request: RecordedRequest,
  reader: ByteReader,
  store: boolean,
): Promise<void> {
  const sink = createBodySink(store);
  // The fields read from the sink, so that a test sees a body while it is still arriving.
  Object.defineProperties(request, {
    bodyBytes: { get: () => sink.bytes, enumerable: true },
    bodySha256: { get: () => sink.sha256(), enumerable: true },
    body: { get: () => sink.body(), enumerable: true },
    rawBody: { get: () => sink.rawBody(), enumerable: true },
  });
  const end = await readBody(reader, requestFraming(request.headers), sink);
  request.trailers = end.trailers;
  request.state = end.complete ? 'complete' : 'cut';
  if (end.malformed) throw new Error(`connection ${request.connection}: ${end.problem}`);
}
