// Small stand-ins for the Messages, Chat Completions and Responses APIs: enough for the official clients to be content.

import type { RecordedRequest } from './recorded-request.ts';
import type { Handler } from './recorder.ts';
import type { Event, RecorderConnection } from './recorder-connection.ts';

/** What the fakes answer unless told otherwise; not ASCII throughout, so that a broken byte shows. */
export const ANSWER = 'Hello from the fake upstream — grüße, 世界 👋';

/** The arguments of every tool call that a fake makes. */
export const TOOL_INPUT = { city: 'Zürich', unit: 'celsius', days: [1, 2] };

export interface FakeOptions {
  /** Text of every answer. Default `ANSWER`. */
  text?: string;
  /** Called before each event of a stream but the first; wait in it, or throw to stop the stream there. */
  pace?: (index: number, connection: RecorderConnection) => unknown;
}

// biome-ignore lint/suspicious/noExplicitAny: JSON from a client
type Json = any;

type Route = (request: RecordedRequest, connection: RecorderConnection) => unknown;

const MODEL_IDS = ['claude-a', 'claude-b', 'claude-c', 'claude-d', 'claude-e'];

/** `/v1/messages` (text; a tool call when `tool_choice` asks for one), `count_tokens`, and `/v1/models` in pages. */
export function fakeAnthropic(options: FakeOptions = {}): Handler {
  const answer: Route = async (request, connection) => {
    const asked = jsonBody(request);
    const message = anthropicMessage(asked, options.text ?? ANSWER);
    const headers = { 'Request-Id': 'req_fake' };
    if (!asked.stream) return connection.json(200, message, headers);
    return connection.sse(paced(messageEvents(message), connection, options), headers);
  };
  return router({
    'POST /v1/messages': answer,
    'POST /v1/messages/count_tokens': (_, connection) => connection.json(200, { input_tokens: 42 }),
    'GET /v1/models': (request, connection) => {
      const query = new URL(request.target, 'http://fake').searchParams;
      const from = MODEL_IDS.indexOf(query.get('after_id') ?? '') + 1;
      const ids = MODEL_IDS.slice(from, from + Number(query.get('limit') ?? 20));
      return connection.json(200, {
        data: ids.map((id) => ({ type: 'model', id, display_name: id, created_at: '2026-01-01T00:00:00Z' })),
        has_more: ids.at(-1) !== MODEL_IDS.at(-1),
        first_id: ids[0] ?? null,
        last_id: ids.at(-1) ?? null,
      });
    },
  });
}

/** Chat Completions and Responses (text; a tool call when `tool_choice` asks for one), embeddings, `/v1/models`. */
export function fakeOpenai(options: FakeOptions = {}): Handler {
  const text = options.text ?? ANSWER;
  return router({
    'POST /v1/chat/completions': (request, connection) => {
      const asked = jsonBody(request);
      const head = { id: 'chatcmpl-1', created: 1, model: asked.model };
      const name = asked.tool_choice?.function?.name as string | undefined;
      const call = {
        id: 'call_1',
        type: 'function',
        function: { name, arguments: JSON.stringify(TOOL_INPUT) },
      };
      const message = name
        ? { role: 'assistant', content: null, refusal: null, tool_calls: [call] }
        : { role: 'assistant', content: text, refusal: null };
      const finish_reason = name ? 'tool_calls' : 'stop';
      if (!asked.stream) {
        const choices = [{ index: 0, message, finish_reason, logprobs: null }];
        const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
        return connection.json(200, { ...head, object: 'chat.completion', choices, usage });
      }
      const chunk = (delta: Json, reason: string | null = null) =>
        JSON.stringify({
          ...head,
          object: 'chat.completion.chunk',
          choices: [{ index: 0, delta, finish_reason: reason }],
        });
      const deltas = name
        ? pieces(call.function.arguments).map((part, i) => ({
            tool_calls: [
              { index: 0, ...(i === 0 ? call : {}), function: { ...(i === 0 && { name }), arguments: part } },
            ],
          }))
        : pieces(text).map((content) => ({ content }));
      const events = [
        chunk({ role: 'assistant' }),
        ...deltas.map((delta) => chunk(delta)),
        chunk({}, finish_reason),
        '[DONE]',
      ];
      return connection.sse(paced(events, connection, options));
    },
    'POST /v1/responses': (request, connection) => {
      const asked = jsonBody(request);
      const response = openaiResponse(asked, text);
      if (!asked.stream) return connection.json(200, response);
      return connection.sse(paced(responseEvents(response), connection, options));
    },
    'POST /v1/embeddings': (_, connection) => {
      const embedding = Buffer.from(new Float32Array([0.5, -1, 2]).buffer).toString('base64');
      const data = [{ object: 'embedding', index: 0, embedding }];
      return connection.json(200, {
        object: 'list',
        data,
        model: 'e',
        usage: { prompt_tokens: 1, total_tokens: 1 },
      });
    },
    'GET /v1/models': (_, connection) =>
      connection.json(200, {
        object: 'list',
        data: ['gpt-a', 'gpt-b'].map((id) => ({ id, object: 'model', created: 1, owned_by: 'x' })),
      }),
  });
}

/** Answers the first `times` requests (default: all) like an API that fails, then hands over to `next`. */
export function failing(
  status: number,
  headers: Record<string, string>,
  times = Number.POSITIVE_INFINITY,
  next?: Handler,
): Handler {
  let left = times;
  return (request, connection) => {
    if (left-- <= 0 && next) return next(request, connection);
    const error = { type: 'fake_error', message: `upstream says ${status}`, code: `fake_${status}` };
    return connection.json(status, { type: 'error', error }, headers);
  };
}

function router(routes: Record<string, Route>): Handler {
  return (request, connection) => {
    const path = request.target.split('?', 1)[0];
    const route = routes[`${request.method} ${path}`];
    if (route) return route(request, connection);
    const error = { type: 'not_found_error', message: `the fake has no ${request.method} ${path}` };
    return connection.json(404, { type: 'error', error });
  };
}

const jsonBody = (request: RecordedRequest): Json => JSON.parse(request.body.toString());

/** Text in short pieces, cut between code points. */
function pieces(text: string): string[] {
  const points = [...text];
  return Array.from({ length: Math.ceil(points.length / 5) }, (_, i) =>
    points.slice(i * 5, i * 5 + 5).join(''),
  );
}

async function* paced(
  events: Event[],
  connection: RecorderConnection,
  options: FakeOptions,
): AsyncGenerator<Event> {
  for (const [index, event] of events.entries()) {
    if (index > 0) await options.pace?.(index, connection);
    yield event;
  }
}

/** Events that are named by their `type`, as both vendors do. */
const named = (events: Json[]): Event[] =>
  events.map((event) => ({ event: event.type, data: JSON.stringify(event) }));

function anthropicMessage(asked: Json, text: string): Json {
  const tool = asked.tool_choice?.name as string | undefined;
  return {
    id: 'msg_fake',
    type: 'message',
    role: 'assistant',
    model: asked.model,
    content: tool
      ? [{ type: 'tool_use', id: 'toolu_1', name: tool, input: TOOL_INPUT }]
      : [{ type: 'text', text }],
    stop_reason: tool ? 'tool_use' : 'end_turn',
    stop_sequence: null,
    usage: { input_tokens: 10, output_tokens: 20 },
  };
}

function messageEvents(message: Json): Event[] {
  const [block] = message.content;
  const isText = block.type === 'text';
  const deltas = isText
    ? pieces(block.text).map((text) => ({ type: 'text_delta', text }))
    : pieces(JSON.stringify(block.input)).map((partial_json) => ({ type: 'input_json_delta', partial_json }));
  const { stop_reason, stop_sequence, usage } = message;
  return named([
    {
      type: 'message_start',
      message: { ...message, content: [], stop_reason: null, usage: { input_tokens: 10, output_tokens: 0 } },
    },
    {
      type: 'content_block_start',
      index: 0,
      content_block: isText ? { type: 'text', text: '' } : { ...block, input: {} },
    },
    { type: 'ping' },
    ...deltas.map((delta) => ({ type: 'content_block_delta', index: 0, delta })),
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason, stop_sequence }, usage },
    { type: 'message_stop' },
  ]);
}

function openaiResponse(asked: Json, text: string): Json {
  const tool = asked.tool_choice?.name as string | undefined;
  const item = tool
    ? {
        type: 'function_call',
        id: 'fc_1',
        call_id: 'call_1',
        name: tool,
        arguments: JSON.stringify(TOOL_INPUT),
        status: 'completed',
      }
    : {
        type: 'message',
        id: 'msg_1',
        role: 'assistant',
        status: 'completed',
        content: [{ type: 'output_text', text, annotations: [] }],
      };
  const usage = {
    input_tokens: 1,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: 2,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: 3,
  };
  return {
    id: 'resp_fake',
    object: 'response',
    created_at: 1,
    status: 'completed',
    model: asked.model,
    output: [item],
    error: null,
    incomplete_details: null,
    parallel_tool_calls: true,
    tool_choice: 'auto',
    tools: [],
    usage,
  };
}

function responseEvents(response: Json): Event[] {
  const [item] = response.output;
  const started = { ...response, status: 'in_progress', output: [], usage: null };
  const place = { item_id: item.id, output_index: 0 };
  const inner =
    item.type === 'message'
      ? textItemEvents(item, { ...place, content_index: 0 })
      : [
          ...pieces(item.arguments).map((delta) => ({
            type: 'response.function_call_arguments.delta',
            ...place,
            delta,
          })),
          {
            type: 'response.function_call_arguments.done',
            ...place,
            name: item.name,
            arguments: item.arguments,
          },
        ];
  const unfinished = {
    ...item,
    status: 'in_progress',
    ...(item.type === 'message' ? { content: [] } : { arguments: '' }),
  };
  return named(
    [
      { type: 'response.created', response: started },
      { type: 'response.output_item.added', output_index: 0, item: unfinished },
      ...inner,
      { type: 'response.output_item.done', output_index: 0, item },
      { type: 'response.completed', response },
    ].map((event, sequence_number) => ({ ...event, sequence_number })),
  );
}

function textItemEvents(item: Json, place: Json): Json[] {
  const [part] = item.content;
  return [
    { type: 'response.content_part.added', ...place, part: { ...part, text: '' } },
    ...pieces(part.text).map((delta) => ({
      type: 'response.output_text.delta',
      ...place,
      delta,
      logprobs: [],
    })),
    { type: 'response.output_text.done', ...place, text: part.text, logprobs: [] },
    { type: 'response.content_part.done', ...place, part },
  ];
}
