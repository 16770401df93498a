// `isoproxy run`: the command it runs must not notice its parent, must find the proxy, and must be told why not.

import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PRESETS } from '../../src/config/presets.ts';
import { assertClean, makeCanary } from '../support/canary.ts';
import {
  type Apis,
  answering,
  answeringJson,
  asNobody,
  BUN,
  leaveDeadSocket,
  openTerminal,
  presetConfig,
  processesNaming,
  SKIP_REASON,
  seen,
  skipped,
  start,
  startApis,
  startStranger,
  UNSHARE_NET,
  works,
} from '../support/client-side.ts';
import { until, within } from '../support/deadline.ts';
import {
  createWorkspace,
  freePort,
  type Isoproxy,
  isoproxyCommand,
  isRunning,
  type RunOptions,
  type RunResult,
  run as runCommand,
  startIsoproxy,
  type Workspace,
} from '../support/isoproxy.ts';
import { type Child, spawn } from '../support/process.ts';
import { connect, request } from '../support/raw-client.ts';
import { reapAtExit } from '../support/workspace.ts';

setDefaultTimeout(30_000);
const suite = describe.skipIf(SKIP_REASON !== undefined);

const KEYS = { anthropic: makeCanary('sk-ant-api03-'), openai: makeCanary('sk-proj-') };
const TOKEN = makeCanary('listener-token-');
/** Values that only a shell would find interesting. */
const ODD = `it's "odd" $(touch PWNED) \`touch PWNED\` $HOME \\ \n; touch PWNED #\nlast`;

let apis: Apis;
let proxy: Isoproxy;
let work: Workspace;
let tcpPort: number;
/** The socket of agent-1 (anthropic), and of agent-2 (openai); agent-3 has both, agent-4 an odd client_env. */
let one: string;
let two: string;
let three: string;
/** All that was printed in this test. */
let printed: RunResult[] = [];
/** Runs that take the whole ten seconds, begun before everything else. */
let slow: Record<'gone' | 'stale' | 'silent' | 'trickle', Promise<RunResult>>;
const strangers: Disposable[] = [];

beforeAll(async () => {
  if (SKIP_REASON !== undefined) return;
  [apis, tcpPort] = await Promise.all([startApis(), freePort()]);
  work = createWorkspace();
  proxy = await startIsoproxy((dir) =>
    presetConfig(
      dir,
      apis,
      KEYS,
      [
        { name: 'agent-1', providers: ['anthropic'] },
        { name: 'agent-2', providers: ['openai'] },
        { name: 'agent-3', providers: ['anthropic', 'openai'] },
        {
          name: 'tcp',
          tcp: `127.0.0.1:${tcpPort}`,
          token: { file: join(dir, 'secrets/token') },
          providers: ['anthropic', 'openai'],
        },
      ],
      { files: { 'secrets/token': TOKEN }, openai: { client_env: { ODD } } },
    ),
  );
  [one, two, three] = [proxy.socket(), proxy.socket('agent-2'), proxy.socket('agent-3')];
  slow = {
    gone: run(['--socket', path('gone/isoproxy.sock'), '--', 'true'], { ms: 14_000 }),
    stale: run(['--socket', path('stale/isoproxy.sock'), '--', 'true'], { ms: 14_000 }),
    silent: run(['--socket', path('silent.sock'), '--', 'true'], { ms: 14_000 }),
    trickle: run(['--socket', path('trickle.sock'), '--', 'true'], { ms: 14_000 }),
  };
  for (const failing of Object.values(slow)) failing.catch(() => {});
});

/** Below the tests' own directory; what the slow runs look at is made on the way. */
function path(name: string): string {
  const full = work.path(name);
  if (name.startsWith('gone/')) mkdirSync(work.path('gone'));
  if (name.startsWith('stale/')) {
    mkdirSync(work.path('stale'));
    leaveDeadSocket(full);
  }
  if (name === 'silent.sock')
    void startStranger(full, (socket) => socket.resume()).then((stranger) => strangers.push(stranger));
  if (name === 'trickle.sock')
    void startStranger(full, (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n');
      const timer = setInterval(() => socket.write(' '), 200);
      socket.once('close', () => clearInterval(timer));
    }).then((stranger) => strangers.push(stranger));
  return full;
}

afterAll(async () => {
  for (const stranger of strangers) stranger[Symbol.dispose]();
  await proxy?.[Symbol.asyncDispose]();
  await apis?.[Symbol.asyncDispose]();
  work?.remove();
});

// Holds for every test: the upstreams get the real keys only, and nothing that was printed holds a secret.
afterEach(() => {
  if (SKIP_REASON !== undefined) return;
  for (const { header } of apis.anthropic.requests) expect(header('x-api-key')).toBe(KEYS.anthropic);
  for (const { header } of apis.openai.requests)
    expect(header('authorization')).toBe(`Bearer ${KEYS.openai}`);
  apis.anthropic.reset();
  apis.openai.reset();
  for (const { stdout, stderr } of printed)
    for (const secret of [...Object.values(KEYS), TOKEN])
      assertClean(secret, { stderr, ...(stdout.includes(TOKEN) ? {} : { stdout }) });
  for (const secret of [...Object.values(KEYS), TOKEN]) assertClean(secret, proxy.visible());
  printed = [];
});

async function run(args: string[], options: RunOptions = {}): Promise<RunResult> {
  const result = await runCommand(['run', ...args], { dir: work.dir, ms: 8000, ...options });
  printed.push(result);
  return result;
}
const via = (socket: string, command: string[], options: RunOptions = {}) =>
  run(['--socket', socket, '--', ...command], options);
const sh = (script: string, options: RunOptions = {}) => via(one, ['sh', '-c', script], options);

/** The lines that are for the user, without the look around. */
const told = (result: RunResult) =>
  result.stderr
    .split('\n')
    .filter((line) => /^isoproxy: (error|hint): /.test(line) && !line.includes('doctor'));

/** What a command inside sees. */
async function environmentOf(args: string[], env: Record<string, string> = {}): Promise<Map<string, string>> {
  const result = await run([...args, '--', 'env', '-0'], { env });
  expect(result.code).toBe(0);
  return parseEnvironment(result.stdout);
}

function parseEnvironment(text: string): Map<string, string> {
  const entries = text.split('\0').filter(Boolean);
  return new Map(
    entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
  );
}

/** What a preset's clients get at an origin. */
function expected(name: 'anthropic' | 'openai', origin: string, key?: string): Record<string, string> {
  const preset = PRESETS[name]!;
  const fill = (text: string) =>
    text
      .replaceAll('{client_base_url}', `${origin}/${name}`)
      .replaceAll('{placeholder}', key ?? preset.placeholder);
  return Object.fromEntries(
    Object.entries(preset.client_env).map(([variable, text]) => [variable, fill(text)]),
  );
}

const originOf = (env: Map<string, string>, variable = 'ANTHROPIC_BASE_URL') =>
  new URL(env.get(variable) ?? 'http://none').origin;

const accepts = async (port: number): Promise<boolean> => {
  const client = await connect({ port }).catch(() => undefined);
  client?.close();
  return client !== undefined;
};

/** Sends one message by the environment's base URL and prints the status. */
const ASK = `const url = (process.env.ANTHROPIC_BASE_URL ?? "") + "/v1/messages";
const ask = async () => (await fetch(url, { method: "POST", headers: { "x-api-key": process.env.ANTHROPIC_API_KEY,
  "content-type": "application/json" }, body: '{"model":"m"}' })).status;`;

/** A program that counts one signal and ends with `code` at another. Not a shell: that makes one of two that are close. */
const counter = (signal: string, last: string, code: number) => `let n = 0;
  process.on("${signal}", () => console.log("got " + ++n));
  process.on("${last}", () => { console.log("total " + n); process.exit(${code}); });
  setInterval(() => {}, 1000);
  console.log("ready");`;

suite(`the command’s streams${skipped(SKIP_REASON)}`, () => {
  const bytes = randomBytes(10 << 20);
  const digest = createHash('sha256').update(bytes).digest('hex');

  test('carry 10 MiB in and out, byte for byte, and nothing else on stdout', async () => {
    const child = start(work.dir, ['run', '--socket', one, '--', 'cat'], { stdin: bytes });
    expect(await within('cat', child.exited, 8000)).toBe(0);
    expect(createHash('sha256').update(child.stdout()).digest('hex')).toBe(digest);
  });

  test('carry 10 MiB to stderr after what isoproxy says', async () => {
    const child = start(work.dir, ['run', '--socket', one, '--', 'sh', '-c', 'cat >&2'], { stdin: bytes });
    expect(await within('cat', child.exited, 8000)).toBe(0);
    expect(createHash('sha256').update(child.stderr().subarray(-bytes.length)).digest('hex')).toBe(digest);
    expect(child.stdout()).toHaveLength(0);
  });

  test('are the ones it was given, still blocking', async () => {
    const { stdout } = await sh('grep -h ^flags /proc/self/fdinfo/0 /proc/self/fdinfo/1 /proc/self/fdinfo/2');
    const flags = stdout
      .trim()
      .split('\n')
      .map((line) => Number.parseInt(line.split(/\s+/)[1] ?? '', 8));
    expect(flags).toHaveLength(3);
    for (const flag of flags) expect(flag & 0o4000).toBe(0);
  });

  test('may be closed', async () => {
    const [binary] = isoproxyCommand(work.dir);
    const script = `${binary} run --socket ${one} -- sh -c 'exit 7' <&- >&- 2>&-`;
    expect(await spawn(['sh', '-c', script], work.dir).exited).toBe(7);
  });

  test('end early without a complaint', async () => {
    const [binary] = isoproxyCommand(work.dir);
    const script = `${binary} run --socket ${one} -- yes 2>err | head -n 2; grep -ci 'epipe\\|internal' err`;
    const child = spawn(['sh', '-c', script], work.dir);
    await within('head', child.exited);
    expect(child.stdout().toString()).toBe('y\ny\n0\n');
  });

  test('arguments arrive as they are', async () => {
    const args = [
      '',
      ' ',
      '--',
      '--help',
      '-h',
      '--socket',
      'a\nb',
      '$(x)',
      '"',
      "'",
      '*',
      'ü',
      '--print-env',
    ];
    const { stdout } = await via(one, ['printf', '%s\\0', ...args]);
    expect(stdout.split('\0').slice(0, -1)).toEqual(args);
  });

  test('directory, umask, parent and process group are what they would be', async () => {
    mkdirSync(work.path('cwd'));
    const script = 'pwd; umask; ps -o pgid= -p $$ | tr -d " "; ps -o pgid= -p $PPID | tr -d " "';
    const { stdout } = await sh(script, { cwd: work.path('cwd') });
    const [cwd, umask, own, parent] = stdout.trim().split('\n');
    expect([cwd, umask]).toEqual([work.path('cwd'), process.umask().toString(8).padStart(4, '0')]);
    expect(own).toBe(parent as string);
  });
});

suite('on a terminal', () => {
  const onTerminal = (script: string) =>
    openTerminal([...isoproxyCommand(work.dir), 'run', '--socket', one, '--', 'sh', '-c', script], work.dir);

  test('the command has it as its own: three times a terminal, of its size, in the foreground', async () => {
    using terminal = onTerminal(
      'test -t 0 && test -t 1 && test -t 2 && stty size; ps -o pgid=,tpgid= -p $$; echo end; exit 4',
    );
    expect(await terminal.exited).toBe(4);
    const text = await terminal.seen('end');
    expect(text).toContain('\n33 101\r');
    const [, group, foreground] = /\n\s*(\d+)\s+(\d+)\r\nend/.exec(text) ?? [];
    expect(group).toBe(foreground as string);
  });

  test('a new size reaches it', async () => {
    using terminal = onTerminal('trap "stty size; exit 3" WINCH; echo ready; while :; do sleep 0.02; done');
    await terminal.seen('ready');
    terminal.resize(57, 21);
    expect(await terminal.exited).toBe(3);
    await terminal.seen('21 57');
  });

  test('what is typed reaches it, and echo may be off', async () => {
    using terminal = onTerminal('stty -echo; echo ready; read -r line; echo "<$line>"; stty echo');
    await terminal.seen('ready');
    terminal.type('grüße\n');
    expect(await terminal.exited).toBe(0);
    const text = await terminal.seen('<grüße>');
    expect(text.split('grüße')).toHaveLength(2);
  });

  test('Ctrl-C ends it and isoproxy: 130', async () => {
    using terminal = onTerminal('echo ready; exec sleep 30');
    await terminal.seen('ready');
    terminal.type('\x03');
    expect(await terminal.exited).toBe(130);
  });

  test('Ctrl-\\ ends it: 131', async () => {
    using terminal = onTerminal('ulimit -c 0; echo ready; exec sleep 30');
    await terminal.seen('ready');
    terminal.type('\x1c');
    expect(await terminal.exited).toBe(131);
  });

  test('a command that handles Ctrl-C goes on, gets each once, and its exit code counts', async () => {
    using terminal = openTerminal(
      [
        ...isoproxyCommand(work.dir),
        'run',
        '--socket',
        one,
        '--',
        BUN,
        '-e',
        counter('SIGINT', 'SIGTERM', 3),
      ],
      work.dir,
    );
    await terminal.seen('ready');
    terminal.type('\x03');
    await terminal.seen('got 1');
    terminal.type('\x03');
    await terminal.seen('got 2');
    // Comes after whatever isoproxy may have made of the two.
    process.kill(terminal.pid, 'SIGTERM');
    expect(await terminal.exited).toBe(3);
    expect(await terminal.seen('total')).toContain('total 2');
  });

  test.skipIf(!works(['bash', '-c', 'true']))('Ctrl-Z stops both, fg goes on with both', async () => {
    const command = [...isoproxyCommand(work.dir), 'run', '--socket', one, '--', 'sh', '-c'].join(' ');
    using terminal = openTerminal(['bash', '--norc', '-i'], work.dir, { PS1: '$ ' });
    terminal.type(`${command} 'echo rea""dy; read -r line; echo "<$line>"; exit 6'; echo "code=$?"\n`);
    await terminal.seen('ready\r');
    terminal.type('\x1a');
    await terminal.seen('Stopped');
    terminal.type('fg\n');
    await terminal.seen(/fg\r\n[^\n]*run/);
    terminal.type('again\n');
    await terminal.seen('<again>');
    terminal.type('echo "later=$?"; exit\n');
    await terminal.seen('later=6');
    await terminal.exited;
  });

  test('hanging up reaches it', async () => {
    using terminal = onTerminal(
      `trap 'echo hup > hup.txt; exit 5' HUP; echo ready; while :; do sleep 0.02; done`,
    );
    await terminal.seen('ready');
    process.kill(terminal.pid, 'SIGHUP');
    expect(await terminal.exited).toBe(5);
    expect(work.files()['hup.txt']?.toString()).toBe('hup\n');
  });
});

suite('signals and exit codes', () => {
  const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

  test.each(SIGNALS)('%s to isoproxy reaches the command, once', async (signal) => {
    const last = signal === 'SIGTERM' ? 'SIGUSR1' : 'SIGTERM';
    const child = start(work.dir, ['run', '--socket', one, '--', BUN, '-e', counter(signal, last, 9)]);
    await seen(child, 'ready');
    child.kill(signal);
    await seen(child, 'got 1');
    child.kill(last);
    expect(await within('the end', child.exited)).toBe(9);
    expect(child.stdout().toString()).toBe('ready\ngot 1\ntotal 1\n');
  });

  test.each<[(typeof SIGNALS)[number], number]>([
    ['SIGTERM', 143],
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGUSR1', 138],
  ])('%s to isoproxy with a command that does not handle it: %d', async (signal, code) => {
    const child = start(work.dir, ['run', '--socket', one, '--', 'sh', '-c', 'echo ready $$; exec sleep 30']);
    const pid = Number(/ready (\d+)\n/.exec(await seen(child, /ready \d+\n/))?.[1]);
    child.kill(signal);
    expect(await within('the end', child.exited)).toBe(code);
    expect(isRunning(pid)).toBe(false);
  });

  test.each([0, 1, 7, 125, 130, 255])('the command’s exit code %d is isoproxy’s', async (code) => {
    expect((await sh(`exit ${code}`)).code).toBe(code);
  });

  test.each([
    ['TERM', 143],
    ['KILL', 137],
    ['INT', 130],
    ['PIPE', 141],
    ['SEGV', 139],
    ['ABRT', 134],
  ])('death by SIG%s is %d', async (signal, code) => {
    expect((await sh(`ulimit -c 0; kill -${signal} $$`)).code).toBe(code);
  });
});

suite('what the command leaves behind', () => {
  test.each([
    ['holds its output', ''],
    ['has closed its output', '</dev/null >/dev/null 2>&1'],
  ])('a background process that %s is not waited for and lives on', async (_, redirect) => {
    const begun = performance.now();
    const child = start(work.dir, [
      ...['run', '--socket', one, '--', 'sh', '-c'],
      `sleep 60 ${redirect} & echo "$! $ANTHROPIC_BASE_URL"; exit 2`,
    ]);
    const [, pidText, port] =
      /^(\d+) http:\/\/127\.0\.0\.1:(\d+)\//m.exec(await seen(child, /\d+ http\S+\n/)) ?? [];
    const pid = Number(pidText);
    const reaped = reapAtExit(pid);
    try {
      expect(await within('the end', child.exited)).toBe(2);
      expect(performance.now() - begun).toBeLessThan(3000);
      expect(isRunning(pid)).toBe(true);
      expect(isRunning(child.pid)).toBe(false);
      expect(await accepts(Number(port))).toBe(false);
      expect(processesNaming(`\0${one}\0`).filter(isRunning)).toEqual([]);
    } finally {
      process.kill(pid, 'SIGKILL');
      reaped();
    }
  });

  test('after an ordinary end there is nothing: no port, no process, no file', async () => {
    const before = Object.keys(work.files()).sort();
    const { stdout } = await sh('echo "$ANTHROPIC_BASE_URL"');
    expect(await accepts(Number(new URL(stdout).port))).toBe(false);
    expect(processesNaming(`\0${one}\0`).filter(isRunning)).toEqual([]);
    expect(Object.keys(work.files()).sort()).toEqual(before);
  });
});

suite('own failures', () => {
  test.each<[string, string[], string]>([
    ['no command', [], 'error: no command'],
    ['an empty command line', ['--'], 'error: no command'],
    ['a command without --', ['claude'], 'error: the command goes after --'],
    ['an unknown option', ['--sokcet', 'x', '--', 'true'], "error: unknown option '--sokcet'"],
    ['an option without its value', ['--socket', '--', 'true'], "error: option '--socket"],
    ['--env without =', ['--env', TOKEN, '--', 'true'], 'error: --env wants NAME=VALUE'],
    ['--env with no name', ['--env', `=${TOKEN}`, '--', 'true'], 'error: --env wants NAME=VALUE'],
    ['an unknown option with a value', [`--token=${TOKEN}`, '--', 'true'], "error: unknown option '--token'"],
    ['both ways', ['--url', 'http://h', '--socket', 'x', '--', 'true'], 'exclude each other'],
    ['a URL without a token', ['--url', 'http://h', '--', 'true'], 'error: --url needs --token-file'],
    ['a token without a URL', ['--token-file', 'x', '--', 'true'], 'error: --token-file goes with --url'],
    [
      'a URL with a path',
      ['--url', 'http://h/p', '--token-file', 'x', '--', 'true'],
      '--url wants an origin',
    ],
    [
      'a URL with a password',
      ['--url', `http://u:${TOKEN}@h`, '--token-file', 'x', '--', 'true'],
      '--url wants',
    ],
    [
      'a URL of another scheme',
      ['--url', 'ftp://h', '--token-file', 'x', '--', 'true'],
      '--url wants an origin',
    ],
    [
      'no such directory',
      ['--socket', '/nowhere/isoproxy.sock', '--', 'true'],
      '/nowhere/isoproxy.sock: no such directory',
    ],
  ])('%s: 125, said and with a way out', async (_, args, message) => {
    const result = await run(args);
    expect([result.code, result.stdout]).toEqual([125, '']);
    expect(told(result)[0]).toContain(message);
    expect(told(result)[1]).toStartWith('isoproxy: hint: ');
  });

  test.each<[string, string, number, string]>([
    ['a command that is not on PATH', 'no-such-command-here', 127, 'no-such-command-here: command not found'],
    ['a path that does not exist', './nope', 127, './nope: command not found'],
    ['an empty name', '', 127, ': command not found'],
    ['a script whose interpreter is missing', './orphan', 127, './orphan: command not found'],
    ['a file without execute permission', './plain', 126, './plain: cannot be executed (EACCES)'],
    ['a directory', '/tmp', 126, '/tmp: cannot be executed (EACCES)'],
    ['a script without a first line', './headless', 126, './headless: cannot be executed (ENOEXEC)'],
    ['a path through a file', './plain/x', 126, './plain/x: cannot be executed (ENOTDIR)'],
  ])('%s', async (_, command, code, message) => {
    work.write('plain', 'x');
    work.write('orphan', '#!/no/such/interpreter\n', 0o755);
    work.write('headless', 'echo hello\n', 0o755);
    const result = await via(one, [command]);
    expect([result.code, result.stdout]).toEqual([code, '']);
    expect(told(result)[0]).toBe(`isoproxy: error: ${message}`);
    expect(processesNaming(`\0${one}\0`).filter(isRunning)).toEqual([]);
  });

  test('help goes to stdout, unless it is the command’s', async () => {
    const help = await run(['--help']);
    expect([help.code, help.stdout.split('\n')[0]]).toEqual([
      0,
      'usage: isoproxy run [OPTION ...] -- COMMAND [ARGUMENT ...]',
    ]);
  });

  test.skipIf(!works([...UNSHARE_NET, 'true']))(
    'loopback is down: says so, and how to bring it up',
    async () => {
      const [binary] = isoproxyCommand(work.dir);
      const child = spawn([...UNSHARE_NET, binary as string, 'run', '--socket', one, '--', 'true'], work.dir);
      expect(await within('the end', child.exited)).toBe(125);
      expect(child.stderr().toString()).toContain('cannot listen on 127.0.0.1:0: loopback is down here');
      expect(child.stderr().toString()).toContain('ip link set lo up');
    },
  );
});

suite('the environment', () => {
  /** What `spawn` gives every child. */
  const base = () => ({ PATH: '/usr/local/bin:/usr/bin:/bin', HOME: work.dir });
  const LOOPBACK = '127.0.0.1,localhost,::1';

  test('has exactly the variables of both providers, and the user’s own unchanged', async () => {
    const users = {
      'BASH_FUNC_f%%': '() { :; }',
      'dotted.name': '1',
      'with space': '2',
      EMPTY: '',
      LONG: 'x'.repeat(100_000),
      LINES: ' a\nb\r\n\tc ',
      QUOTED: `'"$(touch PWNED)\``,
      EQUALS: '=a=b=',
      CONTROL: '\x01\x7f\x1b[0m',
      TEXT: 'grüße 世界 👋',
      BUN_THING: '1',
      NODE_OPTIONS: '--no-such-thing',
      HTTP_PROXY: 'http://127.0.0.1:9',
      https_proxy: 'http://127.0.0.1:9',
      ISOPROXY_SOCKET: '/not/this/one',
    };
    const env = await environmentOf(['--socket', three], users);
    const origin = originOf(env);
    expect(origin).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    expect(Object.fromEntries(env)).toEqual({
      ...base(),
      ...users,
      ...expected('anthropic', origin),
      ...expected('openai', origin),
      ODD,
      NO_PROXY: LOOPBACK,
      no_proxy: LOOPBACK,
    });
    expect(env.get('ANTHROPIC_API_KEY')).toStartWith('sk-ant-api03-');
    expect(existsSync(work.path('PWNED'))).toBe(false);
  });

  test('two sockets are two ports, each to its own listener', async () => {
    const since = Date.now();
    const result = await run([
      ...['--socket', one, '--socket', two, '--', BUN, '-e'],
      `${ASK} console.log(await ask(), (await fetch(process.env.OPENAI_BASE_URL + "/models")).status);
       console.log(process.env.ANTHROPIC_BASE_URL, process.env.OPENAI_BASE_URL);
       const other = new URL(process.env.ANTHROPIC_BASE_URL).origin + "/openai/v1/models";
       console.log((await fetch(other)).status);`,
    ]);
    const [statuses, urls, crossed] = result.stdout.trim().split('\n');
    expect([result.code, statuses, crossed]).toEqual([0, '200 200', '404']);
    const [first, second] = (urls ?? '').split(' ').map((url) => new URL(url).port);
    expect(first).not.toBe(second as string);
    const records = () =>
      proxy.records().filter(({ time, decision }) => Date.parse(time) >= since && decision !== 'own');
    await until('three records', () => records().length === 3);
    expect(records().map(({ listener }) => listener)).toEqual(['agent-1', 'agent-2', 'agent-1']);
  });

  test('the same socket twice is one', async () => {
    const result = await run(['--socket', one, '--socket', one, '--', 'true']);
    expect([result.code, result.stderr.includes('wants another value')]).toEqual([0, false]);
  });

  test('two sockets that both have a provider: the first wins, and it is said', async () => {
    const result = await run(['--socket', one, '--socket', three, '--', 'env', '-0']);
    expect(result.stderr).toContain(
      'isoproxy: warning: ANTHROPIC_BASE_URL is set for provider anthropic; anthropic wants another value (choose with --env ANTHROPIC_BASE_URL=…)',
    );
    // Equal values are no conflict.
    expect(result.stderr).not.toContain('ANTHROPIC_API_KEY');
    const env = parseEnvironment(result.stdout);
    expect(originOf(env)).not.toBe(originOf(env, 'OPENAI_BASE_URL'));
  });

  test('--env wins, settles a conflict, and is never printed', async () => {
    const result = await run([
      ...[
        '--socket',
        one,
        '--socket',
        three,
        '--env',
        'ANTHROPIC_BASE_URL=mine',
        '--env',
        'A=1',
        '--env',
        'A=2',
      ],
      ...[
        '--env',
        `MY_SECRET=${TOKEN.slice(0, -1)}=`,
        '--env',
        'B=',
        '--env',
        'NO_PROXY=',
        '--',
        'env',
        '-0',
      ],
    ]);
    const env = parseEnvironment(result.stdout);
    expect(env.get('ANTHROPIC_BASE_URL')).toBe('mine');
    expect([env.get('A'), env.get('B'), env.get('NO_PROXY')]).toEqual(['2', '', '']);
    expect(env.get('MY_SECRET')).toBe(`${TOKEN.slice(0, -1)}=`);
    expect(result.stderr).not.toContain('wants another value');
    expect(result.stderr).not.toContain(TOKEN.slice(0, -1));
  });

  test.each<[string, Record<string, string>, string, string]>([
    ['unset', {}, LOOPBACK, LOOPBACK],
    ['empty', { NO_PROXY: '' }, LOOPBACK, LOOPBACK],
    [
      'extended',
      { NO_PROXY: 'corp.example, .x ', no_proxy: 'y' },
      `corp.example,.x,${LOOPBACK}`,
      `y,${LOOPBACK}`,
    ],
    ['named once', { NO_PROXY: 'localhost,a' }, 'localhost,a,127.0.0.1,::1', 'localhost,a,127.0.0.1,::1'],
    [
      'in the other spelling',
      { no_proxy: 'corp.example' },
      `corp.example,${LOOPBACK}`,
      `corp.example,${LOOPBACK}`,
    ],
    ['everything', { NO_PROXY: '*', no_proxy: 'a,*' }, '*', 'a,*'],
  ])('NO_PROXY %s', async (_, given, upper, lower) => {
    const env = await environmentOf(['--socket', one], given);
    expect([env.get('NO_PROXY'), env.get('no_proxy')]).toEqual([upper, lower]);
  });

  test('a request by it gets there, with the real key', async () => {
    const result = await via(one, [BUN, '-e', `${ASK} console.log(await ask())`]);
    expect([result.code, result.stdout]).toEqual([0, '200\n']);
    expect(apis.anthropic.requests).toHaveLength(1);
  });
});

suite('commands that need arguments', () => {
  const script = '#!/bin/sh\nfor a; do printf "%s\\0" "$a"; done\n';
  const wanted = (origin: string) =>
    PRESETS['openai']!.client_args!['codex']!.map((text) =>
      text
        .replaceAll('{client_base_url}', `${origin}/openai`)
        .replaceAll('{placeholder}', PRESETS['openai']!.placeholder),
    );
  const argsOf = (stdout: string) => stdout.split('\0').slice(0, -1);

  test.each([
    ['by its name', (dir: string) => ['codex', { PATH: `${dir}:/usr/bin:/bin` }] as const],
    ['by its path', (dir: string) => [join(dir, 'codex'), {}] as const],
  ])('codex, %s, gets them before the user’s, and it is said', async (_, how) => {
    work.write('bin/codex', script, 0o755);
    const [command, env] = how(work.path('bin'));
    const result = await via(two, [command, 'exec', '-c', 'x=1', 'hello'], { env });
    const args = argsOf(result.stdout);
    const origin = /http:\/\/127\.0\.0\.1:\d+/.exec(args.join(' '))?.[0] ?? '';
    expect(args).toEqual([...wanted(origin), 'exec', '-c', 'x=1', 'hello']);
    expect(result.stderr).toContain(
      `isoproxy: ${command} is not configured by its environment alone; added: -c `,
    );
  });

  test('--no-client-args adds none', async () => {
    work.write('bin/codex', script, 0o755);
    const result = await run(['--socket', two, '--no-client-args', '--', work.path('bin/codex'), 'a']);
    expect(argsOf(result.stdout)).toEqual(['a']);
    expect(result.stderr).not.toContain('added');
  });

  test.each([
    ['another command gets none', 'bin/codex2'],
    ['nor does codex where no provider is for it', 'bin/codex'],
  ])('%s', async (_, name) => {
    work.write(name, script, 0o755);
    const result = await via(name.endsWith('2') ? two : one, [work.path(name), 'a']);
    expect(argsOf(result.stdout)).toEqual(['a']);
  });
});

suite('--print-env', () => {
  /** `eval` in a shell; the bridges it leaves are ended. */
  async function evaluate(args: string, script: string, cwd = work.dir) {
    const [binary] = isoproxyCommand(work.dir);
    const child = spawn(['sh', '-c', `eval "$(${binary} run --print-env ${args})"; ${script}`], work.dir, {
      cwd,
    });
    expect(await within('the shell', child.exited)).toBe(0);
    return { env: parseEnvironment(child.stdout().toString()), stderr: child.stderr().toString() };
  }
  const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

  test('is evaluated by a shell; the bridge goes on until it is killed by its pid', async () => {
    const { env } = await evaluate(`--socket ${three} --env X=${quoted(ODD)}`, 'env -0');
    const pid = Number(env.get('ISOPROXY_BRIDGE_PID'));
    const reaped = reapAtExit(pid);
    const origin = originOf(env);
    expect([env.get('X'), env.get('ODD')]).toEqual([ODD, ODD]);
    for (const name of ['anthropic', 'openai'] as const)
      expect(Object.fromEntries(env)).toMatchObject(expected(name, origin));
    expect(existsSync(work.path('PWNED'))).toBe(false);
    expect(isRunning(pid)).toBe(true);
    const endpoint = { port: Number(new URL(origin).port) };
    expect((await request(endpoint, { target: '/healthz' })).status).toBe(200);
    process.kill(pid);
    await until('the bridge to end', () => !isRunning(pid));
    reaped();
    expect(await accepts(endpoint.port)).toBe(false);
  });

  test('with two sockets leaves two bridges, which one kill ends', async () => {
    const { env } = await evaluate(`--socket ${one} --socket ${two}`, 'kill $ISOPROXY_BRIDGE_PID; env -0');
    const pids = env.get('ISOPROXY_BRIDGE_PID')?.split(' ').map(Number) ?? [];
    expect(pids).toHaveLength(2);
    await until('the bridges to end', () => !pids.some(isRunning));
  });

  test('shows the arguments of a command as a comment', async () => {
    const result = await run(['--socket', two, '--print-env', '--', 'a\ntouch PWNED\n/codex']);
    const pid = Number(/^export ISOPROXY_BRIDGE_PID='(\d+)'$/m.exec(result.stdout)?.[1]);
    process.kill(pid);
    expect(result.stdout).toContain("# /codex' '-c' 'model_provider=");
    expect(/^touch/m.test(result.stdout)).toBe(false);
    await until('the bridge to end', () => !isRunning(pid));
  });

  test('prints nothing to evaluate when it fails', async () => {
    const result = await run(['--socket', '/nowhere/isoproxy.sock', '--print-env']);
    expect([result.code, result.stdout]).toEqual([125, '']);
  });

  test.skipIf(!works([...UNSHARE_NET, 'true']))(
    'says so when its bridge cannot start, and leaves nothing behind',
    async () => {
      const [binary] = isoproxyCommand(work.dir);
      const args = ['run', '--print-env', '--socket', one, '--socket', two];
      const child = spawn([...UNSHARE_NET, binary as string, ...args], work.dir);
      expect(await within('the end', child.exited)).toBe(125);
      expect(child.stdout().toString()).toBe('');
      expect(child.stderr().toString()).toContain('error: the bridge does not start');
      expect(processesNaming(`\0${one}\0`).filter(isRunning)).toEqual([]);
    },
  );

  test('with a URL needs no bridge; the token is the key', async () => {
    work.write('token', TOKEN);
    const args = ['--url', `http://127.0.0.1:${tcpPort}`, '--token-file', work.path('token'), '--print-env'];
    const result = await run(args);
    expect(result.code).toBe(0);
    expect(result.stdout).toContain(`export ANTHROPIC_API_KEY='${TOKEN}'\n`);
    expect(result.stdout).not.toContain('ISOPROXY_BRIDGE_PID');
  });
});

suite('a TCP listener with a token', () => {
  const url = (host = '127.0.0.1') => `http://${host}:${tcpPort}`;
  const withToken = (file: string, command: string[], host?: string) =>
    run(['--url', url(host), '--token-file', file, '--', ...command]);

  test('the token is the key and opens the discovery; no port is opened', async () => {
    work.write('token', `${TOKEN}\n`);
    const result = await withToken(work.path('token'), ['env', '-0']);
    const env = parseEnvironment(result.stdout);
    expect(Object.fromEntries(env)).toMatchObject({
      ...expected('anthropic', url(), TOKEN),
      ...expected('openai', url(), TOKEN),
    });
    expect(env.get('NO_PROXY')).toBe('127.0.0.1,localhost,::1');
    assertClean(TOKEN, { stderr: result.stderr });
  });

  test('a request by it gets there, with the real key', async () => {
    const result = await withToken(work.write('token', TOKEN), [
      BUN,
      '-e',
      `${ASK} console.log(await ask())`,
    ]);
    expect([result.code, result.stdout]).toEqual([0, '200\n']);
    expect(apis.anthropic.requests).toHaveLength(1);
  });

  test('a proxy in the environment sees neither token nor request', async () => {
    let met = 0;
    using stranger = Bun.listen({
      hostname: '127.0.0.1',
      port: 0,
      socket: { open: () => void met++, data: (socket) => void socket.end() },
    }) as unknown as Disposable & { port: number };
    const proxyUrl = `http://127.0.0.1:${stranger.port}`;
    const env = { HTTP_PROXY: proxyUrl, http_proxy: proxyUrl, ALL_PROXY: proxyUrl };
    const command = [BUN, '-e', `${ASK} console.log(await ask())`];
    const args = ['--url', url(), '--token-file', work.write('token', TOKEN), '--', ...command];
    const result = await run(args, { env });
    expect([result.code, result.stdout, met]).toEqual([0, '200\n', 0]);
  });

  test.each<[string, string | undefined, string | undefined, string]>([
    ['a wrong token', `${TOKEN}x`, undefined, 'refuses the token'],
    ['an upstream key', KEYS.anthropic, undefined, 'refuses the token'],
    ['a host name that is not in hosts', TOKEN, '0.0.0.0', 'refuses this host name'],
    ['a token file that is missing', undefined, undefined, 'no-token cannot be read: ENOENT'],
    ['an empty token file', '', undefined, 'does not hold a token'],
    ['a token file of two lines', `${TOKEN}\n${TOKEN}`, undefined, 'does not hold a token'],
    ['a token with control bytes', `${TOKEN}\x00`, undefined, 'does not hold a token'],
  ])('%s', async (_, token, host, message) => {
    const file = token === undefined ? work.path('no-token') : work.write('bad-token', token);
    const result = await withToken(file, ['true'], host);
    expect([result.code, result.stdout]).toEqual([125, '']);
    expect(told(result)[0]).toContain(message);
    expect(told(result)).toHaveLength(2);
    for (const secret of [TOKEN, KEYS.anthropic]) assertClean(secret, { stderr: result.stderr });
  });
});

suite('finding the socket', () => {
  /** An $XDG_RUNTIME_DIR in which these listeners are mounted. */
  function runtimeDir(...listeners: string[]): string {
    const dir = work.path(`xdg-${listeners.length}`);
    mkdirSync(join(dir, 'isoproxy'), { recursive: true });
    for (const name of listeners) {
      const link = join(dir, 'isoproxy', name);
      if (!existsSync(link)) symlinkSync(proxy.workspace.path(name), link);
    }
    return dir;
  }
  const here = test.skipIf(existsSync('/run/isoproxy'));

  here('the only one in $XDG_RUNTIME_DIR is taken', async () => {
    const env = { XDG_RUNTIME_DIR: runtimeDir('agent-1'), ISOPROXY_SOCKET: '' };
    const result = await run(['--', 'sh', '-c', 'echo $ANTHROPIC_BASE_URL'], { env });
    expect(result.stdout).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/anthropic\n$/);
    expect(result.stderr).not.toContain('another listener');
  });

  here('several are listed, and one is to be chosen', async () => {
    const dir = runtimeDir('agent-1', 'agent-2');
    const result = await run(['--', 'true'], { env: { XDG_RUNTIME_DIR: dir } });
    expect(result.code).toBe(125);
    expect(told(result)).toEqual([
      `isoproxy: error: there are several sockets: ${dir}/isoproxy/agent-1/isoproxy.sock, ${dir}/isoproxy/agent-2/isoproxy.sock`,
      'isoproxy: hint: choose with --socket PATH (more than once for more than one)',
    ]);
  });

  here('--socket goes before $ISOPROXY_SOCKET, and that before the search', async () => {
    const env = { XDG_RUNTIME_DIR: runtimeDir('agent-1', 'agent-2'), ISOPROXY_SOCKET: two };
    expect(originOf(await environmentOf([], env), 'OPENAI_BASE_URL')).toContain('127.0.0.1');
    expect((await environmentOf(['--socket', one], env)).has('OPENAI_BASE_URL')).toBe(false);
  });

  here('none: says where it looked and what to mount', async () => {
    const env = { XDG_RUNTIME_DIR: runtimeDir() };
    const result = await run(['--', 'true'], { env });
    expect(result.code).toBe(125);
    expect(told(result)[0]).toContain(
      `no socket found; looked for /run/isoproxy/isoproxy.sock, /run/isoproxy/*/`,
    );
    expect(told(result)[0]).toContain(`${env.XDG_RUNTIME_DIR}/isoproxy/*/isoproxy.sock`);
    expect(told(result)[1]).toContain("mount the directory of the listener's socket");
  });

  test('a relative path will do', async () => {
    const result = await run(['--socket', 'agent-1/isoproxy.sock', '--', 'true'], {
      cwd: proxy.workspace.dir,
    });
    expect(result.code).toBe(0);
  });
});

suite('a socket that cannot be used', () => {
  const nobody = asNobody();
  const asOther = test.skipIf(typeof nobody === 'string');
  const runAsNobody = async (socket: string) => {
    const [binary] = isoproxyCommand(work.dir);
    const command = [...nobody, binary as string, 'run', '--socket', socket, '--', 'true'];
    const child = spawn(command, work.dir, { cwd: '/' });
    return { code: await within('the end', child.exited), stderr: child.stderr().toString() };
  };

  asOther('denied by its own mode: says whose it is, its mode, and who we are', async () => {
    mkdirSync(work.path('open'));
    chmodSync(work.dir, 0o711);
    chmodSync(work.path('open'), 0o755);
    const socket = work.path('open/isoproxy.sock');
    using _stranger = await startStranger(socket, () => {});
    chmodSync(socket, 0o660);
    const { code, stderr } = await runAsNobody(socket);
    chmodSync(work.dir, 0o700);
    expect(code).toBe(125);
    expect(stderr).toContain(
      `${socket}: permission denied: ${socket} belongs to uid 0, gid 0, mode 0660; this process is uid 65534, gid 65534`,
    );
    expect(stderr).toContain('hint: on the host, give the listener mode = "0660" and the group');
  });

  asOther('denied by a directory above it: names the nearest that can be seen', async () => {
    const { code, stderr } = await runAsNobody(one);
    expect(code).toBe(125);
    expect(stderr).toContain(
      `${one}: permission denied: ${proxy.workspace.dir} belongs to uid 0, gid 0, mode 0700;`,
    );
  });

  test.each<[string, (path: string) => unknown, string]>([
    ['a file', (at) => writeFileSync(at, ''), 'is not a socket'],
    ['a directory', (at) => mkdirSync(at), 'is not a socket'],
    ['a link to nowhere', (at) => symlinkSync('/nowhere/x', at), 'no such'],
  ])('%s', async (name, make, message) => {
    const at = work.path(`odd-${name.replaceAll(' ', '-')}`);
    make(at);
    const child = start(work.dir, ['run', '--socket', at, '--', 'true']);
    await until('an explanation', () => child.stderr().includes(message));
    if (name.startsWith('a link')) child.kill('SIGTERM');
    else expect(await child.exited).toBe(125);
    await child.exited;
  });

  const page = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>';
  const provider = { base_path: '', placeholder: 'x', client_env: {}, client_args: {} };
  const ofProvider = (over: object) =>
    answeringJson({ isoproxy: 1, providers: { a: { ...provider, ...over } } });
  const STRANGER = 'answers, but is not isoproxy (HTTP status 200)';
  test.each<[string, Parameters<typeof startStranger>[1], string]>([
    ['another web server', answering(page), STRANGER],
    [
      'one that redirects',
      answering('HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n'),
      'answers, but is not isoproxy (HTTP status 302)',
    ],
    ['one that speaks no HTTP', (socket) => void socket.write('SSH-2.0-OpenSSH_10\r\n\r\n'), 'no HTTP'],
    ['one that hangs up', (socket) => socket.destroy(), 'it closes the connection'],
    [
      'one that breaks off',
      answering('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{'),
      'it closes the connection',
    ],
    [
      'one that never ends',
      (socket) => {
        const page = Buffer.from(`10000\r\n${'x'.repeat(65536)}\r\n`);
        const more = () => {
          while (socket.write(page));
        };
        socket.once('data', () => {
          socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
          socket.on('drain', more);
          more();
        });
      },
      STRANGER,
    ],
    [
      'a newer isoproxy',
      answeringJson({ isoproxy: 2, providers: {} }),
      "another version of isoproxy's discovery",
    ],
    ['JSON that is none of ours', answeringJson([]), STRANGER],
    ['null', answeringJson(null), STRANGER],
    ['no providers', answeringJson({ isoproxy: 1 }), 'another version'],
    ['a provider without settings', ofProvider({ client_env: null }), 'another version'],
    ['a variable that is a number', ofProvider({ client_env: { A: 1 } }), 'another version'],
    [
      'a variable whose name is a command',
      ofProvider({ client_env: { 'A;touch PWNED;B': '1' } }),
      'another version',
    ],
    ['arguments that are none', ofProvider({ client_args: { codex: 'x' } }), 'another version'],
  ])('%s: 125, and it is said', async (_, answer, message) => {
    const socket = work.path('other.sock');
    using _stranger = await startStranger(socket, answer);
    const result = await run(['--socket', socket, '--print-env', '--', 'codex']);
    expect([result.code, result.stdout]).toEqual([125, '']);
    expect(told(result)[0]).toContain(socket);
    expect(told(result)[0]).toContain(message);
    expect(told(result)).toHaveLength(2);
  });
});

suite('a proxy that is restarted', () => {
  /** A command that asks once for every line that it reads. */
  // A connection for each: on one that is kept alive, a request can cross with the end of the server, as with any.
  const ASK_ANEW = ASK.replace('method: "POST"', 'keepalive: false, method: "POST"');
  const ASK_PER_LINE = `${ASK_ANEW} for await (const _ of console) { console.log("asking"); console.log("status", await ask()); }`;

  async function startAsking(socket: string): Promise<Child & { line: () => void; end: () => void }> {
    // A fifo stands for the user, because a test's stdin is written once.
    const fifo = work.path('fifo');
    Bun.spawnSync(['rm', '-f', fifo]);
    Bun.spawnSync(['mkfifo', fifo]);
    const [binary] = isoproxyCommand(work.dir);
    const child = spawn(
      [
        'sh',
        '-c',
        'exec "$@" <>fifo',
        'sh',
        binary as string,
        'run',
        '--socket',
        socket,
        '--',
        BUN,
        '-e',
        ASK_PER_LINE,
      ],
      work.dir,
    );
    return Object.assign(Object.create(child) as Child, {
      line: () => writeFileSync(fifo, 'ask\n'),
      end: () => child.kill('SIGTERM'),
    });
  }
  const count = (child: Child, text: string) => child.stdout().toString().split(text).length - 1;

  test.each<['SIGTERM' | 'SIGKILL', string]>([
    ['SIGTERM', 'in order'],
    ['SIGKILL', 'by force'],
  ])('%s: the next request works, and one during the downtime waits', async (signal) => {
    const keys = KEYS;
    await using other = await startIsoproxy((dir) =>
      presetConfig(dir, apis, keys, [{ name: 'agent-1', providers: ['anthropic'] }]),
    );
    const child = await startAsking(other.socket());
    child.line();
    await until(
      () => `a first answer; ${child.stderr()}`,
      () => count(child, 'status 200') === 1,
    );
    await other.stop(signal);
    child.line();
    await until('it to ask', () => count(child, 'asking') === 2);
    const sofar = apis.anthropic.requests.length;
    await other.start();
    await until(
      () => `the second answer; ${child.stdout()}`,
      () => count(child, 'status ') === 2,
    );
    child.line();
    await until('the third answer', () => count(child, 'status ') === 3);
    expect([count(child, 'status 200'), sofar, apis.anthropic.requests.length]).toEqual([3, 1, 3]);
    child.end();
    expect(await within('the end', child.exited)).toBe(143);
  });

  test('a run that begins meanwhile waits too, and says so', async () => {
    await using other = await startIsoproxy((dir) =>
      presetConfig(dir, apis, KEYS, [{ name: 'agent-1', providers: ['anthropic'] }]),
    );
    await other.stop();
    const child = start(work.dir, ['run', '--socket', other.socket(), '--', 'echo', 'ran']);
    await until('it to wait', () => child.stderr().includes('; waiting for it'));
    expect(child.stdout().toString()).toBe('');
    await other.start();
    expect(await within('the end', child.exited)).toBe(0);
    expect(child.stdout().toString()).toBe('ran\n');
    expect(child.stderr().toString()).toMatch(
      /^isoproxy: \S+sock: (no such socket|nobody listens); waiting for it$/m,
    );
  });
});

suite('waiting has an end', () => {
  test.each<[keyof typeof slow, string, string]>([
    ['gone', 'gone/isoproxy.sock: no such socket', 'is isoproxy serve running on the host?'],
    ['stale', 'stale/isoproxy.sock: nobody listens', 'isoproxy serve does not run on the host'],
    ['silent', 'silent.sock does not answer within 5 s', 'is it isoproxy?'],
    ['trickle', 'trickle.sock does not answer within 5 s', 'is it isoproxy?'],
  ])('%s', async (name, message, hint) => {
    const result = await slow[name];
    expect([result.code, result.stdout]).toEqual([125, '']);
    expect(told(result).at(-2)).toContain(message);
    expect(told(result).at(-1)).toContain(hint);
  });
});
