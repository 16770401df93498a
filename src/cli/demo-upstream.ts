/** The demo's embedded upstream: enough of the Anthropic Messages API for one answer, whole or as events. */

/** What the upstream saw of a request. */
export interface SeenRequest {
  readonly line: string;
  readonly headers: readonly (readonly [string, string])[];
}

export interface DemoUpstream {
  readonly handle: (request: Request) => Promise<Response>;
  readonly seen: () => readonly SeenRequest[];
}

const WORDS = ['The ', 'key ', 'never ', 'entered ', 'the ', 'sandbox', '.'];

/** @param pauseMs time between two events, so that a person can watch them arrive */
export function createDemoUpstream(pauseMs: number): DemoUpstream {
  const seen: SeenRequest[] = [];
  return {
    seen: () => seen,
    async handle(request) {
      seen.push({
        line: `${request.method} ${new URL(request.url).pathname}`,
        headers: [...request.headers].filter(([name]) => name !== 'connection' && name !== 'host'),
      });
      if (!request.headers.get('x-api-key')?.startsWith('sk-ant-')) {
        return Response.json(
          { type: 'error', error: { type: 'authentication_error', message: 'invalid x-api-key' } },
          { status: 401 },
        );
      }
      const body = (await request.json()) as { model?: string; stream?: boolean };
      return body.stream
        ? streamMessage(String(body.model), pauseMs)
        : Response.json(wholeMessage(String(body.model)));
    },
  };
}

function wholeMessage(model: string) {
  return {
    id: 'msg_demo',
    type: 'message',
    role: 'assistant',
    model,
    content: [{ type: 'text', text: WORDS.join('') }],
    stop_reason: 'end_turn',
    usage: { input_tokens: 9, output_tokens: WORDS.length },
  };
}

function streamMessage(model: string, pauseMs: number): Response {
  const events: unknown[] = [
    { type: 'message_start', message: { ...wholeMessage(model), content: [], stop_reason: null } },
    { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
    ...WORDS.map((text) => ({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } })),
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: WORDS.length } },
    { type: 'message_stop' },
  ];
  let next = 0;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const event = events[next++] as { type: string } | undefined;
      if (event === undefined) {
        controller.close();
        return;
      }
      if (next > 1) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      controller.enqueue(
        new TextEncoder().encode(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`),
      );
    },
  });
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } });
}
