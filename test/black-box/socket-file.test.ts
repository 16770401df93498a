// Attack ids are explained in SECURITY.md. Who may connect is decided by the socket file, and on TCP by token, Host and Origin.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import { skipped } from '../support/client-side.ts';
import { until } from '../support/deadline.ts';
import {
  createWorkspace,
  freePort,
  type Isoproxy,
  isoproxyCommand,
  type ProxyConfig,
  recorderAt,
  run,
  type SimpleConfigOptions,
  simpleConfig,
  startIsoproxy,
  startSimple,
  type Workspace,
} from '../support/isoproxy.ts';
import { type Child, HIDDEN_REASON, spawn } from '../support/process.ts';
import { connect, type Endpoint, type RawResponse, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

const canary = makeCanary();
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());

const simple = (
  dir: string,
  over: Omit<SimpleConfigOptions, 'upstreamPort' | 'ca' | 'canary'> = {},
): ProxyConfig => simpleConfig(dir, { upstreamPort: up.port, ca: up.ca, canary, ...over });

/** Writes a config and its files; returns the path. */
function writeConfig(workspace: Workspace, { toml, files }: ProxyConfig): string {
  for (const [name, content] of Object.entries(files)) workspace.write(name, content);
  return workspace.write('proxy.toml', toml);
}

/** Runs `serve` to its end. */
const serve = (workspace: Workspace) =>
  run(['serve', '--config', workspace.path('proxy.toml')], { dir: workspace.dir });

function expectRefusal(answer: RawResponse, expected: string): void {
  expect(`${answer.status} ${answer.json().code}`).toBe(expected);
  expect(answer.header('connection')).toBe('close');
}

const works = async (endpoint: Endpoint, headers: Record<string, string> = {}, prefix = '/api') =>
  expect((await request(endpoint, { target: `${prefix}/v1/models/a`, headers })).status).toBe(200);

/** TCP ports on which a process listens, as `address:port` in the kernel's notation. */
function listeningTcp(pid: number): string[] {
  const inodes = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode) inodes.add(inode);
    } catch {}
  }
  return ['tcp', 'tcp6', 'udp', 'udp6'].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, 'utf8')
      .split('\n')
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => (table.startsWith('udp') || fields[3] === '0A') && inodes.has(fields[9] ?? ''))
      .map((fields) => fields[1]!),
  );
}

describe('F1 the mode of the socket', () => {
  /** Every mode that a bystander sees in the listener's directory, polled as fast as it goes, until it serves. */
  async function watchStart(workspace: Workspace): Promise<{ child: Child; seen: Map<string, Set<number>> }> {
    const command = [...isoproxyCommand(workspace.dir), 'serve', '--config', workspace.path('proxy.toml')];
    const child = spawn(['/bin/sh', '-c', 'umask 000; exec "$@"', 'sh', ...command], workspace.dir);
    const directory = workspace.path('agent-1');
    const seen = new Map<string, Set<number>>();
    const look = () => {
      const note = (name: string, path: string) => {
        const stat = lstatSync(path, { throwIfNoEntry: false });
        if (stat) seen.set(name, (seen.get(name) ?? new Set()).add(stat.mode & 0o7777));
        return stat;
      };
      if (!note('.', directory)) return false;
      let serving = false;
      for (const name of readdirSync(directory)) {
        const stat = note(name, join(directory, name));
        serving ||= name === 'isoproxy.sock' && stat?.isSocket() === true;
      }
      return serving;
    };
    const isLogged = () => child.stderr().includes('"event":"listening"');
    await until(
      () => `the socket; stderr: ${child.stderr()}`,
      () => {
        // A tight loop: a window of microseconds has to be met.
        const end = performance.now() + 8;
        while (performance.now() < end) look();
        return isLogged() && look();
      },
    );
    return { child, seen };
  }

  test.each<[string, object, number, number]>([
    ['0600', {}, 0o600, 0o700],
    ['0666', { mode: '0666' }, 0o666, 0o755],
    ['0660', { mode: '0660', group: '0' }, 0o660, 0o755],
  ])(
    '%s is never wider, from the first moment on, at any of several starts under umask 000',
    async (_, listener, mode, directoryMode) => {
      using workspace = createWorkspace();
      writeConfig(workspace, simple(workspace.dir, { listener }));
      for (let round = 0; round < 7; round++) {
        const { child, seen } = await watchStart(workspace);
        const modes = [...seen];
        expect(modes.find(([name]) => name === 'isoproxy.sock')?.[1]).toEqual(new Set([mode]));
        for (const [name, found] of modes) {
          // The directory is made private, then opened to what it must be; no file in it is ever wider than the mode.
          for (const each of found)
            expect(`${name} ${(each & ~(name === '.' ? directoryMode : mode)).toString(8)}`).toBe(
              `${name} 0`,
            );
        }
        expect(readdirSync(workspace.path('agent-1'))).toEqual(['isoproxy.sock']);
        await works(workspace.path('agent-1/isoproxy.sock'));
        // By turns an end in order, which removes the socket, and a crash, which leaves a stale one.
        child.kill(round % 2 === 0 ? 'SIGTERM' : 'SIGKILL');
        expect(await child.exited).toBe(round % 2 === 0 ? 0 : 137);
        expect(readdirSync(workspace.path('agent-1'))).toEqual(round % 2 === 0 ? [] : ['isoproxy.sock']);
      }
    },
    20_000,
  );

  test('F5 a stale socket is replaced without a moment at which there is none', async () => {
    using workspace = createWorkspace();
    writeConfig(workspace, simple(workspace.dir));
    const first = await watchStart(workspace);
    first.child.kill('SIGKILL');
    await first.child.exited;
    const path = workspace.path('agent-1/isoproxy.sock');
    const before = lstatSync(path).ino;
    const child = spawn(
      [...isoproxyCommand(workspace.dir), 'serve', '--config', workspace.path('proxy.toml')],
      workspace.dir,
    );
    let missing = 0;
    await until('a new socket', () => {
      const end = performance.now() + 8;
      while (performance.now() < end) if (!lstatSync(path, { throwIfNoEntry: false })) missing++;
      return lstatSync(path, { throwIfNoEntry: false })?.ino !== before;
    });
    expect(missing).toBe(0);
    await works(path);
    child.kill('SIGKILL');
  });

  test('the directories of sockets are made 0700 also when they are several deep', async () => {
    await using proxy = await startIsoproxy((dir) =>
      simple(dir, { listener: { socket: join(dir, 'agent-1/a/b/isoproxy.sock') } }),
    );
    await works(proxy.socket());
    for (const name of ['agent-1', 'agent-1/a', 'agent-1/a/b'])
      expect(lstatSync(proxy.workspace.path(name)).mode & 0o777).toBe(0o700);
  });
});

describe('F2 what stands at the path of the socket', () => {
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });
  const listen = (path: string) =>
    new Promise<void>((done) =>
      servers.push(createServer((socket) => socket.on('error', () => {}).end()).listen(path, done)),
    );

  /** Puts something at the path, and tells afterwards whether it is still there as it was. */
  const things: [string, (path: string, workspace: Workspace) => unknown, RegExp][] = [
    ['a regular file', (path) => writeFileSync(path, 'precious'), /not a socket/],
    ['a directory', (path) => mkdirSync(path), /not a socket/],
    [
      'a link to a file',
      (path, { write }) => symlinkSync(write('elsewhere/target', 'precious'), path),
      /not a socket/,
    ],
    ['a dangling link', (path, { dir }) => symlinkSync(join(dir, 'elsewhere/nowhere'), path), /not a socket/],
    [
      'a link to a dead socket',
      async (path, workspace) => symlinkSync(await dead(workspace), path),
      /not a socket/,
    ],
    [
      'a link to a live socket',
      async (path, { dir }) => {
        await listen(join(dir, 'elsewhere/live.sock'));
        symlinkSync(join(dir, 'elsewhere/live.sock'), path);
      },
      /not a socket/,
    ],
    ['a live socket of another process', (path) => listen(path), /in use/],
  ];
  /** A socket file behind which nobody listens. */
  async function dead({ path }: Workspace): Promise<string> {
    const server = createServer();
    await new Promise<void>((done) => server.listen(path('elsewhere/bound.sock'), done));
    // Closing unlinks by name, so the file is moved away first.
    renameSync(path('elsewhere/bound.sock'), path('elsewhere/dead.sock'));
    await new Promise((done) => server.close(done));
    return path('elsewhere/dead.sock');
  }

  test.each(things)('%s is refused with 69 and left as it is', async (_, put, message) => {
    using workspace = createWorkspace();
    writeConfig(workspace, simple(workspace.dir));
    mkdirSync(workspace.path('agent-1'), { mode: 0o700 });
    mkdirSync(workspace.path('elsewhere'), { mode: 0o700 });
    const path = workspace.path('agent-1/isoproxy.sock');
    await put(path, workspace);
    const before = lstatSync(path);
    const files = workspace.files();
    const result = await serve(workspace);
    expect([result.code, result.stdout]).toEqual([69, '']);
    expect(result.stderr).toMatch(message);
    expect(result.stderr).toMatch(/isoproxy: hint: /);
    const after = lstatSync(path);
    expect([after.ino, after.mode, after.size]).toEqual([before.ino, before.mode, before.size]);
    // Its audit log says that it started, and that it stopped.
    const left = Object.entries(workspace.files()).filter(([name]) => !name.startsWith('state/audit/'));
    expect(Object.fromEntries(left)).toEqual(files);
    expect(readdirSync(workspace.path('agent-1'))).toEqual(['isoproxy.sock']);
  });

  test('a dead socket is replaced', async () => {
    using workspace = createWorkspace();
    mkdirSync(workspace.path('agent-1'), { mode: 0o700 });
    mkdirSync(workspace.path('elsewhere'), { mode: 0o700 });
    renameSync(await dead(workspace), workspace.path('agent-1/isoproxy.sock'));
    await using proxy = await startIsoproxy((dir) => simple(dir), { workspace });
    await works(proxy.socket());
  });

  test('a second instance is refused with 69, and the first serves on', async () => {
    await using proxy = await startIsoproxy((dir) => simple(dir));
    const inode = lstatSync(proxy.socket()).ino;
    expect((await serve(proxy.workspace)).code).toBe(69);
    expect(lstatSync(proxy.socket()).ino).toBe(inode);
    expect(readdirSync(proxy.workspace.path('agent-1'))).toEqual(['isoproxy.sock']);
    await works(proxy.socket());
  });

  test('an instance that stops leaves the socket of its successor alone', async () => {
    using workspace = createWorkspace();
    const config = simple(workspace.dir);
    await using first = await startIsoproxy(() => config, { workspace });
    // It looks once after listening whether the socket is its own.
    await until('the first to be up', () => first.lines().some(({ event }) => event === 'listening'));
    unlinkSync(first.socket());
    // With the same state it would be refused at the control socket.
    const toml = config.toml.replace(/(state_dir = ")[^"]*/, `$1${workspace.path('state-2')}`);
    await using second = await startIsoproxy(() => ({ ...config, toml }), { workspace });
    const inode = lstatSync(second.socket()).ino;
    expect(await first.stop()).toBe(0);
    expect(lstatSync(second.socket()).ino).toBe(inode);
    await works(second.socket());
  });

  test.each<[string, number | 'link']>([
    ['writable by its group', 0o770],
    ['writable by others', 0o707],
    ['open to all', 0o777],
    ['a link', 'link'],
  ])('F3 a directory that is %s is refused with 69', async (_, mode) => {
    using workspace = createWorkspace();
    writeConfig(workspace, simple(workspace.dir));
    mkdirSync(workspace.path('real'), { mode: 0o700 });
    if (mode === 'link') symlinkSync(workspace.path('real'), workspace.path('agent-1'));
    else {
      mkdirSync(workspace.path('agent-1'));
      chmodSync(workspace.path('agent-1'), mode);
    }
    const result = await serve(workspace);
    expect([result.code, readdirSync(workspace.path('agent-1'))]).toEqual([69, []]);
    expect(result.stderr).toContain('agent-1');
  });

  const configs: [string, (dir: string) => Parameters<typeof simple>[1], RegExp][] = [
    ['F4 an abstract name', () => ({ listener: { socket: '@agent' } }), /listeners.*socket.*abstract/],
    [
      'F4 an abstract name with NUL',
      () => ({ listener: { socket: '\0agent' } }),
      /listeners.*socket.*abstract/,
    ],
    ['an empty path', () => ({ listener: { socket: '' } }), /listeners.*socket/],
    ['a relative path', () => ({ listener: { socket: 'agent.sock' } }), /listeners.*socket.*absolute/],
    [
      'a path of 108 bytes',
      () => ({ listener: { socket: `/tmp/${'x'.repeat(103)}` } }),
      /listeners.*socket.*107/,
    ],
    ['a mode of 0777', () => ({ listener: { mode: '0777' } }), /listeners.*mode/],
    ['a mode of 0660 without a group', () => ({ listener: { mode: '0660' } }), /listeners.*mode.*group/],
    [
      'the directory of the secrets',
      (dir) => ({ listener: { socket: join(dir, 'secrets/isoproxy.sock') } }),
      /listeners.*socket.*directory/,
    ],
    [
      'the directory of the state',
      (dir) => ({ listener: { socket: join(dir, 'state/isoproxy.sock') } }),
      /listeners.*socket.*directory/,
    ],
    [
      'the directory of the config',
      (dir) => ({ listener: { socket: join(dir, 'isoproxy.sock') } }),
      /listeners.*socket.*directory/,
    ],
    [
      'a socket and a port',
      () => ({ listener: { tcp: '127.0.0.1:1', token: { file: '/x' } } }),
      /listeners.*socket.*exclude/,
    ],
    [
      'a port on every interface',
      () => ({ listener: { socket: undefined, tcp: '0.0.0.0:8787', token: { file: '/x' } } }),
      /listeners.*tcp.*loopback/,
    ],
    [
      'a port on every interface (IPv6)',
      () => ({ listener: { socket: undefined, tcp: '[::]:8787', token: { file: '/x' } } }),
      /listeners.*tcp.*loopback/,
    ],
    [
      'a port by number only',
      () => ({ listener: { socket: undefined, tcp: ':8787', token: { file: '/x' } } }),
      /listeners.*tcp/,
    ],
    [
      'a port of zero',
      () => ({ listener: { socket: undefined, tcp: '127.0.0.1:0', token: { file: '/x' } } }),
      /listeners.*tcp/,
    ],
    [
      'a port without a token',
      () => ({ listener: { socket: undefined, tcp: '127.0.0.1:8787' } }),
      /listeners.*token.*required/,
    ],
    ['a token on a socket', () => ({ listener: { token: { file: '/x' } } }), /listeners.*token/],
    ['a mount that is not served', () => ({ listener: { mount: 'other' } }), /listeners.*mount/],
    [
      'a profile that does not exist',
      () => ({ listener: { network_profile: 'other' } }),
      /listeners.*network_profile/,
    ],
  ];
  test.each(configs)('%s is refused with 78, and nothing listens', async (_, change, message) => {
    using workspace = createWorkspace();
    writeConfig(workspace, simple(workspace.dir, change(workspace.dir)));
    const result = await serve(workspace);
    expect([result.code, result.stdout]).toEqual([78, '']);
    expect(result.stderr).toMatch(message);
    assertClean(canary, { stderr: result.stderr });
  });
});

describe.skipIf(HIDDEN_REASON !== undefined)(`ports${skipped(HIDDEN_REASON)}`, () => {
  test('a proxy with sockets alone listens on no port, whatever PORT, HOST and the like say', async () => {
    const env = { PORT: '4567', BUN_PORT: '4568', NODE_PORT: '4569', HOST: '0.0.0.0', HOSTNAME: '0.0.0.0' };
    await using proxy = await startIsoproxy((dir) => simple(dir), DENO ? {} : { env });
    await works(proxy.socket());
    expect(listeningTcp(proxy.child.pid)).toEqual([]);
  });

  test('a proxy with a TCP listener listens on that port of loopback alone', async () => {
    const port = await freePort();
    await using proxy = await startIsoproxy((dir) =>
      simple(dir, {
        listener: {
          socket: undefined,
          tcp: `127.0.0.1:${port}`,
          token: { file: join(dir, 'secrets/token') },
        },
        files: { 'secrets/token': makeCanary('token-') },
      }),
    );
    const hex = port.toString(16).toUpperCase().padStart(4, '0');
    expect(listeningTcp(proxy.child.pid)).toEqual([`0100007F:${hex}`]);
  });

  test('a port in use is refused with 69', async () => {
    using workspace = createWorkspace();
    const listener = {
      socket: undefined,
      tcp: `127.0.0.1:${up.port}`,
      token: { file: workspace.path('secrets/token') },
    };
    writeConfig(workspace, simple(workspace.dir, { listener, files: { 'secrets/token': makeCanary() } }));
    const before = up.connections.length;
    const result = await serve(workspace);
    expect([result.code, up.connections.length]).toEqual([69, before]);
    expect(result.stderr).toContain('EADDRINUSE');
  });
});

describe('a TCP listener', () => {
  const token = makeCanary('token-');
  let proxy: Isoproxy;
  let port: number;

  beforeAll(async () => {
    port = await freePort();
    proxy = await startIsoproxy((dir) =>
      simple(dir, {
        listener: {
          name: 'tcp-1',
          socket: undefined,
          tcp: `127.0.0.1:${port}`,
          token: { file: join(dir, 'secrets/token') },
          hosts: ['host.docker.internal'],
          allow_origins: ['http://good.test'],
        },
        files: { 'secrets/token': token },
      }),
    );
  });
  afterAll(() => proxy[Symbol.asyncDispose]());

  const bearer = `Bearer ${token}`;
  type Headers = Record<string, string>;
  const good: [string, Headers][] = [
    ['its token as bearer', { Authorization: bearer }],
    ['its token as bearer, the scheme in another case', { authorization: `bEARER ${token}` }],
    ['its token as x-api-key', { 'X-Api-Key': token }],
    ['its token as x-api-key beside another scheme', { 'x-api-key': token, Authorization: 'Basic eDp5' }],
    ['a Host that is listed', { Authorization: bearer, Host: 'host.docker.internal:80' }],
    ['a Host that is listed, in another case', { Authorization: bearer, Host: 'Host.Docker.Internal' }],
    ['another loopback address as Host', { Authorization: bearer, Host: '127.9.9.9:80' }],
    ['the IPv6 loopback as Host', { Authorization: bearer, Host: '[::1]:80' }],
    ['an Origin that is listed', { Authorization: bearer, Origin: 'http://good.test' }],
  ];
  test.each(good)('serves a client with %s, and passes nothing of it on', async (_, headers) => {
    const before = up.requests.length;
    const answer = await request({ port }, { target: '/api/v1/models/a', headers });
    expect(answer.status).toBe(200);
    const seen = up.requests[before]!;
    assertClean(token, { upstream: seen.rawHead });
    expect([seen.headerAll('x-api-key'), seen.headerAll('authorization')]).toEqual([[canary], []]);
    expect((await request({ port }, { target: '/healthz', headers })).text()).toBe('ok\n');
    expect((await request({ port }, { target: '/.well-known/isoproxy', headers })).status).toBe(200);
  });

  const bad: [string, Headers, string][] = [
    ['no token', {}, '401 client_unauthorized'],
    ['an empty bearer', { Authorization: 'Bearer ' }, '401 client_unauthorized'],
    ['an empty x-api-key', { 'X-Api-Key': '' }, '401 client_unauthorized'],
    ['a wrong token', { Authorization: `Bearer ${makeCanary('token-')}` }, '401 client_unauthorized'],
    ['a token cut by one', { Authorization: bearer.slice(0, -1) }, '401 client_unauthorized'],
    ['a token longer by one', { Authorization: `${bearer}x` }, '401 client_unauthorized'],
    ['a token in another case', { 'X-Api-Key': token.toUpperCase() }, '401 client_unauthorized'],
    ['its token twice', { 'X-Api-Key': `${token}, ${token}` }, '401 client_unauthorized'],
    ['its token as basic', { Authorization: `Basic ${btoa(`x:${token}`)}` }, '401 client_unauthorized'],
    ['its token in a cookie', { Cookie: `token=${token}` }, '401 client_unauthorized'],
    ['its token as proxy authorization', { 'Proxy-Authorization': bearer }, '401 client_unauthorized'],
    ['the credential of the upstream', { Authorization: `Bearer ${canary}` }, '401 client_unauthorized'],
    ['the name of a page as Host', { Authorization: bearer, Host: 'evil.test' }, '403 host_not_allowed'],
    [
      'a Host that begins like loopback',
      { Authorization: bearer, Host: 'localhost.evil.test' },
      '403 host_not_allowed',
    ],
    [
      'a Host that begins like an address',
      { Authorization: bearer, Host: '127.0.0.1.evil.test' },
      '403 host_not_allowed',
    ],
    [
      'a Host below a listed one',
      { Authorization: bearer, Host: 'x.host.docker.internal' },
      '403 host_not_allowed',
    ],
    ['the Host of another interface', { Authorization: bearer, Host: '192.168.0.1' }, '403 host_not_allowed'],
    ['the unspecified address as Host', { Authorization: bearer, Host: '0.0.0.0' }, '403 host_not_allowed'],
    ['an Origin', { Authorization: bearer, Origin: 'http://evil.test' }, '403 browser_origin'],
    ['the Origin of loopback', { Authorization: bearer, Origin: 'http://localhost' }, '403 browser_origin'],
    ['an Origin of null', { Authorization: bearer, Origin: 'null' }, '403 browser_origin'],
    ['an empty Origin', { Authorization: bearer, Origin: '' }, '403 browser_origin'],
    [
      'an Origin that begins like a listed one',
      { Authorization: bearer, Origin: 'http://good.test.evil.test' },
      '403 browser_origin',
    ],
    [
      'a listed Origin in another scheme',
      { Authorization: bearer, Origin: 'https://good.test' },
      '403 browser_origin',
    ],
  ];
  test.each(bad)('refuses a client with %s, also on its own routes', async (_, headers, expected) => {
    const before = { connections: up.connections.length, requests: up.requests.length };
    const texts = new Set<string>();
    for (const target of ['/api/v1/models/a', '/healthz', '/.well-known/isoproxy', '/nobody/x']) {
      const answer = await request({ port }, { target, headers });
      expectRefusal(answer, expected);
      texts.add(JSON.stringify({ ...answer.json(), request_id: '' }));
      const id = answer.json().request_id;
      expect(await proxy.record((record) => record.request_id === id)).toMatchObject({
        decision: 'deny',
        provider: '',
        reason: expected.split(' ')[1],
      });
    }
    expect(texts.size).toBe(1);
    expect({ connections: up.connections.length, requests: up.requests.length }).toEqual(before);
    await works({ port }, { Authorization: bearer });
  });

  test('a preflight of a browser is refused', async () => {
    const headers = { Origin: 'http://evil.test', 'Access-Control-Request-Method': 'POST' };
    const answer = await request({ port }, { method: 'OPTIONS', target: '/api/v1/models/a', headers });
    expectRefusal(answer, '403 browser_origin');
    expect(answer.headers.filter(([name]) => /^access-control/i.test(name))).toEqual([]);
  });

  test('neither token nor credential is in what it shows', () => {
    assertClean(token, proxy.visible());
    assertClean(canary, proxy.visible());
  });
});

describe('several listeners', () => {
  const other = makeCanary('other-');
  let proxy: Isoproxy;

  beforeAll(async () => {
    proxy = await startIsoproxy((dir) => {
      const listener = (name: string, over: object) => ({
        name,
        socket: join(dir, name, 'isoproxy.sock'),
        ...over,
      });
      const config = {
        ...recorderAt(dir, up.port),
        credential: { header: 'authorization', format: 'Bearer {secret}', file: join(dir, 'secrets/other') },
        endpoints: [
          { methods: ['GET'], paths: ['/v1/models/*'] },
          { methods: ['GET'], paths: ['/kept/*'], allow_encoded_slash: true },
        ],
      };
      return simple(dir, {
        files: { 'secrets/other': other },
        top: {
          listeners: [
            listener('agent-1', { providers: ['api'] }),
            listener('agent-2', { providers: ['foreign'] }),
            listener('agent-3', { providers: ['api', 'foreign'], mount: 'foreign' }),
            listener('agent-4', { providers: ['api', 'foreign'], network_profile: 'names' }),
            listener('agent-5', { providers: ['api'], network_profile: 'denied' }),
            listener('agent-6', { providers: ['api'], network_profile: 'below' }),
          ],
          providers: { foreign: { ...config, base_url: `https://127.0.0.1:${up.port}` } },
          network_profiles: {
            names: { allow: ['localhost', '*.example'] },
            denied: { allow: ['localhost'], deny: ['localhost'] },
            below: { allow: ['*.localhost', 'api.localhost'] },
          },
        },
      });
    });
  });
  afterAll(() => proxy[Symbol.asyncDispose]());

  /** A whole answer as text, without what differs between any two answers. */
  async function answerOf(listener: string, options: Parameters<typeof request>[1]): Promise<string> {
    const answer = await request(proxy.socket(listener), options);
    const id = answer.json().request_id as string;
    const text = Buffer.concat([answer.rawHead, answer.rawBody]).toString('latin1');
    expect(id.length).toBeGreaterThan(8);
    return text.replaceAll(id, 'ID').replace(/^(Date|Content-Length): .*$/gim, '$1');
  }

  const shapes: [string, (name: string) => Parameters<typeof request>[1]][] = [
    ['a path that the foreign one allows', (name) => ({ target: `/${name}/v1/models/a` })],
    ['a path that it denies', (name) => ({ target: `/${name}/nowhere` })],
    ['no path', (name) => ({ target: `/${name}` })],
    ['an encoded slash that it keeps', (name) => ({ target: `/${name}/kept/a%2Fb` })],
    ['an encoded slash that it refuses', (name) => ({ target: `/${name}/v1/a%2Fb` })],
    ['a body', (name) => ({ method: 'POST', target: `/${name}/v1/messages`, body: 'x'.repeat(1000) })],
    [
      'a declared length over the limit',
      (name) => ({ method: 'POST', target: `/${name}/x`, headers: { 'Content-Length': '99999999999' } }),
    ],
    [
      'a placeholder credential',
      (name) => ({ target: `/${name}/v1/models/a`, headers: { Authorization: 'Bearer x' } }),
    ],
  ];
  test.each(shapes)(
    'a provider of another listener is answered like one that does not exist: %s',
    async (name, shape) => {
      if (name.includes('declared length')) {
        // No body comes: ask on connections that leave as soon as the record is there.
        for (const provider of ['foreign', 'missing']) {
          const client = await connect(proxy.socket('agent-1'));
          await client.send(
            `POST /${provider}/late HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n`,
          );
          const record = await proxy.record(({ path }) => path === `/${provider}/late`);
          expect([record.reason, record.provider, record.status]).toEqual(['unknown_provider', '', 404]);
          client.close();
        }
        return;
      }
      const before = { connections: up.connections.length, requests: up.requests.length };
      const [foreign, missing] = [
        await answerOf('agent-1', shape('foreign')),
        await answerOf('agent-1', shape('missing')),
      ];
      expect(foreign).toBe(missing);
      expect(foreign).toContain(
        name.includes('encoded') ? '"code":"bad_target"' : '"code":"unknown_provider"',
      );
      expect({ connections: up.connections.length, requests: up.requests.length }).toEqual(before);
    },
  );

  test('each listener reaches its own providers with their own credential, and says so', async () => {
    const before = up.requests.length;
    await works(proxy.socket('agent-1'));
    await works(proxy.socket('agent-2'), {}, '/foreign');
    const [first, second] = up.requests.slice(before);
    expect([first!.header('x-api-key'), first!.header('authorization')]).toEqual([canary, undefined]);
    expect([second!.header('x-api-key'), second!.header('authorization')]).toEqual([
      undefined,
      `Bearer ${other}`,
    ]);
    for (const [listener, names] of [
      ['agent-1', ['api']],
      ['agent-2', ['foreign']],
      ['agent-3', ['foreign']],
    ] as const) {
      const answer = await request(proxy.socket(listener), { target: '/.well-known/isoproxy' });
      expect([answer.json().listener, Object.keys(answer.json().providers)]).toEqual([listener, [...names]]);
      assertClean(canary, { answer: answer.body });
      assertClean(other, { answer: answer.body });
      for (const word of [String(up.port), proxy.workspace.dir, 'secrets', 'https'])
        expect(answer.text().includes(word)).toBe(false);
    }
  });

  test('a mounted provider is served at the root, and nothing else is', async () => {
    const socket = proxy.socket('agent-3');
    const before = up.requests.length;
    await works(socket, {}, '');
    expect([up.requests[before]!.target, up.requests[before]!.header('authorization')]).toEqual([
      '/v1/models/a',
      `Bearer ${other}`,
    ]);
    const count = up.requests.length;
    for (const target of ['/foreign/v1/models/a', '/api/v1/models/a', '/', '/v1', '/healthz/x'])
      expectRefusal(await request(socket, { target }), '403 endpoint_not_allowed');
    expectRefusal(await request(socket, { target: '//v1/models/a' }), '400 bad_target');
    expect((await request(socket, { target: '/healthz' })).text()).toBe('ok\n');
    expect(up.requests.length).toBe(count);
  });

  test('a network profile allows its hosts alone, and deny comes first', async () => {
    await works(proxy.socket('agent-4'));
    const before = { connections: up.connections.length, requests: up.requests.length };
    const ask = (listener: string, provider: string) =>
      request(proxy.socket(listener), { target: `/${provider}/v1/models/a` });
    expectRefusal(await ask('agent-4', 'foreign'), '403 profile_denied');
    expectRefusal(await ask('agent-5', 'api'), '403 profile_denied');
    // "*." is one or more labels, never the apex.
    expectRefusal(await ask('agent-6', 'api'), '403 profile_denied');
    expect({ connections: up.connections.length, requests: up.requests.length }).toEqual(before);
    const denied = () => proxy.records().filter(({ reason }) => reason === 'profile_denied');
    await until('three records', () => denied().length >= 3);
    expect(denied().map(({ listener }) => listener)).toEqual(['agent-4', 'agent-5', 'agent-6']);
  });

  test('no credential is in what any of them shows', () => {
    assertClean(canary, proxy.visible());
    assertClean(other, proxy.visible());
  });
});

test('what one listener sends is recorded under its own name', async () => {
  await using proxy = await startSimple({ upstreamPort: up.port, ca: up.ca, canary });
  await works(proxy.socket());
  expect((await proxy.recordCount(1))[0]).toMatchObject({
    listener: 'agent-1',
    provider: 'api',
    decision: 'allow',
  });
});
