// What is forwarded is forwarded as it came and as it arrives, both ways: bytes, values, order in time.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { randomBytes } from 'node:crypto';
import { makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import { type Isoproxy, startSimple } from '../support/isoproxy.ts';
import { connect, formatRequest, type RequestOptions, request } from '../support/raw-client.ts';
import {
  type RecordedRequest,
  type Recorder,
  type RecorderConnection,
  startRecorder,
} from '../support/recorder.ts';

setDefaultTimeout(20_000);

const canary = makeCanary();
let up: Recorder;
let proxy: Isoproxy;
/** Called at the head of a request, before its body is read. */
let atHead: ((request: RecordedRequest, connection: RecorderConnection) => unknown) | undefined;

beforeAll(async () => {
  up = await startRecorder({ onHead: (seen, connection) => atHead?.(seen, connection) });
  const api = {
    base_url: `https://localhost:${up.port}`,
    unsafe_allow_private: true,
    credential: 'none',
    endpoints: [{ methods: ['*'], paths: ['/x/*'] }],
  };
  proxy = await startSimple({
    upstreamPort: up.port,
    ca: up.ca,
    canary,
    endpoints: [{ methods: ['*'], paths: ['/x/*'] }],
    listener: { providers: ['api', 'cookies'] },
    top: {
      server: { ca_file: undefined },
      providers: { cookies: { ...api, allow_set_cookie: true } },
    },
    // The document's CA file, for the second provider too.
    provider: { ca_file: undefined },
    limits: { idle_timeout: '5s' },
    ...withServerCa(),
  });
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});
afterEach(() => {
  atHead = undefined;
  up.reset();
});

/** One request through the proxy, its answer, and what the upstream saw of it. */
async function send(options: RequestOptions) {
  up.requests.length = 0;
  const answer = await request(proxy.socket(), { target: '/api/x/y', ...options });
  return { answer, seen: up.requests[0] };
}

function inChunks(body: Buffer, sizes: number[]): Buffer {
  const parts: Buffer[] = [];
  let at = 0;
  for (let i = 0; at < body.length; i++) {
    const part = body.subarray(at, at + sizes[i % sizes.length]!);
    parts.push(Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from('\r\n'));
    at += part.length;
  }
  return Buffer.concat([...parts, Buffer.from('0\r\n\r\n')]);
}
