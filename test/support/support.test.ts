// The harness shows that it sees what is there: recorder and raw client agree, cuts are noticed, canaries are found.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { createHash, randomBytes } from 'node:crypto';
import { assertClean, findCanary, leakedPrefix, makeCanary } from './canary.ts';
import { type LeafKind, testCerts } from './certs.ts';
import { until } from './deadline.ts';
import { connect, request } from './raw-client.ts';
import { type Recorder, startRecorder } from './recorder.ts';

let plain: Recorder;
let secure: Recorder;
beforeAll(async () => {
  [plain, secure] = await Promise.all([startRecorder({ tls: false }), startRecorder()]);
});
afterAll(async () => {
  await Promise.all([plain.close(), secure.close()]);
});

describe('recorder', () => {
  test('records a TLS request of fetch in wire order, and fetch reads its answer', async () => {
    secure.reset();
    const answer = await fetch(`https://localhost:${secure.port}/v1/messages?a=%2F`, {
      method: 'POST',
      headers: { 'x-one': '1' },
      body: 'hello',
      tls: { ca: secure.ca },
    });
    expect([answer.status, await answer.text()]).toEqual([200, 'ok']);
    const seen = await secure.request();
    expect([seen.method, seen.target, seen.body.toString()]).toEqual(['POST', '/v1/messages?a=%2F', 'hello']);
    expect([seen.header('X-ONE'), seen.headerAll('host')]).toEqual(['1', [`localhost:${secure.port}`]]);
    expect(secure.connections).toHaveLength(1);
    expect(secure.connections[0]?.tls).toMatchObject({ servername: 'localhost', protocol: 'TLSv1.3' });
    expect(secure.problems).toEqual([]);
  });

  test('agrees with the raw client byte for byte, pipelined on one connection, chunked and by length', async () => {
    await using up = await startRecorder({ tls: false });
    using client = await connect({ port: up.port });
    const first = 'POST /a HTTP/1.1\r\nHost: h\r\nX-B: 2\r\nx-b:  3 \r\nTransfer-Encoding: chunked\r\n\r\n';
    const chunks = '3;ext=1\r\nabc\r\n02\r\nde\r\n0\r\nT: t\r\n\r\n';
    await client.send(`${first}${chunks}PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxyGET`);
    expect((await client.response()).text()).toBe('ok');
    expect((await client.response()).framing).toBe('length');
    client.halfClose();
    await client.untilClosed();
    const [a, b] = up.requests;
    expect(a).toMatchObject({
      rawHead: Buffer.from(first),
      rawBody: Buffer.from(chunks),
      trailers: [['T', 't']],
    });
    expect(a?.headers.slice(1, 3)).toEqual([
      ['X-B', '2'],
      ['x-b', '3'],
    ]);
    expect([a?.body.toString(), b?.body.toString(), b?.target]).toEqual(['abcde', 'xy', '/b']);
    expect(up.connections).toHaveLength(1);
    expect(up.problems).toEqual(['connection 1: 3 bytes that are no request']);
  });

  test.each([
    ['Content-Length and chunked', 'Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n', /ambiguous/],
    ['two lengths', 'Content-Length: 1\r\nContent-Length: 1\r\n\r\n', /ambiguous/],
    ['a bad chunk size', 'Transfer-Encoding: chunked\r\n\r\n0x1\r\n', /malformed chunk size/],
    ['a bare LF', 'X: a\nB: c\r\n\r\n', /bare/],
  ])('reports %s as a problem', async (_, rest, problem) => {
    await using up = await startRecorder({ tls: false });
    using client = await connect({ port: up.port });
    await client.send(`POST / HTTP/1.1\r\nHost: h\r\n${rest}`);
    await client.untilClosed();
    expect(up.problems.join()).toMatch(problem);
  });

  test('marks a request whose body ends early as cut, and counts connections without a request', async () => {
    await using up = await startRecorder({ tls: false });
    using client = await connect({ port: up.port });
    await client.send('POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc');
    await until('three bytes', () => up.requests[0]?.bodyBytes === 3);
    client.abort();
    await up.request((seen) => seen.state === 'cut');
    expect(up.connections[0]?.peerEnd).toBe('reset');
    (await connect({ port: up.port })).close();
    await until('a second connection', () => up.connections.length === 2);
    expect([up.requests.length, up.problems.length]).toEqual([1, 0]);
  });

  test.each<[LeafKind, RegExp]>([
    ['expired', /expired/i],
    ['wrong-name', /altname/i],
    ['self-signed', /self.signed/i],
    ['unknown-ca', /issuer|verify|signature/i],
  ])('shows a certificate that is %s', async (kind, code) => {
    await using up = await startRecorder({ tls: kind });
    const url = `https://localhost:${up.port}/`;
    const failed = await fetch(url, { tls: { ca: up.ca } }).catch((error) => error);
    expect(`${failed.code} ${failed.message}`).toMatch(code);
    expect([up.connections.length, up.requests.length]).toEqual([1, 0]);
    up.showCertificate('good');
    expect((await fetch(url, { tls: { ca: up.ca } })).status).toBe(200);
  });

  test('asks for a client certificate', async () => {
    await using up = await startRecorder({ clientCert: 'require' });
    const { ca, client } = await testCerts();
    expect((await fetch(`https://localhost:${up.port}/`, { tls: { ca, ...client } })).status).toBe(200);
    expect(up.connections[0]?.tls?.clientName).toBe('isoproxy-client');
    const refused = await fetch(`https://localhost:${up.port}/`, { tls: { ca } }).catch(() => 'refused');
    expect(refused).toBe('refused');
  });

  test('hashes a large body without storing it', async () => {
    await using up = await startRecorder({ tls: false, hashOnly: true });
    using client = await connect({ port: up.port });
    const block = randomBytes(1 << 20);
    const hash = createHash('sha256');
    await client.send(`POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ${16 * block.length}\r\n\r\n`);
    for (let i = 0; i < 16; i++) {
      await client.send(block);
      hash.update(block);
    }
    await client.response();
    expect(up.requests[0]).toMatchObject({ bodyBytes: 16 << 20, bodySha256: hash.digest('hex') });
    expect(up.requests[0]?.body).toHaveLength(0);
  });

  test('refuses while down and serves the same port again', async () => {
    await using up = await startRecorder({ tls: false });
    await up.down();
    expect(await connect({ port: up.port }).catch((error) => error.code)).toBe('ECONNREFUSED');
    await up.up();
    expect((await request({ port: up.port })).status).toBe(200);
  });

  test('answers early at the head, and takes a connection over', async () => {
    await using up = await startRecorder({
      tls: false,
      onHead: async (seen, connection) => {
        if (seen.target === '/early') return (await connection.reply(413)) && 'answered';
        const raw = connection.takeOver();
        await connection.head(101, { Upgrade: 'echo', Connection: 'Upgrade' });
        for (let part = await raw.read(); part; part = await raw.read()) await connection.write(part);
        connection.end();
      },
    });
    using early = await connect({ port: up.port });
    await early.send('POST /early HTTP/1.1\r\nContent-Length: 5\r\n\r\n');
    expect((await early.response()).status).toBe(413);
    using tunnel = await connect({ port: up.port });
    await tunnel.send('GET / HTTP/1.1\r\nUpgrade: echo\r\n\r\n');
    expect((await tunnel.response()).status).toBe(101);
    await tunnel.send('ping');
    await tunnel.waitFor('ping');
    tunnel.halfClose();
    await tunnel.untilClosed();
  });
});

describe('raw client', () => {
  test('reads server-sent events as they come, and sees the end of the chunked body', async () => {
    const released = Promise.withResolvers<void>();
    plain.handle((_, connection) =>
      connection.sse(
        (async function* () {
          yield 'one';
          await released.promise;
          yield { event: 'e', data: 'two\nlines' };
        })(),
      ),
    );
    using client = await connect({ port: plain.port });
    await client.send('GET / HTTP/1.1\r\nHost: h\r\n\r\n');
    await client.waitFor('data: one\n\n');
    released.resolve();
    const answer = await client.response();
    expect(answer.text()).toBe('data: one\n\nevent: e\ndata: two\ndata: lines\n\n');
    expect([answer.framing, answer.complete, client.closed]).toEqual(['chunked', true, undefined]);
  });

  const cuts: [string, string, 'end' | 'cut' | 'reset', boolean, RegExp][] = [
    [
      'chunked, FIN inside',
      'Transfer-Encoding: chunked\r\n\r\n5\r\nab',
      'end',
      false,
      /cut in chunk data, 3/,
    ],
    [
      'chunked, no last chunk',
      'Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n',
      'cut',
      false,
      /cut in chunk size/,
    ],
    ['length, short', 'Content-Length: 5\r\n\r\nab', 'end', false, /3 bytes missing/],
    ['until close, FIN', '\r\nab', 'end', true, /^$/],
    ['until close, RST', '\r\nab', 'reset', false, /reset/],
  ];
  test.each(cuts)('tells how a body ended: %s', async (_, rest, how, complete, problem) => {
    plain.handle(async (__, connection) => {
      await connection.write(`HTTP/1.1 200 OK\r\n${rest}`);
      await connection.gone;
    });
    using client = await connect({ port: plain.port });
    await client.send('GET / HTTP/1.1\r\n\r\n');
    await client.waitFor('ab');
    plain.dropConnections(how === 'end' ? 'fin' : how);
    const answer = await client.response();
    expect([answer.status, answer.complete, answer.text()]).toEqual([200, complete, 'ab']);
    expect(answer.problem ?? '').toMatch(problem);
  });

  test('gives status 0 when the server closes without an answer, and knows who closed', async () => {
    plain.handle((_, connection) => connection.reset());
    const answer = await request({ port: plain.port });
    expect([answer.status, answer.complete, answer.connectionClosed]).toEqual([0, false, true]);
    plain.handle((_, connection) => connection.reply(200, { Connection: 'close' }, 'bye'));
    const last = await request({ port: plain.port }, { headers: { Connection: 'close' } });
    expect([last.text(), last.connectionClosed]).toEqual(['bye', true]);
    plain.reset();
    expect((await request({ port: plain.port }, { method: 'HEAD' })).connectionClosed).toBe(false);
  });

  test('speaks over TLS and skips interim answers', async () => {
    secure.reset();
    secure.handle(async (_, connection) => {
      await connection.head(103, { Link: '<x>' });
      await connection.json(201, { a: 1 });
    });
    const answer = await request({ port: secure.port, tls: { ca: secure.ca } });
    expect([answer.status, answer.interim, answer.json()]).toEqual([201, [103], { a: 1 }]);
  });
});

describe('canary', () => {
  const canary = makeCanary('sk-ant-api03-');
  const json = (text: string, every: number) =>
    [...text].map((c, i) => (i % every ? c : `\\u00${c.charCodeAt(0).toString(16)}`)).join('');
  const percent = (text: string, every: number) =>
    [...text].map((c, i) => (i % every ? c : `%${c.charCodeAt(0).toString(16)}`)).join('');
  const forms: [string, string | Uint8Array, string][] = [
    ['raw', `x ${canary} y`, 'raw'],
    ...[0, 1, 2].map((shift): [string, string, string] => [
      `base64 at alignment ${shift}`,
      `{"auth":"${Buffer.from(`${'u:?'.slice(0, shift)}${canary}~tail`).toString('base64')}"}`,
      'base64',
    ]),
    ['base64url of a secret that needs it', Buffer.from('??>~?????>>>').toString('base64url'), 'base64url'],
    ['hex', Buffer.from(canary).toString('hex'), 'hex'],
    ['upper-case hex', Buffer.from(canary).toString('hex').toUpperCase(), 'hex'],
    ['percent escapes throughout', percent(canary, 1), 'percent'],
    ['percent escapes in places', percent(canary, 3), 'percent'],
    ['double percent escapes', percent(canary, 1).replaceAll('%', '%25'), 'percent+percent'],
    ['JSON escapes throughout', json(canary, 1), 'json'],
    ['JSON escapes in places', `\\"${json(canary, 4)}\\/`, 'json'],
    ['percent-escaped base64', percent(Buffer.from(canary).toString('base64'), 2), 'percent+base64'],
    ['UTF-16', Buffer.from(canary, 'utf16le'), 'utf16'],
  ];
  test.each(forms)('is found: %s', (name, bytes, form) => {
    const secret = name.includes('needs it') ? '??>~?????>>>' : canary;
    expect(findCanary(bytes, secret)?.form).toBe(form);
    expect(() => assertClean(secret, { body: bytes })).toThrow('canary leaked in body');
    expect(findCanary(bytes, makeCanary('sk-ant-api03-'))).toBeUndefined();
  });

  test('is not found in random bytes or in a part of itself', () => {
    const noise = randomBytes(1 << 18);
    const part = canary.slice(0, -1);
    assertClean(canary, { noise, base64: noise.toString('base64'), part, percent: percent(part, 2) });
    expect([leakedPrefix(`..${part}`, canary), leakedPrefix('', canary)]).toEqual([canary.length - 1, 0]);
  });
});
