// The main case, whole: a sandbox without network and without a key, `isoproxy run` in it, and in that a program that
// uses the official clients and knows nothing of any of this.

import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test';
import { rmSync, symlinkSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { PRESETS } from '../../src/config/presets.ts';
import { assertClean, makeCanary } from '../support/canary.ts';
import {
  type Apis,
  BOX_REASON,
  BOXED,
  BOXED_BUN,
  BUN,
  boxed,
  presetConfig,
  processesNaming,
  SKIP_REASON,
  skipped,
  startApis,
  UNSHARE_NET,
  works,
} from '../support/client-side.ts';
import { until, within } from '../support/deadline.ts';
import { ANSWER } from '../support/fake-apis.ts';
import {
  createWorkspace,
  type Isoproxy,
  isoproxyCommand,
  isRunning,
  startIsoproxy,
  type Workspace,
} from '../support/isoproxy.ts';
import { PROJECT_DIR, spawn } from '../support/process.ts';

setDefaultTimeout(30_000);

const KEYS = { anthropic: makeCanary('sk-ant-api03-'), openai: makeCanary('sk-proj-') };
const UNSHARE_WORKS = SKIP_REASON === undefined && works([...UNSHARE_NET, 'ip', 'link', 'set', 'lo', 'up']);

/** What an agent does, in small: nothing but the environment tells it where the API is and what the key is. */
const AGENT = `
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
const anthropic = new Anthropic({ maxRetries: 0 });
const openai = new OpenAI({ maxRetries: 0 });
const pieces = [];
const stream = anthropic.messages.stream({ model: 'm', max_tokens: 9, messages: [{ role: 'user', content: 'hi' }] });
stream.on('text', (text) => pieces.push(text));
await stream.finalMessage();
const parts = [];
const chat = { model: 'm', messages: [{ role: 'user', content: 'hi' }], stream: true };
for await (const part of await openai.chat.completions.create(chat)) parts.push(part.choices[0]?.delta.content ?? '');
const refused = await anthropic.messages.batches.list().then(() => 'allowed', (error) => [error.status, error.message]);
const tried = {};
for (const address of process.argv.slice(2)) {
  const [host, port] = address.split(' ');
  tried[address] = await Bun.connect({ hostname: host, port: Number(port), socket: { data() {} } }).then(
    () => 'connected', (error) => error.code ?? 'failed');
}
const seen = { anthropic: pieces, openai: parts, refused, tried, env: process.env,
  cmdlines: process.pid, environ: (await Bun.file('/proc/self/environ').text()) };
console.log(JSON.stringify(seen));
`;

let apis: Apis;
let proxy: Isoproxy;
let work: Workspace;

beforeAll(async () => {
  if (SKIP_REASON !== undefined) return;
  work = createWorkspace();
  apis = await startApis();
  proxy = await startIsoproxy((dir) =>
    presetConfig(dir, apis, KEYS, [{ name: 'agent-1', providers: ['anthropic', 'openai'] }]),
  );
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await apis?.[Symbol.asyncDispose]();
  work?.remove();
});

/** Where the upstream would be for somebody with a network. */
function upstreamAddresses(): string[] {
  const outer = Object.values(networkInterfaces())
    .flat()
    .find((entry) => entry?.family === 'IPv4' && !entry.internal);
  const hosts = ['127.0.0.1', ...(outer ? [outer.address] : [])];
  return hosts.map((host) => `${host} ${apis.anthropic.port}`);
}

async function expectAgentIsContent(command: string[], env?: Record<string, string>): Promise<void> {
  apis.anthropic.reset();
  apis.openai.reset();
  const before = proxy.records().length;
  const child = spawn([...command, ...upstreamAddresses()], work.dir, env ? { env } : {});
  const code = await within('the agent', child.exited, 15_000);
  const [stdout, stderr] = [child.stdout().toString(), child.stderr().toString()];
  expect([code, stderr.includes('error')]).toEqual([0, false]);
  const seen = JSON.parse(stdout);

  for (const name of ['anthropic', 'openai']) {
    expect(seen[name].join('')).toBe(ANSWER);
    // A stream, not one block.
    expect(seen[name].length).toBeGreaterThan(3);
  }
  expect(seen.refused[0]).toBe(403);
  expect(seen.refused[1]).toContain(
    "isoproxy: the sandbox's allow-list does not permit this method and path",
  );

  // The upstreams got the real keys; the inside holds placeholders.
  expect(apis.anthropic.requests.map(({ header }) => header('x-api-key'))).toEqual([KEYS.anthropic]);
  expect(apis.openai.requests.map(({ header }) => header('authorization'))).toEqual([
    `Bearer ${KEYS.openai}`,
  ]);
  expect([seen.env.ANTHROPIC_API_KEY, seen.env.OPENAI_API_KEY]).toEqual([
    PRESETS['anthropic']!.placeholder,
    PRESETS['openai']!.placeholder,
  ]);
  for (const secret of Object.values(KEYS)) assertClean(secret, { stdout, stderr, ...proxy.visible() });

  // There is no other way out.
  expect(Object.keys(seen.tried)).toEqual(upstreamAddresses());
  for (const outcome of Object.values(seen.tried)) expect(outcome).not.toBe('connected');

  const records = (await proxy.recordCount(before + 4)).slice(before);
  expect(records.map(({ status, decision }) => `${status} ${decision}`)).toEqual([
    '200 own',
    '200 allow',
    '200 allow',
    '403 deny',
  ]);
}

describe.skipIf(BOX_REASON !== undefined)(`in bubblewrap${skipped(BOX_REASON)}`, () => {
  const ro = () => ({
    '/run/isoproxy/agent-1': proxy.workspace.path('agent-1'),
    '/home/agent/node_modules': join(PROJECT_DIR, 'node_modules'),
    '/home/agent/agent.ts': work.write('agent.ts', AGENT),
  });

  test('both clients stream their answers, by the environment alone', async () => {
    const command = [BOXED, 'run', '--', BOXED_BUN, 'agent.ts'];
    await expectAgentIsContent(boxed(command, { ro: ro() }));
  });

  test('also by --print-env, and the bridge ends with the sandbox', async () => {
    const script = `eval "$(${BOXED} run --print-env)" && ${BOXED_BUN} agent.ts "$@"`;
    await expectAgentIsContent(boxed(['sh', '-c', script, 'sh'], { ro: ro() }));
    await until('the bridge to end', () => !processesNaming(`${BOXED}\0bridge\0`).some(isRunning));
  });

  test('the mount stays valid when the proxy is restarted', async () => {
    const script = `const ask = async () => (await fetch(process.env.ANTHROPIC_BASE_URL + "/v1/models")).status;
      console.log("status", await ask());
      const { existsSync } = require("node:fs");
      while (!existsSync("/tmp/flag/go")) await Bun.sleep(5);
      console.log("again", await ask());`;
    work.write('flag/none', '');
    const command = boxed([BOXED, 'run', '--', BOXED_BUN, '-e', script], {
      ro: { ...ro(), '/tmp/flag': work.path('flag') },
    });
    const child = spawn(command, work.dir);
    await until(
      () => `the first answer; ${child.stderr()}`,
      () => child.stdout().includes('status 200'),
    );
    await proxy.stop();
    work.write('flag/go', '');
    await proxy.start();
    expect(await within('the end', child.exited)).toBe(0);
    expect(child.stdout().toString()).toBe('status 200\nagain 200\n');
    await proxy.recordCount(1);
  });

  test('a mounted socket file goes stale, and that is what it says', async () => {
    work.write('flag/none', '');
    rmSync(work.path('flag/go'), { force: true });
    const wait = 'while ! test -e /tmp/flag/go; do sleep 0.02; done';
    const script = `${BOXED} run -- echo first; ${wait}; ${BOXED} run -- echo second`;
    const ro = { '/run/isoproxy/agent-1/isoproxy.sock': proxy.socket(), '/tmp/flag': work.path('flag') };
    const child = spawn(boxed(['sh', '-c', script], { ro }), work.dir);
    await until(
      () => `the first run; ${child.stderr()}`,
      () => child.stdout().includes('first'),
    );
    await proxy.stop();
    await proxy.start();
    work.write('flag/go', '');
    expect(await within('the end', child.exited)).toBe(125);
    expect(child.stdout().toString()).toBe('first\n');
    expect(child.stderr().toString()).toContain('nobody listens: the socket file itself is mounted');
    expect(child.stderr().toString()).toContain('hint: mount its directory instead');
  });
});

const UNSHARE_REASON = UNSHARE_WORKS ? undefined : (SKIP_REASON ?? 'unshare -n is not permitted here');
describe.skipIf(!UNSHARE_WORKS)(`in a bare network namespace${skipped(UNSHARE_REASON)}`, () => {
  test('both clients stream their answers, by the environment alone', async () => {
    symlinkSync(join(PROJECT_DIR, 'node_modules'), work.path('node_modules'));
    await expectAgentIsContent([
      ...[...UNSHARE_NET, 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh', ...isoproxyCommand(work.dir)],
      ...['run', '--socket', proxy.socket(), '--', BUN, work.write('agent.ts', AGENT)],
    ]);
  });
});
