/** The ways to an upstream besides the plain one: a CONNECT proxy, a unix socket, a client certificate, a base path. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { assertClean, makeCanary } from '../support/canary.ts';
import { testCerts } from '../support/certs.ts';
import { createWorkspace, startSimple } from '../support/isoproxy.ts';
import { request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

const canary = makeCanary('sk-test-');

let up: Recorder;
beforeAll(async () => {
  up = await startRecorder({});
});
afterAll(() => up.close());

const post = (socket: string) => request(socket, { method: 'POST', target: '/api/v1/messages', body: '{}' });

/** A CONNECT proxy that notes what it was asked for and tunnels it to loopback. */
async function startConnectProxy(): Promise<{
  port: number;
  asked: string[];
  bytes: () => Buffer;
  close: () => void;
}> {
  const asked: string[] = [];
  const seen: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer((client) => {
    sockets.add(client);
    client.on('error', () => {});
    client.once('data', (head: Buffer) => {
      seen.push(head);
      const [method, authority = ''] = head.toString('latin1').split(' ');
      asked.push(`${method} ${authority}`);
      const upstream = netConnect(Number(authority.split(':')[1]), '127.0.0.1', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        client.on('data', (chunk: Buffer) => {
          seen.push(chunk);
          upstream.write(chunk);
        });
        upstream.pipe(client);
      });
      sockets.add(upstream);
      upstream.on('error', () => client.destroy());
    });
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as { port: number };
  const close = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { port, asked, bytes: () => Buffer.concat(seen), close };
}

describe('upstream_proxy', () => {
  test('requests go through the proxy, and TLS with its verification to the upstream', async () => {
    const tunnel = await startConnectProxy();
    try {
      await using proxy = await startSimple({
        upstreamPort: up.port,
        ca: up.ca,
        canary,
        top: { server: { upstream_proxy: `http://127.0.0.1:${tunnel.port}` } },
      });
      expect((await post(proxy.socket())).status).toBe(200);
      expect(tunnel.asked).toEqual([`CONNECT localhost:${up.port}`]);
      expect(up.requests.at(-1)?.header('x-api-key')).toBe(canary);
      // The proxy on the way sees TLS records, never the credential.
      assertClean(canary, { tunnel: tunnel.bytes(), ...proxy.visible() });
    } finally {
      tunnel.close();
    }
  });

  test('a certificate of an unknown CA behind the proxy is refused, and no request is sent', async () => {
    await using wrong = await startRecorder({ tls: 'unknown-ca' });
    const tunnel = await startConnectProxy();
    try {
      await using proxy = await startSimple({
        upstreamPort: wrong.port,
        ca: up.ca,
        canary,
        top: { server: { upstream_proxy: `http://127.0.0.1:${tunnel.port}` } },
      });
      const answer = await post(proxy.socket());
      expect([answer.status, answer.json().code]).toEqual([502, 'upstream_tls']);
      expect(wrong.requests).toEqual([]);
    } finally {
      tunnel.close();
    }
  });

  test('a proxy that is down is upstream_unreachable; nothing goes around it', async () => {
    const tunnel = await startConnectProxy();
    tunnel.close();
    await using proxy = await startSimple({
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      top: { server: { upstream_proxy: `http://127.0.0.1:${tunnel.port}` } },
    });
    const before = up.connections.length;
    const answer = await post(proxy.socket());
    expect([answer.status, answer.json().code]).toEqual([502, 'upstream_unreachable']);
    expect(up.connections.length).toBe(before);
  });
});

test('upstream_socket: a plain upstream behind a unix socket gets the request and the credential', async () => {
  using workspace = createWorkspace();
  await using local = await startRecorder({ unix: workspace.path('upstream.sock') });
  await using proxy = await startSimple(
    {
      upstreamPort: 80,
      ca: up.ca,
      canary,
      provider: {
        base_url: 'http://localhost/base',
        unsafe_allow_http: true,
        unsafe_allow_private: undefined,
        ca_file: undefined,
        upstream_socket: workspace.path('upstream.sock'),
      },
    },
    { workspace },
  );
  expect((await post(proxy.socket())).status).toBe(200);
  const [seen] = local.requests;
  expect([seen?.method, seen?.target, seen?.header('x-api-key')]).toEqual([
    'POST',
    // Deno speaks to a unix socket as to a proxy: in absolute form.
    `${DENO ? 'http://localhost' : ''}/base/v1/messages`,
    canary,
  ]);
});

test('a base path stands before the path that was judged, and cannot be left', async () => {
  await using proxy = await startSimple({
    upstreamPort: up.port,
    ca: up.ca,
    canary,
    provider: { base_url: `https://localhost:${up.port}/base/v2/` },
  });
  up.reset();
  expect((await post(proxy.socket())).status).toBe(200);
  expect(up.requests.at(-1)?.target).toBe('/base/v2/v1/messages');
  const left = await request(proxy.socket(), {
    method: 'POST',
    target: '/api/../../v1/messages',
    body: '{}',
  });
  expect(left.status).toBeGreaterThanOrEqual(400);
  expect(up.requests.length).toBe(1);
});

describe('client certificates', () => {
  test('an upstream that asks for one gets it', async () => {
    const certs = await testCerts();
    await using strict = await startRecorder({ clientCert: 'require' });
    using workspace = createWorkspace();
    workspace.write('client.crt', certs.client.cert);
    workspace.write('client.key', certs.client.key);
    await using proxy = await startSimple(
      {
        upstreamPort: strict.port,
        ca: strict.ca,
        canary,
        provider: { client_cert: workspace.path('client.crt'), client_key: workspace.path('client.key') },
      },
      { workspace },
    );
    expect((await post(proxy.socket())).status).toBe(200);
    expect(strict.connections.at(-1)?.tls?.clientName).toBeString();
  });

  test('an upstream that asks for one and gets none is a 502', async () => {
    await using strict = await startRecorder({ clientCert: 'require' });
    await using proxy = await startSimple({ upstreamPort: strict.port, ca: strict.ca, canary });
    expect((await post(proxy.socket())).status).toBe(502);
    expect(strict.requests).toEqual([]);
  });
});
