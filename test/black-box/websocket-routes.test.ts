/** WebSocket relay over every way to an upstream, and with a client that is none of ours. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { connect, createServer } from 'node:net';
import { assertClean, makeCanary } from '../support/canary.ts';
import { testCerts } from '../support/certs.ts';
import { until, within } from '../support/deadline.ts';
import { createWorkspace, type Isoproxy, startSimple } from '../support/isoproxy.ts';
import { request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';
import { acceptWs, openWs, upgradeHeaders } from '../support/ws.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

const canary = makeCanary('sk-test-');
const WS = { methods: ['GET'], paths: ['/ws'], websocket: true };

/** One message each way, and the end. */
async function talk(proxy: Isoproxy, up: Recorder, target = '/api/ws', headers: [string, string][] = []) {
  up.handle(async (asked, connection) => {
    const upstream = await acceptWs(asked, connection);
    const { data } = await upstream.receive();
    await upstream.send(`heard ${data}`);
    await upstream.sendClose(1000);
    await upstream.untilClosed();
    upstream.end();
  });
  using client = await openWs(proxy.socket(), target, headers);
  expect(client.status).toBe(101);
  await client.send('hello');
  expect((await client.receive()).data.toString()).toBe('heard hello');
  expect((await client.receive()).code).toBe(1000);
  assertClean(canary, { head: client.rawHead, ...proxy.visible() });
  return up.requests.at(-1)!;
}

describe.skipIf(DENO)('WebSocket', () => {
  let up: Recorder;
  beforeAll(async () => {
    up = await startRecorder();
  });
  afterAll(() => up.close());
  const base = () => ({ upstreamPort: up.port, ca: up.ca, canary, endpoints: [WS] });

  test('below a base path, with the credential in the query', async () => {
    await using proxy = await startSimple({
      ...base(),
      provider: {
        base_url: `https://localhost:${up.port}/deep/base`,
        credential: { header: undefined, query: 'key' },
      },
    });
    const asked = await talk(proxy, up, '/api/ws?key=own&model=x');
    expect(asked.target).toBe(`/deep/base/ws?model=x&key=${canary}`);
  });

  test('with headers that the operator sets, and without those that are stripped', async () => {
    await using proxy = await startSimple({
      ...base(),
      provider: {
        headers: { 'openai-beta': 'realtime=v1' },
        strip_headers: ['x-account', 'sec-websocket-protocol'],
      },
    });
    const asked = await talk(proxy, up, '/api/ws', [
      ['Sec-WebSocket-Protocol', 'realtime'],
      ['X-Account', 'other'],
      ['X-Nominated', 'x'],
      ['Connection', 'keep-alive, X-Nominated'],
    ]);
    const names = ['openai-beta', 'sec-websocket-protocol', 'x-account', 'x-nominated'];
    expect(names.map((name) => asked.header(name))).toEqual(['realtime=v1', undefined, undefined, undefined]);
  });

  test('with a client certificate', async () => {
    const certs = await testCerts();
    await using strict = await startRecorder({ clientCert: 'require' });
    using workspace = createWorkspace();
    const files = { 'client.pem': certs.client.cert, 'client.key': certs.client.key };
    await using proxy = await startSimple(
      {
        ...base(),
        upstreamPort: strict.port,
        files,
        provider: { client_cert: workspace.path('client.pem'), client_key: workspace.path('client.key') },
      },
      { workspace },
    );
    await talk(proxy, strict);
    expect(strict.connections.at(-1)?.tls?.clientName).toBe('isoproxy-client');
  });

  test('without the client certificate that the upstream wants, it is a failure of TLS', async () => {
    await using strict = await startRecorder({ clientCert: 'require' });
    await using proxy = await startSimple({ ...base(), upstreamPort: strict.port });
    const answer = await request(proxy.socket(), { target: '/api/ws', headers: upgradeHeaders() });
    expect([answer.status, strict.requests.length]).toEqual([502, 0]);
  });

  test('to a name, which is what the certificate is verified by and what SNI says', async () => {
    await using proxy = await startSimple(base());
    await talk(proxy, up);
    expect(up.connections.at(-1)?.tls?.servername).toBe('localhost');
  });

  test('over plain HTTP on loopback', async () => {
    await using plain = await startRecorder({ tls: false });
    await using proxy = await startSimple({
      ...base(),
      upstreamPort: plain.port,
      provider: {
        base_url: `http://127.0.0.1:${plain.port}`,
        unsafe_allow_http: true,
        ca_file: undefined,
      },
    });
    const asked = await talk(proxy, plain);
    expect([asked.header('x-api-key'), asked.header('host')]).toEqual([canary, `127.0.0.1:${plain.port}`]);
  });

  test('over a unix socket', async () => {
    using workspace = createWorkspace();
    const path = workspace.path('up.sock');
    await using unix = await startRecorder({ unix: path });
    await using proxy = await startSimple(
      {
        ...base(),
        provider: {
          base_url: 'http://upstream.internal',
          unsafe_allow_http: true,
          upstream_socket: path,
          ca_file: undefined,
        },
      },
      { workspace },
    );
    const asked = await talk(proxy, unix);
    expect([asked.target, asked.header('host'), asked.header('x-api-key')]).toEqual([
      '/ws',
      'upstream.internal',
      canary,
    ]);
  });

  test('over a unix socket that carries TLS: verified by the name of the upstream', async () => {
    using workspace = createWorkspace();
    const path = workspace.path('tls.sock');
    const relay = createServer((from) => {
      const to = connect(up.port, '127.0.0.1');
      for (const end of [from, to]) end.on('error', () => {});
      from.pipe(to).pipe(from);
    });
    await new Promise<void>((done) => relay.listen(path, done));
    try {
      for (const [name, status] of [
        ['up.example', 101],
        ['other.example', 502],
      ] as const) {
        await using proxy = await startSimple({
          ...base(),
          provider: { base_url: `https://${name}`, upstream_socket: path },
        });
        if (status === 101) {
          await talk(proxy, up);
          expect(up.connections.at(-1)?.tls?.servername).toBe(name);
        } else {
          const before = up.requests.length;
          const answer = await request(proxy.socket(), { target: '/api/ws', headers: upgradeHeaders() });
          expect([answer.header('x-isoproxy-error'), up.requests.length]).toEqual(['upstream_tls', before]);
        }
      }
    } finally {
      relay.close();
    }
  });

  test('nothing in the environment steers it', async () => {
    await using proxy = await startSimple(base(), {
      env: {
        HTTPS_PROXY: 'http://127.0.0.1:9',
        ALL_PROXY: 'http://127.0.0.1:9',
        NODE_TLS_REJECT_UNAUTHORIZED: '0',
        WS_NO_BUFFER_UTIL: '',
      },
    });
    await talk(proxy, up);
    up.showCertificate('self-signed');
    const answer = await request(proxy.socket(), { target: '/api/ws', headers: upgradeHeaders() });
    up.showCertificate('good');
    expect([answer.status, answer.header('x-isoproxy-error')]).toEqual([502, 'upstream_tls']);
  });

  test('a credential that was rotated is the one of the next tunnel, and guards it', async () => {
    await using proxy = await startSimple(base());
    await talk(proxy, up);
    const next = makeCanary('sk-test-');
    proxy.workspace.write('secrets/api.key', next);
    await until('the new credential', async () => (await talk(proxy, up)).header('x-api-key') === next);
  });

  test('with the WebSocket client that Bun brings, over a TCP listener with a token', async () => {
    const { freePort } = await import('../support/isoproxy.ts');
    const port = await freePort();
    const token = makeCanary('token-');
    using workspace = createWorkspace();
    await using proxy = await startSimple(
      {
        ...base(),
        listener: { socket: undefined, tcp: `127.0.0.1:${port}`, token: { file: workspace.path('token') } },
        files: { token },
      },
      { workspace },
    );
    up.handle(async (asked, connection) => {
      const upstream = await acceptWs(asked, connection, [['Sec-WebSocket-Protocol', 'realtime']]);
      for (;;) {
        const got = await upstream.receive();
        if (got.kind === 'close') break;
        await upstream.send(got.kind === 'text' ? got.data.toString() : got.data);
      }
      await upstream.sendClose(4321, 'enough');
      upstream.end();
    });
    const socket = new WebSocket(`ws://127.0.0.1:${port}/api/ws`, {
      protocols: ['realtime'],
      headers: { Authorization: `Bearer ${token}` },
    } as never);
    socket.binaryType = 'arraybuffer';
    const got: unknown[] = [];
    const closed = new Promise<CloseEvent>((resolve) => socket.addEventListener('close', resolve));
    socket.addEventListener('open', () => {
      socket.send('text');
      socket.send(new Uint8Array([1, 2, 3]));
    });
    socket.addEventListener('message', ({ data }) => {
      got.push(data);
      if (got.length === 2) socket.close(3001, 'over');
    });
    expect((await within('its end', closed)).code).toBe(3001);
    expect([socket.protocol, got]).toEqual(['realtime', ['text', new Uint8Array([1, 2, 3]).buffer]]);
    const asked = up.requests.at(-1)!;
    expect([asked.header('authorization'), asked.header('x-api-key')]).toEqual([undefined, canary]);
    const denied = await request(proxy.endpoint(), { target: '/api/ws', headers: upgradeHeaders() });
    expect(denied.status).toBe(401);
  });
});
