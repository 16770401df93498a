// The fuzzer of a running proxy: sends batches of damaged requests, and holds what the upstream and the clients saw
// against the rules, read anew here and not by the code that is tested.

import { connect as connectNet } from 'node:net';
import { join } from 'node:path';
import { findCanary, makeCanary } from './canary.ts';
import { oddAnswer, requestBatch } from './fuzz-bytes.ts';
import { type Isoproxy, simpleConfig, startIsoproxy } from './isoproxy.ts';
import { createRandom } from './random.ts';
import { request } from './raw-client.ts';
import { type RecordedRequest, startRecorder } from './recorder.ts';

export interface FuzzTotals {
  cases: number;
  /** Own answers with an error, and answers or closes of the runtime's parser. */
  refused: number;
  /** Requests that the upstream saw. */
  forwarded: number;
  /** Requests that wait for more bytes when the client gives up. */
  waiting: number;
  /** What the upstream saw and no rule allows, or with another credential than the configured one. */
  outside: string[];
  /** Where a canary was found on the client's side. */
  canaryHits: string[];
  /** The process ended, hung, or spoke of a bug. */
  crashes: string[];
}

export interface Fuzz extends AsyncDisposable {
  readonly totals: FuzzTotals;
  readonly proxy: Isoproxy;
  /** Sends batch number `batch`; `only` replays one case of it. */
  run(batch: number, size: number, only?: number): Promise<void>;
}

/** A client waits this long for an answer to what may be half a request, ms. */
const PATIENCE_MS = 80;
const AT_ONCE = 32;

export async function startFuzz(seed: number, logLevel = 'info'): Promise<Fuzz> {
  const canary = makeCanary();
  const random = createRandom(seed ^ 0x5bd1e995);
  const totals: FuzzTotals = {
    cases: 0,
    refused: 0,
    forwarded: 0,
    waiting: 0,
    outside: [],
    canaryHits: [],
    crashes: [],
  };
  const up = await startRecorder({
    handler: (seen, connection) => {
      if (seen.target.includes('odd')) return connection.write(oddAnswer(random));
      if (!seen.target.includes('echo')) return connection.reply(200, {}, 'ok');
      const text = random.pick([
        JSON.stringify(Object.fromEntries(seen.headers)),
        `${'x'.repeat(random(3))}${Buffer.from('y'.repeat(random(3)) + canary).toString('base64')}`,
        encodeURIComponent(canary),
        Buffer.from(canary).toString('hex'),
        seen.target,
      ]);
      return random.chance(50)
        ? connection.reply(200, { 'X-Echo': text.replace(/[\r\n]/g, '') }, text)
        : connection.chunked(200, { Location: text.slice(0, 200) }, [text.slice(0, 20), text.slice(20)]);
    },
  });
  const proxy = await startIsoproxy((dir) => {
    const key = join(dir, 'secrets/api.key');
    const shared = { ca_file: join(dir, 'ca.pem'), unsafe_allow_private: true };
    const models = [{ methods: ['GET', 'POST'], paths: ['/v1/models/*'] }];
    return simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      endpoints: [
        'POST /v1/messages',
        'GET /v1/models/*',
        'PUT /v1/files/*',
        { methods: ['GET'], paths: ['/v1/list'], query: ['page'] },
        { methods: ['GET'], paths: ['/kept/*'], allow_encoded_slash: true },
      ],
      listener: { providers: ['api', 'byquery', 'basic'] },
      limits: { first_byte_timeout: '2s', idle_timeout: '2s', total_timeout: '5s' },
      top: {
        log: { level: logLevel },
        providers: {
          byquery: {
            ...shared,
            base_url: `https://localhost:${up.port}/q`,
            credential: { query: 'key', file: key },
            endpoints: models,
          },
          basic: {
            ...shared,
            base_url: `https://localhost:${up.port}/b`,
            credential: { basic: 'user', file: key },
            endpoints: models,
          },
        },
      },
    });
  });
  const isHonest = (target: string) => target.startsWith('/v1/models/honest');

  async function run(batch: number, size: number, only?: number): Promise<void> {
    const cases = requestBatch(seed, batch, size).map((text, index) => ({ text, index }));
    const chosen = only === undefined ? cases : [cases[only]!];
    const received: Buffer[] = [];
    let nextCase = 0;
    const worker = async () => {
      for (let item = chosen[nextCase++]; item !== undefined; item = chosen[nextCase++]) {
        const { bytes, waited } = await send(proxy.socket(), Buffer.from(item.text, 'latin1'));
        totals.cases++;
        if (waited && bytes.length === 0) totals.waiting++;
        else if (!/^HTTP\/1\.1 [23]/.test(bytes.toString('latin1', 0, 12))) totals.refused++;
        received.push(bytes);
        if (findCanary(bytes, canary))
          totals.canaryHits.push(`batch ${batch} case ${item.index}: ${JSON.stringify(item.text)}`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    await settle(batch);
    const seen = up.requests.filter(({ target }) => !isHonest(target));
    totals.forwarded += seen.length;
    for (const one of seen) {
      const wrong = faultOf(one, canary, up.port);
      if (wrong !== undefined)
        totals.outside.push(
          `batch ${batch}: ${wrong}: ${JSON.stringify(one.rawHead.toString('latin1').replaceAll(canary, 'KEY'))}`,
        );
    }
    totals.outside.push(
      ...up.problems.map((problem) => `batch ${batch}: upstream could not read it: ${problem}`),
    );
    up.requests.length = up.connections.length = up.problems.length = 0;
  }

  /** The process lives, and serves: an honest request is answered, and nothing in its log speaks of a bug. */
  async function settle(batch: number): Promise<void> {
    const answer = await request(proxy.socket(), { target: '/api/v1/models/honest', ms: 5000 }).catch(
      () => undefined,
    );
    if (answer?.status !== 200)
      totals.crashes.push(`batch ${batch}: an honest request got ${answer?.status ?? 'no answer in 5 s'}`);
    if (proxy.child.code !== undefined)
      throw new Error(`seed ${seed} batch ${batch}: the process ended with ${proxy.child.code}`);
    const said = proxy.child.stderr();
    const at = Math.max(0, said.length - 2_000_000);
    const tail = said.subarray(at);
    if (
      /unhandled_rejection|uncaught_exception|panic/.test(tail.toString('latin1')) &&
      !totals.crashes.includes('a bug in the log')
    )
      totals.crashes.push('a bug in the log');
    const visible = { ...proxy.visible(), stderr: tail };
    for (const [name, bytes] of Object.entries(visible))
      if (findCanary(bytes, canary)) totals.canaryHits.push(`batch ${batch}: ${name}`);
  }

  return {
    totals,
    proxy,
    run,
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await up.close();
    },
  };
}

/** Sends bytes; resolves with what came until the server closed, an answer was whole, or nothing more came. */
function send(socketPath: string, bytes: Buffer): Promise<{ bytes: Buffer; waited: boolean }> {
  return new Promise((resolve) => {
    const parts: Buffer[] = [];
    const socket = connectNet({ path: socketPath, allowHalfOpen: true });
    let timer = setTimeout(() => end(true), PATIENCE_MS);
    const end = (waited: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ bytes: Buffer.concat(parts), waited });
    };
    socket.on('connect', () => socket.write(bytes));
    socket.on('data', (part: Buffer) => {
      parts.push(part);
      clearTimeout(timer);
      // More may follow: a second answer, or the rest of a stream.
      timer = setTimeout(() => end(false), 10);
    });
    socket.on('end', () => end(false));
    socket.on('error', () => end(false));
    socket.on('close', () => end(false));
  });
}

/** One segment that no server reads in two ways: pchar, and no escape of what would part or climb. */
const SEGMENT =
  "(?!\\.{1,2}(?:;|/|\\?|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!2[eEfF]|5[cC]|[01][0-9A-Fa-f]|7[fF]|25[0-9A-Fa-f]{2})[0-9A-Fa-f]{2})+";
const KEPT = `${SEGMENT}(?:%2[fF]${SEGMENT})*`;
const QUERY = '(?:\\?[!-"$-~]*)?';
const RULES = [
  `POST /v1/messages${QUERY}`,
  `GET /v1/models(?:/${SEGMENT})+${QUERY}`,
  `PUT /v1/files(?:/${SEGMENT})+${QUERY}`,
  // Only listed names between separators; what is empty has no name.
  "GET /v1/list(?:\\?(?:[&;]*(?:page|p%61ge)(?:=[!-%'-:<-~]*)?(?=[&;]|$))*[&;]*)?",
  `GET /kept(?:/${KEPT})+${QUERY}`,
  `(?:GET|POST) /q/v1/models(?:/${SEGMENT})+\\?[!-"$-~]*`,
  `(?:GET|POST) /b/v1/models(?:/${SEGMENT})+${QUERY}`,
].map((rule) => new RegExp(`^${rule}$`));

/** Names under which a client could present a credential, folded. */
const CREDENTIALS =
  /^(authorization|proxy-authorization|cookie2?|x-api-key|api-?key|x-goog-api-key|x-auth-token|private-token|x-access-token)$/;
const FORBIDDEN =
  /^(transfer-encoding|content-length|host|upgrade|te|trailer|keep-alive|expect|proxy|proxy-.*|x-forwarded-.*|forwarded|via|x-original-url|x-http-method-override|x-isoproxy-.*|http2-settings)$/;

/** What is wrong with a request that reached the upstream; undefined if nothing is. */
function faultOf(seen: RecordedRequest, canary: string, port: number): string | undefined {
  const line = `${seen.method} ${seen.target}`;
  if (!RULES.some((rule) => rule.test(line))) return 'no rule allows it';
  const folded = seen.headers.map(([name, value]): [string, string, string] => [
    name.toLowerCase().replace(/[_.]/g, '-'),
    name.toLowerCase(),
    value,
  ]);
  const credentials = folded
    .filter(([name]) => CREDENTIALS.test(name))
    .map(([, name, value]) => `${name}: ${value}`);
  const mark = seen.target.indexOf('?');
  const parameters = (mark === -1 ? '' : seen.target.slice(mark + 1))
    .split(/[&;]/)
    .filter((pair) => decode(pair.split('=')[0] as string).toLowerCase() === 'key');
  const expected = {
    q: [[], [`key=${encodeURIComponent(canary)}`]],
    b: [[`authorization: Basic ${Buffer.from(`user:${canary}`).toString('base64')}`], parameters],
    api: [[`x-api-key: ${canary}`], parameters],
  }[seen.target.startsWith('/q/') ? 'q' : seen.target.startsWith('/b/') ? 'b' : 'api'];
  if (JSON.stringify([credentials, parameters]) !== JSON.stringify(expected))
    return 'another credential than the configured one';
  if (JSON.stringify(seen.headerAll('host')) !== JSON.stringify([`localhost:${port}`])) return 'another Host';
  const framing = [...seen.headerAll('content-length'), ...seen.headerAll('transfer-encoding')];
  if (framing.length > 1 || !/^(?:[0-9]{0,15}|chunked)$/.test(framing[0] ?? ''))
    return 'a framing of its own';
  if (seen.trailers.length > 0) return 'a trailer';
  const own = ['content-length', 'transfer-encoding', 'host'];
  const odd = folded.find(([name, raw]) => FORBIDDEN.test(name) && !own.includes(raw));
  return odd && `the field ${odd[1]}`;
}

function decode(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
