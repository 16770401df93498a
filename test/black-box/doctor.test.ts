// `isoproxy doctor`: each thing that should not be in a sandbox, put there, alone; and nothing where there is nothing.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { chmodSync, existsSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import {
  type Apis,
  BOX_REASON,
  BOXED,
  type Box,
  boxed,
  leaveDeadSocket,
  presetConfig,
  SKIP_REASON,
  skipped,
  startApis,
  startStranger,
  UNSHARE_NET,
  works,
} from '../support/client-side.ts';
import { within } from '../support/deadline.ts';
import {
  createWorkspace,
  type Isoproxy,
  isoproxyCommand,
  type RunResult,
  run,
  startIsoproxy,
  type Workspace,
} from '../support/isoproxy.ts';
import { spawn } from '../support/process.ts';

setDefaultTimeout(20_000);
const suite = describe.skipIf(SKIP_REASON !== undefined);
/** In a sandbox of bubblewrap, where nothing else is exposed. */
const inBox = describe.skipIf(BOX_REASON !== undefined);

const KEYS = { anthropic: makeCanary('sk-ant-api03-'), openai: makeCanary('sk-proj-') };
/** What looks like a key by its name only, by its value only, and values that are none. */
const NAMED = makeCanary('');
const CLEAN = 'nothing is exposed that isoproxy knows of\n';
const SOCKET = '/run/isoproxy/agent-1/isoproxy.sock';

let apis: Apis;
let proxy: Isoproxy;
let work: Workspace;
let printed: string[] = [];

beforeAll(async () => {
  if (SKIP_REASON !== undefined) return;
  work = createWorkspace();
  apis = await startApis();
  proxy = await startIsoproxy((dir) =>
    presetConfig(dir, apis, KEYS, [
      { name: 'agent-1', providers: ['anthropic', 'openai'] },
      { name: 'agent-2', providers: ['openai'] },
    ]),
  );
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await apis?.[Symbol.asyncDispose]();
  work?.remove();
});
afterEach(() => {
  for (const text of printed) {
    for (const secret of [...Object.values(KEYS), NAMED]) assertClean(secret, { text });
    // Nor a part of one that would help.
    expect(text).not.toContain(NAMED.slice(0, 16));
  }
  printed = [];
});

interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

async function doctorInBox(box: Box = {}, args: string[] = []): Promise<Result> {
  return await execute(boxed([BOXED, 'doctor', ...args], box));
}

async function execute(command: string[]): Promise<Result> {
  const child = spawn(command, work.dir);
  const code = await within(command.join(' '), child.exited);
  const result = { code, stdout: child.stdout().toString(), stderr: child.stderr().toString() };
  printed.push(result.stdout, result.stderr);
  return result;
}

async function doctor(env: Record<string, string>, args: string[] = []): Promise<RunResult> {
  const result = await run(['doctor', ...args], { dir: work.dir, env });
  printed.push(result.stdout, result.stderr);
  return result;
}

const warningsOf = ({ stderr }: { stderr: string }) =>
  stderr
    .split('\n')
    .filter((line) => line.startsWith('isoproxy: warning: '))
    .map((line) => line.slice('isoproxy: warning: '.length));

const own = () => ({ '/run/isoproxy/agent-1': proxy.workspace.path('agent-1') });

inBox(`in a sandbox${skipped(BOX_REASON)}`, () => {
  test('as it should be: nothing, also with --strict', async () => {
    for (const box of [{}, { ro: own() }, { ro: own(), env: { ISOPROXY_SOCKET: SOCKET } }])
      expect(await doctorInBox(box, ['--strict'])).toEqual({ code: 0, stdout: CLEAN, stderr: '' });
  });

  test('what run sets is nothing to warn of, and run itself says nothing', async () => {
    const inner = [BOXED, 'run', '--', BOXED, 'doctor', '--strict'];
    expect(await execute(boxed(inner, { ro: own() }))).toEqual({ code: 0, stdout: CLEAN, stderr: '' });
  });

  const secrets = () => proxy.workspace.path('secrets');
  const config = () => proxy.configPath;
  const READABLE = 'can be read';
  const cases: [string, () => Box, string[]][] = [
    [
      'the configuration of root',
      () => ({ ro: { '/etc/isoproxy/proxy.toml': config() } }),
      [`the configuration /etc/isoproxy/proxy.toml ${READABLE}`],
    ],
    [
      'the configuration of a user',
      () => ({ ro: { '/home/agent/.config/isoproxy/proxy.toml': config() } }),
      [`the configuration /home/agent/.config/isoproxy/proxy.toml ${READABLE}`],
    ],
    [
      'the configuration in $XDG_CONFIG_HOME',
      () => ({ ro: { '/x/isoproxy/proxy.toml': config() }, env: { XDG_CONFIG_HOME: '/x' } }),
      [`the configuration /x/isoproxy/proxy.toml ${READABLE}`],
    ],
    [
      'the configuration that $ISOPROXY_CONFIG names',
      () => ({ ro: { '/opt/my.toml': config() }, env: { ISOPROXY_CONFIG: '/opt/my.toml' } }),
      [`the configuration /opt/my.toml ${READABLE}`],
    ],
    [
      'a secret beside a configuration',
      () => ({ ro: { '/etc/isoproxy/anthropic.key': join(secrets(), 'anthropic') } }),
      [`/etc/isoproxy/anthropic.key ${READABLE}`],
    ],
    [
      'the state of root',
      () => ({ ro: { '/var/lib/isoproxy': work.path('state') } }),
      [`/var/lib/isoproxy ${READABLE}`],
    ],
    [
      'the state of a user',
      () => ({ ro: { '/home/agent/.local/state/isoproxy': work.path('state') } }),
      [`/home/agent/.local/state/isoproxy ${READABLE}`],
    ],
    [
      'credentials of systemd',
      () => ({ ro: { '/run/credentials/isoproxy.service': secrets() } }),
      [`/run/credentials ${READABLE}`],
    ],
    [
      'the control socket',
      () => ({ ro: { '/run/isoproxy-control': work.path('control') } }),
      [
        'the control socket /run/isoproxy-control/control.sock can be reached: the agent could resume what was halted',
      ],
    ],
    [
      "another listener's socket",
      () => ({ ro: { ...own(), '/run/isoproxy/agent-2': proxy.workspace.path('agent-2') } }),
      ['the socket of another listener can be reached: /run/isoproxy/agent-2/isoproxy.sock'],
    ],
    [
      'the whole directory of sockets',
      () => ({ ro: { '/run/user': work.path('run') }, env: { XDG_RUNTIME_DIR: '/run/user' } }),
      ['the socket of another listener can be reached: /run/user/isoproxy/b/isoproxy.sock'],
    ],
    [
      'a sibling of a socket in an unusual place',
      () => ({
        ro: { '/srv/x': work.path('run/isoproxy') },
        env: { ISOPROXY_SOCKET: '/srv/x/b/isoproxy.sock' },
      }),
      ['the socket of another listener can be reached: /srv/x/a/isoproxy.sock'],
    ],
    [
      'a writable socket directory',
      () => ({ rw: own() }),
      ['/run/isoproxy/agent-1 is writable: the agent could put a socket of its own there'],
    ],
    [
      'a key that bubblewrap was started with, in spite of --clearenv',
      () => ({ outerEnv: { ANTHROPIC_API_KEY: KEYS.anthropic } }),
      ['$ANTHROPIC_API_KEY of process 1 looks like a real key, and /proc/1/environ can be read'],
    ],
    ['a key by its name', () => ({ env: { ACME_API_KEY: NAMED } }), ['$ACME_API_KEY looks like a real key']],
    [
      'a token by its name',
      () => ({ env: { GITHUB_TOKEN: NAMED } }),
      ['$GITHUB_TOKEN looks like a real key'],
    ],
    [
      'a key by its beginning',
      () => ({ env: { HARMLESS: KEYS.anthropic } }),
      ['$HARMLESS looks like a real key'],
    ],
  ];
  beforeAll(async () => {
    if (BOX_REASON !== undefined) return;
    work.write('state/audit/log.jsonl', '{}');
    for (const name of [
      'control/control.sock',
      'run/isoproxy/a/isoproxy.sock',
      'run/isoproxy/b/isoproxy.sock',
    ]) {
      work.write(`${name}.txt`, '');
      servers.push(await startStranger(work.path(name), () => {}));
    }
  });
  const servers: Disposable[] = [];
  afterAll(() => {
    for (const server of servers) server[Symbol.dispose]();
  });

  test.each(cases)('%s: exactly that is said, with a way out; --strict fails', async (_, box, expected) => {
    const plain = await doctorInBox(box());
    expect([plain.code, plain.stdout, warningsOf(plain)]).toEqual([0, '', expected]);
    expect(plain.stderr.match(/^isoproxy: hint: /gm)).toHaveLength(expected.length);
    expect((await doctorInBox(box(), ['--strict'])).code).toBe(1);
  });

  test.each(cases.slice(0, 6))('run says it too, in short, and goes on: %s', async (_, box, expected) => {
    const { env, ro, rw } = box();
    const command = boxed([BOXED, 'run', '--socket', SOCKET, '--', 'echo', 'ran'], {
      ...(env && { env }),
      ...(rw && { rw }),
      ro: { ...own(), ...ro },
    });
    const result = await execute(command);
    expect([result.code, result.stdout, warningsOf(result)]).toEqual([0, 'ran\n', expected]);
    expect(result.stderr.match(/^isoproxy: hint: /gm)).toHaveLength(1);
  });

  test('a control socket in the state is both', async () => {
    const box = { ro: { '/var/lib/isoproxy': work.path('control') } };
    expect(warningsOf(await doctorInBox(box))).toEqual([
      '/var/lib/isoproxy can be read',
      expect.stringContaining('the control socket /var/lib/isoproxy/control.sock can be reached'),
    ]);
  });

  test('a listener that nobody serves any more is no way to anything', async () => {
    mkdirSync(work.path('dead'));
    leaveDeadSocket(work.path('dead/isoproxy.sock'));
    const box = { ro: { ...own(), '/run/isoproxy/old': work.path('dead') } };
    expect(warningsOf(await doctorInBox(box))).toEqual([]);
  });

  test('everything at once is said in one go', async () => {
    const all = cases.slice(0, 2).concat(cases.slice(-3));
    const env = Object.assign({}, ...all.map(([, box]) => box().env ?? {}));
    const ro = Object.assign({}, ...all.map(([, box]) => box().ro ?? {}));
    const result = await doctorInBox({ env, ro });
    expect(warningsOf(result).sort()).toEqual(all.flatMap(([, , expected]) => expected).sort());
  });
});

suite(`a default route${skipped(SKIP_REASON)}`, () => {
  const script = (inner: string) =>
    `ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 192.0.2.2/24 dev v0 && ip link set v0 up && ${inner}; exec "$@"`;
  const inNamespace = (inner: string) => [
    ...[...UNSHARE_NET, 'sh', '-c', script(inner), 'sh'],
    ...[...isoproxyCommand(work.dir), 'doctor', '--strict'],
  ];
  const possible =
    SKIP_REASON === undefined &&
    works([...UNSHARE_NET, 'sh', '-c', 'ip link add v0 type veth peer name v1 && ip link set v0 up']);
  const message = 'there is a default route (v0): the agent can reach hosts without the proxy';

  test.skipIf(!possible).each([
    ['IPv4', 'ip route add default via 192.0.2.1', [message]],
    ['IPv6', 'ip -6 route add default dev v0', [message]],
    ['only a network of its own', 'true', []],
    ['a route to one network', 'ip route add 198.51.100.0/24 via 192.0.2.1', []],
    [
      'a route that is refused',
      'ip route add unreachable default && ip -6 route add unreachable default',
      [],
    ],
    ['a route to loopback', 'ip route add default dev lo', []],
  ])('%s', async (_, inner, expected) => {
    const result = await execute(inNamespace(inner));
    expect(warningsOf(result)).toEqual(expected);
    expect(result.code).toBe(expected.length > 0 ? 1 : 0);
  });
});

suite('on the host', () => {
  test('finds what a HOME exposes, and prints no value', async () => {
    using home = createWorkspace();
    home.write('.config/isoproxy/proxy.toml', `# ${KEYS.openai}`);
    home.write('.config/isoproxy/openai.key', KEYS.openai);
    home.write('.local/state/isoproxy/x', KEYS.openai);
    const result = await doctor({
      HOME: home.dir,
      OPENAI_API_KEY: KEYS.openai,
      ISOPROXY_SOCKET: proxy.socket(),
    });
    expect(result.code).toBe(0);
    expect(warningsOf(result)).toEqual(
      expect.arrayContaining([
        `the configuration ${home.path('.config/isoproxy/proxy.toml')} can be read`,
        `${home.path('.config/isoproxy/openai.key')} can be read`,
        `${home.path('.local/state/isoproxy')} can be read`,
        `the socket of another listener can be reached: ${proxy.socket('agent-2')}`,
        '$OPENAI_API_KEY looks like a real key',
      ]),
    );
    expect((await doctor({ OPENAI_API_KEY: KEYS.openai }, ['--strict'])).code).toBe(1);
  });

  test('the sandbox’s own socket under another name is no other listener', async () => {
    const alias = work.path('alias');
    if (!existsSync(alias)) symlinkSync(proxy.workspace.path('agent-1'), alias);
    mkdirSync(work.path('xdg/isoproxy'), { recursive: true });
    symlinkSync(proxy.workspace.path('agent-1'), work.path('xdg/isoproxy/agent-1'));
    const env = { ISOPROXY_SOCKET: join(alias, 'isoproxy.sock'), XDG_RUNTIME_DIR: work.path('xdg') };
    const others = warningsOf(await doctor(env)).filter((text) => text.includes('another listener'));
    expect(others).toEqual([]);
  });

  test('a file that only another user may read is not readable to us', async () => {
    using home = createWorkspace();
    home.write('.config/isoproxy/proxy.toml', '');
    chmodSync(home.path('.config/isoproxy'), 0o000);
    const result = await doctor({ HOME: home.dir });
    // root reads everything.
    const found = warningsOf(result).some((text) => text.includes('proxy.toml'));
    expect(found).toBe(process.getuid?.() === 0);
    chmodSync(home.path('.config/isoproxy'), 0o700);
  });

  test.each([
    [['x'], 'doctor takes no argument'],
    [['--sctrict'], "unknown option '--sctrict'"],
  ])('%j is refused', async (args, message) => {
    const result = await run(['doctor', ...args]);
    expect([result.code, result.stdout]).toEqual([64, '']);
    expect(result.stderr).toContain(`isoproxy: error: ${message}`);
  });
});
