/** Asks a proxy what the sandbox may reach: `GET /.well-known/isoproxy`. */
import { type IncomingMessage, type RequestOptions, request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { DiscoveredProvider, Discovery } from '../discovery.ts';
import { codeOf, isRestarting, RETRY_MS } from './bridge.ts';
import { explainSocketError, type Place, PlaceError } from './place.ts';

/** How long an answer may take, ms. */
const ANSWER_MS = 5_000;
/** A listing of endpoints is small; what is larger comes from something else. */
const MAX_BYTES = 1024 * 1024;
const RETRY_PAUSE_MS = 100;

/**
 * Asks, waiting up to 10 s for a proxy that is being restarted.
 * @param onWait called once when it has to wait
 * @throws PlaceError
 */
export async function askPlace(place: Place, onWait: (why: string) => void): Promise<Discovery> {
  const deadline = performance.now() + RETRY_MS;
  for (let waiting = false; ; waiting = true) {
    try {
      return readDiscovery(await get(place), nameOf(place));
    } catch (error) {
      if (error instanceof PlaceError) throw error;
      const explained = explain(place, codeOf(error));
      if (!explained.isTransient || performance.now() >= deadline) throw explained;
      if (!waiting) onWait(explained.message);
      await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE_MS));
    }
  }
}

function nameOf(place: Place): string {
  return place.kind === 'socket' ? place.path : place.origin;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

function get(place: Place): Promise<Answer> {
  const common: RequestOptions = { path: '/.well-known/isoproxy', agent: false };
  const isTls = place.kind === 'url' && place.origin.startsWith('https:');
  return new Promise((resolve, reject) => {
    const onResponse = (response: IncomingMessage) => {
      collect(response).then((text) => resolve({ status: response.statusCode ?? 0, text }), reject);
    };
    const request =
      place.kind === 'socket'
        ? requestHttp({ ...common, socketPath: place.path, headers: { host: 'isoproxy' } }, onResponse)
        : (isTls ? requestHttps : requestHttp)(
            place.origin,
            { ...common, headers: { authorization: `Bearer ${place.token}` } },
            onResponse,
          );
    // For the whole answer: one that trickles would outlive any time-out between two of its bytes.
    const timer = setTimeout(() => {
      reject(
        new PlaceError(`${nameOf(place)} does not answer within ${ANSWER_MS / 1000} s`, 'is it isoproxy?'),
      );
      request.destroy();
    }, ANSWER_MS);
    request.once('close', () => clearTimeout(timer));
    request.on('error', reject);
    request.end();
  });
}

async function collect(response: IncomingMessage): Promise<string> {
  let text = '';
  response.setEncoding('utf8');
  for await (const piece of response) {
    text += piece;
    if (text.length > MAX_BYTES) break;
  }
  return text;
}

function readDiscovery({ status, text }: Answer, name: string): Discovery {
  if (status === 401)
    throw new PlaceError(`${name} refuses the token`, "--token-file must hold the listener's token");
  if (status === 403 && text.includes('host_not_allowed'))
    throw new PlaceError(
      `${name} refuses this host name`,
      'add it to the listener\'s hosts on the host: hosts = ["NAME"]',
    );
  const stranger = new PlaceError(
    `${name} answers, but is not isoproxy (HTTP status ${status})`,
    'is another server behind it? name the listener of isoproxy',
  );
  if (status !== 200) throw stranger;
  let document: Discovery;
  try {
    document = JSON.parse(text) as Discovery;
  } catch {
    throw stranger;
  }
  if (document?.isoproxy === 1 && isProviders(document.providers)) return document;
  if (typeof document?.isoproxy === 'number')
    throw new PlaceError(
      `${name} speaks another version of isoproxy's discovery`,
      'use the same isoproxy binary in the sandbox and on the host',
    );
  throw stranger;
}

function isProviders(value: unknown): value is Record<string, DiscoveredProvider> {
  return (
    isTable(value) &&
    Object.values(value).every(
      (entry) =>
        isTable(entry) &&
        typeof entry['base_path'] === 'string' &&
        typeof entry['placeholder'] === 'string' &&
        entry['placeholder'] !== '' &&
        isTable(entry['client_env']) &&
        // `--print-env` writes the names for a shell to evaluate.
        Object.keys(entry['client_env']).every((name) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) &&
        Object.values(entry['client_env']).every(isText) &&
        isTable(entry['client_args']) &&
        Object.values(entry['client_args']).every((args) => Array.isArray(args) && args.every(isText)),
    )
  );
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && !value.includes('\0');
}

function explain(place: Place, code: string): PlaceError {
  // Connected, and then no HTTP, or not all of it.
  if (code.startsWith('HPE_') || code === 'ECONNRESET' || code === 'EPIPE')
    return new PlaceError(
      `${nameOf(place)} does not answer as isoproxy does: ${code.startsWith('HPE_') ? 'no HTTP' : 'it closes the connection'}`,
      'is another server behind it? name the listener of isoproxy',
    );
  if (place.kind === 'socket') return explainSocketError(place.path, code);
  const hint = 'is isoproxy serve running on the host, with a tcp listener at that address?';
  return new PlaceError(`${place.origin} cannot be reached: ${code}`, hint, isRestarting(code));
}
