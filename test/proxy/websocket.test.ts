/** The handshake's rules, and the tunnel between two ends that the test plays: order, backpressure, every way to end. */
import { describe, expect, test } from 'bun:test';
import { Secret } from '../../src/credentials/secret.ts';
import { ProxyError } from '../../src/errors.ts';
import type { Outcome } from '../../src/proxy/exchange.ts';
import { createScanner } from '../../src/proxy/reflection.ts';
import { buildAutomaton } from '../../src/proxy/reflection-forms.ts';
import { createTunnel, type EndEvents, NO_CLOSE_FRAME, type UpstreamEnd } from '../../src/proxy/websocket.ts';
import { asksForWebSocket, checkHandshake } from '../../src/proxy/websocket-handshake.ts';

const HANDSHAKE = {
  upgrade: 'websocket',
  connection: 'Upgrade',
  'sec-websocket-version': '13',
  'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
};

describe('the handshake', () => {
  test.each<[string, Record<string, string>, boolean]>([
    ['GET', {}, true],
    ['GET', { upgrade: 'WebSocket', connection: 'keep-alive, upgrade' }, true],
    ['POST', {}, false],
    ['GET', { upgrade: 'h2c' }, false],
    ['GET', { upgrade: 'websocket, h2c' }, false],
    ['GET', { connection: 'keep-alive' }, false],
    ['GET', { connection: 'upgrade-insecure' }, false],
  ])('%s with %p asks for a WebSocket: %p', (method, over, expected) => {
    expect(asksForWebSocket(method, new Headers({ ...HANDSHAKE, ...over }))).toBe(expected);
  });

  test.each<[string, readonly string[]]>([
    ['chat', ['chat']],
    ['v2.chat ,v1.chat', ['v2.chat', 'v1.chat']],
    [
      'realtime, openai-insecure-api-key.sk-x, openai-beta.realtime-v1',
      ['realtime', 'openai-beta.realtime-v1'],
    ],
    ['OPENAI-PROJECT.p', []],
    ['base64url.bearer.authorization.k8s.io.dG9rZW4, v4.channel.k8s.io', ['v4.channel.k8s.io']],
  ])('of the subprotocols %s, %p go up', (offered, expected) => {
    expect(checkHandshake(new Headers({ ...HANDSHAKE, 'sec-websocket-protocol': offered }))).toEqual([
      ...expected,
    ]);
  });

  test.each<Record<string, string>>([
    { 'sec-websocket-version': '8' },
    { 'sec-websocket-version': '13, 8' },
    { 'sec-websocket-key': '' },
    { 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ' },
    { 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==' },
    { 'sec-websocket-protocol': '' },
    { 'sec-websocket-protocol': 'a b' },
    { 'sec-websocket-protocol': 'a,a' },
  ])('%p is refused', (over) => {
    expect(() => checkHandshake(new Headers({ ...HANDSHAKE, ...over }))).toThrow(ProxyError);
  });
});

const SECRET = 'sk-test-0123456789abcdefghijklmnop';

/** A tunnel between two ends that note what is done to them. */
function createRig(maxClientBytes = 100) {
  const done: string[] = [];
  const outcomes: Outcome[] = [];
  const waiting = { client: 0, upstream: 0 };
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const automaton = buildAutomaton([{ secret: new Secret(SECRET), publicPrefixLength: 0 }]);
  const end = (name: 'client' | 'upstream', events: () => EndEvents): UpstreamEnd => {
    let isClosing = false;
    return {
      send(bytes, isText) {
        done.push(`${name} ${isText ? 'text' : 'binary'} ${text(bytes)}`);
        return true;
      },
      waiting: () => waiting[name],
      close(code, reason) {
        if (isClosing) return;
        isClosing = true;
        done.push(`${name} close ${code} ${reason}`.trim());
        // The client's end is closed at once, the upstream's when it has answered.
        if (name === 'client') events().closed(code, reason);
      },
      terminate() {
        done.push(`${name} terminate`);
        events().closed(NO_CLOSE_FRAME, '');
      },
      pause: () => void done.push(`${name} pause`),
      resume: () => void done.push(`${name} resume`),
    };
  };
  const states: string[] = [];
  const tunnel = createTunnel({
    maxClientBytes,
    scanner: automaton && createScanner(automaton),
    watch: { upload() {}, download: (state) => void states.push(state), uploaded() {}, stop() {} },
    onBytesIn() {},
    onBytesOut() {},
    onClose: (by, code) => void done.push(`closed ${code} by ${by}`),
    onEnd: (outcome) => void outcomes.push(outcome),
  });
  const say = (events: EndEvents, message: string) => events.message(new TextEncoder().encode(message), true);
  const start = () =>
    tunnel.start(
      end('client', () => tunnel.fromClient),
      end('upstream', () => tunnel.fromUpstream),
    );
  const take = () => done.splice(0);
  const why = () =>
    outcomes.map((outcome) => (outcome.kind === 'failed' ? outcome.error.code : outcome.kind));
  return { tunnel, say, start, take, waiting, why, states };
}

describe('the tunnel', () => {
  test('what the upstream says before the client is there comes first, and its close after it', () => {
    const { tunnel, say, start, take, why } = createRig();
    say(tunnel.fromUpstream, 'a');
    tunnel.fromUpstream.closed(4000, 'early');
    start();
    expect(take()).toEqual(['closed 4000 by upstream', 'client text a', 'client close 4000 early']);
    expect(why()).toEqual(['done']);
  });

  test('a failure before the client is there is told to it', () => {
    const { tunnel, start, take } = createRig();
    tunnel.fromUpstream.failed(new ProxyError('upstream_invalid', 'x'));
    start();
    expect(take()[0]).toBe('client close 1011 isoproxy: upstream_invalid');
  });

  test('while the client does not keep up, messages wait in order and the upstream is paused', () => {
    const { tunnel, say, start, take, waiting, why, states } = createRig();
    start();
    take();
    waiting.client = 10;
    say(tunnel.fromUpstream, 'a');
    say(tunnel.fromUpstream, 'b');
    expect(take()).toEqual(['upstream pause']);
    tunnel.fromClient.drained();
    expect(take()).toEqual([]);
    waiting.client = 0;
    tunnel.fromClient.drained();
    expect(take()).toEqual(['client text a', 'client text b', 'upstream resume']);
    expect(states).toEqual(['upstream', 'upstream', 'client', 'client', 'client', 'upstream']);
    expect(why()).toEqual([]);
  });

  test('the upstream’s close waits behind what the client has not taken', () => {
    const { tunnel, say, start, take, waiting, why } = createRig();
    start();
    waiting.client = 1;
    say(tunnel.fromUpstream, 'a');
    tunnel.fromUpstream.closed(1000, 'end');
    take();
    waiting.client = 0;
    tunnel.fromClient.drained();
    expect(take()).toEqual(['client text a', 'upstream resume', 'client close 1000 end']);
    expect(why()).toEqual(['done']);
  });

  test('a client that leaves meanwhile has not got everything, and the record says so', () => {
    const { tunnel, say, start, waiting, why } = createRig();
    start();
    waiting.client = 1;
    say(tunnel.fromUpstream, 'a');
    tunnel.fromUpstream.closed(1000, 'end');
    tunnel.fromClient.closed(NO_CLOSE_FRAME, '');
    expect(why()).toEqual(['client_closed']);
  });

  test('a client that does not keep up is closed with 1013, and gets nothing more', () => {
    const { tunnel, say, start, take, waiting, why } = createRig();
    start();
    waiting.client = 1;
    say(tunnel.fromUpstream, 'a');
    take();
    tunnel.cut(new ProxyError('request_timeout', 'idle_timeout'));
    waiting.client = 0;
    tunnel.fromClient.drained();
    expect(take()).toEqual([
      'upstream close 1013 isoproxy: request_timeout',
      'client close 1013 isoproxy: request_timeout',
    ]);
    expect(why()).toEqual([]);
    tunnel.fromUpstream.closed(1013, '');
    expect(why()).toEqual(['request_timeout']);
  });

  test('an upstream that does not keep up ends it with 1013; a message that fits when nothing waits passes', () => {
    const { tunnel, say, start, take, waiting } = createRig(4);
    start();
    take();
    say(tunnel.fromClient, 'four');
    waiting.upstream = 4;
    say(tunnel.fromClient, 'more');
    waiting.upstream = 8;
    say(tunnel.fromClient, 'x');
    expect(take()).toEqual([
      'upstream text four',
      'upstream text more',
      'upstream close 1013 isoproxy: overloaded',
      'client close 1013 isoproxy: overloaded',
    ]);
  });

  test('after the end nothing is relayed', () => {
    const { tunnel, say, start, take } = createRig(4);
    start();
    say(tunnel.fromClient, 'five!');
    take();
    say(tunnel.fromClient, 'x');
    say(tunnel.fromUpstream, 'x');
    tunnel.fromUpstream.failed(new ProxyError('upstream_invalid', 'late'));
    expect(take()).toEqual([]);
  });

  test('a tunnel that is closing already is cut off', () => {
    const { tunnel, start, take, why } = createRig();
    start();
    tunnel.fromClient.closed(1000, '');
    take();
    tunnel.cut(new ProxyError('shutting_down', 'x'));
    expect(take()).toEqual(['client terminate', 'upstream terminate']);
    expect(why()).toEqual(['shutting_down']);
  });

  test('a client that closes before the upstream has taken everything: the record says so', () => {
    const { tunnel, say, start, waiting, why } = createRig();
    start();
    say(tunnel.fromClient, 'a');
    waiting.upstream = 1;
    tunnel.fromClient.closed(1000, '');
    tunnel.fromUpstream.closed(NO_CLOSE_FRAME, '');
    expect(why()).toEqual(['upstream_unreachable']);
  });

  test.each([
    ['in one message', [SECRET]],
    ['over two', [SECRET.slice(0, 10), SECRET.slice(10)]],
    ['begun in what would be held back', [SECRET.slice(0, 20)]],
  ])('the credential %s is not relayed', (_, messages) => {
    const { tunnel, say, start, take } = createRig();
    start();
    take();
    for (const message of messages) say(tunnel.fromUpstream, message);
    const seen = take();
    expect(seen.at(-1)).toBe('client close 1008 isoproxy: credential_reflected');
    expect(seen.filter((line) => line.startsWith('client text'))).toHaveLength(messages.length - 1);
  });
});
