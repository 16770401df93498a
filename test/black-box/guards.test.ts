// Rate limits and circuit breakers as a client meets them: exact numbers, honest waits, and nobody's trouble but one's own.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until, within } from '../support/deadline.ts';
import { type Isoproxy, recorderAt, simpleConfig, startIsoproxy } from '../support/isoproxy.ts';
import {
  connect,
  formatRequest,
  type RawClient,
  type RawResponse,
  type RequestOptions,
  request,
} from '../support/raw-client.ts';
import { type Handler, type Recorder, startRecorder } from '../support/recorder.ts';
import { acceptWs, openWs, upgradeHeaders } from '../support/ws.ts';

setDefaultTimeout(20_000);

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';
const notDeno = test.skipIf(DENO);
const canary = makeCanary();

/** Never gains a token during a test, and stays open for all of it. */
const HOUR = '1h';
const bucket = (burst: number) => ({ requests: 1, per: HOUR, burst });
/** One token in 1.9 s: a wait that is no whole number of seconds. */
const WAIT_MS = 1900;
const slow = (burst: number) => ({ requests: 1, per: `${WAIT_MS}ms`, burst });
const FOREVER = { failures: 3, open: HOUR, max_open: HOUR };
/** Opens at the first failure, and soon lets a probe through. */
const BRIEF = { failures: 1, open: '250ms', max_open: '1m' };

const listenerRates: Record<string, object | undefined> = {
  'agent-1': undefined,
  'agent-2': undefined,
  burst: bucket(5),
  wait: slow(1),
  both: bucket(4),
  refused: bucket(3),
  later: bucket(3),
  order: bucket(1),
};

/** What the listeners with a rate may reach. */
const RATED = ['free', 'small', 'one', 'wait', 'cred', 'open', 'order-halt'];

type Limits = Record<string, unknown>;
const limitsOf: Record<string, Limits> = {
  free: {},
  burst: { rate: bucket(5) },
  wait: { rate: slow(1) },
  one: { rate: bucket(1) },
  small: { max_request_body: '1KiB', request_body_timeout: '300ms' },
  cred: { circuit: FOREVER },
  // Circuits that stay open.
  status: { circuit: FOREVER },
  hangs: { circuit: FOREVER, first_byte_timeout: '150ms' },
  refuses: { circuit: FOREVER },
  untrusted: { circuit: FOREVER },
  resets: { circuit: FOREVER },
  nonsense: { circuit: FOREVER },
  row: { circuit: FOREVER },
  four: { circuit: FOREVER },
  breaks: { circuit: FOREVER },
  leaves: { circuit: FOREVER },
  stalls: { circuit: FOREVER, request_body_timeout: '200ms', idle_timeout: '200ms' },
  open: { circuit: { ...FOREVER, failures: 1 } },
  // Circuits that are probed.
  'flood-get': { circuit: BRIEF, max_concurrent: 220 },
  'flood-small': { circuit: BRIEF, max_concurrent: 220 },
  'flood-stream': { circuit: BRIEF, max_concurrent: 220 },
  'flood-all': { circuit: BRIEF, max_concurrent: 220 },
  doubles: { circuit: { failures: 1, open: '700ms', max_open: '1500ms' } },
  left: { circuit: BRIEF },
  'left-upload': { circuit: BRIEF },
  'stalled-stream': { circuit: BRIEF, idle_timeout: '300ms' },
  'stalled-small': { circuit: BRIEF, request_body_timeout: '300ms' },
  late: { circuit: BRIEF, first_byte_timeout: '200ms' },
  waiting: { circuit: BRIEF },
  begins: { circuit: BRIEF },
  'probe-tls': { circuit: BRIEF },
  drip: { circuit: { ...BRIEF, open: '600ms' } },
  ws: { circuit: BRIEF },
  'ws-left': { circuit: BRIEF },
  'ws-shut': { circuit: FOREVER },
  // The order of refusals.
  'order-halt': { circuit: { ...FOREVER, failures: 1 } },
  'order-cap': { circuit: { ...FOREVER, failures: 1 }, max_concurrent: 1 },
  'order-rate': { circuit: { ...FOREVER, failures: 1 } },
  'order-cred': { circuit: { ...FOREVER, failures: 1 }, max_concurrent: 1 },
  hung: { max_concurrent: 300 },
};

let up: Recorder;
/** Refuses connections until it is `up()`. */
let gate: Recorder;
/** Show a certificate that has expired; one for each provider, so that no test finds another's connections pooled. */
const tls: Record<string, Recorder> = {};
const TLS = ['untrusted', 'probe-tls', 'order-cap', 'drip'];
let resets: Recorder;
let proxy: Isoproxy;
/** With a rate for each pair. */
let paired: Isoproxy;
/** Lets go of what `x-do: hold` holds, and breaks what `x-do: break` has begun. */
let release = Promise.withResolvers<void>();

/** Does what the client asks for in `x-do`: a status, `hang`, `hold`, or `break`. */
const obey: Handler = async (seen, connection) => {
  const what = seen.header('x-do') ?? '200';
  if (what === 'hang') return connection.gone;
  if (what === 'hold') await Promise.race([release.promise, connection.gone]);
  if (what === 'ws') return acceptWs(seen, connection);
  if (what === 'nonsense') return connection.write('SSH-2.0-OpenSSH_9.2\r\n\r\n');
  if (what === 'break') {
    await connection.head(200, { 'Transfer-Encoding': 'chunked' });
    await connection.chunk('data: 1\n\n');
    await Promise.race([release.promise, connection.gone]);
    return connection.cut();
  }
  return connection.reply(Number(what) || 200, { 'Retry-After': '7', 'X-From': 'upstream' }, `it is ${what}`);
};

beforeAll(async () => {
  up = await startRecorder({ handler: obey });
  gate = await startRecorder({ handler: obey });
  for (const name of TLS) tls[name] = await startRecorder({ handler: obey, tls: 'expired' });
  resets = await startRecorder({ handler: (_, connection) => connection.reset() });
  await gate.down();
  const ports: Record<string, number> = {
    refuses: gate.port,
    resets: resets.port,
    ...Object.fromEntries(TLS.map((name) => [name, tls[name]!.port])),
  };
  const providers = (dir: string) =>
    Object.fromEntries(
      Object.entries(limitsOf).map(([name, limits]) => [
        name,
        {
          ...recorderAt(dir, ports[name] ?? up.port, `/${name}`),
          credential: { header: 'x-api-key', file: join(dir, `secrets/${name}.key`) },
          endpoints: [
            { methods: ['GET', 'POST'], paths: ['/x'] },
            ...(DENO ? [] : [{ methods: ['GET'], paths: ['/ws'], websocket: true }]),
          ],
          limits,
        },
      ]),
    );
  const files = Object.fromEntries(Object.keys(limitsOf).map((name) => [`secrets/${name}.key`, canary]));
  const base = { upstreamPort: up.port, ca: up.ca, canary, files };
  proxy = await startIsoproxy((dir) =>
    simpleConfig(dir, {
      ...base,
      limits: { max_concurrent: 30 },
      top: {
        listeners: Object.entries(listenerRates).map(([name, rate]) => ({
          name,
          providers: rate === undefined ? Object.keys(limitsOf) : RATED,
          limits: rate && { rate },
        })),
        providers: providers(dir),
        metrics: { socket: join(dir, 'metrics/metrics.sock') },
      },
    }),
  );
  // It accepts a little later than the listeners.
  await until('metrics', () => status('agent-1', 'free').catch(() => undefined));
  paired = await startIsoproxy((dir) =>
    simpleConfig(dir, {
      ...base,
      limits: { rate: slow(3), max_concurrent: 30 },
      top: {
        listeners: ['agent-1', 'agent-2'].map((name) => ({ name, providers: ['free', 'small'] })),
        providers: providers(dir),
      },
    }),
  );
});
afterAll(async () => {
  for (const each of [proxy, paired]) {
    if (each === undefined) continue;
    expect(each.lines().filter((line) => /^un(?:handled|caught)/.test(String(line['event'])))).toEqual([]);
    assertClean(canary, { stdout: each.child.stdout(), stderr: each.child.stderr() });
    await each[Symbol.asyncDispose]();
  }
  for (const recorder of upstreams()) await recorder?.close();
});

interface Ask extends RequestOptions {
  listener?: string;
  /** What the upstream shall do. */
  does?: string;
  by?: Isoproxy;
}

const ask = (provider: string, { listener = 'agent-1', does, by = proxy, ...rest }: Ask = {}) =>
  request(by.socket(listener), {
    method: 'POST',
    target: `/${provider}/x`,
    headers: does === undefined ? {} : { 'X-Do': does },
    ...(rest.method === 'GET' ? {} : { body: '{}' }),
    ...rest,
  });

const streamed = (does: string): Ask => ({
  headers: { 'Transfer-Encoding': 'chunked', 'X-Do': does },
  body: '5\r\nhello\r\n0\r\n\r\n',
});

/** `429 rate_limited`, or `200`. */
const nameOf = (answer: RawResponse) => `${answer.status} ${answer.header('x-isoproxy-error') ?? ''}`.trim();
const count = (answers: RawResponse[]) => {
  const counts: Record<string, number> = {};
  for (const answer of answers) counts[nameOf(answer)] = (counts[nameOf(answer)] ?? 0) + 1;
  return counts;
};
const many = <T>(times: number, work: (i: number) => Promise<T>) =>
  Promise.all(Array.from({ length: times }, (_, i) => work(i)));

const upstreams = () => [up, gate, resets, ...Object.values(tls)];
/** Requests that reached an upstream for this provider. */
const arrived = (provider: string) =>
  upstreams()
    .flatMap((each) => each.requests)
    .filter((seen) => seen.target.startsWith(`/${provider}/`));
/** Everything that an upstream noticed so far. */
const upstreamSide = () =>
  upstreams().map((each) => `${each.connections.length} connections, ${each.requests.length} requests`);

/** What the page of metrics says of a pair. */
async function status(listener: string, provider: string): Promise<{ circuit: string; inFlight: number }> {
  const page = (await request(proxy.workspace.path('metrics/metrics.sock'), { target: '/metrics' })).text();
  const rows = [...page.matchAll(/^(isoproxy_circuit_open|isoproxy_in_flight)\{(.*)\} (\d+)$/gm)].map(
    (row) => {
      const labels = Object.fromEntries(
        [...row[2]!.matchAll(/(\w+)="(.*?)"/g)].map((each) => each.slice(1, 3)),
      );
      return { name: row[1], value: Number(row[3]), labels: labels as Record<string, string> };
    },
  );
  const find = (name: string, of: string) =>
    rows.find(
      (row) => row.name === name && row.labels['provider'] === provider && row.labels['listener'] === of,
    );
  const circuit = find('isoproxy_circuit_open', '') ?? find('isoproxy_circuit_open', listener);
  return {
    circuit: circuit?.labels['state'] ?? 'closed',
    inFlight: find('isoproxy_in_flight', listener)?.value ?? 0,
  };
}
const becomes = (circuit: string, provider: string, listener = 'agent-1') =>
  until(`${provider} ${circuit}`, async () => (await status(listener, provider)).circuit === circuit);

/** A connection on which a request was begun. */
async function begin(provider: string, headers: Record<string, string>, body = '', listener = 'agent-1') {
  const client = await connect(proxy.socket(listener));
  await client.send(formatRequest({ method: 'POST', target: `/${provider}/x`, headers, body }));
  return client;
}

/** An answer that begins with a 200 and is broken off once its beginning is here. */
async function breakLater(provider: string): Promise<void> {
  release = Promise.withResolvers();
  using client = await begin(provider, { 'X-Do': 'break' });
  await client.waitFor('data: 1');
  release.resolve();
  const answer = await client.response();
  expect([answer.status, answer.complete]).toEqual([200, false]);
}

/** The pair's circuit has failed once, and its pause is over. */
async function halfOpen(provider: string, does = '500'): Promise<void> {
  await ask(provider, { does });
  await becomes('half_open', provider);
}

/** A refusal by an open circuit, that nothing upstream noticed. */
async function expectOpen(provider: string, options: Ask = {}): Promise<void> {
  const before = upstreamSide();
  for (const rest of [{}, { method: 'GET' }, streamed('200')]) {
    const answer = await ask(provider, { ...options, ...rest });
    expect(nameOf(answer)).toBe('503 circuit_open');
    expect(answer.header('retry-after')).toMatch(/^3(600|5\d\d)$/);
    expect(answer.header('x-should-retry')).toBeUndefined();
  }
  expect(upstreamSide()).toEqual(before);
  const listener = options.listener ?? 'agent-1';
  const record = await proxy.record(
    (each) => each.provider === provider && each.listener === listener && each.reason === 'circuit_open',
  );
  expect(record).toMatchObject({ status: 503, decision: 'deny', error: 'open' });
}

/** A credential file that cannot be used, noticed; asked for by another listener. */
async function breakCredential(provider: string): Promise<void> {
  proxy.workspace.write(`secrets/${provider}.key`, `${canary}\n${canary}`);
  await until(
    'the change to be noticed',
    async () => nameOf(await ask(provider, { listener: 'agent-2' })) === '503 credential_unavailable',
  );
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('rate limit', () => {
  const EMPTY = { 200: 5, '429 rate_limited': 15 };

  test('of a listener: exactly `burst` of a crowd get through, over all its providers', async () => {
    const answers = await many(20, (i) => ask(i % 2 ? 'free' : 'small', { listener: 'burst' }));
    expect(count(answers)).toEqual(EMPTY);
    expect([...arrived('free'), ...arrived('small')]).toHaveLength(5);
    for (const answer of answers.filter(({ status }) => status === 429)) {
      expect(answer.header('retry-after')).toMatch(/^3(600|5\d\d)$/);
      expect([answer.json().code, answer.connectionClosed]).toEqual(['rate_limited', true]);
      expect(answer.header('x-should-retry')).toBeUndefined();
    }
    const record = await proxy.record(
      ({ reason, listener }) => reason === 'rate_limited' && listener === 'burst',
    );
    expect(record).toMatchObject({ status: 429, decision: 'deny' });
    const before = upstreamSide();
    expect(nameOf(await ask('free', { listener: 'burst' }))).toBe('429 rate_limited');
    expect(upstreamSide()).toEqual(before);
    expect(nameOf(await ask('free', { listener: 'agent-2' }))).toBe('200');
  });

  test('of a provider: exactly `burst` of a crowd get through, over all listeners', async () => {
    const answers = await many(20, (i) => ask('burst', { listener: i % 2 ? 'agent-1' : 'agent-2' }));
    expect(count(answers)).toEqual(EMPTY);
    expect(arrived('burst')).toHaveLength(5);
    expect(nameOf(await ask('free'))).toBe('200');
  });

  test('of a pair: each listener has its own, and for each provider its own', async () => {
    const pairs = ['agent-1', 'agent-2'].flatMap((listener) =>
      ['free', 'small'].map((name) => ({ listener, name })),
    );
    const answers = await Promise.all(
      pairs.map(({ listener, name }) => many(8, () => ask(name, { listener, by: paired }))),
    );
    for (const each of answers) expect(count(each)).toEqual({ 200: 3, '429 rate_limited': 5 });
  });

  const waits: [string, Ask, string][] = [
    ['listener', { listener: 'wait' }, 'free'],
    ['provider', {}, 'wait'],
    ['pair', {}, 'free'],
  ];
  test('Retry-After is a whole number of seconds, rounded up, and after that wait a request passes', async () => {
    const tried = waits.map(async ([kind, options, provider]) => {
      const by = kind === 'pair' ? paired : proxy;
      const taken = kind === 'pair' ? 3 : 1;
      const earliest = performance.now();
      await many(taken, () => ask(provider, { ...options, by }));
      const latest = performance.now();
      const answer = await ask(provider, { ...options, by });
      const got = performance.now();
      // What is missing of the one token, at the most and at the least.
      const bounds = [WAIT_MS - (got - earliest), kind === 'pair' ? WAIT_MS : WAIT_MS - (latest - got)];
      expect([kind, nameOf(answer)]).toEqual([kind, '429 rate_limited']);
      const seconds = Number(answer.header('retry-after'));
      expect(Number.isInteger(seconds) && seconds >= 1).toBe(true);
      expect(seconds).toBeGreaterThanOrEqual(Math.ceil((bounds[0] as number) / 1000));
      expect(seconds).toBeLessThanOrEqual(Math.ceil((bounds[1] as number) / 1000));
      await pause(seconds * 1000);
      expect([kind, nameOf(await ask(provider, { ...options, by }))]).toEqual([kind, '200']);
    });
    await Promise.all(tried);
  });

  test('attack: requests that lack a token in one bucket drain no other', async () => {
    expect(nameOf(await ask('one', { listener: 'both' }))).toBe('200');
    expect(count(await many(20, () => ask('one', { listener: 'both' })))).toEqual({ '429 rate_limited': 20 });
    expect(count(await many(10, () => ask('free', { listener: 'both' })))).toEqual({
      200: 3,
      '429 rate_limited': 7,
    });
  });

  test('refusals by rules, own routes, slow bodies and clients that leave cost nothing', async () => {
    const socket = proxy.socket('refused');
    const refused: [RequestOptions, string][] = [
      [{ target: '/nobody/x' }, '404 unknown_provider'],
      [{ target: '/free/secret' }, '403 endpoint_not_allowed'],
      [{ target: '/free//x' }, '400 bad_target'],
      [{ target: '/free/x', method: 'TRACE' }, '405 method_not_supported'],
      [{ target: '/free/x', headers: { Origin: 'https://a.example' } }, '403 browser_origin'],
      [{ target: '/small/x', method: 'POST', body: 'x'.repeat(2000) }, '413 request_too_large'],
      [{ target: '/healthz' }, '200'],
      [{ target: '/.well-known/isoproxy' }, '200'],
    ];
    for (let i = 0; i < 3; i++)
      for (const [options, name] of refused) expect(nameOf(await request(socket, options))).toBe(name);
    const slow = await many(4, () => begin('small', { 'Content-Length': '100' }, 'x', 'refused'));
    // The bucket is lent out to those whose body has not come, and given back.
    expect(count(await Promise.all(slow.map((client) => client.response())))).toEqual({
      '408 request_timeout': 3,
      '429 rate_limited': 1,
    });
    const gone = await many(3, () => begin('free', { 'Content-Length': '100' }, 'x', 'refused'));
    await until('them in flight', async () => (await status('refused', 'free')).inFlight === 3);
    for (const client of gone) client.close();
    await until('their end', async () => (await status('refused', 'free')).inFlight === 0);
    expect(count(await many(8, () => ask('free', { listener: 'refused' })))).toEqual({
      200: 3,
      '429 rate_limited': 5,
    });
  });

  test('refusals by an open circuit or for want of a credential cost nothing', async () => {
    await ask('open', { listener: 'later', does: '500' });
    expect(count(await many(20, () => ask('open', { listener: 'later' })))).toEqual({
      '503 circuit_open': 20,
    });
    await breakCredential('cred');
    for (let i = 0; i < 5; i++)
      expect(nameOf(await ask('cred', { listener: 'later' }))).toBe('503 credential_unavailable');
    expect(count(await many(4, () => ask('free', { listener: 'later' })))).toEqual({
      200: 2,
      '429 rate_limited': 2,
    });
  });
});

describe('what opens a circuit', () => {
  const faults: [string, string, Ask, string, 'own' | 'everybody'][] = [
    ['a 500', 'status', { does: '500' }, '500', 'own'],
    ['no head in time', 'hangs', { does: 'hang' }, '504 upstream_timeout', 'own'],
    ['a reset after the request', 'resets', {}, '502 upstream_unreachable', 'own'],
    ['an answer that is no HTTP', 'nonsense', { does: 'nonsense' }, '502 upstream_invalid', 'own'],
    ['a refused connection', 'refuses', {}, '502 upstream_unreachable', 'everybody'],
    ['a certificate that has expired', 'untrusted', {}, '502 upstream_tls', 'everybody'],
  ];
  test.each(faults)('%s, the third time in a row (%s)', async (_, provider, options, name, whose) => {
    for (let i = 0; i < 3; i++) {
      expect((await status('agent-1', provider)).circuit).toBe('closed');
      const kinds: Ask[] = [{}, { method: 'GET' }, streamed(options.does ?? '200')];
      expect(nameOf(await ask(provider, { ...options, ...kinds[i] }))).toBe(name);
    }
    await expectOpen(provider);
    if (whose === 'everybody') await expectOpen(provider, { listener: 'agent-2' });
    else {
      expect(nameOf(await ask(provider, { ...options, listener: 'agent-2' }))).toBe(name);
      expect((await status('agent-2', provider)).circuit).toBe('closed');
    }
    expect(nameOf(await ask('free'))).toBe('200');
  });

  test('a success in between begins the count again', async () => {
    for (const does of ['503', '500', '200', '599', '502', '404', '500', '500'])
      expect((await ask('row', { does })).status).toBe(Number(does));
    expect((await status('agent-1', 'row')).circuit).toBe('closed');
    await ask('row', { does: '500' });
    await expectOpen('row');
  });

  test('4xx never count, 429 and 408 among them, and pass untouched', async () => {
    for (const does of ['429', '429', '429', '429', '400', '401', '403', '404', '408', '413', '451', '499']) {
      const answer = await ask('four', { does });
      expect([nameOf(answer), answer.text()]).toEqual([does, `it is ${does}`]);
      expect([answer.header('retry-after'), answer.header('x-from')]).toEqual(['7', 'upstream']);
    }
    expect((await status('agent-1', 'four')).circuit).toBe('closed');
    expect(await proxy.record((each) => each.provider === 'four' && each.status === 429)).toMatchObject({
      decision: 'allow',
      reason: '',
    });
  });

  test('bodies that break after their head never count', async () => {
    for (let i = 0; i < 5; i++) await breakLater('breaks');
    expect((await status('agent-1', 'breaks')).circuit).toBe('closed');
  });

  test('attack: clients that leave, before the head or in the upload, never count', async () => {
    const clients: RawClient[] = [];
    for (let i = 0; i < 5; i++) clients.push(await begin('leaves', { 'X-Do': 'hang' }, ''));
    for (let i = 0; i < 5; i++)
      clients.push(await begin('leaves', { 'Content-Length': '200000' }, 'x'.repeat(70_000)));
    await until('all upstream', () => arrived('leaves').length === 10);
    for (const client of clients) client.close();
    await until('all gone', async () => (await status('agent-1', 'leaves')).inFlight === 0);
    expect((await status('agent-1', 'leaves')).circuit).toBe('closed');
    expect(nameOf(await ask('leaves'))).toBe('200');
    up.problems.length = 0;
  });

  test('attack: uploads that stall, small or streamed, are 408 and never count', async () => {
    const bodies: [Record<string, string>, string][] = [
      [{ 'Content-Length': '100' }, 'x'],
      [{ 'Content-Length': '200000' }, 'x'.repeat(1000)],
      [{ 'Transfer-Encoding': 'chunked' }, '5\r\nhello\r\n'],
    ];
    const answers = await many(9, async (i) => {
      using client = await begin('stalls', ...(bodies[i % 3] as (typeof bodies)[0]));
      return await client.response();
    });
    expect(count(answers)).toEqual({ '408 request_timeout': 9 });
    expect((await status('agent-1', 'stalls')).circuit).toBe('closed');
    up.problems.length = 0;
  });
});

describe('a half-open circuit', () => {
  const FLOOD = DENO ? 100 : 200;
  const floods: [string, Ask[]][] = [
    ['flood-get', [{ method: 'GET', does: 'hold' }]],
    ['flood-small', [{ does: 'hold' }]],
    ['flood-stream', [streamed('hold')]],
    ['flood-all', [{ method: 'GET', does: 'hold' }, { does: 'hold' }, streamed('hold')]],
  ];
  test.each(floods)(
    'of a crowd, exactly one reaches the upstream, and its success closes (%s)',
    async (name, kinds) => {
      release = Promise.withResolvers();
      await halfOpen(name);
      const before = arrived(name).length;
      const early: RawResponse[] = [];
      const crowd = many(FLOOD, async (i) => {
        const answer = await ask(name, { ...kinds[i % kinds.length], ms: 15_000 });
        early.push(answer);
        return answer;
      });
      await until('all but one answered', () => early.length >= FLOOD - 1, 12_000);
      expect(count(early)).toEqual({ '503 circuit_open': FLOOD - 1 });
      expect(new Set(early.map((answer) => answer.header('retry-after')))).toEqual(new Set(['1']));
      await until('the probe upstream', () => arrived(name).length > before);
      expect(arrived(name).length - before).toBe(1);
      expect(nameOf(await ask(name))).toBe('503 circuit_open');
      release.resolve();
      expect(count(await crowd)).toEqual({ 200: 1, '503 circuit_open': FLOOD - 1 });
      expect((await status('agent-1', name)).circuit).toBe('closed');
      expect(count(await many(10, () => ask(name)))).toEqual({ 200: 10 });
      expect(arrived(name).length - before).toBe(11);
    },
  );

  test('each failed probe doubles the pause, up to max_open; a success begins anew', async () => {
    const retryAfter = async () => {
      const answer = await ask('doubles');
      return `${nameOf(answer)} ${answer.header('retry-after')}`;
    };
    await ask('doubles', { does: '500' });
    expect(await retryAfter()).toBe('503 circuit_open 1');
    await becomes('half_open', 'doubles');
    expect(nameOf(await ask('doubles', { does: '502' }))).toBe('502');
    const opened = performance.now();
    expect(await retryAfter()).toBe('503 circuit_open 2');
    await becomes('half_open', 'doubles');
    expect(performance.now() - opened).toBeGreaterThan(1350);
    await ask('doubles', { does: '500' });
    // 2.8 s, but for max_open.
    expect(await retryAfter()).toBe('503 circuit_open 2');
    await becomes('half_open', 'doubles');
    expect(nameOf(await ask('doubles'))).toBe('200');
    await ask('doubles', { does: '500' });
    expect(await retryAfter()).toBe('503 circuit_open 1');
  });

  /** The slot is free: the next request is the probe, and closes the circuit. */
  async function expectFree(provider: string): Promise<void> {
    const before = arrived(provider).length;
    expect(nameOf(await ask(provider))).toBe('200');
    expect(arrived(provider).length).toBe(before + 1);
    expect((await status('agent-1', provider)).circuit).toBe('closed');
  }

  test('a probe whose client leaves before the head frees its slot, without a longer pause', async () => {
    await halfOpen('left');
    for (let i = 1; i <= 3; i++) {
      const client = await begin('left', { 'X-Do': 'hang' });
      await until('the probe upstream', () => arrived('left').length === i + 1);
      expect(nameOf(await ask('left'))).toBe('503 circuit_open');
      client.close();
      await until('its end', async () => (await status('agent-1', 'left')).inFlight === 0);
      expect((await status('agent-1', 'left')).circuit).toBe('half_open');
    }
    await expectFree('left');
    up.problems.length = 0;
  });

  test('a probe whose client leaves in its upload frees its slot', async () => {
    await halfOpen('left-upload');
    const client = await begin('left-upload', { 'Content-Length': '200000' }, 'x'.repeat(70_000));
    await until('the probe upstream', () => arrived('left-upload').length === 2);
    client.close();
    await until('its end', async () => (await status('agent-1', 'left-upload')).inFlight === 0);
    await expectFree('left-upload');
    up.problems.length = 0;
  });

  test.each(['stalled-stream', 'stalled-small'])(
    'a probe whose upload stalls is 408 and frees its slot (%s)',
    async (name) => {
      await halfOpen(name);
      const body = name === 'stalled-small' ? '100' : '200000';
      using client = await begin(name, { 'Content-Length': body }, 'x'.repeat(50));
      expect(nameOf(await client.response())).toBe('408 request_timeout');
      await expectFree(name);
      up.problems.length = 0;
    },
  );

  test('attack: a small body that does not come takes no slot', async () => {
    await halfOpen('waiting');
    using client = await begin('waiting', { 'Content-Length': '100' }, 'x');
    await until('it in flight', async () => (await status('agent-1', 'waiting')).inFlight === 1);
    await expectFree('waiting');
    await client.send('x'.repeat(99));
    expect(nameOf(await client.response())).toBe('200');
  });

  test('a probe that times out frees its slot and opens the circuit again', async () => {
    await halfOpen('late', '500');
    expect(nameOf(await ask('late', { does: 'hang' }))).toBe('504 upstream_timeout');
    expect((await status('agent-1', 'late')).circuit).toBe('open');
    const began = performance.now();
    await becomes('half_open', 'late');
    expect(performance.now() - began).toBeGreaterThan(350);
    await expectFree('late');
  });

  test('a probe whose answer begins and breaks later closes the circuit at its head', async () => {
    await halfOpen('begins');
    await breakLater('begins');
    expect((await status('agent-1', 'begins')).circuit).toBe('closed');
  });

  test('attack: a probe whose upload drips on keeps others out for one pause only', async () => {
    expect(nameOf(await ask('drip'))).toBe('502 upstream_tls');
    tls['drip']!.showCertificate('good');
    using client = await connect(proxy.socket());
    let dripping: ReturnType<typeof setInterval> | undefined;
    try {
      await becomes('half_open', 'drip');
      const headers = { 'Transfer-Encoding': 'chunked' };
      await client.send(formatRequest({ method: 'POST', target: '/drip/x', headers }));
      dripping = setInterval(() => void client.send('1\r\nx\r\n'), 50);
      await until('the probe upstream', () => arrived('drip').length === 1);
      const began = performance.now();
      expect(nameOf(await ask('drip', { listener: 'agent-2' }))).toBe('503 circuit_open');
      await until(
        'another probe',
        async () => nameOf(await ask('drip', { listener: 'agent-2' })) === '200',
        2500,
      );
      expect(performance.now() - began).toBeGreaterThan(150);
      expect((await status('agent-1', 'drip')).circuit).toBe('closed');
      // Nobody cuts it for that.
      clearInterval(dripping);
      await client.send('0\r\n\r\n');
      expect(nameOf(await client.response())).toBe('200');
    } finally {
      clearInterval(dripping);
    }
  });

  test('of an unreachable provider: one probe over all listeners, and its success closes for all', async () => {
    expect(nameOf(await ask('probe-tls'))).toBe('502 upstream_tls');
    await becomes('half_open', 'probe-tls', 'agent-2');
    expect(nameOf(await ask('probe-tls', { listener: 'agent-2' }))).toBe('502 upstream_tls');
    expect(nameOf(await ask('probe-tls'))).toBe('503 circuit_open');
    tls['probe-tls']!.showCertificate('good');
    await becomes('half_open', 'probe-tls');
    release = Promise.withResolvers();
    const crowd = many(20, (i) =>
      ask('probe-tls', { does: 'hold', listener: i % 2 ? 'agent-1' : 'agent-2' }),
    );
    await until('the probe upstream', () => arrived('probe-tls').length > 0);
    expect(nameOf(await ask('probe-tls', { listener: 'agent-2' }))).toBe('503 circuit_open');
    release.resolve();
    expect(count(await crowd)).toEqual({ 200: 1, '503 circuit_open': 19 });
    for (const listener of ['agent-1', 'agent-2'])
      expect(nameOf(await ask('probe-tls', { listener }))).toBe('200');
  });

  notDeno('a WebSocket upgrade is a probe: a tunnel closes the circuit, a 503 opens it again', async () => {
    await halfOpen('ws');
    const upgrade = (does: string) => openWs(proxy.socket(), '/ws/ws', [['X-Do', does]]);
    using shut = await upgrade('503');
    expect([shut.status, shut.header('x-from')]).toEqual([503, 'upstream']);
    expect((await status('agent-1', 'ws')).circuit).toBe('open');
    const before = arrived('ws').length;
    using refused = await upgrade('ws');
    expect([refused.status, refused.header('x-isoproxy-error')]).toEqual([503, 'circuit_open']);
    expect(arrived('ws').length).toBe(before);
    await becomes('half_open', 'ws');
    using open = await upgrade('ws');
    expect(open.status).toBe(101);
    expect((await status('agent-1', 'ws')).circuit).toBe('closed');
    // The tunnel, still open, holds no slot, and its end says nothing.
    expect(nameOf(await ask('ws'))).toBe('200');
  });

  notDeno('a WebSocket upgrade whose client leaves frees the slot', async () => {
    await halfOpen('ws-left');
    const client = await connect(proxy.socket());
    const headers = upgradeHeaders([['X-Do', 'hang']]);
    await client.send(formatRequest({ target: '/ws-left/ws', headers }));
    await until('the probe upstream', () => arrived('ws-left').length === 2);
    expect(nameOf(await ask('ws-left'))).toBe('503 circuit_open');
    client.close();
    await until('its end', async () => (await status('agent-1', 'ws-left')).inFlight === 0);
    await expectFree('ws-left');
  });

  notDeno('a 401 to WebSocket upgrades never counts, a 500 does', async () => {
    const upgrade = async (does: string) => {
      using client = await openWs(proxy.socket(), '/ws-shut/ws', [['X-Do', does]]);
      return client.status;
    };
    for (let i = 0; i < 4; i++) expect(await upgrade('401')).toBe(401);
    expect((await status('agent-1', 'ws-shut')).circuit).toBe('closed');
    for (let i = 0; i < 3; i++) expect(await upgrade('500')).toBe(500);
    await expectOpen('ws-shut');
  });
});

describe('the order of refusals', () => {
  test('rules, then halted, then rate, circuit and credential', async () => {
    // The circuit is open, the listener's bucket empty, the credential unreadable.
    await ask('order-halt', { listener: 'order', does: '500' });
    expect((await status('order', 'order-halt')).circuit).toBe('open');
    await breakCredential('order-halt');
    const before = upstreamSide();
    proxy.workspace.write('state/halt', 'provider order-halt\n');
    await until(
      'the halt',
      async () => nameOf(await ask('order-halt', { listener: 'agent-2' })) === '503 halted',
    );
    expect(nameOf(await ask('order-halt', { listener: 'order' }))).toBe('503 halted');
    expect(nameOf(await ask('order-halt', { listener: 'order', target: '/order-halt/y' }))).toBe(
      '403 endpoint_not_allowed',
    );
    rmSync(proxy.workspace.path('state/halt'));
    await until(
      'the end of the halt',
      async () => nameOf(await ask('order-halt', { listener: 'agent-2' })) !== '503 halted',
    );
    const limited = await ask('order-halt', { listener: 'order' });
    expect(nameOf(limited)).toBe('429 rate_limited');
    expect(upstreamSide()).toEqual(before);
  });

  test('circuit before credential', async () => {
    await ask('order-rate', { does: '500' });
    await breakCredential('order-rate');
    expect(nameOf(await ask('order-rate'))).toBe('503 circuit_open');
  });

  test('concurrency before rate, circuit and credential', async () => {
    release = Promise.withResolvers();
    tls['order-cap']!.showCertificate('good');
    // The one place and, of `order`, the one token are taken.
    const held = ask('order-cap', { does: 'hold' });
    await until('it upstream', () => arrived('order-cap').length === 1);
    tls['order-cap']!.showCertificate('expired');
    expect(nameOf(await ask('order-cap', { listener: 'agent-2' }))).toBe('502 upstream_tls');
    await breakCredentialOf('order-cap');
    expect(nameOf(await ask('order-cap', { listener: 'agent-2' }))).toBe('503 circuit_open');
    const answer = await ask('order-cap');
    expect([nameOf(answer), answer.header('retry-after')]).toEqual(['503 overloaded', '1']);
    release.resolve();
    expect((await held).status).toBe(200);
    expect(nameOf(await ask('order-cap'))).toBe('503 circuit_open');
  });

  function breakCredentialOf(provider: string): void {
    proxy.workspace.write(`secrets/${provider}.key`, `${canary}\n${canary}`);
  }
});

test('a hung provider takes its own places only: another answers, /healthz answers, and its next is refused at once', async () => {
  release = Promise.withResolvers();
  const held = many(300, () => ask('hung', { does: 'hold', ms: 15_000 }));
  held.catch(() => {});
  await until('300 upstream', () => arrived('hung').length === 300, 12_000);
  const timed = async (work: Promise<RawResponse>) => {
    const began = performance.now();
    return [nameOf(await work), performance.now() - began] as const;
  };
  const [other, tookOther] = await timed(ask('free'));
  const [health, tookHealth] = await timed(request(proxy.socket(), { target: '/healthz' }));
  const [next, tookNext] = await timed(ask('hung'));
  const [neighbour] = await timed(ask('hung', { listener: 'agent-2' }));
  expect([other, health, next, neighbour]).toEqual(['200', '200', '503 overloaded', '200']);
  // A busy machine must not fail it: what is meant is 1 s, 100 ms and at once.
  expect(tookOther).toBeLessThan(1500);
  expect(tookHealth).toBeLessThan(1000);
  expect(tookNext).toBeLessThan(1000);
  expect((await ask('hung')).header('retry-after')).toBe('1');
  release.resolve();
  expect(count(await within('all of them', held, 12_000))).toEqual({ 200: 300 });
  expect(nameOf(await ask('hung'))).toBe('200');
});

describe('isoproxy check', () => {
  test('shows rates and circuits', async () => {
    const { stdout } = await proxy.cli(['check']);
    expect(stdout).toMatch(/^ {2}rate +1 requests per 1h, burst 5$/m);
    expect(stdout).toMatch(/^ {2}circuit +opens after 3 failures in a row, for 1h to 1h$/m);
    expect((await paired.cli(['check'])).stdout).toMatch(
      /^rate +1 requests per 1900ms, burst 3, for each listener and provider$/m,
    );
  });

  test('has them as JSON, null where there is none', async () => {
    const shown = (await proxy.cli(['check', '--json'])).json();
    const config = shown.config ?? shown;
    const named = (list: { name: string }[], name: string) => list.find((each) => each.name === name);
    expect(config.rate).toBeNull();
    expect(named(config.listeners, 'burst')).toMatchObject({
      rate: { requests: 1, per: 3_600_000, burst: 5 },
    });
    expect(named(config.listeners, 'agent-1')).toMatchObject({ rate: null });
    expect(named(config.providers, 'burst')).toMatchObject({
      rate: { requests: 1, per: 3_600_000, burst: 5 },
      circuit: null,
    });
    expect(named(config.providers, 'doubles')).toMatchObject({
      rate: null,
      circuit: { failures: 1, open: 700, max_open: 1500 },
    });
  });
});
