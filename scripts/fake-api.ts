/**
 * A fake of the API for the try-*.sh scripts: plain HTTP on a loopback port, with the answer that is given as
 * the first argument. Prints one JSON line when it listens, then one line per request; a credential is shown
 * as a fingerprint only. Serves the Messages API and, for other clients, the OpenAI ones.
 */
import { createHash } from 'node:crypto';
import process from 'node:process';
import { fakeAnthropic, fakeOpenai } from '../test/support/fake-apis.ts';
import { startRecorder } from '../test/support/recorder.ts';

const text = process.argv[2] ?? 'hello';
const anthropic = fakeAnthropic({ text });
const openai = fakeOpenai({ text });

/** The first 16 hex digits of the SHA-256, which the scripts compare. */
const fingerprint = (value: string | undefined): string | null =>
  value === undefined ? null : createHash('sha256').update(value).digest('hex').slice(0, 16);

const upstream = await startRecorder({
  tls: false,
  handler: (request, connection) => {
    const { method, target, bodyBytes } = request;
    const bearer = request.header('authorization')?.replace(/^Bearer /, '');
    const line = {
      method,
      target,
      body_bytes: bodyBytes,
      user_agent: request.header('user-agent') ?? null,
      x_api_key_sha256: fingerprint(request.header('x-api-key')),
      bearer_sha256: fingerprint(bearer),
    };
    console.log(JSON.stringify(line));
    const isMessages = /^\/v1\/messages\b/.test(target) || request.header('anthropic-version') !== undefined;
    return (isMessages ? anthropic : openai)(request, connection);
  },
});
console.log(JSON.stringify({ port: upstream.port }));
