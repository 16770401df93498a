/** The requests of a day: what is sent, how often, and what has to come of it. */
import type { RawResponse } from '../../test/support/raw-client.ts';
import { openWs } from '../../test/support/ws.ts';
import type { Clients } from './client.ts';
import { KEY_HEADER } from './keys.ts';
import type { Place, Stand } from './stand.ts';

const MIB = 1024 * 1024;
const WAIT_MS = 20_000;
const BODY = 'x'.repeat(16 * 1024);
const UPLOAD = Buffer.alloc(4 * MIB, 'u');

export interface Scene {
  readonly clients: Clients;
  readonly places: Stand['places'];
  /** The fourth listener is there. */
  hasExtra: boolean;
  /** While and around a halt of `spare`, an answer may be either. */
  spare: 'open' | 'changing' | 'halted';
  /** Counts changes of `spare`: a request that lives through one may end either way. */
  spareChanges: number;
  /** Latest generation of the credential that the upstream was shown. */
  generation: number;
  readonly random: () => number;
}

/** What is wrong with an answer; undefined when it is as it should be. */
type Verdict = string | undefined;

export interface Kind {
  readonly name: string;
  /** Requests of this kind among 1,000. */
  readonly share: number;
  readonly run: (scene: Scene) => Promise<Verdict>;
}

function between(scene: Scene, low: number, high: number): number {
  return low + Math.floor(scene.random() * (high - low + 1));
}

function somePlace(scene: Scene): Place {
  const all = ['agent-1', 'agent-1', 'agent-2', 'agent-3', ...(scene.hasExtra ? ['extra'] : [])] as const;
  return scene.places[all[between(scene, 0, all.length - 1)] as keyof Stand['places']];
}

function fixedPlace(scene: Scene): Place {
  return scene.places[scene.random() < 0.5 ? 'agent-1' : 'agent-2'];
}

const said = (response: RawResponse) =>
  `${response.status} ${response.header('x-isoproxy-error') ?? ''} ${response.problem ?? ''}`.trim();

function expectStatus(response: RawResponse, status: number, code?: string): Verdict {
  if (response.status !== status || !response.complete) return said(response);
  return code !== undefined && response.header('x-isoproxy-error') !== code ? said(response) : undefined;
}

function expectGood(scene: Scene, response: RawResponse): Verdict {
  const verdict = expectStatus(response, 200);
  if (verdict === undefined)
    scene.generation = Math.max(scene.generation, Number(response.header(KEY_HEADER)));
  return verdict;
}

const expectBytes = (response: RawResponse, bytes: number): Verdict =>
  (response.json() as { bytes: number }).bytes === bytes ? undefined : `upstream did not get ${bytes} bytes`;

async function post(scene: Scene, isFresh: boolean): Promise<Verdict> {
  const body = BODY.slice(0, between(scene, 200, scene.random() < 0.1 ? BODY.length : 2000));
  const headers: [string, string][] = [['content-type', 'application/json']];
  const target = '/up/v1/messages';
  const place = somePlace(scene);
  const response = await scene.clients.ask({ place, isFresh, method: 'POST', target, headers, body });
  return expectGood(scene, response) ?? expectBytes(response, body.length);
}

async function get(scene: Scene, target: string, status: number, code?: string): Promise<Verdict> {
  return expectStatus(await scene.clients.ask({ place: fixedPlace(scene), target }), status, code);
}

async function stream(scene: Scene): Promise<Verdict> {
  const count = between(scene, 5, 40);
  const target = `/up/v1/stream?n=${count}&ms=${between(scene, 5, 60)}`;
  const response = await scene.clients.ask({ place: somePlace(scene), target });
  const events = response.text().split('\n\n').length - 1;
  return expectGood(scene, response) ?? (events === count ? undefined : `${events} of ${count} events`);
}

async function upload(scene: Scene): Promise<Verdict> {
  const bytes = UPLOAD.subarray(0, between(scene, MIB, UPLOAD.length));
  const target = '/up/v1/upload';
  const place = somePlace(scene);
  if (scene.random() < 0.5) {
    const response = await scene.clients.ask({ place, method: 'POST', target, body: bytes });
    return expectGood(scene, response) ?? expectBytes(response, bytes.length);
  }
  const headers: [string, string][] = [['transfer-encoding', 'chunked']];
  using client = await scene.clients.open({ place, method: 'POST', target, headers });
  const size = 64 * 1024;
  for (let at = 0; at < bytes.length; at += size) {
    const piece = bytes.subarray(at, at + size);
    await client.send(`${piece.length.toString(16)}\r\n`);
    await client.send(piece);
    await client.send('\r\n');
  }
  await client.send('0\r\n\r\n');
  const response = await client.response({ method: 'POST', ms: WAIT_MS });
  return expectGood(scene, response) ?? expectBytes(response, bytes.length);
}

async function download(scene: Scene): Promise<Verdict> {
  const bytes = between(scene, 16, 128) * 64 * 1024;
  const target = `/up/v1/files/${bytes}`;
  const response = await scene.clients.ask({ place: somePlace(scene), target, hashOnly: true });
  const whole = response.bodyBytes === bytes ? undefined : `${response.bodyBytes} of ${bytes} bytes`;
  return expectGood(scene, response) ?? whole;
}

/** Leaves in the middle of a stream, as a user who presses Escape. */
async function leave(scene: Scene): Promise<Verdict> {
  const target = `/up/v1/stream?n=1000&ms=${between(scene, 10, 100)}`;
  const client = await scene.clients.open({ place: somePlace(scene), target });
  try {
    await client.waitFor('data: {"n":1,', WAIT_MS);
  } finally {
    client.abort();
  }
  return undefined;
}

async function leaveUpload(scene: Scene): Promise<Verdict> {
  const headers: [string, string][] = [['content-length', String(4 * MIB)]];
  const place = somePlace(scene);
  const client = await scene.clients.open({ place, method: 'POST', target: '/up/v1/upload', headers });
  await client.send(UPLOAD.subarray(0, between(scene, 1, MIB)));
  client.abort();
  return undefined;
}

/** An answer that the upstream cut must not look whole. */
async function cut(scene: Scene, kind: string): Promise<Verdict> {
  const place = fixedPlace(scene);
  const response = await scene.clients.ask({ place, target: `/faulty/v1/${kind}`, isFresh: true });
  // Where it was cut before the head went on its way, the connection breaks without one.
  const isBroken = !response.complete && (response.status === 200 || response.status === 0);
  return isBroken || response.status === 502 ? undefined : said(response);
}

async function spare(scene: Scene): Promise<Verdict> {
  const [before, changes] = [scene.spare, scene.spareChanges];
  const response = await scene.clients.ask({ place: fixedPlace(scene), target: '/spare/v1/models/a' });
  if (before === 'halted' && changes === scene.spareChanges) return expectStatus(response, 503, 'halted');
  if (before === 'open' && changes === scene.spareChanges) return expectStatus(response, 200);
  return [0, 200, 503].includes(response.status) ? undefined : said(response);
}

async function tunnel(scene: Scene): Promise<Verdict> {
  const { endpoint, headers } = somePlace(scene);
  using client = await openWs(endpoint, '/up/v1/ws', headers as [string, string][]);
  if (client.status !== 101) return `upgrade: ${client.status}`;
  for (let n = between(scene, 1, 8); n > 0; n--) {
    const text = BODY.slice(0, between(scene, 1, 4000));
    await client.send(text);
    const { kind, data } = await client.receive(WAIT_MS);
    if (kind !== 'text' || data.toString() !== text) return `tunnel: ${kind} of ${data.length} bytes`;
  }
  // One in four breaks off without a word.
  if (scene.random() < 0.25) {
    client.cut();
    return undefined;
  }
  await client.sendClose(1000);
  const { kind, code } = await client.untilClosed(WAIT_MS);
  return kind === 'close' && code === 1000 ? undefined : `tunnel ended with ${kind} ${code ?? ''}`;
}

async function wrongToken(scene: Scene): Promise<Verdict> {
  const place = { ...scene.places['agent-3'], headers: [['authorization', 'Bearer wrong']] as const };
  const response = await scene.clients.ask({ place, target: '/up/v1/models/a', isFresh: true });
  return expectStatus(response, 401, 'client_unauthorized');
}

export const MIX: readonly Kind[] = [
  { name: 'small POST, kept connection', share: 597, run: (scene) => post(scene, false) },
  { name: 'small POST, fresh connection', share: 100, run: (scene) => post(scene, true) },
  { name: 'GET', share: 80, run: (scene) => get(scene, '/up/v1/models/a', 200) },
  { name: 'event stream', share: 60, run: stream },
  { name: 'upload of 1 to 4 MiB', share: 4, run: upload },
  { name: 'download of 1 to 8 MiB', share: 4, run: download },
  { name: 'not allowed (403)', share: 40, run: (s) => get(s, '/up/v1/admin', 403, 'endpoint_not_allowed') },
  { name: 'unknown provider (404)', share: 15, run: (s) => get(s, '/nobody/v1/x', 404, 'unknown_provider') },
  { name: 'bad target (400)', share: 15, run: (s) => get(s, '/up/v1//models', 400, 'bad_target') },
  { name: 'wrong token (401)', share: 5, run: wrongToken },
  { name: 'client leaves a stream', share: 15, run: leave },
  { name: 'client leaves an upload', share: 3, run: leaveUpload },
  { name: 'upstream says 429', share: 5, run: (s) => get(s, '/up/v1/status/429', 429) },
  { name: 'upstream says 503', share: 5, run: (s) => get(s, '/up/v1/status/503', 503) },
  { name: 'upstream resets', share: 3, run: (s) => get(s, '/faulty/v1/reset', 502) },
  { name: 'upstream talks garbage', share: 2, run: (s) => get(s, '/faulty/v1/garbage', 502) },
  { name: 'upstream cuts a body', share: 3, run: (s) => cut(s, 'cut') },
  { name: 'upstream cuts a stream', share: 3, run: (s) => cut(s, 'cut-chunks') },
  { name: 'upstream hangs', share: 2, run: (s) => get(s, '/faulty/v1/hang', 504, 'upstream_timeout') },
  { name: 'upstream is gone', share: 3, run: (s) => get(s, '/gone/v1/x', 502, 'upstream_unreachable') },
  { name: 'provider halted now and then', share: 26, run: spare },
  { name: 'WebSocket tunnel', share: 10, run: tunnel },
];
