/**
 * A real client in a real sandbox, end to end: `make e2e-claude`, `make e2e-codex`. A local TLS upstream speaks the
 * API, isoproxy serves with a random key, and the client runs under bubblewrap without network and key, once for
 * one question and once on a terminal. No account, and no request leaves this machine.
 *
 * CLIENT=/path uses a copy of the client instead of npm's newest; ISOPROXY_BIN another binary than dist/isoproxy.
 * Exit 0: every check passed, or what is needed is missing here ("skipped: …"). 1: a check failed.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { stringify } from 'smol-toml';
import { assertClean, makeCanary } from '../test/support/canary.ts';
import { BOXED, boxed, works } from '../test/support/client-side.ts';
import { until, within } from '../test/support/deadline.ts';
import { createWorkspace, type Isoproxy, startIsoproxy, type Workspace } from '../test/support/isoproxy.ts';
import { spawn } from '../test/support/process.ts';
import { type RecordedRequest, type Recorder, startRecorder } from '../test/support/recorder.ts';
import { CLIENT_PATH, CLIENTS, type Client, type Installed, install } from './e2e/clients.ts';
import { missing, processesOf } from './e2e/machine.ts';
import { answerQuestions, openScreen } from './e2e/screen.ts';

const REFUSAL = "isoproxy: the sandbox's allow-list does not permit";
const RUN_MS = 120_000;
const SOCKET_DIR = '/run/isoproxy/agent-1';
/** The answer on a screen is wrapped and drawn, so it is short and has nothing to format. */
const ANSWER = `grüße aus ${makeCanary('upstream-').slice(0, 20)}`;

let failures = 0;
/** Everything that the sandbox's side could see, by what it is. */
const seen: Record<string, string | Uint8Array> = {};

async function check(what: string, body: () => unknown): Promise<void> {
  try {
    const detail = await body();
    console.log(`ok      ${what}${typeof detail === 'string' ? ` (${detail})` : ''}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED  ${what}: ${error instanceof Error ? error.message : error}`);
  }
}

function expect(condition: boolean, why: string): asserts condition {
  if (!condition) throw new Error(why);
}

/** The same provider twice: as the preset has it, and without the call that the client needs. */
function configure(dir: string, client: Client, upstream: Recorder, key: string) {
  const provider = {
    preset: client.preset,
    base_url: `https://localhost:${upstream.port}`,
    ca_file: join(dir, 'ca.pem'),
    unsafe_allow_private: true, // the upstream is on loopback
    credential: { file: join(dir, 'secrets/key') },
  };
  const endpoints = [{ methods: ['GET'], paths: ['/v1/models'] }];
  const toml = stringify({
    server: { runtime_dir: dir, state_dir: join(dir, 'state') },
    listeners: [
      { name: 'agent-1', providers: ['full'] },
      { name: 'agent-2', providers: ['narrow'] },
    ],
    providers: { full: provider, narrow: { ...provider, endpoints } },
  });
  return { toml, files: { 'ca.pem': upstream.ca, 'secrets/key': key } };
}

/** One sandbox: the directory of its socket, a fresh HOME, and a fresh git repository to work in. */
function sandbox(workspace: Workspace, installed: Installed, listener: string, name: string) {
  const home = join(workspace.dir, 'boxes', name, 'home');
  const project = join(workspace.dir, 'boxes', name, 'project');
  for (const directory of [home, project]) mkdirSync(directory, { recursive: true, mode: 0o700 });
  expect(works(['git', 'init', '--quiet', project]), 'git init failed');
  return (...command: string[]): string[] => [
    // PID 1 of the sandbox is bubblewrap itself, and its environment can be read there, whatever --clearenv says.
    ...['env', '-i', 'PATH=/usr/bin:/bin'],
    ...boxed(['sh', '-c', 'cd /home/agent/project && exec "$@"', 'sh', ...command], {
      env: { PATH: `${CLIENT_PATH}:/usr/bin:/bin`, LANG: 'C.UTF-8', TERM: 'xterm-256color' },
      ro: { ...installed.mounts, [SOCKET_DIR]: join(workspace.dir, listener) },
      rw: { '/home/agent': home, '/home/agent/project': project },
    }),
  ];
}

/** Runs a command to its end, from a shell that has the real key in its environment, as its owner's may. */
async function finish(name: string, command: string[], workspace: Workspace, key: string) {
  const child = spawn(command, workspace.dir, { env: { REAL_API_KEY: key } });
  const code = await within(name, child.exited, RUN_MS).finally(() => child.kill('SIGKILL'));
  const [stdout, stderr] = [child.stdout().toString(), child.stderr().toString()];
  Object.assign(seen, { [`stdout of ${name}`]: stdout, [`stderr of ${name}`]: stderr });
  return { code, stdout, stderr, tail: () => `${stdout.slice(-800)}\n${stderr.slice(-1200)}` };
}

/** What a request carries that could be a credential, without what every client sends. */
function credentialsOf(request: RecordedRequest): string[] {
  return request.headers
    .map(([name, value]) => `${name.toLowerCase()}: ${value}`)
    .filter((line) =>
      /^(?:[^:]*(?:auth|api-?key|token|secret|cookie))[^:]*:|: .*(?:sk-|Bearer )/i.test(line),
    );
}

const asks = (client: Client) => (request: RecordedRequest) =>
  request.method === 'POST' && request.target.split('?')[0] === client.endpoint;

async function run(client: Client, installed: Installed, workspace: Workspace): Promise<void> {
  const key = makeCanary(client.keyPrefix);
  await using upstream = await startRecorder({ handler: client.fake({ text: ANSWER }) });
  await using proxy = await startIsoproxy((dir) => configure(dir, client, upstream, key), {
    workspace,
    ms: 20_000,
  });
  const box = (listener: string, name: string) => sandbox(workspace, installed, listener, name);
  const inside = (name: string, command: string[], listener = 'agent-1') =>
    finish(name, box(listener, name)(...command), workspace, key);
  const isoproxyRun = [BOXED, 'run', '--', client.command];

  console.log(`\n== one question, without a terminal`);
  await check(`${client.command} ${client.ask('say hi').join(' ')} shows the upstream's answer`, async () => {
    const end = await inside('ask', [...isoproxyRun, ...client.ask('say hi')]);
    expect(end.code === 0, `exit code ${end.code}\n${end.tail()}`);
    expect(end.stdout.includes(ANSWER), `no answer\n${end.tail()}`);
    return `"${ANSWER}"`;
  });
  await check('with an allow-list that lacks the call, it shows why', async () => {
    const before = upstream.requests.length;
    const end = await inside('ask-refused', [...isoproxyRun, ...client.ask('say hi')], 'agent-2');
    const line = end
      .tail()
      .split('\n')
      .find((text) => text.includes(REFUSAL));
    expect(line !== undefined, `not our text\n${end.tail()}`);
    expect(end.code !== 0, 'exit code 0');
    expect(!upstream.requests.slice(before).some(asks(client)), 'the call reached the upstream');
    return `exit ${end.code}, "${line.trim().slice(0, 150)}"`;
  });
  await check("isoproxy run passes the command's exit code", async () => {
    const end = await inside('exit-code', [BOXED, 'run', '--', 'sh', '-c', 'exit 7']);
    expect(end.code === 7, `exit code ${end.code}\n${end.tail()}`);
  });

  console.log(`\n== the sandbox`);
  await check('environment, processes and files inside show no key', async () => {
    const look = `env; for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do echo "== $file"; tr '\\0' '\\n' <$file; done
      find /run /home /tmp /etc /var -type f -size -1024k -exec cat {} +`;
    const end = await inside('look', [BOXED, 'run', '--', 'sh', '-c', look]);
    expect(end.stdout.includes('== /proc/1/environ'), `saw no processes\n${end.tail()}`);
    expect(/isoproxy-placeholder/.test(end.stdout), `no placeholder in the environment\n${end.tail()}`);
    assertClean(key, { 'what can be read inside': end.stdout });
  });
  await check('the upstream cannot be reached directly', async () => {
    const connect = (host: string) => ['bash', '-c', `exec 3<>/dev/tcp/${host}/${upstream.port}`];
    expect(works(connect('127.0.0.1')), 'not even from the host');
    await until('its connection', () => upstream.connections.length > 0);
    for (const host of ['127.0.0.1', 'localhost', '10.0.2.2'])
      expect(
        !works(['timeout', '5', ...box('agent-1', 'direct')(...connect(host))]),
        `${host} answers inside`,
      );
  });
  await check('isoproxy doctor --strict has nothing to say', async () => {
    const end = await inside('doctor', [BOXED, 'doctor', '--strict']);
    expect(end.code === 0, end.tail());
    return end.stdout.trim();
  });

  console.log(`\n== on a terminal`);
  const screens = [
    { name: 'terminal', listener: 'agent-1', expected: ANSWER, what: "shows the upstream's answer" },
    { name: 'terminal-refused', listener: 'agent-2', expected: REFUSAL, what: 'shows why a call is refused' },
  ];
  for (const { name, listener, expected, what } of screens) {
    let last = '';
    await check(`${client.command} starts on a fresh HOME and ${what}`, async () => {
      const command = box(listener, name)(...isoproxyRun);
      await using screen = await openScreen(workspace.dir, command, { REAL_API_KEY: key });
      try {
        const asked = await answerQuestions(screen, client);
        await screen.type('say hi');
        await screen.shows('say hi');
        await screen.press('Enter');
        last = await screen.shows(expected, RUN_MS);
        await screen.type(client.quit);
        await screen.shows(client.quit);
        await screen.press('Enter');
        const code = await screen.ended();
        expect(code === 0, `exit code ${code}`);
        return `asked for ${asked.join(', ') || 'nothing'}; ended with 0`;
      } finally {
        seen[`screen of ${name}`] = await screen.history();
      }
    });
    console.log(last.replace(/\n\s*\n/g, '\n\n').replace(/^/gm, '        | '));
  }

  console.log(`\n== the key`);
  await checkUpstream(client, upstream, key);
  await check(
    'each call has its record; only the narrow allow-list refused the one that carries the question',
    () => checkRecords(client, proxy, upstream),
  );
  await check('outputs, screens, records, HOME and project show no key', () => {
    const all = { ...seen, ...proxy.visible(), ...workspace.files('boxes') };
    expect(
      Object.keys(all).some((name) => name.startsWith('boxes/terminal/home/')),
      'HOME was not looked at',
    );
    assertClean(key, all);
    return `${Object.keys(all).length} places`;
  });
  await check('isoproxy stops with exit code 0', async () => {
    const code = await proxy.stop('SIGTERM', 20_000);
    expect(code === 0, `exit code ${code}`);
  });
}

async function checkUpstream(client: Client, upstream: Recorder, key: string): Promise<void> {
  const [header, value] = client.credential(key);
  await check('the upstream got exactly the real key, and no other credential', () => {
    expect(upstream.requests.filter(asks(client)).length >= 2, 'it was not asked twice');
    for (const request of upstream.requests) {
      const where = `${request.method} ${request.target}`;
      const found = credentialsOf(request);
      expect(found.length === 1, `${where} has ${found.length} headers like a credential`);
      expect(found[0] === `${header}: ${value}`, `${where} has another ${header}`);
      const text = `${request.rawHead.toString('latin1')}${request.body.toString('latin1')}`;
      expect(!text.includes('isoproxy-placeholder'), `${where} has the placeholder`);
    }
    expect(upstream.problems.length === 0, upstream.problems.join('; '));
    return `${upstream.requests.length} requests, ${header}`;
  });
}

async function checkRecords(client: Client, proxy: Isoproxy, upstream: Recorder): Promise<string> {
  const forwarded = () => proxy.records().filter((record) => record.decision === 'allow');
  await until('a record for each request', () => forwarded().length >= upstream.requests.length);
  expect(forwarded().length === upstream.requests.length, 'more was recorded as forwarded than arrived');
  const refused = proxy.records().filter((record) => record.decision === 'deny');
  const calls = refused.filter((record) => record.path.endsWith(client.endpoint));
  expect(calls.length >= 2 && calls.every((record) => record.listener === 'agent-2'), 'not so');
  expect(
    calls.every((record) => record.reason === 'endpoint_not_allowed'),
    'for another reason',
  );
  const others = new Set(
    refused.filter((record) => !calls.includes(record)).map((r) => `${r.method} ${r.path}`),
  );
  return `${forwarded().length} forwarded; also refused: ${[...others].join(', ') || 'nothing'}`;
}

function skip(why: string): never {
  console.log(`skipped: ${why}`);
  process.exit(0);
}

const client = CLIENTS[process.argv[2] ?? ''];
if (client === undefined) {
  console.error('usage: scripts/e2e.ts claude|codex');
  process.exit(64);
}
const copy = process.env['CLIENT'] || undefined;
if (copy !== undefined && !existsSync(copy)) {
  console.error(`CLIENT: ${copy} does not exist`);
  process.exit(64);
}
const why = missing();
if (why !== undefined) skip(why);
const workspace = createWorkspace(); // removed at the end of this process, however it ends
try {
  const installed = install(client, workspace.path('npm'), copy);
  if (typeof installed === 'string') {
    if (copy === undefined) skip(installed);
    throw new Error(`CLIENT=${copy}: ${installed}`);
  }
  console.log(
    `== ${client.package}: ${installed.version}; ${spawnSync('bwrap', ['--version']).stdout}`.trimEnd(),
  );
  await run(client, installed, workspace);
  await check('nothing is left running', () =>
    until(
      () => `processes ${processesOf(workspace).join(' ')} to end`,
      () => processesOf(workspace).length === 0,
      10_000,
    ),
  );
} finally {
  workspace.remove();
}
await check('nor a file', () => expect(!existsSync(workspace.dir), `${workspace.dir} is there`));
console.log(failures === 0 ? '\nevery check passed' : `\n${failures} checks FAILED`);
process.exit(failures === 0 ? 0 : 1);
