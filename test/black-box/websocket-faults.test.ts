/** WebSocket relay: limits, peers that stall, vanish or misbehave, the credential in a message, and the stop. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test';
import { assertClean, leakedPrefix, makeCanary } from '../support/canary.ts';
import { until, within } from '../support/deadline.ts';
import {
  createWorkspace,
  type Isoproxy,
  isoproxyCommand,
  type StartOptions,
  simpleConfig,
  startSimple,
} from '../support/isoproxy.ts';
import { spawn } from '../support/process.ts';
import { connect, formatRequest, type RawClient, request } from '../support/raw-client.ts';
import { type Recorder, type RecorderConnection, startRecorder } from '../support/recorder.ts';
import { acceptWs, BINARY, formatClose, openWs, TEXT, upgradeHeaders, type WsPeer } from '../support/ws.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

/** Without words before it, so that nothing of it is public and the first 15 bytes are the most that may go out. */
const canary = makeCanary('');
const WS = { methods: ['GET'], paths: ['/ws'], websocket: true };
const MIB = 1 << 20;

describe.skipIf(DENO)('WebSocket', () => {
  let up: Recorder;
  const open: Isoproxy[] = [];
  beforeAll(async () => {
    up = await startRecorder();
  });
  afterEach(async () => {
    for (const proxy of open.splice(0)) {
      assertClean(canary, proxy.visible());
      expect(proxy.lines().filter((line) => /^un(?:handled|caught)/.test(String(line['event'])))).toEqual([]);
      await proxy[Symbol.asyncDispose]();
    }
    up.reset();
  });
  afterAll(() => up.close());

  async function start(
    limits: Record<string, unknown>,
    more: Record<string, unknown> = {},
    how?: StartOptions,
  ) {
    const proxy = await startSimple(
      { upstreamPort: up.port, ca: up.ca, canary, endpoints: [WS, 'GET /plain'], limits, ...more },
      how,
    );
    open.push(proxy);
    return proxy;
  }

  async function tunnel(proxy: Isoproxy, target = '/api/ws') {
    const arrived = Promise.withResolvers<[WsPeer, RecorderConnection]>();
    up.handle(async (asked, connection) => arrived.resolve([await acceptWs(asked, connection), connection]));
    const client = await openWs(proxy.socket(), target);
    expect(client.status).toBe(101);
    const [upstream, connection] = await within('the upstream', arrived.promise);
    return { client, upstream, connection };
  }

  const record = async (proxy: Isoproxy, ms?: number) => (await proxy.recordCount(1, ms))[0]!;

  describe('size', () => {
    const limits = { max_request_body: '64KiB', max_response_body: '128KiB' };

    test('a client message at the limit passes, one byte over ends the tunnel with 1009', async () => {
      for (const split of [false, true]) {
        const proxy = await start(limits);
        const { client, upstream } = await tunnel(proxy);
        await client.send(Buffer.alloc(64 << 10, 1));
        expect((await upstream.receive()).data.length).toBe(64 << 10);
        if (split) {
          await client.frame(BINARY, Buffer.alloc(64 << 10), { fin: false });
          await client.frame(0, 'x');
        } else await client.send(Buffer.alloc((64 << 10) + 1, 1));
        expect(await client.untilClosed()).toMatchObject({ kind: 'close', code: 1009 });
        expect(await upstream.receive()).toMatchObject({ kind: 'close', code: 1009 });
        upstream.end();
        expect(await record(proxy)).toMatchObject({
          status: 101,
          reason: 'request_too_large',
          error: 'message over max_request_body',
          bytes_in: 64 << 10,
          bytes_out: 0,
        });
      }
    });

    test('the limit is the provider’s own, also where another one takes more', async () => {
      const proxy = await start(limits, {
        listener: { providers: ['api', 'large'] },
        top: {
          providers: {
            large: {
              base_url: `https://localhost:${up.port}`,
              unsafe_allow_private: true,
              credential: 'none',
              endpoints: [WS],
              limits: { max_request_body: '1MiB' },
            },
          },
        },
      });
      const { client, upstream } = await tunnel(proxy);
      await client.send(Buffer.alloc((64 << 10) + 1, 1));
      expect(await client.untilClosed()).toMatchObject({
        kind: 'close',
        code: 1009,
        data: Buffer.from('isoproxy: request_too_large'),
      });
      expect(await upstream.receive()).toMatchObject({ kind: 'close', code: 1009 });
      upstream.end();
      expect(await record(proxy)).toMatchObject({ reason: 'request_too_large', bytes_in: 0 });
    });

    test('a frame that only announces too much is refused at once', async () => {
      const proxy = await start(limits);
      const { client, upstream } = await tunnel(proxy);
      await client.frame(BINARY, 'x', { length: 2 ** 40 });
      expect(await client.untilClosed()).toMatchObject({ kind: 'close', code: 1009 });
      expect(await upstream.receive()).toMatchObject({ kind: 'close', code: 1009 });
    });

    test('an upstream message at the limit passes, one byte over ends the tunnel with 1009', async () => {
      for (const split of [false, true]) {
        const proxy = await start(limits);
        const { client, upstream } = await tunnel(proxy);
        void upstream.send(Buffer.alloc(128 << 10, 1));
        expect((await client.receive()).data.length).toBe(128 << 10);
        if (split) {
          void upstream.frame(BINARY, Buffer.alloc(128 << 10), { fin: false });
          void upstream.frame(0, 'x');
        } else void upstream.send(Buffer.alloc((128 << 10) + 1, 1));
        expect(await client.untilClosed()).toMatchObject({
          kind: 'close',
          code: 1009,
          data: Buffer.from('isoproxy: response_too_large'),
        });
        expect(await upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1009 });
        upstream.end();
        expect(await record(proxy)).toMatchObject({
          status: 101,
          reason: 'response_too_large',
          bytes_out: 128 << 10,
        });
      }
    });
  });

  describe('time', () => {
    test('a tunnel on which nobody speaks ends at idle_timeout, pings or not', async () => {
      const proxy = await start({ idle_timeout: '1s' });
      const { client, upstream } = await tunnel(proxy);
      const since = performance.now();
      await client.send('one');
      expect((await upstream.receive()).kind).toBe('text');
      const pings = setInterval(() => void client.frame(9, 'p'), 100);
      const end = await client.untilClosed().finally(() => clearInterval(pings));
      expect(end).toMatchObject({
        kind: 'close',
        code: 1001,
        data: Buffer.from('isoproxy: upstream_timeout'),
      });
      const took = performance.now() - since;
      expect([took > 900, took < 2500]).toEqual([true, true]);
      expect(await upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1001 });
      upstream.end();
      expect(await record(proxy)).toMatchObject({
        status: 101,
        reason: 'upstream_timeout',
        error: 'idle_timeout',
      });
    });

    test('messages in one direction keep it open', async () => {
      const proxy = await start({ idle_timeout: '1s' });
      const { client, upstream } = await tunnel(proxy);
      for (const from of [client, upstream]) {
        const to = from === client ? upstream : client;
        for (let i = 0; i < 6; i++) {
          await from.send(`${i}`);
          expect((await to.receive()).data.toString()).toBe(`${i}`);
          await new Promise((resolve) => setTimeout(resolve, 200));
        }
      }
      expect(proxy.records()).toEqual([]);
      client.cut();
    });

    test('total_timeout ends a busy tunnel', async () => {
      const proxy = await start({ total_timeout: '1s' });
      const { client, upstream } = await tunnel(proxy);
      const busy = setInterval(() => void client.send('x'), 50);
      const end = await client.untilClosed().finally(() => clearInterval(busy));
      expect(end).toMatchObject({ kind: 'close', code: 1001 });
      expect(await upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1001 });
      upstream.end();
      expect(await record(proxy)).toMatchObject({ reason: 'upstream_timeout', error: 'total_timeout' });
    });

    test('an upstream that does not answer the handshake is 504 at first_byte_timeout', async () => {
      const proxy = await start({ first_byte_timeout: '1s' });
      up.handle(() => {});
      const answer = await request(proxy.socket(), { target: '/api/ws', headers: upgradeHeaders() });
      expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([504, 'upstream_timeout']);
      expect(await record(proxy)).toMatchObject({ status: 504, error: 'first_byte_timeout' });
      await until('its connection to be closed', () => up.connections.at(-1)?.state === 'closed');
    });

    test('an upstream that does not answer a close frame is let go', async () => {
      const proxy = await start({});
      const { client, connection } = await tunnel(proxy);
      await client.sendClose(1000);
      expect((await client.untilClosed()).code).toBe(1000);
      await record(proxy, 8000);
      await until('its connection to be closed', () => connection.record.state === 'closed');
    });
  });

  describe('a peer that leaves without a close frame', () => {
    const ways = ['end', 'cut', 'reset'] as const;
    test.each(ways)('the upstream (%s): the client is told 1011, after all that came before', async (way) => {
      const proxy = await start({});
      const { client, upstream, connection } = await tunnel(proxy);
      await upstream.send('last');
      expect((await client.receive()).data.toString()).toBe('last');
      connection[way]();
      expect(await client.untilClosed()).toMatchObject({
        kind: 'close',
        code: 1011,
        data: Buffer.from('isoproxy: upstream_unreachable'),
      });
      expect(await record(proxy)).toMatchObject({
        status: 101,
        reason: 'upstream_unreachable',
        bytes_out: 4,
      });
    });

    test('the upstream, in the middle of a message: nothing of it is delivered', async () => {
      const proxy = await start({});
      const { client, upstream, connection } = await tunnel(proxy);
      await upstream.frame(TEXT, 'half', { fin: false });
      await upstream.frame(0, 'a fra', { length: 100 });
      connection.end();
      expect(await client.untilClosed()).toMatchObject({ kind: 'close', code: 1011 });
      expect(client.received().includes('half')).toBe(false);
      expect(await record(proxy)).toMatchObject({ reason: 'upstream_unreachable', bytes_out: 0 });
    });

    test.each(['end', 'cut'] as const)('the client (%s): the upstream is cut off at once', async (way) => {
      const proxy = await start({});
      const { client, upstream, connection } = await tunnel(proxy);
      const since = performance.now();
      client[way]();
      expect((await upstream.receive()).kind).toBe('end');
      await until('the upstream connection to be closed', () => connection.record.peerEnd !== undefined);
      expect(performance.now() - since).toBeLessThan(500);
      expect(await record(proxy)).toMatchObject({ status: 101, reason: 'client_closed' });
    });

    test('the client, while the upstream is still being asked: it is let go', async () => {
      const proxy = await start({});
      up.handle(() => {});
      const asking = openWs(proxy.socket(), '/api/ws').catch(() => undefined);
      await up.request();
      const leaving = await connect(proxy.socket());
      await leaving.send(formatRequest({ target: '/api/ws', headers: upgradeHeaders() }));
      await until('a second request', () => up.requests.length === 2);
      leaving.abort();
      expect(await record(proxy)).toMatchObject({ status: 499, reason: 'client_closed' });
      await until('its connection to be closed', () => up.connections.at(-1)?.state === 'closed');
      up.dropConnections('cut');
      await asking.then((client) => client?.cut());
    });
  });

  describe('a peer that does not keep up', () => {
    test('a client that stops reading: the upstream is slowed down, memory is bounded, and it is cut', async () => {
      const proxy = await start({ idle_timeout: '1s' });
      const { client, upstream } = await tunnel(proxy);
      client.pause();
      const before = proxy.rss();
      let sent = 0;
      let flooding = true;
      const piece = Buffer.alloc(64 << 10, 7);
      const flood = (async () => {
        while (flooding && (await upstream.send(piece))) sent += piece.length;
      })();
      let peak = 0;
      await until(
        'the tunnel to end',
        () => {
          peak = Math.max(peak, proxy.rss());
          return proxy.records().length > 0;
        },
        10_000,
      );
      const taken = sent;
      flooding = false;
      upstream.cut();
      await flood;
      expect(await record(proxy)).toMatchObject({
        status: 101,
        reason: 'request_timeout',
        error: 'idle_timeout',
      });
      expect([taken < 32 * MIB, (peak - before) / MIB < 64]).toEqual([true, true]);
      client.resume();
      // What it had not read may be gone, and that shows: 1013, or no close frame at all where it came too late.
      const end = await client.untilClosed();
      expect([1013, undefined]).toContain(end.code);
      await until('descriptors', () => proxy.fds() < 40);
    });

    test('a client that reads slowly gets everything, in order', async () => {
      const proxy = await start({});
      const { client, upstream } = await tunnel(proxy);
      const count = 400;
      const flood = (async () => {
        for (let i = 0; i < count; i++) {
          const piece = Buffer.alloc(64 << 10, i);
          piece.writeUInt32LE(i);
          await upstream.send(piece);
        }
        await upstream.sendClose(1000, 'all');
        await upstream.untilClosed();
        upstream.end();
      })();
      for (let i = 0; i < count; i++) {
        if (i % 50 === 0) {
          client.pause();
          await new Promise((resolve) => setTimeout(resolve, 60));
          client.resume();
        }
        const got = await client.receive();
        if (got.data.length !== 64 << 10 || got.data.readUInt32LE() !== i)
          expect([i, got.data.length]).toEqual([i, 0]);
      }
      expect(await client.receive()).toMatchObject({ kind: 'close', code: 1000, data: Buffer.from('all') });
      await flood;
      expect(await record(proxy)).toMatchObject({ reason: '', bytes_out: count * (64 << 10) });
    });

    test('a client that stops reading after the upstream has closed is cut as well', async () => {
      const proxy = await start({ idle_timeout: '1s' });
      const { client, upstream } = await tunnel(proxy);
      client.pause();
      void upstream.send(Buffer.alloc(4 * MIB));
      void upstream.sendClose(1000, 'end');
      void upstream.untilClosed(20_000).then(upstream.end, () => {});
      expect(await record(proxy, 6000)).toMatchObject({ status: 101, reason: 'request_timeout' });
      client.resume();
      expect((await client.untilClosed()).kind).toBe('end');
    });

    test('an upstream that stops reading: 1013 when more waits than max_request_body, memory is bounded', async () => {
      const proxy = await start({ max_request_body: '1MiB' });
      const { client, upstream, connection } = await tunnel(proxy);
      connection.pause();
      const before = proxy.rss();
      let peak = 0;
      let open = true;
      const end = client.untilClosed(10_000).finally(() => {
        open = false;
      });
      let sent = 0;
      while (open && sent < 256 * MIB) {
        void client.send(Buffer.alloc(64 << 10, 1));
        sent += 64 << 10;
        peak = Math.max(peak, proxy.rss());
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      expect(await end).toMatchObject({
        kind: 'close',
        code: 1013,
        data: Buffer.from('isoproxy: overloaded'),
      });
      expect((peak - before) / MIB).toBeLessThan(64);
      // Whole messages and then 1013, if it reads on in time; never a clean end.
      connection.resume();
      const last = await upstream.untilClosed();
      expect([last.kind, last.code]).toEqual(['close', 1013]);
      upstream.end();
      expect(await record(proxy)).toMatchObject({
        status: 101,
        reason: 'overloaded',
        error: 'the upstream does not keep up',
      });
    });

    test('an upstream that never reads again does not hold the tunnel', async () => {
      const proxy = await start({ max_request_body: '64KiB' });
      const { client, connection } = await tunnel(proxy);
      connection.pause();
      const end = client.untilClosed(10_000);
      const flood = setInterval(() => void client.send(Buffer.alloc(64 << 10)), 1);
      expect((await end.finally(() => clearInterval(flood))).code).toBe(1013);
      expect(await record(proxy, 8000)).toMatchObject({ reason: 'overloaded' });
    });
  });

  describe('the credential in a message', () => {
    const forms: [string, (secret: string) => string | Buffer][] = [
      ['a text message', (secret) => `{"key":"${secret}"}`],
      ['a binary message', (secret) => Buffer.from(`\0\u0001${secret}\0`)],
      ['base64', (secret) => Buffer.from(`Basic user:${secret}`).toString('base64')],
      [
        'JSON escapes',
        (secret) => [...secret].map((c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`).join(''),
      ],
    ];
    test.each(forms)('%s is not delivered, and the tunnel is cut with 1008', async (_, form) => {
      const proxy = await start({});
      const { client, upstream } = await tunnel(proxy);
      await upstream.send('clean');
      await upstream.send(form(canary));
      await upstream.send('after');
      expect((await client.receive()).data.toString()).toBe('clean');
      expect(await client.receive()).toMatchObject({
        kind: 'close',
        code: 1008,
        data: Buffer.from('isoproxy: credential_reflected'),
      });
      expect((await client.receive()).kind).toBe('end');
      assertClean(canary, { client: client.received() });
      expect(await upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1008 });
      upstream.end();
      expect(await record(proxy)).toMatchObject({
        status: 101,
        reason: 'credential_reflected',
        bytes_out: 5,
      });
    });

    test('split over two messages, or over frames of one', async () => {
      for (const at of [1, 8, 15, 20, 30, canary.length - 1]) {
        const proxy = await start({});
        const { client, upstream } = await tunnel(proxy);
        await upstream.send(canary.slice(0, at));
        await upstream.send(canary.slice(at));
        const end = await client.untilClosed();
        expect([at, end.kind, end.code]).toEqual([at, 'close', 1008]);
        expect(leakedPrefix(client.received(), canary)).toBeLessThanOrEqual(15);
        upstream.end();
        expect((await record(proxy)).reason).toBe('credential_reflected');
      }
      const proxy = await start({});
      const { client, upstream } = await tunnel(proxy);
      await upstream.frame(TEXT, canary.slice(0, 20), { fin: false });
      await upstream.frame(0, canary.slice(20));
      expect((await client.untilClosed()).code).toBe(1008);
      // One or two letters are in every text.
      expect(leakedPrefix(client.received(), canary)).toBeLessThan(5);
    });

    test('as the reason of a close frame', async () => {
      const proxy = await start({});
      const { client, upstream } = await tunnel(proxy);
      await upstream.sendClose(4000, `bad key ${canary}`);
      await upstream.untilClosed();
      upstream.end();
      expect(await client.untilClosed()).toMatchObject({ kind: 'close', code: 1008 });
      assertClean(canary, { client: client.received() });
      expect((await record(proxy)).reason).toBe('credential_reflected');
    });

    test('what only resembles it passes', async () => {
      const proxy = await start({});
      const { client, upstream } = await tunnel(proxy);
      for (const text of [
        canary.slice(1),
        `${canary.slice(0, 14)}!`,
        `${canary.slice(0, 25)}! and so on`,
        '%2',
        '\\u00',
      ]) {
        await upstream.send(text);
        expect((await client.receive()).data.toString()).toBe(text);
      }
      client.cut();
    });
  });

  describe('a peer that breaks the protocol', () => {
    const frames: [string, (peer: WsPeer) => Promise<unknown>, number][] = [
      ['a reserved bit', (peer) => peer.frame(TEXT, 'x', { rsv: 0x40 }), 1002],
      ['an unknown opcode', (peer) => peer.frame(3, 'x'), 1002],
      ['text that is no UTF-8', (peer) => peer.frame(TEXT, Buffer.from([0xc3, 0x28])), 1007],
      ['a close code that none may send', (peer) => peer.frame(8, formatClose(1005)), 1002],
      ['a fragmented ping', (peer) => peer.frame(9, 'x', { fin: false }), 1002],
      ['a continuation of nothing', (peer) => peer.frame(0, 'x'), 1002],
    ];
    test.each(frames)('%s', async (_, send, code) => {
      const proxy = await start({});
      const one = await tunnel(proxy);
      await send(one.client);
      expect(await one.client.untilClosed()).toMatchObject({ kind: 'close', code });
      expect(await one.upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1002 });
      one.upstream.end();
      expect(await record(proxy)).toMatchObject({
        status: 101,
        reason: 'bad_request',
        error: 'malformed WebSocket frame',
      });
      const other = await tunnel(proxy);
      await send(other.upstream);
      expect(await other.upstream.untilClosed()).toMatchObject({ kind: 'close', code });
      other.upstream.end();
      expect(await other.client.untilClosed()).toMatchObject({
        kind: 'close',
        code: 1011,
        data: Buffer.from('isoproxy: upstream_invalid'),
      });
      const [, second] = await proxy.recordCount(2);
      expect(second).toMatchObject({ status: 101, reason: 'upstream_invalid' });
    });

    test('a client frame without a mask', async () => {
      const proxy = await start({});
      const { client, upstream } = await tunnel(proxy);
      await client.frame(TEXT, 'x', { mask: false });
      expect(await client.untilClosed()).toMatchObject({ kind: 'close', code: 1002 });
      expect(await upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1002 });
    });
  });

  test('a tunnel holds its place among max_concurrent for as long as it lives', async () => {
    const proxy = await start({ max_concurrent: 1 });
    const { client, upstream } = await tunnel(proxy);
    const refused = await openWs(proxy.socket(), '/api/ws');
    expect([refused.status, refused.header('x-isoproxy-error')]).toEqual([503, 'overloaded']);
    await client.sendClose(1000);
    await upstream.untilClosed();
    upstream.end();
    await proxy.recordCount(2);
    const next = await tunnel(proxy);
    next.client.cut();
  });

  describe('the process stops', () => {
    test('within shutdown_grace a tunnel goes on, and ends by itself', async () => {
      const proxy = await start({}, { top: { server: { shutdown_grace: '20s' } } });
      const { client, upstream } = await tunnel(proxy);
      const stopped = proxy.stop('SIGTERM');
      await until(
        'the socket to be gone',
        async () => (await openWs(proxy.socket(), '/api/ws').catch(() => 1)) === 1,
      );
      await client.send('still');
      expect((await upstream.receive()).data.toString()).toBe('still');
      await client.sendClose(1000);
      await upstream.untilClosed();
      upstream.end();
      expect(await stopped).toBe(0);
      // An upgrade of the loop above may have been refused before the socket was gone.
      const tunnelled = await proxy.record(({ status }) => status === 101);
      expect(tunnelled).toMatchObject({ decision: 'allow', reason: '' });
    });

    test('after it, both ends are closed with 1001, and the process does not hang', async () => {
      const proxy = await start({}, { top: { server: { shutdown_grace: '1s' } } });
      const { client, upstream } = await tunnel(proxy);
      const silent = await tunnel(proxy);
      silent.client.pause();
      void silent.upstream.send(Buffer.alloc(4 * MIB));
      const since = performance.now();
      const stopped = proxy.stop('SIGTERM', 8000);
      expect(await client.untilClosed()).toMatchObject({
        kind: 'close',
        code: 1001,
        data: Buffer.from('isoproxy: shutting_down'),
      });
      expect(await upstream.untilClosed()).toMatchObject({ kind: 'close', code: 1001 });
      upstream.end();
      expect(await stopped).toBe(0);
      const took = performance.now() - since;
      expect([took > 900, took < 4000]).toEqual([true, true]);
      expect(proxy.records().map((each) => [each.status, each.reason])).toContainEqual([
        101,
        'shutting_down',
      ]);
      silent.client.cut();
    });
  });

  test('the sweep of idle connections leaves a tunnel alone, however idle it is', async () => {
    using workspace = createWorkspace();
    const config = simpleConfig(workspace.dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      endpoints: [WS, 'GET /plain'],
      limits: { max_concurrent: 10 },
    });
    for (const [name, content] of Object.entries(config.files)) workspace.write(name, content);
    const file = workspace.write('proxy.toml', config.toml);
    const command = [...isoproxyCommand(workspace.dir), 'serve', '--config', file];
    // With half of so few descriptors taken, every second is one of the sweep.
    const child = spawn(['/bin/sh', '-c', 'ulimit -n 200; exec "$@"', 'sh', ...command], workspace.dir);
    try {
      const socket = workspace.path('agent-1/isoproxy.sock');
      await until('the socket to accept', async () => {
        const probe = await connect(socket).catch(() => undefined);
        probe?.close();
        return probe !== undefined;
      });
      const arrived = Promise.withResolvers<WsPeer>();
      up.handle(async (asked, connection) => {
        if (asked.target === '/plain') await connection.reply(200, {}, 'ok');
        else arrived.resolve(await acceptWs(asked, connection));
      });
      using client = await openWs(socket, '/api/ws');
      const upstream = await arrived.promise;
      const idle: RawClient[] = [];
      for (let i = 0; i < 120; i++) {
        const other = await connect(socket);
        await other.send(formatRequest({ target: '/api/plain' }));
        expect((await other.response()).status).toBe(200);
        idle.push(other);
      }
      await until('a sweep', () => idle.filter((other) => other.closed).length > 60);
      await client.send('alive');
      expect((await upstream.receive()).data.toString()).toBe('alive');
      for (const other of idle) other.close();
    } finally {
      child.kill('SIGKILL');
      await child.exited;
    }
  });
});
