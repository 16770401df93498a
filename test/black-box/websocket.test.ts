/** WebSocket relay: the handshake in both directions, and messages and closings as they were. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until, within } from '../support/deadline.ts';
import { createWorkspace, type Isoproxy, startSimple } from '../support/isoproxy.ts';
import {
  connect as connectRaw,
  formatRequest,
  type RequestOptions,
  request as requestRaw,
} from '../support/raw-client.ts';
import { type Handler, type Recorder, startRecorder } from '../support/recorder.ts';
import { acceptWs, BINARY, openWs as openWsRaw, TEXT, upgradeHeaders, type WsPeer } from '../support/ws.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

const canary = makeCanary('sk-test-');
const WS = { methods: ['GET'], paths: ['/ws', '/v1/realtime'], websocket: true };

if (DENO) {
  test('under Deno a websocket entry is refused at start', async () => {
    const starting = startSimple({ upstreamPort: 1, ca: '', canary, endpoints: [WS] });
    await expect(starting).rejects.toThrow(
      'websocket = true cannot be kept under Deno: use the compiled binary',
    );
  });
}

describe.skipIf(DENO)('WebSocket', () => {
  let up: Recorder;
  let proxy: Isoproxy;
  /** Requests so far; each leaves one record, and no test begins before the last one's is there. */
  let asked = 0;
  const request = (options: RequestOptions) => {
    asked++;
    return requestRaw(proxy.socket(), options);
  };
  const openWs = (target: string, headers: [string, string][] = []) => {
    asked++;
    return openWsRaw(proxy.socket(), target, headers);
  };
  const connect = () => {
    asked++;
    return connectRaw(proxy.socket());
  };
  afterEach(async () => {
    expect(await proxy.recordCount(asked)).toHaveLength(asked);
  });
  beforeAll(async () => {
    up = await startRecorder();
    proxy = await startSimple({
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      endpoints: [WS, 'GET /plain', 'POST /v1/messages'],
      listener: { allow_origins: ['https://app.example'] },
    });
  });
  afterAll(async () => {
    assertClean(canary, proxy.visible());
    expect(proxy.lines().filter((line) => /^un(?:handled|caught)/.test(String(line['event'])))).toEqual([]);
    await proxy[Symbol.asyncDispose]();
    await up.close();
  });

  /** A tunnel through the proxy, seen from both ends. */
  async function tunnel(
    headers: [string, string][] = [],
    answer: [string, string][] = [],
    target = '/api/ws',
  ) {
    const arrived = Promise.withResolvers<WsPeer>();
    up.handle(async (asked, connection) => arrived.resolve(await acceptWs(asked, connection, answer)));
    const client = await openWs(target, headers);
    expect(client.status).toBe(101);
    const upstream = await within('the upstream', arrived.promise);
    return { client, upstream, asked: up.requests.at(-1)! };
  }

  /** The record of the last request, once it is there. */
  async function ended(before: number) {
    const records = await proxy.recordCount(before + 1);
    return records.at(-1)!;
  }

  describe('the handshake', () => {
    test('what goes up: the credential, not the client’s own; no extension; a key of this hop', async () => {
      const { client, asked } = await tunnel(
        [
          ['Authorization', 'Bearer client-own'],
          ['X-Api-Key', 'client-own-key'],
          ['Cookie', 'session=client-own'],
          ['Sec-WebSocket-Extensions', 'permessage-deflate; client_max_window_bits'],
          ['X-Forwarded-For', '10.0.0.1'],
          ['OpenAI-Beta', 'realtime=v1'],
          ['User-Agent', 'agent/1'],
        ],
        [],
        '/api/v1/realtime?model=gpt-realtime&x=%2F',
      );
      using _ = client;
      expect([asked.method, asked.target]).toEqual(['GET', '/v1/realtime?model=gpt-realtime&x=%2F']);
      const names = ['authorization', 'cookie', 'sec-websocket-extensions', 'x-forwarded-for'];
      expect(names.map((name) => asked.header(name))).toEqual([undefined, undefined, undefined, undefined]);
      expect([asked.header('x-api-key'), asked.header('openai-beta'), asked.header('user-agent')]).toEqual([
        canary,
        'realtime=v1',
        'agent/1',
      ]);
      expect(asked.headers.filter(([name]) => /^(x-api-key|host)$/i.test(name))).toHaveLength(2);
      expect([asked.header('sec-websocket-version'), asked.header('host')]).toEqual([
        '13',
        `localhost:${up.port}`,
      ]);
      expect(asked.header('sec-websocket-key')).not.toBe('dGhlIHNhbXBsZSBub25jZQ==');
      assertClean('client-own', { head: Buffer.concat(up.connections.map((each) => each.rawIn())) });
    });

    test('what comes down: end-to-end headers, filtered like any answer', async () => {
      const { client } = await tunnel(
        [],
        [
          ['X-Request-Id', 'req_1'],
          ['Set-Cookie', 'session=ours'],
          ['X-Echo', `key ${canary}`],
          ['Alt-Svc', 'h3=":443"'],
          ['X-Isoproxy-Error', 'none'],
          ['Date', 'Tue, 01 Jan 2030 00:00:00 GMT'],
        ],
      );
      using _ = client;
      const names = ['set-cookie', 'x-echo', 'alt-svc', 'x-isoproxy-error', 'sec-websocket-extensions'];
      expect(names.map((name) => client.header(name))).toEqual(names.map(() => undefined));
      expect(client.header('x-request-id')).toBe('req_1');
      expect(client.headers.filter(([name]) => /^(date|connection|upgrade)$/i.test(name))).toHaveLength(3);
      assertClean(canary, { head: client.rawHead });
    });

    const chosen: [string, string[], string | undefined, string | undefined][] = [
      ['the second of two', ['a.v1', 'b.v2'], 'b.v2', 'b.v2'],
      ['none of two', ['a.v1', 'b.v2'], undefined, undefined],
      ['none of none', [], undefined, undefined],
    ];
    test.each(chosen)('the upstream’s choice of a subprotocol: %s', async (_, offered, choice, expected) => {
      const { client, asked } = await tunnel(
        offered.length > 0 ? [['Sec-WebSocket-Protocol', offered.join(', ')]] : [],
        choice === undefined ? [] : [['Sec-WebSocket-Protocol', choice]],
      );
      using __ = client;
      expect(client.header('sec-websocket-protocol')).toBe(expected as string);
      const sent = asked.header('sec-websocket-protocol');
      expect(sent?.split(/, ?/) ?? []).toEqual(offered);
    });

    test('a subprotocol that is a credential of the client stays here', async () => {
      const { client, asked } = await tunnel(
        [['Sec-WebSocket-Protocol', 'realtime, openai-insecure-api-key.sk-own, OpenAI-Project.x']],
        [['Sec-WebSocket-Protocol', 'realtime']],
      );
      using _ = client;
      expect(asked.header('sec-websocket-protocol')).toBe('realtime');
      expect(client.header('sec-websocket-protocol')).toBe('realtime');
    });

    const improper: [string, [string, string][], [string, string][]][] = [
      [
        'a subprotocol that was not offered',
        [['Sec-WebSocket-Protocol', 'a']],
        [['Sec-WebSocket-Protocol', 'b']],
      ],
      ['a subprotocol where none was offered', [], [['Sec-WebSocket-Protocol', 'b']]],
      ['an extension', [], [['Sec-WebSocket-Extensions', 'permessage-deflate']]],
    ];
    test.each(improper)('an upstream that answers with %s is 502', async (_, offer, answer) => {
      const before = proxy.records().length;
      up.handle((asked, connection) => acceptWs(asked, connection, answer));
      using client = await openWs('/api/ws', offer);
      expect([client.status, client.header('x-isoproxy-error')]).toEqual([502, 'upstream_invalid']);
      const record = await ended(before);
      expect([record.status, record.decision, record.reason]).toEqual([502, 'allow', 'upstream_invalid']);
      await until('its connection to be closed', () => up.connections.at(-1)?.state === 'closed');
    });

    const wrong101: [string, Handler][] = [
      [
        'a wrong accept key',
        (_, connection) =>
          connection.write(
            'HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n',
          ),
      ],
      [
        'another protocol',
        (_, connection) =>
          connection.write('HTTP/1.1 101 S\r\nUpgrade: tunnel\r\nConnection: Upgrade\r\n\r\nhello'),
      ],
      ['what is no HTTP', (_, connection) => connection.write('garbage garbage garbage\r\n\r\n')],
    ];
    test.each(wrong101)(
      'an upstream that answers %s is 502, and nothing of it arrives',
      async (_, handler) => {
        up.handle(handler);
        const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
        expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'upstream_invalid']);
        expect(answer.body.includes('hello')).toBe(false);
      },
    );

    test('a 101 that nobody asked for is 502', async () => {
      up.handle((_, connection) =>
        connection.write('HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello'),
      );
      const answer = await request({ target: '/api/plain', headers: upgradeHeaders() });
      expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'upstream_invalid']);
    });

    const refusals = [401, 403, 426, 429, 500, 503];
    test.each(refusals)(
      'an upstream that refuses with %d: its answer passes, and no tunnel is left',
      async (status) => {
        const before = proxy.records().length;
        up.handle((_, connection) =>
          connection.reply(
            status,
            [
              ['Content-Type', 'application/json'],
              ['X-Request-Id', 'req_2'],
              ['Set-Cookie', 'a=b'],
              ['X-Echo', canary],
            ],
            `{"error":"no ${status}"}`,
          ),
        );
        const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
        expect([answer.status, answer.text(), answer.complete]).toEqual([
          status,
          `{"error":"no ${status}"}`,
          true,
        ]);
        expect([answer.header('x-request-id'), answer.header('set-cookie'), answer.header('x-echo')]).toEqual(
          ['req_2', undefined, undefined],
        );
        const record = await ended(before);
        expect([record.status, record.decision, record.reason, record.rule]).toEqual([
          status,
          'allow',
          '',
          'GET /ws',
        ]);
        expect(record.bytes_out).toBe(answer.body.length);
        await until('its connection to be closed', () => up.connections.at(-1)?.state === 'closed');
      },
    );

    test('a refusal whose body echoes the credential is cut', async () => {
      up.handle((_, connection) => connection.reply(403, {}, `{"your key":"${canary}"}`));
      const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
      expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'credential_reflected']);
      assertClean(canary, { answer: answer.rawHead, body: answer.body });
    });

    test('a refusal whose body breaks off is no whole answer', async () => {
      up.handle(async (_, connection) => {
        await connection.head(403, { 'Content-Length': '100000' });
        await connection.write('x'.repeat(70_000));
        connection.cut();
      });
      const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
      expect([answer.status, answer.complete]).toEqual([403, false]);
    });

    test('a redirect is passed on and not followed', async () => {
      up.handle((_, connection) =>
        connection.reply(302, { Location: `https://localhost:${up.port}/v1/realtime` }, ''),
      );
      const before = up.requests.length;
      const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
      expect([answer.status, up.requests.length - before]).toEqual([302, 1]);
    });

    test('what cannot be reached, or not be verified, is told as for any request', async () => {
      await up.down();
      try {
        const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
        expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'upstream_unreachable']);
      } finally {
        await up.up();
      }
      for (const kind of ['expired', 'wrong-name', 'self-signed', 'unknown-ca'] as const) {
        up.showCertificate(kind);
        const before = up.requests.length;
        const answer = await request({ target: '/api/ws', headers: upgradeHeaders() });
        expect([kind, answer.status, answer.header('x-isoproxy-error')]).toEqual([kind, 502, 'upstream_tls']);
        expect(up.requests.length).toBe(before);
      }
      up.showCertificate('good');
    });
  });

  describe('refused here, and nothing is dialled', () => {
    const cases: [string, string, [string, string][], number, string][] = [
      ['version 8', '/api/ws', [['Sec-WebSocket-Version', '8']], 400, 'bad_request'],
      ['no version', '/api/ws', [['Sec-WebSocket-Version', '']], 400, 'bad_request'],
      ['a key that is none', '/api/ws', [['Sec-WebSocket-Key', 'short']], 400, 'bad_request'],
      [
        'a key of 17 bytes',
        '/api/ws',
        [['Sec-WebSocket-Key', 'dGhlIHNhbXBsZSBub25jZQQ=']],
        400,
        'bad_request',
      ],
      ['an empty subprotocol', '/api/ws', [['Sec-WebSocket-Protocol', 'a,,b']], 400, 'bad_request'],
      ['the same subprotocol twice', '/api/ws', [['Sec-WebSocket-Protocol', 'a, a']], 400, 'bad_request'],
      ['a path without a rule', '/api/other', [], 403, 'endpoint_not_allowed'],
      [
        'an origin that is not listed',
        '/api/ws',
        [['Origin', 'https://evil.example']],
        403,
        'browser_origin',
      ],
      [
        'a plain GET',
        '/api/ws',
        [
          ['Upgrade', ''],
          ['Connection', 'close'],
        ],
        403,
        'endpoint_not_allowed',
      ],
      [
        'an Upgrade that Connection does not name',
        '/api/ws',
        [['Connection', 'close']],
        403,
        'endpoint_not_allowed',
      ],
      ['another protocol', '/api/ws', [['Upgrade', 'h2c']], 403, 'endpoint_not_allowed'],
      ['a body', '/api/ws', [['Content-Length', '5']], 400, 'bad_request'],
    ];
    test.each(cases)('%s', async (_, target, over, status, code) => {
      const before = { connections: up.connections.length, records: proxy.records().length };
      const names = over.map(([name]) => name.toLowerCase());
      const headers = [
        ...upgradeHeaders().filter(([name]) => !names.includes(name.toLowerCase())),
        ...over.filter(([, value]) => value !== ''),
      ];
      using client = await connect();
      await client.send(formatRequest({ target, headers }));
      const answer = await client.response();
      expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([status, code]);
      const record = await ended(before.records);
      expect([record.status, record.decision, record.reason]).toEqual([status, 'deny', code]);
      expect(up.connections.length).toBe(before.connections);
    });

    test('the record of a plain GET on a websocket rule says why', async () => {
      const before = proxy.records().length;
      await request({ target: '/api/ws' });
      expect((await ended(before))['error']).toBe('websocket_only');
      const told = await proxy.cli(['explain', 'GET', '/api/ws']);
      expect([told.code, told.stdout]).toEqual([1, expect.stringContaining('for WebSocket upgrades only')]);
      const asked = await proxy.cli(['explain', '--websocket', 'GET', '/api/ws']);
      expect([asked.code, asked.stdout]).toEqual([
        0,
        expect.stringContaining(`sent as  GET wss://localhost:${up.port}/ws`),
      ]);
    });

    test('a listed origin may', async () => {
      const { client, asked } = await tunnel([['Origin', 'https://app.example']]);
      client[Symbol.dispose]();
      expect(asked.header('origin')).toBe('https://app.example');
    });

    test('on a rule without websocket the upgrade is stripped, and it is a plain request', async () => {
      up.handle((_, connection) => connection.reply(200, {}, 'plain'));
      const answer = await request({ target: '/api/plain', headers: upgradeHeaders() });
      expect([answer.status, answer.text()]).toEqual([200, 'plain']);
      expect(up.requests.at(-1)!.header('upgrade')).toBeUndefined();
    });

    test('frames that come before the handshake is done are not relayed', async () => {
      const before = up.requests.length;
      const go = Promise.withResolvers<void>();
      up.handle(async (asked, connection) => {
        await go.promise;
        await acceptWs(asked, connection);
      });
      using client = await connect();
      await client.send(formatRequest({ target: '/api/ws', headers: upgradeHeaders() }));
      await up.request(() => up.requests.length > before);
      await client.send(Buffer.from([0x81, 0x80, 0, 0, 0, 0]));
      await client.untilClosed();
      go.resolve();
      expect(client.received().toString()).not.toContain('101');
      await until('the upstream to be let go', () => up.connections.at(-1)?.state === 'closed');
    });
  });

  describe('messages', () => {
    test('10,000 each way, echoed, all of them in order, and a record of it', async () => {
      const before = proxy.records().length;
      const { client, upstream } = await tunnel();
      using _ = client;
      const count = 10_000;
      const echo = async () => {
        for (let i = 0; i < count; i++) {
          const got = await upstream.receive();
          await upstream.send(got.kind === 'text' ? got.data.toString() : got.data);
        }
      };
      const send = async () => {
        for (let i = 0; i < count; i++) await client.send(i % 3 === 0 ? Buffer.from(`b${i}`) : `text ${i}`);
      };
      const echoed = echo();
      const sent = send();
      let bytes = 0;
      for (let i = 0; i < count; i++) {
        const got = await client.receive();
        bytes += got.data.length;
        const expected = i % 3 === 0 ? ['binary', `b${i}`] : ['text', `text ${i}`];
        if (got.kind !== expected[0] || got.data.toString() !== expected[1])
          expect([i, got.kind, got.data.toString()]).toEqual([i, ...expected]);
      }
      await Promise.all([echoed, sent]);
      expect(proxy.records().length).toBe(before);
      await client.sendClose(1000, 'done');
      expect(await upstream.receive()).toMatchObject({
        kind: 'close',
        code: 1000,
        data: Buffer.from('done'),
      });
      await upstream.sendClose(1000, 'done');
      upstream.end();
      const record = await ended(before);
      expect(record).toMatchObject({
        status: 101,
        decision: 'allow',
        reason: '',
        rule: 'GET /ws',
        method: 'GET',
        path: '/api/ws',
        bytes_in: bytes,
        bytes_out: bytes,
        error: '',
      });
      expect(Number(record['duration_ms'])).toBeGreaterThan(Number(record['ttfb_ms']));
    });

    const texts: [string, string | Buffer][] = [
      ['empty text', ''],
      ['empty binary', Buffer.alloc(0)],
      ['text with a byte order mark, NUL and four-byte characters', '\ufeffa\0€😀\u2028'],
      ['binary that is no UTF-8', Buffer.from([0xff, 0xfe, 0, 0x80, 0xc0])],
      ['125 bytes', 'x'.repeat(125)],
      ['126 bytes', 'x'.repeat(126)],
      ['65,535 bytes', Buffer.alloc(65_535, 7)],
      ['65,536 bytes', Buffer.alloc(65_536, 8)],
      ['3 MiB', Buffer.alloc(3 << 20, 9)],
    ];
    test('text stays text and binary stays binary, byte for byte', async () => {
      const { client, upstream } = await tunnel();
      using _ = client;
      for (const [name, data] of texts) {
        const kind = typeof data === 'string' ? 'text' : 'binary';
        const same = (got: { kind: string; data: Buffer }) =>
          got.kind === kind && got.data.equals(Buffer.from(data));
        void client.send(data);
        expect([name, 'up', same(await upstream.receive())]).toEqual([name, 'up', true]);
        void upstream.send(data);
        expect([name, 'down', same(await client.receive())]).toEqual([name, 'down', true]);
      }
    });

    test('a message in fragments arrives whole, also with a ping in between', async () => {
      const { client, upstream } = await tunnel();
      using _ = client;
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        await from.frame(TEXT, 'one ', { fin: false });
        await from.frame(9, 'ping');
        expect(await from.receive()).toMatchObject({ kind: 'pong', data: Buffer.from('ping') });
        await from.frame(0, 'two ', { fin: false });
        await from.frame(0, 'three');
        expect(await to.receive()).toMatchObject({ kind: 'text', data: Buffer.from('one two three') });
        await from.frame(BINARY, Buffer.from([1]), { fin: false });
        await from.frame(0, '');
        expect(await to.receive()).toMatchObject({ kind: 'binary', data: Buffer.from([1]) });
      }
    });

    test('ping and pong stay on their hop', async () => {
      const { client, upstream } = await tunnel();
      using _ = client;
      await client.frame(9, 'c');
      await upstream.frame(9, 'u');
      await client.frame(10, 'unasked');
      await upstream.frame(10, 'unasked');
      expect(await client.receive()).toMatchObject({ kind: 'pong', data: Buffer.from('c') });
      expect(await upstream.receive()).toMatchObject({ kind: 'pong', data: Buffer.from('u') });
      await client.send('next');
      expect(await upstream.receive()).toMatchObject({ kind: 'text', data: Buffer.from('next') });
      await upstream.send('next');
      expect(await client.receive()).toMatchObject({ kind: 'text', data: Buffer.from('next') });
    });

    test('what the upstream says together with its 101 is not lost', async () => {
      up.handle(async (asked, connection) => {
        const peer = await acceptWs(asked, connection);
        await peer.send('first');
        await peer.send('second');
        await peer.sendClose(1000, 'all said');
        await peer.untilClosed();
        peer.end();
      });
      using client = await openWs('/api/ws');
      expect((await client.receive()).data.toString()).toBe('first');
      expect((await client.receive()).data.toString()).toBe('second');
      expect(await client.receive()).toMatchObject({
        kind: 'close',
        code: 1000,
        data: Buffer.from('all said'),
      });
    });
  });

  describe('closing', () => {
    const codes: [number | undefined, string][] = [
      [1000, 'done'],
      [1001, 'going away'],
      [1003, ''],
      [1008, 'policy'],
      [1011, 'broken'],
      [1012, 'restart'],
      [3000, 'unauthorized'],
      [4001, 'session_expired'],
      [4999, 'ü'.repeat(61)],
      [undefined, ''],
    ];
    test.each(codes)('code %p and its reason pass from the upstream to the client', async (code, reason) => {
      const before = proxy.records().length;
      const { client, upstream } = await tunnel();
      using _ = client;
      await upstream.sendClose(code, reason);
      expect(await upstream.receive()).toMatchObject({ kind: 'close', code });
      upstream.end();
      const got = await client.receive();
      expect([got.kind, got.code, got.data.toString()]).toEqual(['close', code, reason]);
      await client.sendClose(code);
      expect(await client.receive()).toMatchObject({ kind: 'end', end: 'fin' });
      const record = await ended(before);
      const note = [1000, 1001, undefined].includes(code) ? '' : `closed ${code} by the upstream`;
      expect([record.status, record.reason, record['error']]).toEqual([101, '', note]);
    });

    test.each(codes)('code %p and its reason pass from the client to the upstream', async (code, reason) => {
      const before = proxy.records().length;
      const { client, upstream } = await tunnel();
      using _ = client;
      await client.sendClose(code, reason);
      const got = await upstream.receive();
      expect([got.kind, got.code, got.data.toString()]).toEqual(['close', code, reason]);
      await upstream.sendClose(code);
      upstream.end();
      const record = await ended(before);
      const note = [1000, 1001, undefined].includes(code) ? '' : `closed ${code} by the client`;
      expect([record.status, record.reason, record['error']]).toEqual([101, '', note]);
    });

    test('messages before a close frame arrive before it', async () => {
      const { client, upstream } = await tunnel();
      using _ = client;
      for (let i = 0; i < 50; i++) void upstream.send(Buffer.alloc(20_000, i));
      await upstream.sendClose(1000, 'end');
      void upstream.untilClosed().then(upstream.end);
      for (let i = 0; i < 50; i++) expect((await client.receive()).data[0]).toBe(i);
      expect(await client.receive()).toMatchObject({ kind: 'close', code: 1000 });
    });
  });

  test('an entry through an upstream proxy is refused by check, with the way out', async () => {
    using workspace = createWorkspace();
    const starting = startSimple(
      {
        upstreamPort: up.port,
        ca: up.ca,
        canary,
        endpoints: [WS],
        top: { server: { upstream_proxy: 'http://127.0.0.1:9' } },
      },
      { workspace },
    );
    await expect(starting).rejects.toThrow('a websocket entry cannot go through server.upstream_proxy');
  });
});
