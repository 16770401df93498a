/** What is wrong outside the configuration file is found at start: exit code, key and way out, and never a value. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import {
  createWorkspace,
  run,
  type SimpleConfigOptions,
  StartError,
  startSimple,
} from '../support/isoproxy.ts';
import { request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

const canary = makeCanary('sk-test-');
let up: Recorder;
beforeAll(async () => {
  up = await startRecorder({});
});
afterAll(() => up.close());

const options = (more: Partial<SimpleConfigOptions> = {}): SimpleConfigOptions => ({
  upstreamPort: up.port,
  ca: up.ca,
  canary,
  ...more,
});

/** Starts and expects it to fail. */
async function failure(more: Partial<SimpleConfigOptions>): Promise<{ code: number; stderr: string }> {
  try {
    await using proxy = await startSimple(options(more));
    throw new Error(`it started: ${proxy.configPath}`);
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    assertClean(canary, { stderr: error.stderr });
    return error;
  }
}

describe('a start that cannot succeed exits 78 and names the key', () => {
  test.each<[string, Partial<SimpleConfigOptions>, RegExp]>([
    [
      'a CA file that is missing',
      { provider: { ca_file: join(import.meta.dir, 'nowhere.pem') } },
      /providers\.api\.ca_file: \S+nowhere\.pem does not exist/,
    ],
    [
      'a CA file that holds no certificate',
      { provider: { ca_file: '/etc/hostname' } },
      /providers\.api\.ca_file: \/etc\/hostname holds no PEM block of type CERTIFICATE/,
    ],
    [
      'a systemd credential without its directory',
      { provider: { credential: { header: 'x-api-key', file: undefined, systemd: 'key' } } },
      /providers\.api\.credential: systemd credential key needs \$CREDENTIALS_DIRECTORY/,
    ],
    [
      'a token from systemd without its directory',
      {
        listener: { socket: undefined, tcp: '127.0.0.1:18799', token: { systemd: 'token' } },
      },
      /listeners\.agent-1\.token: the token needs \$CREDENTIALS_DIRECTORY/,
    ],
    [
      'a secret file that is missing, with what to do',
      { provider: { credential: { header: 'x-api-key', file: join(import.meta.dir, 'nowhere.key') } } },
      /file \S+nowhere\.key does not exist; write the secret into it.*install -m 600/,
    ],
    [
      'a variable that is not set',
      { provider: { credential: { header: 'x-api-key', file: undefined, env: 'NO_SUCH_KEY' } } },
      /environment variable NO_SUCH_KEY is not set/,
    ],
    [
      'a command that fails',
      {
        provider: {
          credential: { header: 'x-api-key', file: undefined, command: ['/bin/sh', '-c', 'exit 1'] },
        },
      },
      /command \/bin\/sh failed with exit code 1/,
    ],
  ])('%s', async (_name, more, text) => {
    const { code, stderr } = await failure(more);
    expect(stderr).toMatch(text);
    expect(stderr).not.toContain('internal error');
    expect(code).toBe(78);
  });
});

test.each([
  [['serve', 'other.toml'], 'serve takes no argument'],
  [['check', 'other.toml'], 'check takes no argument'],
  [['demo', 'x'], 'demo takes no argument'],
  [['version', 'x'], 'version takes no argument'],
  [['help', 'serve', 'check'], 'help takes one command'],
  [['serve', '--confg', 'x'], 'unknown option'],
  [['serve', '--config'], '--config'],
  [['srve'], 'unknown command "srve"'],
  [[], 'usage: isoproxy'],
])('%j is refused with 64, never taken for something else', async (args, text) => {
  const { code, stderr } = await run(args);
  expect(stderr.toString().toLowerCase()).toContain(text.toLowerCase());
  expect(code).toBe(64);
});

test('a query credential with odd characters arrives as it is', async () => {
  const secret = `k'ey-!$&()*+,;=:@/?#[]%-${canary}`;
  const provider = { credential: { header: undefined, query: 'key' } };
  await using proxy = await startSimple(options({ canary: secret, provider }));
  const answer = await request(proxy.socket(), {
    method: 'POST',
    target: '/api/v1/messages?a=1',
    body: '{}',
  });
  expect(answer.status).toBe(200);
  const query = new URL(`http://h${up.requests.at(-1)?.target}`).searchParams;
  expect([query.get('a'), query.get('key')]).toEqual(['1', secret]);
});

test('total_timeout also covers a credential command that takes its time', async () => {
  using workspace = createWorkspace();
  const started = workspace.path('started');
  // Quick at the start, slow ever after.
  const script = `if [ -e ${started} ]; then sleep 3; fi; : >${started}; echo not-a-real-key-0123456789`;
  const credential = { file: undefined, command: ['/bin/sh', '-c', script], ttl: '1s', timeout: '10s' };
  await using proxy = await startSimple(
    options({ limits: { total_timeout: '1s' }, provider: { credential } }),
  );
  const ask = () => request(proxy.socket(), { method: 'POST', target: '/api/v1/messages', body: '{}' });
  expect((await ask()).status).toBe(200);
  const late = await until(
    'the value to expire',
    async () => {
      const answer = await ask();
      return answer.status === 200 ? undefined : answer;
    },
    4_000,
  );
  expect([late.status, late.json().code]).toEqual([504, 'upstream_timeout']);
  const record = await proxy.record((each) => each.status === 504);
  expect(record['duration_ms'] as number).toBeLessThan(2_000);
});
