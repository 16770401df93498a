// The official clients of Anthropic and OpenAI, unchanged, through isoproxy: they must not notice it, except where it
// refuses, and then their own exceptions must say why.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test';
import { join } from 'node:path';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { stringify } from 'smol-toml';
import { PRESETS } from '../../src/config/presets.ts';
import { assertClean, makeCanary } from '../support/canary.ts';
import { within } from '../support/deadline.ts';
import { ANSWER, failing, fakeAnthropic, fakeOpenai, TOOL_INPUT } from '../support/fake-apis.ts';
import { freePort, type Isoproxy, recorderAt, startIsoproxy } from '../support/isoproxy.ts';
import { type RecordedRequest, type Recorder, startRecorder } from '../support/recorder.ts';

const TOKEN = makeCanary('listener-token-');
const KEYS = { anthropic: makeCanary('sk-ant-api03-'), openai: makeCanary('sk-proj-') };
const PLACEHOLDERS = {
  anthropic: PRESETS['anthropic']!.placeholder,
  openai: PRESETS['openai']!.placeholder,
};

let anthropicApi: Recorder;
let openaiApi: Recorder;
let proxy: Isoproxy;
let tcpPort: number;
/** Access records that earlier tests left. */
let seenRecords = 0;
/** What the clients sent and saw in this test. */
let sent: { method: string; url: string; body: unknown }[] = [];
let received: Uint8Array[] = [];

beforeAll(async () => {
  let closedPort: number;
  [anthropicApi, openaiApi, tcpPort, closedPort] = await Promise.all([
    startRecorder({ handler: fakeAnthropic() }),
    startRecorder({ handler: fakeOpenai() }),
    freePort(),
    freePort(),
  ]);
  proxy = await startIsoproxy((dir) => {
    const provider = (name: keyof typeof KEYS, api: Recorder) => ({
      preset: name,
      ...recorderAt(dir, api.port),
      credential: { file: join(dir, `secrets/${name}.key`) },
    });
    const providers = ['anthropic', 'openai', 'nowhere'];
    const toml = stringify({
      server: { runtime_dir: dir, state_dir: join(dir, 'state') },
      listeners: [
        { name: 'agent-1', socket: join(dir, 'agent-1', 'isoproxy.sock'), providers },
        { name: 'tcp', tcp: `127.0.0.1:${tcpPort}`, token: { file: join(dir, 'secrets/token') }, providers },
      ],
      providers: {
        anthropic: provider('anthropic', anthropicApi),
        openai: provider('openai', openaiApi),
        nowhere: { ...provider('anthropic', anthropicApi), base_url: `https://localhost:${closedPort}` },
      },
    });
    const files = {
      'ca.pem': anthropicApi.ca,
      'secrets/anthropic.key': KEYS.anthropic,
      'secrets/openai.key': KEYS.openai,
      'secrets/token': TOKEN,
    };
    return { toml, files };
  });
});

afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await Promise.all([anthropicApi?.close(), openaiApi?.close()]);
});

beforeEach(() => {
  anthropicApi.reset();
  openaiApi.reset();
  sent = [];
  received = [];
  seenRecords = proxy.records().length;
});

// Holds for every test of this file: one record a request, and each side sees its own credential, never the other's.
afterEach(async () => {
  await newRecords(sent.length);
  expect([...anthropicApi.problems, ...openaiApi.problems]).toEqual([]);
  for (const request of anthropicApi.requests) {
    expect([request.header('x-api-key'), request.header('authorization')]).toEqual([
      KEYS.anthropic,
      undefined,
    ]);
  }
  for (const request of openaiApi.requests) {
    expect([request.header('x-api-key'), request.header('authorization')]).toEqual([
      undefined,
      `Bearer ${KEYS.openai}`,
    ]);
  }
  for (const api of [anthropicApi, openaiApi]) {
    const upstream = Buffer.concat(api.connections.map((connection) => connection.rawIn()));
    for (const value of [...Object.values(PLACEHOLDERS), TOKEN]) assertClean(value, { upstream });
  }
  const client = Buffer.concat(received);
  for (const key of Object.values(KEYS)) assertClean(key, { client, ...proxy.visible() });
  assertClean(TOKEN, { client, ...proxy.visible() });
});

/** `fetch` as the SDKs use it, by the socket (or plain), keeping what goes out and what comes back. */
const fetchBy =
  (unix?: string) =>
  async (input: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    if (input instanceof Request) throw new Error('the clients call fetch with a URL');
    // Before an upload, the Anthropic client asks whether fetch knows data: URLs.
    if (String(input).startsWith('data:')) return fetch(input, init);
    sent.push({ method: init.method ?? 'GET', url: String(input), body: init.body });
    const response = await fetch(input, unix === undefined ? init : { ...init, unix });
    received.push(Buffer.from(JSON.stringify([...response.headers])));
    const keep = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        received.push(chunk);
        controller.enqueue(chunk);
      },
    });
    return new Response(response.body?.pipeThrough(keep) ?? null, response);
  };

/** Clients as a sandbox would make them: a placeholder for a key, and the socket. */
const anthropic = (options: ConstructorParameters<typeof Anthropic>[0] = {}) =>
  new Anthropic({
    apiKey: PLACEHOLDERS.anthropic,
    baseURL: 'http://localhost/anthropic',
    fetch: fetchBy(proxy.socket()),
    ...options,
  });
const openai = (options: ConstructorParameters<typeof OpenAI>[0] = {}) =>
  new OpenAI({
    apiKey: PLACEHOLDERS.openai,
    baseURL: 'http://localhost/openai/v1',
    fetch: fetchBy(proxy.socket()),
    ...options,
  });

const QUESTION = { role: 'user', content: 'say hello – „höflich“ 🙂' } as const;
const MESSAGE = { model: 'claude-a', max_tokens: 64, messages: [QUESTION] };
const CHAT = { model: 'gpt-a', messages: [QUESTION] };
const RESPONSE = { model: 'gpt-a', input: 'say hello' };

/** The records of this test, once there are `count`; more than that is an error. */
async function newRecords(count: number) {
  const records = (await proxy.recordCount(seenRecords + count)).slice(seenRecords);
  expect(records).toHaveLength(count);
  return records;
}

// biome-ignore lint/suspicious/noExplicitAny: the SDKs' errors
const errorOf = async (promise: PromiseLike<unknown>): Promise<any> => {
  try {
    await within('the call to fail', Promise.resolve(promise));
  } catch (error) {
    return error;
  }
  throw new Error('the call did not fail');
};

const collect = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
};

const isPost = (request: RecordedRequest) => request.method === 'POST';

function expectSameBody(request: RecordedRequest | undefined, index = 0): void {
  expect(typeof sent[index]!.body).toBe('string');
  expect(request!.body.equals(Buffer.from(sent[index]!.body as string))).toBe(true);
}

const TOOL_SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string', description: 'a "city" \\ with / escapes, 東京' } },
} as const;

describe('Anthropic SDK on the unix socket', () => {
  test('gets a message and counts tokens', async () => {
    const message = await anthropic().messages.create(MESSAGE);
    expect(message.content).toMatchObject([{ type: 'text', text: ANSWER }]);
    expect(message._request_id).toBe('req_fake');
    expect((await anthropic().messages.countTokens(MESSAGE)).input_tokens).toBe(42);
    expect(anthropicApi.requests.map(({ method, target }) => `${method} ${target}`)).toEqual([
      'POST /v1/messages',
      'POST /v1/messages/count_tokens',
    ]);
    expectSameBody(anthropicApi.requests[0]);
    expectSameBody(anthropicApi.requests[1], 1);
    expect(await newRecords(2)).toMatchObject([
      { decision: 'allow', status: 200, rule: 'POST /v1/messages' },
      { decision: 'allow', status: 200, rule: 'POST /v1/messages/count_tokens' },
    ]);
  });

  test('passes the version, betas and the client’s own headers and query', async () => {
    const betas = ['one-2026-01-01', 'two-2026-01-01'];
    await anthropic().beta.messages.create({ ...MESSAGE, betas }, { query: { beta: true } });
    const [request] = anthropicApi.requests;
    expect(request?.target).toBe('/v1/messages?beta=true');
    expect(request?.header('anthropic-beta')).toBe('one-2026-01-01,two-2026-01-01');
    expect(request?.header('anthropic-version')).toMatch(/^\d{4}-\d\d-\d\d$/);
    expect(request?.header('x-stainless-lang')).toBe('js');
    expect(request?.header('user-agent')).toMatch(/^Anthropic\/JS/);
  });

  test('streams: events in order, text assembled', async () => {
    const events = await collect(await anthropic().messages.create({ ...MESSAGE, stream: true }));
    const types = events.map((event) => event.type);
    expect(types.filter((type) => type !== 'content_block_delta')).toEqual([
      'message_start',
      'content_block_start',
      'content_block_stop',
      'message_delta',
      'message_stop',
    ]);
    expect(types.indexOf('content_block_delta')).toBe(2);
    const text = events.map((event) =>
      event.type === 'content_block_delta' && event.delta.type === 'text_delta' ? event.delta.text : '',
    );
    expect(text.join('')).toBe(ANSWER);
    const final = await anthropic().messages.stream(MESSAGE).finalMessage();
    expect([final.stop_reason, final.usage.output_tokens]).toEqual(['end_turn', 20]);
    expect(final.content).toMatchObject([{ type: 'text', text: ANSWER }]);
  });

  test('gets each event when the upstream sends it, not later', async () => {
    const gates = Array.from({ length: 50 }, () => Promise.withResolvers<void>());
    anthropicApi.handle(fakeAnthropic({ pace: (index) => gates[index]!.promise }));
    const stream = await within(
      'the response head',
      anthropic().messages.create({ ...MESSAGE, stream: true }),
    );
    const events = stream[Symbol.asyncIterator]();
    let open = 0;
    for (const type of ['message_start', 'content_block_start', 'content_block_delta']) {
      const event = await within(`${type} while the upstream waits`, events.next());
      expect(event.value?.type).toBe(type);
      gates[++open]!.resolve();
      // The ping that follows is not shown by the SDK.
      if (type === 'content_block_start') gates[++open]!.resolve();
    }
    for (const gate of gates) gate.resolve();
    expect((await collect({ [Symbol.asyncIterator]: () => events })).at(-1)?.type).toBe('message_stop');
  });

  const tools = [
    {
      name: 'weather',
      description: 'the weather',
      input_schema: { ...TOOL_SCHEMA, type: 'object' as const },
    },
  ];
  const toolCall = { ...MESSAGE, tools, tool_choice: { type: 'tool' as const, name: 'weather' } };

  test('sends tools and tool results byte for byte, and gets the tool’s input', async () => {
    const client = anthropic();
    const { content } = await client.messages.create(toolCall);
    expect(content).toEqual([
      expect.objectContaining({ type: 'tool_use', name: 'weather', input: TOOL_INPUT }),
    ]);
    const result = {
      type: 'tool_result' as const,
      tool_use_id: 'toolu_1',
      content: '18 °C\r\n\u2028\ud83c\udf27',
    };
    const messages = [
      QUESTION,
      { role: 'assistant' as const, content },
      { role: 'user' as const, content: [result] },
    ];
    await client.messages.create({ ...MESSAGE, tools, messages });
    expectSameBody(anthropicApi.requests[0]);
    expectSameBody(anthropicApi.requests[1], 1);
    const streamed = await client.messages.stream(toolCall).finalMessage();
    expect(streamed.content).toMatchObject([{ type: 'tool_use', input: TOOL_INPUT }]);
  });

  test('sends a body that is too large to be read whole first, byte for byte', async () => {
    const data = Buffer.from(crypto.getRandomValues(new Uint8Array(60_000))).toString('base64');
    const image = {
      type: 'image' as const,
      source: { type: 'base64' as const, media_type: 'image/png' as const, data },
    };
    await anthropic().messages.create({
      ...MESSAGE,
      messages: [{ role: 'user', content: Array.from({ length: 40 }, () => image) }],
    });
    expect(anthropicApi.requests[0]!.bodyBytes).toBeGreaterThan(3_000_000);
    expectSameBody(anthropicApi.requests[0]);
  });

  test('lists models page by page', async () => {
    const models = await collect(anthropic().models.list({ limit: 2 }));
    expect(models.map((model) => model.id)).toEqual([
      'claude-a',
      'claude-b',
      'claude-c',
      'claude-d',
      'claude-e',
    ]);
    expect(anthropicApi.requests.map((request) => request.target)).toEqual([
      '/v1/models?limit=2',
      '/v1/models?limit=2&after_id=claude-b',
      '/v1/models?limit=2&after_id=claude-d',
    ]);
  });

  test('has no say in the workspace and organisation that pay', async () => {
    const defaultHeaders = {
      'anthropic-workspace-id': 'other',
      'Anthropic-Organization-Id': 'other',
      'X-Api-Key': PLACEHOLDERS.anthropic,
    };
    await anthropic({ defaultHeaders }).messages.create(MESSAGE);
    const names = anthropicApi.requests[0]!.headers.map(([name]) => name.toLowerCase());
    expect(names.filter((name) => /workspace|organization/.test(name))).toEqual([]);
  });

  test.each([
    [400, Anthropic.BadRequestError, {}],
    [401, Anthropic.AuthenticationError, {}],
    [404, Anthropic.NotFoundError, {}],
    [429, Anthropic.RateLimitError, { 'Retry-After': '7', 'anthropic-ratelimit-requests-remaining': '0' }],
    [500, Anthropic.InternalServerError, {}],
    [529, Anthropic.OverloadedError, {}],
  ])('sees the upstream’s %d as its own exception', async (status, kind, headers) => {
    anthropicApi.handle(failing(status, { ...headers, 'Request-Id': 'req_fail' }));
    for (const stream of [false, true]) {
      const error = await errorOf(anthropic({ maxRetries: 0 }).messages.create({ ...MESSAGE, stream }));
      expect(error).toBeInstanceOf(kind);
      expect([error.status, error.type, error.requestID]).toEqual([status, 'fake_error', 'req_fail']);
      expect(error.message).toContain(`upstream says ${status}`);
      for (const [name, value] of Object.entries(headers)) expect(error.headers.get(name)).toBe(value);
    }
    expect(anthropicApi.requests).toHaveLength(2);
    expect(await newRecords(2)).toMatchObject([
      { decision: 'allow', status, reason: '' },
      { decision: 'allow', status, reason: '' },
    ]);
  });

  test.each([
    [503, {}, 1],
    [429, { 'retry-after-ms': '5' }, 2],
    [529, { 'retry-after-ms': '5', 'x-should-retry': 'true' }, 2],
  ])(
    'repeats after an upstream %d and succeeds',
    async (status, headers: Record<string, string>, failures) => {
      anthropicApi.handle(failing(status, headers, failures, fakeAnthropic()));
      const message = await anthropic().messages.create(MESSAGE);
      expect(message.content).toMatchObject([{ text: ANSWER }]);
      expect(anthropicApi.requests.filter(isPost)).toHaveLength(failures + 1);
      expect(anthropicApi.requests.map((request) => request.header('x-stainless-retry-count'))).toEqual(
        Array.from({ length: failures + 1 }, (_, i) => String(i)),
      );
      expect((await newRecords(failures + 1)).map((record) => record.status)).toEqual([
        ...Array.from({ length: failures }, () => status),
        200,
      ]);
    },
  );

  test('heeds x-should-retry: false of the upstream', async () => {
    anthropicApi.handle(failing(500, { 'x-should-retry': 'false' }));
    expect(await errorOf(anthropic().messages.create(MESSAGE))).toBeInstanceOf(Anthropic.InternalServerError);
    expect(anthropicApi.requests).toHaveLength(1);
  });

  const refused: [string, (client: Anthropic) => PromiseLike<unknown>][] = [
    ['batches.list', (client) => client.messages.batches.list()],
    [
      'batches.create',
      (client) => client.messages.batches.create({ requests: [{ custom_id: 'a', params: MESSAGE }] }),
    ],
    ['batches.results', (client) => client.messages.batches.retrieve('batch_1')],
    ['files.list', (client) => client.files.list()],
    ['files.upload', (client) => client.files.upload({ file: new File(['x'], 'x.txt') })],
    [
      'files.upload of 4 MiB',
      (client) => client.files.upload({ file: new File([new Uint8Array(4 << 20)], 'x') }),
    ],
    ['a path of its own', (client) => client.get('/v1/organizations/api_keys')],
  ];
  test.each(refused)('is told why %s is refused, and does not try again', async (_, call) => {
    const error = await errorOf(call(anthropic()));
    expect(error).toBeInstanceOf(Anthropic.PermissionDeniedError);
    expect([error.status, error.type]).toEqual([403, 'endpoint_not_allowed']);
    expect(error.message).toContain(
      "isoproxy: the sandbox's allow-list does not permit this method and path",
    );
    expect(error.headers.get('x-isoproxy-error')).toBe('endpoint_not_allowed');
    expect(await newRecords(1)).toMatchObject([
      { decision: 'deny', status: 403, reason: 'endpoint_not_allowed' },
    ]);
    expect(anthropicApi.connections).toHaveLength(0);
    expect(sent).toHaveLength(1);
  });

  test('is told that a body is too large, and does not send it again', async () => {
    const content = 'x'.repeat(33 << 20);
    const error = await errorOf(
      anthropic().messages.create({ ...MESSAGE, messages: [{ role: 'user', content }] }),
    );
    expect([error.status, error.type]).toEqual([413, 'request_too_large']);
    expect(error.message).toContain('isoproxy: ');
    await newRecords(1);
    expect(anthropicApi.connections).toHaveLength(0);
  });

  test('repeats when the upstream cannot be reached, and says so in the end', async () => {
    const client = anthropic({ baseURL: 'http://localhost/nowhere', maxRetries: 1 });
    const error = await errorOf(client.messages.create(MESSAGE));
    expect(error).toBeInstanceOf(Anthropic.InternalServerError);
    expect([error.status, error.type]).toEqual([502, 'upstream_unreachable']);
    expect(error.message).toContain('isoproxy: ');
    await newRecords(2);
  });

  const endings: [string, 'fin' | 'cut' | 'reset'][] = [
    ['FIN', 'fin'],
    ['a cut TLS connection', 'cut'],
    ['RST', 'reset'],
  ];
  test.each(endings)('sees a stream that the upstream breaks off by %s as broken', async (_, how) => {
    anthropicApi.handle(fakeAnthropic({ pace: (index) => (index < 5 ? undefined : new Promise(() => {})) }));
    const stream = anthropic().messages.stream(MESSAGE);
    // Only when text has arrived: an answer that breaks off before its head may be asked for again.
    stream.once('text', () => anthropicApi.dropConnections(how));
    const error = await errorOf(stream.finalMessage());
    expect(error).toBeInstanceOf(Anthropic.AnthropicError);
    expect(anthropicApi.requests).toHaveLength(1);
    const [record] = await newRecords(1);
    expect([record?.status, record?.reason]).toEqual([200, 'upstream_unreachable']);
  });
});

describe('a client that leaves', () => {
  /** A handler whose stream never ends, and a promise of the connection's end. */
  function endless(): Promise<unknown> {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    anthropicApi.handle((request, connection) => {
      connection.gone.then(resolve);
      return fakeAnthropic({ pace: (index) => (index < 4 ? undefined : new Promise(() => {})) })(
        request,
        connection,
      );
    });
    return promise;
  }

  test.each<[string, (client: Anthropic) => Promise<void>]>([
    [
      'breaks out of the iteration',
      async (client) => {
        for await (const _ of await client.messages.create({ ...MESSAGE, stream: true })) break;
      },
    ],
    [
      'aborts its stream',
      async (client) => {
        const stream = client.messages.stream(MESSAGE);
        stream.once('text', () => stream.abort());
        expect(await errorOf(stream.done())).toBeInstanceOf(Anthropic.APIUserAbortError);
      },
    ],
    [
      'aborts the signal that it gave',
      async (client) => {
        const controller = new AbortController();
        const stream = await client.messages.create(
          { ...MESSAGE, stream: true },
          { signal: controller.signal },
        );
        for await (const _ of stream) controller.abort();
      },
    ],
  ])('cancels the upstream when it %s', async (_, leave) => {
    const gone = endless();
    await leave(anthropic());
    await within('the upstream to be cancelled', gone, 1000);
    expect(await newRecords(1)).toMatchObject([{ decision: 'allow', status: 200, reason: 'client_closed' }]);
  });

  test.each([0, 1])('cancels the upstream at its own timeout, with %d repeats', async (maxRetries) => {
    const gone: Promise<unknown>[] = [];
    anthropicApi.handle((_, connection) => gone.push(connection.gone));
    const error = await errorOf(anthropic({ timeout: 250, maxRetries }).messages.create(MESSAGE));
    expect(error).toBeInstanceOf(Anthropic.APIConnectionTimeoutError);
    expect(gone).toHaveLength(maxRetries + 1);
    await within('the upstream to be cancelled', Promise.all(gone), 1000);
    for (const record of await newRecords(maxRetries + 1))
      expect(record).toMatchObject({ status: 499, reason: 'client_closed' });
  });
});

describe('OpenAI SDK on the unix socket', () => {
  const fn = { name: 'weather', description: 'the weather', parameters: TOOL_SCHEMA };
  const chatTool = {
    ...CHAT,
    tools: [{ type: 'function' as const, function: fn }],
    tool_choice: { type: 'function' as const, function: { name: 'weather' } },
  };
  const responseTool = {
    ...RESPONSE,
    tools: [{ type: 'function' as const, strict: false, ...fn }],
    tool_choice: { type: 'function' as const, name: 'weather' },
  };

  test('gets chat completions, responses and embeddings', async () => {
    const chat = await openai().chat.completions.create(CHAT);
    expect(chat.choices[0]?.message.content).toBe(ANSWER);
    expect((await openai().responses.create(RESPONSE)).output_text).toBe(ANSWER);
    const embeddings = await openai().embeddings.create({ model: 'e', input: 'x' });
    expect(embeddings.data[0]?.embedding).toEqual([0.5, -1, 2]);
    for (const [index, request] of openaiApi.requests.entries()) expectSameBody(request, index);
    expect((await newRecords(3)).map((record) => record.rule)).toEqual([
      'POST /v1/chat/completions',
      'POST /v1/responses',
      'POST /v1/embeddings',
    ]);
  });

  test('streams chat completions: text and tool calls assembled', async () => {
    const chunks = await collect(await openai().chat.completions.create({ ...CHAT, stream: true }));
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe(ANSWER);
    expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe('stop');
    const { choices } = await openai().chat.completions.stream(chatTool).finalChatCompletion();
    const call = choices[0]?.message.tool_calls?.[0];
    expect(call?.type === 'function' && JSON.parse(call.function.arguments)).toEqual(TOOL_INPUT);
    expectSameBody(openaiApi.requests[1], 1);
  });

  test('streams responses: events in order, text and tool calls assembled', async () => {
    const events = await collect(await openai().responses.create({ ...RESPONSE, stream: true }));
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, index) => index));
    expect([events[0]?.type, events.at(-1)?.type]).toEqual(['response.created', 'response.completed']);
    const text = events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : ''));
    expect(text.join('')).toBe(ANSWER);
    const final = await openai().responses.stream(responseTool).finalResponse();
    const [item] = final.output;
    expect(item?.type === 'function_call' && JSON.parse(item.arguments)).toEqual(TOOL_INPUT);
    expectSameBody(openaiApi.requests[1], 1);
  });

  test('sends tools byte for byte', async () => {
    const chat = await openai().chat.completions.create(chatTool);
    expect(chat.choices[0]?.message.tool_calls).toMatchObject([{ function: { name: 'weather' } }]);
    await openai().responses.create(responseTool);
    for (const [index, request] of openaiApi.requests.entries()) expectSameBody(request, index);
  });

  test('lists models, with a query', async () => {
    const models = await collect(openai().models.list({ query: { limit: 2, after: 'a b/c&d' } }));
    expect(models.map((model) => model.id)).toEqual(['gpt-a', 'gpt-b']);
    expect(openaiApi.requests[0]?.target).toBe(
      new URL(sent[0]!.url).pathname.slice('/openai'.length) + new URL(sent[0]!.url).search,
    );
  });

  test('has no say in the organisation and project that pay', async () => {
    await openai({ organization: 'org-other', project: 'proj-other' }).responses.create(RESPONSE);
    const names = openaiApi.requests[0]!.headers.map(([name]) => name.toLowerCase());
    expect(names.filter((name) => /organization|project/.test(name))).toEqual([]);
  });

  test.each([
    [400, OpenAI.BadRequestError, {}],
    [401, OpenAI.AuthenticationError, {}],
    [429, OpenAI.RateLimitError, { 'Retry-After': '7', 'x-ratelimit-remaining-tokens': '0' }],
    [500, OpenAI.InternalServerError, {}],
    [529, OpenAI.InternalServerError, {}],
  ])('sees the upstream’s %d as its own exception', async (status, kind, headers) => {
    openaiApi.handle(failing(status, { ...headers, 'X-Request-Id': 'req_fail' }));
    const client = openai({ maxRetries: 0 });
    const calls = [
      () => client.chat.completions.create(CHAT),
      () => client.responses.create({ ...RESPONSE, stream: true }),
    ];
    for (const call of calls) {
      const error = await errorOf(call());
      expect(error).toBeInstanceOf(kind);
      expect([error.status, error.code, error.requestID]).toEqual([status, `fake_${status}`, 'req_fail']);
      expect(error.message).toContain(`upstream says ${status}`);
      for (const [name, value] of Object.entries(headers)) expect(error.headers.get(name)).toBe(value);
    }
    expect(openaiApi.requests).toHaveLength(2);
  });

  test.each([
    [503, 1],
    [429, 2],
  ])('repeats after an upstream %d and succeeds', async (status, failures) => {
    openaiApi.handle(failing(status, { 'retry-after-ms': '5' }, failures, fakeOpenai()));
    expect((await openai().responses.create(RESPONSE)).output_text).toBe(ANSWER);
    expect(openaiApi.requests.filter(isPost)).toHaveLength(failures + 1);
    await newRecords(failures + 1);
  });

  const refused: [string, (client: OpenAI) => PromiseLike<unknown>][] = [
    ['files.list', (client) => client.files.list()],
    ['files.create', (client) => client.files.create({ file: new File(['x'], 'x.jsonl'), purpose: 'batch' })],
    [
      'batches.create',
      (client) =>
        client.batches.create({ input_file_id: 'f', endpoint: '/v1/responses', completion_window: '24h' }),
    ],
    ['responses.retrieve', (client) => client.responses.retrieve('resp_1')],
    ['responses.delete', (client) => client.responses.delete('resp_1')],
    ['images.generate', (client) => client.images.generate({ prompt: 'x' })],
    ['models.delete', (client) => client.models.delete('m')],
  ];
  test.each(refused)('is told why %s is refused, and does not try again', async (_, call) => {
    const error = await errorOf(call(openai()));
    expect(error).toBeInstanceOf(OpenAI.PermissionDeniedError);
    expect([error.status, error.type]).toEqual([403, 'endpoint_not_allowed']);
    expect(error.message).toContain(
      "isoproxy: the sandbox's allow-list does not permit this method and path",
    );
    const [record] = await newRecords(1);
    expect(record).toMatchObject({ decision: 'deny', status: 403, reason: 'endpoint_not_allowed' });
    // The id that a user would quote is the one in the record.
    expect(error.requestID).toBe(record?.request_id);
    expect(openaiApi.connections).toHaveLength(0);
  });
});

describe('both SDKs on a TCP listener with a token', () => {
  const overTcp = <T>(path: string, options: T = {} as T) => ({
    apiKey: TOKEN,
    baseURL: `http://127.0.0.1:${tcpPort}${path}`,
    fetch: fetchBy(),
    ...options,
  });

  test('give the token as their key, and get answers and streams', async () => {
    const client = new Anthropic(overTcp('/anthropic'));
    expect((await client.messages.create(MESSAGE)).content).toMatchObject([{ text: ANSWER }]);
    const final = await client.messages.stream(MESSAGE).finalMessage();
    expect(final.content).toMatchObject([{ text: ANSWER }]);
    const chat = await new OpenAI(overTcp('/openai/v1')).chat.completions.create(CHAT);
    expect(chat.choices[0]?.message.content).toBe(ANSWER);
    expect((await newRecords(3)).map((record) => record.listener)).toEqual(['tcp', 'tcp', 'tcp']);
  });

  test('take the token also as x-api-key', async () => {
    const client = new Anthropic({
      ...overTcp('/anthropic'),
      apiKey: null,
      defaultHeaders: { 'x-api-key': TOKEN },
    });
    expect((await client.messages.create(MESSAGE)).content).toMatchObject([{ text: ANSWER }]);
  });

  test('are refused with the real key, a placeholder or a wrong token, once', async () => {
    for (const apiKey of [makeCanary('sk-ant-api03-'), PLACEHOLDERS.anthropic, `${TOKEN}x`]) {
      const error = await errorOf(new Anthropic(overTcp('/anthropic', { apiKey })).messages.create(MESSAGE));
      expect(error).toBeInstanceOf(Anthropic.AuthenticationError);
      expect(error.message).toContain('isoproxy: this listener wants its client token');
    }
    expect(await errorOf(new OpenAI(overTcp('/openai/v1', { apiKey: 'no' })).models.list())).toBeInstanceOf(
      OpenAI.AuthenticationError,
    );
    await newRecords(4);
    expect([anthropicApi.connections, openaiApi.connections]).toEqual([[], []]);
  });

  test('are told why a call is refused', async () => {
    const error = await errorOf(new Anthropic(overTcp('/anthropic')).messages.batches.list());
    expect(error).toBeInstanceOf(Anthropic.PermissionDeniedError);
    expect(error.message).toContain('isoproxy: ');
    await newRecords(1);
  });

  test('an unknown provider is a 404 of ours', async () => {
    const error = await errorOf(new Anthropic(overTcp('/antropic')).messages.create(MESSAGE));
    expect(error).toBeInstanceOf(Anthropic.NotFoundError);
    expect([error.type, error.message]).toEqual(['unknown_provider', expect.stringContaining('isoproxy: ')]);
    await newRecords(1);
  });
});
