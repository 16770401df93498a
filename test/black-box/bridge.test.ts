// `isoproxy bridge`: a byte pump that keeps what TCP and HTTP clients rely on, and lets the proxy come and go.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { createHash, randomBytes } from 'node:crypto';
import { connect as connectNet, createServer, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { assertClean, makeCanary } from '../support/canary.ts';
import {
  asNobody,
  BUN,
  SKIP_REASON,
  seen,
  skipped,
  start,
  UNSHARE_NET,
  works,
} from '../support/client-side.ts';
import { until, within } from '../support/deadline.ts';
import {
  createWorkspace,
  freePort,
  type Isoproxy,
  isoproxyCommand,
  type RunResult,
  run,
  startSimple,
  type Workspace,
} from '../support/isoproxy.ts';
import { type Child, spawn } from '../support/process.ts';
import { connect, formatRequest, request } from '../support/raw-client.ts';
import { type Recorder, type RecorderConnection, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(30_000);
const suite = describe.skipIf(SKIP_REASON !== undefined);

const canary = makeCanary();
const MIB = 1 << 20;

let up: Recorder;
let proxy: Isoproxy;
let work: Workspace;
/** The bridge to `proxy`. */
let bridge: Bridge;
/** A bridge to nobody, and what it said to those who waited; begun before everything else. */
let lonely: Bridge;
let waited: Promise<Awaited<ReturnType<typeof request>>[]>;
let begun: number;

interface Bridge extends AsyncDisposable {
  readonly child: Child;
  readonly port: number;
}

async function openBridge(socket: string, address = '127.0.0.1:0', more: string[] = []): Promise<Bridge> {
  const child = start(work.dir, ['bridge', '--socket', socket, '--listen', address, ...more]);
  const out = await seen(child, /^http:\/\/\S+\n/);
  return {
    child,
    port: Number(/:(\d+)\n$/.exec(out)?.[1]),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await child.exited;
    },
  };
}

beforeAll(async () => {
  if (SKIP_REASON !== undefined) return;
  work = createWorkspace();
  lonely = await openBridge(work.path('nobody.sock'));
  begun = performance.now();
  waited = Promise.all(
    Array.from({ length: 20 }, () =>
      request(lonely, { method: 'POST', target: '/api/v1/messages', body: 'x'.repeat(9), ms: 14_000 }),
    ),
  );
  waited.catch(() => {});
  up = await startRecorder();
  proxy = await startSimple({
    upstreamPort: up.port,
    ca: up.ca,
    canary,
    endpoints: ['POST /v1/*', 'GET /v1/*'],
    limits: { max_concurrent: 1000, max_request_body: '256MiB', max_response_body: '256MiB' },
  });
  bridge = await openBridge(proxy.socket());
});
afterAll(async () => {
  if (SKIP_REASON !== undefined) return;
  assertClean(canary, { out: bridge.child.stdout(), err: bridge.child.stderr(), ...proxy.visible() });
  await bridge[Symbol.asyncDispose]();
  await lonely[Symbol.asyncDispose]();
  await proxy[Symbol.asyncDispose]();
  await up.close();
  work.remove();
});

const MESSAGE = { method: 'POST', target: '/api/v1/messages', body: '{"n":1}' };

/** The connection of the next request to the upstream, whose answer is left to the test; `release` when it is whole. */
function nextUpstream(): Promise<RecorderConnection & { release: () => void }> {
  up.reset();
  const { promise, resolve } = Promise.withResolvers<RecorderConnection & { release: () => void }>();
  up.handle(async (_, connection) => {
    const released = Promise.withResolvers<void>();
    resolve(Object.assign(connection, { release: released.resolve }));
    await Promise.race([connection.gone, released.promise]);
  });
  return within('a request at the upstream', promise);
}

/** A plain server in the place of isoproxy, for what concerns bytes only. */
async function openFarSide(
  onClient: (socket: Socket) => void,
): Promise<{ bridge: Bridge; port: number } & AsyncDisposable> {
  const path = work.path(`far-${randomBytes(4).toString('hex')}.sock`);
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onClient(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, 4096, resolve));
  const opened = await openBridge(path);
  return {
    bridge: opened,
    port: opened.port,
    async [Symbol.asyncDispose]() {
      await opened[Symbol.asyncDispose]();
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

function dial(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectNet({ port, host: '127.0.0.1', allowHalfOpen: true }, () => resolve(socket));
    socket.on('error', reject);
  });
}

/** Waits until a number has stopped growing for a while, and returns it. */
async function settled(what: string, read: () => number): Promise<number> {
  let last = -1;
  let since = performance.now();
  return await until(
    `${what} to stop`,
    () => {
      const now = read();
      if (now !== last) since = performance.now();
      last = now;
      return now > 0 && performance.now() - since > 300 && now;
    },
    10_000,
  );
}

suite(`bytes${skipped(SKIP_REASON)}`, () => {
  test('40 MiB come back as they went, both ways at once, in odd pieces', async () => {
    await using far = await openFarSide((socket) => void socket.pipe(socket));
    const client = await dial(far.port);
    const block = randomBytes(MIB);
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    let arrived = 0;
    const done = new Promise<void>((resolve) =>
      client.on('data', (chunk) => {
        received.update(chunk);
        arrived += chunk.length;
        if (arrived === total) resolve();
      }),
    );
    const sizes = Array.from({ length: 80 }, (_, index) => 1 + ((index * 7919 * 131) % MIB));
    const total = sizes.reduce((sum, size) => sum + size, 0);
    for (const size of sizes) {
      const piece = block.subarray(0, size);
      sent.update(piece);
      if (!client.write(piece)) await new Promise((resolve) => client.once('drain', resolve));
    }
    await within('the echo', done, 10_000);
    client.destroy();
    expect(arrived).toBe(total);
    expect(received.digest('hex')).toBe(sent.digest('hex'));
  });

  test('single bytes go through at once', async () => {
    await using far = await openFarSide((socket) => void socket.pipe(socket));
    using client = await connect(far);
    for (const byte of ['a', '\0', '\xff', '\r', '\n']) {
      await client.send(byte);
      await client.waitFor((bytes) => bytes.at(-1) === byte.charCodeAt(0));
    }
  });

  test('a far side that speaks first is heard', async () => {
    await using far = await openFarSide((socket) => void socket.end('hello\n'));
    using client = await connect(far);
    expect((await client.untilClosed()).toString()).toBe('hello\n');
    expect(client.closed).toBe('fin');
  });

  test('what the far side sent before it left arrives whole, with a client that goes on sending', async () => {
    const answer = randomBytes(4 * MIB);
    await using far = await openFarSide((socket) => socket.end(answer));
    const client = await dial(far.port);
    client.on('error', () => {});
    const hash = createHash('sha256');
    let bytes = 0;
    client.on('data', (chunk) => {
      bytes += chunk.length;
      hash.update(chunk);
    });
    const sending = setInterval(() => client.write('more'), 1);
    try {
      await until('the answer', () => bytes === answer.length);
    } finally {
      clearInterval(sending);
      client.destroy();
    }
    expect(hash.digest('hex')).toBe(createHash('sha256').update(answer).digest('hex'));
  });

  test('an upstream cut is a cut, not an end', async () => {
    const upstream = nextUpstream();
    using client = await connect(bridge);
    await client.send(formatRequest(MESSAGE));
    const connection = await upstream;
    await connection.head(200, { 'Transfer-Encoding': 'chunked' });
    await connection.chunk('first');
    await client.waitFor('first');
    connection.reset();
    const answer = await client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([200, false, 'first']);
  });
});

suite('backpressure', () => {
  test('a client that does not read stops the upstream; memory stays bounded; nothing is lost', async () => {
    const upstream = nextUpstream();
    const [bridgeBefore, proxyBefore] = [bridge.child.rss(), proxy.rss()];
    using client = await connect(bridge, { keep: false });
    client.pause();
    await client.send(formatRequest(MESSAGE));
    const connection = await upstream;
    const block = randomBytes(MIB);
    const total = 128;
    const hash = createHash('sha256');
    let written = 0;
    const writing = (async () => {
      await connection.head(200, { 'Content-Length': String(total * MIB) });
      for (; written < total; written += 1) {
        hash.update(block);
        await connection.write(block);
      }
    })();
    const stopped = await settled('the upstream', () => written);
    expect(stopped).toBeLessThan(24);
    expect((bridge.child.rss() - bridgeBefore) / MIB).toBeLessThan(24);
    expect((proxy.rss() - proxyBefore) / MIB).toBeLessThan(48);

    client.resume();
    const answer = await client.response({ hashOnly: true, ms: 10_000 });
    await writing;
    connection.release();
    expect([answer.complete, answer.bodyBytes]).toEqual([true, total * MIB]);
    expect(answer.bodySha256).toBe(hash.digest('hex'));
    expect((bridge.child.rss() - bridgeBefore) / MIB).toBeLessThan(96);
  });

  test('an upstream that does not read stops the client', async () => {
    let far: Socket | undefined;
    await using side = await openFarSide((socket) => {
      socket.pause();
      far = socket;
    });
    const before = side.bridge.child.rss();
    const client = await dial(side.port);
    const block = randomBytes(MIB);
    const hash = createHash('sha256');
    let sent = 0;
    const sending = (async () => {
      for (; sent < 64; sent += 1) {
        hash.update(block);
        if (!client.write(block)) await new Promise((resolve) => client.once('drain', resolve));
      }
    })();
    const stopped = await settled('the client', () => sent);
    expect(stopped).toBeLessThan(24);
    expect((side.bridge.child.rss() - before) / MIB).toBeLessThan(24);
    const received = createHash('sha256');
    let bytes = 0;
    far?.on('data', (chunk) => {
      received.update(chunk);
      bytes += chunk.length;
    });
    far?.resume();
    await sending;
    await until('the rest', () => bytes === 64 * MIB, 10_000);
    expect(received.digest('hex')).toBe(hash.digest('hex'));
    client.destroy();
  });

  test('one client that does not read holds up no other', async () => {
    await using far = await openFarSide((socket) => {
      const block = Buffer.alloc(MIB);
      const more = () => {
        while (socket.writable && socket.write(block));
      };
      socket.once('data', (asked) => {
        if (asked.toString() === 'quick') socket.end('quick');
        else {
          socket.on('drain', more);
          more();
        }
      });
    });
    const stuck = await dial(far.port);
    stuck.pause();
    stuck.write('flood');
    for (let i = 0; i < 5; i += 1) {
      using client = await connect(far);
      await client.send('quick');
      expect((await client.untilClosed()).toString()).toBe('quick');
    }
    stuck.destroy();
  });

  test('a body that arrives slowly arrives whole', async () => {
    up.reset();
    using client = await connect(bridge);
    const body = randomBytes(3000);
    await client.send(`POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`);
    for (let at = 0; at < body.length; at += 300) {
      await client.send(body.subarray(at, at + 300));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect((await client.response()).status).toBe(200);
    expect(up.requests[0]?.body.equals(body)).toBe(true);
  });

  test('500 streams at once, each its own', async () => {
    up.reset();
    const count = 500;
    const release = Promise.withResolvers<void>();
    up.handle(async (request, connection) => {
      const id = request.target.slice(request.target.lastIndexOf('/') + 1);
      await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
      await connection.chunk(`data: begin ${id}\n\n`);
      await release.promise;
      for (let part = 0; part < 5; part += 1) await connection.chunk(`data: ${id} ${part}\n\n`);
      await connection.lastChunk();
    });
    const before = bridge.child.rss();
    const clients = await Promise.all(Array.from({ length: count }, () => connect(bridge)));
    clients.forEach((client, id) => void client.send(formatRequest({ target: `/api/v1/stream/${id}` })));
    await Promise.all(clients.map((client, id) => client.waitFor(`begin ${id}\n`, 10_000)));
    expect((bridge.child.rss() - before) / MIB).toBeLessThan(64);
    release.resolve();
    const answers = await Promise.all(clients.map((client) => client.response({ ms: 10_000 })));
    for (const [id, answer] of answers.entries()) {
      const parts = [`data: begin ${id}\n\n`, ...[0, 1, 2, 3, 4].map((part) => `data: ${id} ${part}\n\n`)];
      expect([answer.complete, answer.text()]).toEqual([true, parts.join('')]);
    }
    for (const client of clients) client.close();
    await until('the descriptors to be free', () => bridge.child.fds() < 50);
  });
});

suite('a client that leaves', () => {
  /** How a client can go while its upstream says nothing. */
  const ways: [string, (socket: Socket) => void][] = [
    ['closes', (socket) => socket.destroy()],
    ['resets', (socket) => socket.resetAndDestroy()],
    [
      'shuts its side and closes later',
      (socket) => {
        socket.end();
        setTimeout(() => socket.destroy(), 250);
      },
    ],
  ];
  const whens: [string, (connection: RecorderConnection, client: Socket) => Promise<unknown>][] = [
    ['before the answer', async () => {}],
    [
      'in mid-stream',
      async (connection, client) => {
        const data = new Promise((resolve) => client.once('data', resolve));
        await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
        await connection.chunk('data: 1\n\n');
        await data;
      },
    ],
  ];
  test.each(ways.flatMap((way) => whens.map((when) => [...way, ...when] as const)))(
    '%s: a silent upstream is cancelled within a second',
    async (_, leave, __, prepare) => {
      const upstream = nextUpstream();
      const client = await dial(bridge.port);
      client.write(formatRequest(MESSAGE));
      const connection = await upstream;
      await prepare(connection, client);
      leave(client);
      await within('the upstream to be cancelled', connection.gone, 1250);
      const record = await until('its record', () =>
        proxy.records().findLast(({ reason }) => reason === 'client_closed'),
      );
      expect(record.decision).toBe('allow');
    },
  );

  test('is killed: the upstream is cancelled within a second', async () => {
    const upstream = nextUpstream();
    const url = `http://127.0.0.1:${bridge.port}/api/v1/messages`;
    const script = `await fetch(${JSON.stringify(url)}, { method: "POST", body: "{}" })`;
    const child = spawn([BUN, '-e', script], work.dir);
    const connection = await upstream;
    child.kill('SIGKILL');
    await within('the upstream to be cancelled', connection.gone, 1250);
  });

  test('a hundred of them leave nothing open', async () => {
    await using far = await openFarSide((socket) => void socket.resume());
    const before = far.bridge.child.fds();
    const clients = await Promise.all(Array.from({ length: 100 }, () => dial(far.port)));
    await until('the connections', () => far.bridge.child.fds() >= before + 200);
    clients.forEach((client, index) => {
      client.write('x');
      if (index % 2) client.resetAndDestroy();
      else client.destroy();
    });
    await until('all to be closed', () => far.bridge.child.fds() <= before + 1);
  });
});

suite('a client that shuts its sending side', () => {
  test('gets its whole answer, however late', async () => {
    const upstream = nextUpstream();
    using client = await connect(bridge);
    await client.send(formatRequest(MESSAGE));
    client.halfClose();
    const connection = await upstream;
    // Longer than several looks at who is still there.
    for (let part = 0; part < 5; part += 1) {
      await new Promise((resolve) => setTimeout(resolve, 120));
      if (part === 0) await connection.head(200, { 'Transfer-Encoding': 'chunked' });
      await connection.chunk(`part ${part};`);
    }
    await connection.lastChunk();
    connection.release();
    const answer = await client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([
      200,
      true,
      'part 0;part 1;part 2;part 3;part 4;',
    ]);
  });

  test('a hundred at once get theirs', async () => {
    up.reset();
    const release = Promise.withResolvers<void>();
    up.handle(async (request, connection) => {
      await release.promise;
      await connection.reply(200, {}, request.target);
    });
    const clients = await Promise.all(Array.from({ length: 100 }, () => connect(bridge)));
    for (const [id, client] of clients.entries()) {
      await client.send(formatRequest({ target: `/api/v1/half/${id}` }));
      client.halfClose();
    }
    await until('the requests', () => up.requests.length === 100);
    await new Promise((resolve) => setTimeout(resolve, 350));
    release.resolve();
    const answers = await Promise.all(clients.map((client) => client.response()));
    for (const [id, answer] of answers.entries()) expect(answer.text()).toBe(`/v1/half/${id}`);
    for (const client of clients) client.close();
  });
});

suite('a proxy that goes and comes back', () => {
  /** A proxy and a bridge of their own. */
  async function pair() {
    up.reset();
    const own = await startSimple({ upstreamPort: up.port, ca: up.ca, canary });
    const ownBridge = await openBridge(own.socket());
    return {
      proxy: own,
      bridge: ownBridge,
      async [Symbol.asyncDispose]() {
        await ownBridge[Symbol.asyncDispose]();
        await own[Symbol.asyncDispose]();
      },
    };
  }

  test.each(['SIGTERM', 'SIGKILL'] as const)('%s: clients that keep alive find it again', async (signal) => {
    await using own = await pair();
    const clients = await Promise.all(Array.from({ length: 10 }, () => connect(own.bridge)));
    for (const client of clients) {
      await client.send(formatRequest(MESSAGE));
      expect((await client.response()).status).toBe(200);
    }
    await own.proxy.stop(signal);
    // Their connections end with the proxy: a client that has one left knows that it must make another.
    for (const client of clients) await client.untilClosed();
    const again = clients.map(() => request(own.bridge, MESSAGE));
    await until('them to wait', () => own.bridge.child.stderr().includes('warning'));
    await own.proxy.start();
    for (const answer of await Promise.all(again)) expect(answer.status).toBe(200);
    expect(up.requests).toHaveLength(20);
    await until('the good news', () => own.bridge.child.stderr().includes('answers again'));
    const told = own.bridge.child.stderr().toString();
    expect(told.split('answers again')).toHaveLength(2);
    expect(told.split('\n').length).toBeLessThan(5);
  });

  test('an ordinary client library is not bothered', async () => {
    await using own = await pair();
    const url = `http://127.0.0.1:${own.bridge.port}/api/v1/messages`;
    const ask = async () => (await fetch(url, { method: 'POST', body: '{}' })).status;
    expect(await ask()).toBe(200);
    await own.proxy.stop();
    const asked = ask();
    await until('it to wait', () => own.bridge.child.stderr().includes('warning'));
    await own.proxy.start();
    expect(await asked).toBe(200);
    expect(await ask()).toBe(200);
  });

  test.each<[string, (socket: Socket) => void]>([
    ['closes', (socket) => socket.destroy()],
    ['resets', (socket) => socket.resetAndDestroy()],
  ])('a client that %s while it waits has asked for nothing', async (_, leave) => {
    await using own = await pair();
    await own.proxy.stop();
    const impatient = await dial(own.bridge.port);
    impatient.write(formatRequest({ ...MESSAGE, body: '{"impatient":1}' }));
    const patient = request(own.bridge, { ...MESSAGE, body: '{"patient":1}' });
    await until('them to wait', () => own.bridge.child.stderr().includes('warning'));
    leave(impatient);
    await own.proxy.start();
    expect((await patient).status).toBe(200);
    // A second one, so that the first would have been seen by now.
    expect((await request(own.bridge, { ...MESSAGE, body: '{"later":1}' })).status).toBe(200);
    expect(up.requests.map(({ body }) => body.toString())).toEqual(['{"patient":1}', '{"later":1}']);
    await until('the descriptors to be free', () => own.bridge.child.fds() < 30);
  });

  test('a client that has shut its side while it waits gets its answer', async () => {
    await using own = await pair();
    await own.proxy.stop();
    using client = await connect(own.bridge);
    await client.send(formatRequest(MESSAGE));
    client.halfClose();
    await until('it to wait', () => own.bridge.child.stderr().includes('warning'));
    await own.proxy.start();
    expect((await client.response()).status).toBe(200);
  });
});

suite('the command', () => {
  const bad: [string, string, string][] = [
    ['every address', '0.0.0.0:0', '0.0.0.0 is not loopback: everybody who reaches it could use the proxy'],
    ['every address, IPv6', '[::]:0', ':: is not loopback'],
    ['an address of the network', '192.0.2.1:80', '192.0.2.1 is not loopback'],
    ['a mapped address', '[::ffff:192.0.2.1]:80', '::ffff:192.0.2.1 is not loopback'],
    [
      'an address that begins like loopback',
      '127.0.0.1.example.org:80',
      '--listen wants an IP address and a port',
    ],
    ['a name', 'localhost:8080', '--listen wants an IP address and a port'],
    ['no address', ':8080', '--listen wants an IP address and a port'],
    ['no port', '127.0.0.1', '--listen wants an IP address and a port'],
    ['too large a port', '127.0.0.1:65536', '--listen wants an IP address and a port'],
    ['a short address', '127.1:80', '--listen wants an IP address and a port'],
    ['nothing', '', '--listen wants an IP address and a port'],
  ];
  test.each(bad)('refuses to listen on %s', async (_, address, message) => {
    const result = await run(['bridge', '--socket', proxy.socket(), '--listen', address]);
    expect([result.code, result.stdout]).toEqual([64, '']);
    expect(result.stderr).toContain(`isoproxy: error: ${message}`);
    expect(result.stderr).toContain('isoproxy: hint: ');
  });

  test('listens on loopback only', async () => {
    const table = await Bun.file('/proc/net/tcp').text();
    const port = bridge.port.toString(16).toUpperCase().padStart(4, '0');
    expect(table.split('\n').filter((line) => line.includes(`:${port} 00000000:0000 0A`))).toEqual([
      expect.stringContaining(` 0100007F:${port} `),
    ]);
    const outer = Object.values(networkInterfaces())
      .flat()
      .find((entry) => entry?.family === 'IPv4' && !entry.internal);
    if (outer) await expect(connect({ ...bridge, host: outer.address })).rejects.toThrow('ECONNREFUSED');
  });

  test('--unsafe-listen allows any address; a half-closed client is served there too', async () => {
    await using opened = await openBridge(proxy.socket(), '0.0.0.0:0', ['--unsafe-listen']);
    const outer = Object.values(networkInterfaces())
      .flat()
      .find((entry) => entry?.family === 'IPv4' && !entry.internal);
    const upstream = nextUpstream();
    using client = await connect({ ...opened, host: outer?.address ?? '127.0.0.1' });
    await client.send(formatRequest(MESSAGE));
    client.halfClose();
    const connection = await upstream;
    await new Promise((resolve) => setTimeout(resolve, 350));
    await connection.reply(200, {}, 'late');
    connection.release();
    expect((await client.response()).text()).toBe('late');
  });

  test.skipIf(
    !Object.values(networkInterfaces())
      .flat()
      .some((entry) => entry?.address === '::1'),
  )('listens on IPv6 loopback', async () => {
    await using opened = await openBridge(proxy.socket(), '[::1]:0');
    expect(opened.child.stdout().toString()).toBe(`http://[::1]:${opened.port}\n`);
    up.reset();
    expect((await request({ port: opened.port, host: '::1' }, MESSAGE)).status).toBe(200);
  });

  test('takes the port that it is told, and says when it is in use', async () => {
    const port = await freePort();
    await using _first = await openBridge(proxy.socket(), `127.0.0.1:${port}`);
    const second = await run(['bridge', '--socket', proxy.socket(), '--listen', `127.0.0.1:${port}`]);
    expect([second.code, second.stdout]).toEqual([69, '']);
    expect(second.stderr).toContain(`isoproxy: error: 127.0.0.1:${port} is in use\n`);
  });

  test('$ISOPROXY_SOCKET names the socket; without either it refuses', async () => {
    const args = ['bridge', '--listen', '127.0.0.1:0'];
    const without: RunResult = await run(args);
    expect([without.code, without.stderr.includes('no socket is named')]).toEqual([64, true]);
    const child = start(work.dir, args, { env: { ISOPROXY_SOCKET: proxy.socket() } });
    const port = Number(/:(\d+)\n/.exec(await seen(child, /\n/))?.[1]);
    expect((await request({ port }, { target: '/healthz' })).status).toBe(200);
    child.kill('SIGTERM');
    await child.exited;
  });

  test.each(['SIGTERM', 'SIGINT'] as const)('%s ends it with 0, and its connections', async (signal) => {
    await using far = await openFarSide((socket) => void socket.resume());
    using client = await connect(far);
    await client.send('x');
    far.bridge.child.kill(signal);
    expect(await within('the end', far.bridge.child.exited)).toBe(0);
    await client.untilClosed();
    await expect(connect(far)).rejects.toThrow('ECONNREFUSED');
  });

  test.skipIf(!works([...UNSHARE_NET, 'true']))('loopback is down: says so, and what to do', async () => {
    const [binary] = isoproxyCommand(work.dir);
    const args = ['bridge', '--socket', proxy.socket(), '--listen', '127.0.0.1:8080'];
    const child = spawn([...UNSHARE_NET, binary as string, ...args], work.dir);
    expect(await within('the end', child.exited)).toBe(69);
    expect(child.stderr().toString()).toContain('cannot listen on 127.0.0.1:8080: loopback is down here');
    expect(child.stderr().toString()).toContain('ip link set lo up');
  });
});

suite('no proxy at all', () => {
  test('after ten seconds everybody is told, in the form of any other refusal', async () => {
    const answers = await waited;
    expect(performance.now() - begun).toBeGreaterThan(9_500);
    for (const answer of answers) {
      expect([answer.status, answer.complete, answer.connectionClosed]).toEqual([503, true, true]);
      expect(answer.header('content-type')).toStartWith('application/problem+json');
      expect(answer.header('x-isoproxy-error')).toBe('proxy_unreachable');
      const problem = answer.json();
      expect([problem.code, problem.status, problem.error.type]).toEqual([
        'proxy_unreachable',
        503,
        'proxy_unreachable',
      ]);
      expect(problem.message).toStartWith('isoproxy: ');
    }
    const told = lonely.child.stderr().toString();
    expect(told).toContain(`isoproxy: warning: ${work.path('nobody.sock')}: no such socket`);
    expect(told.split('\n').length).toBeLessThan(4);
    await until('the descriptors to be free', () => lonely.child.fds() < 30);
  });

  const nobody = asNobody();
  test.skipIf(typeof nobody === 'string')('who may not use the socket is told at once', async () => {
    const [binary] = isoproxyCommand(work.dir);
    const args = ['bridge', '--socket', proxy.socket(), '--listen', '127.0.0.1:0'];
    const child = spawn([...nobody, binary as string, ...args], work.dir, { cwd: '/' });
    const port = Number(/:(\d+)\n/.exec(await seen(child, /\n/))?.[1]);
    const answer = await request({ port }, { ...MESSAGE, ms: 2_000 });
    expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([503, 'proxy_unreachable']);
    expect(child.stderr().toString()).toContain(`${proxy.socket()}: permission denied: `);
    child.kill('SIGTERM');
    expect(await child.exited).toBe(0);
  });
});
