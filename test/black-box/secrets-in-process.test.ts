// Attack ids are explained in SECURITY.md. What others on the host can learn from the process itself: its memory,
// its core dump, its environment, its command line, a debugger.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { chownSync, existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { assertClean, findCanary, makeCanary } from '../support/canary.ts';
import { asNobody, SKIP_REASON, skipped, works } from '../support/client-side.ts';
import { until } from '../support/deadline.ts';
import {
  createWorkspace,
  isoproxyCommand,
  simpleConfig,
  startSimple,
  type Workspace,
} from '../support/isoproxy.ts';
import { type Child, spawn } from '../support/process.ts';
import { connect, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

setDefaultTimeout(20_000);

const canary = makeCanary();
const NOBODY_ID = 65534;
const nobody = asNobody();
const NOBODY_REASON = SKIP_REASON ?? (typeof nobody === 'string' ? nobody : undefined);
const as = Array.isArray(nobody) ? nobody : [];

let up: Recorder;
beforeAll(async () => {
  up = await startRecorder();
});
afterAll(() => up?.close());
afterEach(() => up.reset());

const options = () => ({ upstreamPort: up.port, ca: up.ca, canary });

/** Runs `serve` below `prefix`, in a workspace that belongs to nobody. */
async function serveAsNobody(
  prefix: string[],
): Promise<{ child: Child; pid: number; workspace: Workspace; [Symbol.dispose](): void }> {
  const workspace = createWorkspace();
  const { toml, files } = simpleConfig(workspace.dir, options());
  for (const [name, content] of Object.entries(files)) workspace.write(name, content);
  workspace.write('proxy.toml', toml);
  chownSync(workspace.dir, NOBODY_ID, NOBODY_ID);
  for (const name of readdirSync(workspace.dir, { recursive: true, encoding: 'utf8' }))
    chownSync(workspace.path(name), NOBODY_ID, NOBODY_ID);
  const command = [...isoproxyCommand(workspace.dir), 'serve', '--config', workspace.path('proxy.toml')];
  const child = spawn([...prefix, ...as, ...command], workspace.dir);
  await until(
    () => `it to listen; stderr: ${child.stderr()}`,
    () => child.stderr().includes('"listening"'),
  );
  const socket = join(workspace.dir, 'agent-1/isoproxy.sock');
  expect((await request(socket, { target: '/api/v1/models/a' })).status).toBe(200);
  const pid = Number(
    readdirSync('/proc').find((name) => {
      try {
        return (
          readlinkSync(`/proc/${name}/exe`) === lstatExe(command[0] as string) &&
          readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(workspace.dir)
        );
      } catch {
        return false;
      }
    }),
  );
  return {
    child,
    pid,
    workspace,
    [Symbol.dispose]() {
      child.kill('SIGKILL');
      try {
        process.kill(pid, 'SIGKILL');
      } catch {}
      workspace.remove();
    },
  };
}
const lstatExe = (path: string): string => (lstatSync(path).isSymbolicLink() ? readlinkSync(path) : path);

/** Runs a command as nobody and returns all that it prints. */
async function runAsNobody(command: string[]): Promise<string> {
  const child = spawn([...as, ...command], '/');
  await child.exited;
  return child.stdout().toString('latin1') + child.stderr().toString('latin1');
}

describe.skipIf(NOBODY_REASON !== undefined)(
  `C6 a process of the same user beside it${skipped(NOBODY_REASON)}`,
  () => {
    test('can read neither its environment nor its memory nor its descriptors', async () => {
      using served = await serveAsNobody([]);
      expect(served.child.stderr().toString()).toContain('"memory_hidden":true');
      expect(readFileSync(`/proc/${served.pid}/status`, 'utf8')).toMatch(
        new RegExp(`^Uid:\\s+${NOBODY_ID}\\s`, 'm'),
      );
      for (const name of ['environ', 'mem', 'maps', 'fd', 'auxv', 'root', 'cwd']) {
        const isDirectory = ['fd', 'root', 'cwd'].includes(name);
        const said = await runAsNobody([
          isDirectory ? '/bin/ls' : '/bin/cat',
          `/proc/${served.pid}/${name}${isDirectory ? '/' : ''}`,
        ]);
        expect([name, said]).toEqual([name, expect.stringMatching(/denied|not permitted/i)]);
        expect([name, lstatSync(`/proc/${served.pid}/${name}`).uid]).toEqual([name, 0]);
      }
    });

    test.skipIf(!existsSync('/usr/bin/gdb'))('cannot attach a debugger to it (gdb)', async () => {
      using served = await serveAsNobody([]);
      const attach = (pid: number) =>
        runAsNobody(['/usr/bin/gdb', '-nx', '-batch', '-p', String(pid), '-ex', 'info registers']);
      expect(await attach(served.pid)).toMatch(/Operation not permitted|ptrace: /);
      // Else the machine forbids it to everybody, and the test shows nothing.
      const other = spawn([...as, '/bin/sleep', '30'], '/');
      try {
        const control = await attach(other.pid);
        if (!/ptrace: /.test(control)) expect(control).toMatch(/rip|pc /);
      } finally {
        other.kill('SIGKILL');
      }
    });

    test('gets no core dump of it, though it may be of any size', async () => {
      const script = 'ulimit -c unlimited; "$@"; echo "ended with $?" >&2';
      const unlimited = ['/bin/sh', '-c', script, 'sh'];
      using served = await serveAsNobody(unlimited);
      process.kill(served.pid, 'SIGABRT');
      await served.child.exited;
      const said = served.child.stderr().toString();
      expect(said).toContain('ended with 134');
      expect(said).not.toMatch(/core dumped/);
      expect(Object.keys(served.workspace.files()).filter((name) => /(^|\/)core/.test(name))).toEqual([]);
    });
  },
);

describe('C6 the process', () => {
  test('holds no secret of a file in its environment or its command line', async () => {
    await using proxy = await startSimple(options());
    expect((await request(proxy.socket(), { target: '/api/v1/models/a' })).status).toBe(200);
    const root = process.getuid?.() === 0;
    const names = ['cmdline', 'status', ...(root ? ['environ'] : [])];
    for (const name of names)
      assertClean(canary, { [name]: readFileSync(`/proc/${proxy.child.pid}/${name}`) });
    // The search finds it where it is, so it would have found it there: secrets from `env` stay visible to root.
    if (!root) return;
    await using open = await startSimple(
      { ...options(), provider: { credential: { header: 'x-api-key', file: undefined, env: 'API_KEY' } } },
      { env: { API_KEY: canary } },
    );
    expect(findCanary(readFileSync(`/proc/${open.child.pid}/environ`), canary)?.form).toBe('raw');
    assertClean(canary, { cmdline: readFileSync(`/proc/${open.child.pid}/cmdline`), ...open.visible() });
  });

  test.each(['SIGUSR1', 'SIGUSR2', 'SIGQUIT', 'SIGWINCH'] as const)(
    '%s opens no debugger port and prints nothing of a request',
    async (signal) => {
      await using proxy = await startSimple(options());
      expect((await request(proxy.socket(), { target: '/api/v1/models/a' })).status).toBe(200);
      const before = listeningPorts();
      proxy.signal(signal);
      // What it does to the process takes effect before a new connection is answered, or the process has ended.
      const alive = await connect(proxy.socket()).catch(() => undefined);
      if (alive) {
        void alive.send('GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n');
        await alive.response().catch(() => {});
        alive.close();
      }
      const own = new Set(proxy.child.code === undefined ? ownInodes(proxy.child.pid) : []);
      expect([...listeningPorts()].filter(([inode]) => own.has(inode))).toEqual([]);
      expect([...listeningPorts().keys()].filter((inode) => !before.has(inode) && own.has(inode))).toEqual(
        [],
      );
      assertClean(canary, proxy.visible());
      expect(proxy.child.stderr().toString()).not.toMatch(/inspector|debugger|ws:\/\//i);
    },
  );
});

/** Listening TCP sockets of this network namespace, port by inode. */
function listeningPorts(): Map<string, string> {
  const rows = ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/net/${table}`, 'utf8').split('\n').slice(1),
  );
  return new Map(
    rows
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === '0A')
      .map((fields) => [fields[9]!, fields[1]!]),
  );
}

/** Inodes of the sockets of a process; empty when it ends meanwhile. */
function ownInodes(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
      } catch {
        return [];
      }
    });
  } catch {
    return [];
  }
}

/** A mount namespace of its own, in which /etc/hosts is a file of the test. */
const HOSTS_REASON =
  SKIP_REASON ??
  (works(['unshare', '-m', 'mount', '--bind', '/etc/hostname', '/etc/hosts'])
    ? undefined
    : 'no mount namespaces here');

describe.skipIf(HOSTS_REASON !== undefined)(
  `C7 a resolver that changes its answer${skipped(HOSTS_REASON)}`,
  () => {
    /** Starts it with an /etc/hosts that says `address` for the upstream's name. */
    function start(address: string, over: object = {}) {
      const workspace = createWorkspace();
      const hosts = workspace.write('hosts', `${address} rebind.example\n`, 0o644);
      const { toml, files } = simpleConfig(workspace.dir, {
        ...options(),
        provider: { base_url: `https://rebind.example:${up.port}`, unsafe_allow_private: undefined, ...over },
        limits: { first_byte_timeout: '3s' },
      });
      for (const [name, content] of Object.entries(files)) workspace.write(name, content);
      workspace.write('proxy.toml', toml);
      const script = `mount --bind "${hosts}" /etc/hosts && exec "$@"`;
      const serve = [...isoproxyCommand(workspace.dir), 'serve', '--config', workspace.path('proxy.toml')];
      const child = spawn(['unshare', '-m', '/bin/sh', '-c', script, 'sh', ...serve], workspace.dir);
      return {
        child,
        workspace,
        socket: workspace.path('agent-1/isoproxy.sock'),
        [Symbol.dispose]() {
          child.kill('SIGKILL');
          workspace.remove();
        },
      };
    }
    const listening = (child: Child) =>
      until(
        () => `it to listen; stderr: ${child.stderr()}`,
        () => child.stderr().includes('"listening"') && true,
      );

    test.each([
      '127.0.0.1',
      '169.254.169.254',
      '10.1.2.3',
      '::1',
      '::ffff:127.0.0.1',
      '64:ff9b::7f00:1',
      'fd00::1',
    ])('is refused at start when the name leads to %s', async (address) => {
      using served = start(address);
      expect(await served.child.exited).toBe(78);
      expect(served.child.stderr().toString()).toContain('unsafe_allow_private');
    });

    test('gains nothing: the certificate is verified by the name before a byte of the request is sent', async () => {
      // Public at start, so that nothing is refused; on loopback when the request comes.
      using served = start('93.184.216.34');
      await listening(served.child);
      served.workspace.write('hosts', '127.0.0.1 rebind.example\n', 0o644);
      const ask = () =>
        request(served.socket, { method: 'POST', target: '/api/v1/messages', body: '{"a":1}', ms: 8000 });
      const answer = await until(
        'the changed answer to be used',
        async () => {
          const found = await ask();
          return up.connections.length > 0 && found;
        },
        15_000,
      );
      expect([answer.status, answer.json().code]).toEqual([502, 'upstream_tls']);
      expect(up.requests).toEqual([]);
      expect(up.connections.map(({ bytesIn }) => bytesIn)).toEqual(up.connections.map(() => 0));
      assertClean(canary, { answer: answer.rawBody, stderr: served.child.stderr() });
    });
  },
);
