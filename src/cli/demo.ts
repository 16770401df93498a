/** `isoproxy demo`: the whole product in ten seconds: an upstream, a proxy with a made-up key, and an agent. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { auditDirectory } from '../audit/segments.ts';
import { loadConfig } from '../config/load.ts';
import { createLog } from '../log.ts';
import { runtime } from '../runtime/index.ts';
import { startServer } from '../server.ts';
import { readOptions } from './args.ts';
import { verify } from './audit-verify.ts';
import { requireCleanStart } from './clean-start.ts';
import { type Command, EXIT, type Io, paint } from './command.ts';
import { createDemoUpstream, type SeenRequest } from './demo-upstream.ts';

const EVENT_PAUSE_MS = 60;

export const demo: Command = {
  usage: `usage: isoproxy demo

Starts an embedded upstream that speaks the Anthropic Messages API, a proxy with a made-up key in front
of it, and an agent that makes one allowed streaming call and one that is refused. Shows what the agent
sent beside what the upstream received, the records, and the verified audit log. Everything lives in a temporary directory and is
gone afterwards; nothing leaves this machine.
`,
  async run(args, io) {
    readOptions('demo', args, {});
    requireCleanStart(io);
    const directory = mkdtempSync(join(tmpdir(), 'isoproxy-demo-'));
    try {
      return await runDemo(directory, io);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
};

async function runDemo(directory: string, io: Io): Promise<number> {
  const key = `sk-ant-api03-${randomBytes(36).toString('base64url')}`;
  const upstreamSocket = join(directory, 'upstream.sock');
  const upstream = createDemoUpstream(EVENT_PAUSE_MS);
  const upstreamServer = runtime.serve({
    address: { kind: 'unix', path: upstreamSocket },
    handle: upstream.handle,
  });
  const file = writeConfig(directory, key, upstreamSocket);
  const lines: string[] = [];
  const log = createLog({
    level: 'info',
    format: 'json',
    sink: { write: (line) => void lines.push(line), flush: async () => {}, lost: () => 0 },
    wallNow: Date.now,
  });
  const load = () => loadConfig({ file, env: io.env });
  const server = await startServer({
    config: load(),
    load,
    lostLogLines: () => 0,
    runtime,
    log,
    env: io.env,
    now: () => performance.now(),
    wallNow: Date.now,
  });
  let worked = false;
  const socket = join(directory, 'run', 'agent-1', 'isoproxy.sock');
  try {
    title(io, 1, 'the proxy on the host', `it holds a made-up key, fingerprint ${fingerprint(key)}`);
    io.stdout(`${TOML_SHOWN}\n`);

    title(
      io,
      2,
      'an allowed call',
      'the agent streams an answer through the socket; it has a placeholder for a key',
    );
    const allowed = await call(socket, '/anthropic/v1/messages', (text) =>
      io.stdout(paint(io, 'green', text)),
    );
    io.stdout(`\n\n`);
    sideBySide(io, AGENT_REQUEST, upstream.seen()[0], key);

    title(
      io,
      3,
      'a refused call',
      'POST /anthropic/v1/messages/batches is on no rule, so nothing was dialled',
    );
    const refused = await call(socket, '/anthropic/v1/messages/batches', () => {});
    io.stdout(`  ${paint(io, 'red', `${refused.status} ${refused.code}`)}\n  ${refused.message}\n\n`);

    title(io, 4, 'the records', 'one line each on stderr of `isoproxy serve`');
    for (const line of lines) io.stdout(`  ${line}\n`);
    io.stdout('\n');

    worked = allowed.status === 200 && refused.status === 403 && upstream.seen().length === 1;
  } finally {
    await server.stop(0);
    upstreamServer.destroy();
  }
  return showAudit(directory, lines, io) === EXIT.ok && worked ? EXIT.ok : EXIT.internal;
}

/** Verifies the log that is left, with what it printed at its end for an anchor. */
function showAudit(directory: string, lines: readonly string[], io: Io): number {
  title(
    io,
    5,
    'the audit log',
    'what is forwarded is on disk before its first byte; is it as it was written?',
  );
  const anchors = join(directory, 'stderr');
  writeFileSync(anchors, `${lines.join('\n')}\n`);
  const audit = auditDirectory(join(directory, 'state'));
  const verdict = verify(['--dir', audit, '--checkpoints', anchors], {
    ...io,
    stdout: (text) => io.stdout(`  ${text}`),
  });
  io.stdout('\nnext: isoproxy init anthropic > proxy.toml\n');
  return verdict;
}

const TOML_SHOWN = `  [[listeners]]
  name = "agent-1"

  [providers.anthropic]
  preset = "anthropic"
  credential = { file = "anthropic.key" }
`;

function writeConfig(directory: string, key: string, upstreamSocket: string): string {
  const keyFile = join(directory, 'anthropic.key');
  writeFileSync(keyFile, `${key}\n`, { mode: 0o600 });
  const config = join(directory, 'config');
  mkdirSync(config, { mode: 0o700 });
  const file = join(config, 'proxy.toml');
  const text = `
[server]
runtime_dir = ${JSON.stringify(join(directory, 'run'))}
state_dir = ${JSON.stringify(join(directory, 'state'))}

[[listeners]]
name = "agent-1"

[providers.anthropic]
preset = "anthropic"
credential = { file = ${JSON.stringify(keyFile)} }
base_url = "http://localhost"
unsafe_allow_http = true
upstream_socket = ${JSON.stringify(upstreamSocket)}
`;
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

const AGENT_HEADERS = {
  host: 'localhost',
  'content-type': 'application/json',
  'anthropic-version': '2023-06-01',
  'x-api-key': 'sk-ant-placeholder',
  cookie: 'session=of-the-agent',
  'user-agent': 'demo-agent',
};

const AGENT_REQUEST: SeenRequest = {
  line: 'POST /anthropic/v1/messages',
  headers: Object.entries(AGENT_HEADERS).filter(([name]) => name !== 'host'),
};

interface Answer {
  readonly status: number;
  readonly code: string;
  readonly message: string;
}

/** One POST through the socket, as an agent's HTTP client would send it; `onText` gets each piece of text. */
function call(socketPath: string, path: string, onText: (text: string) => void): Promise<Answer> {
  const body = JSON.stringify({
    model: 'claude-demo',
    max_tokens: 64,
    stream: true,
    messages: [{ role: 'user', content: 'Hello' }],
  });
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, path, method: 'POST', headers: AGENT_HEADERS }, (response) => {
      readAnswer(response, onText).then(resolve, reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function readAnswer(response: IncomingMessage, onText: (text: string) => void): Promise<Answer> {
  let whole = '';
  onText('  ');
  for await (const chunk of response) {
    const text = String(chunk);
    whole += text;
    for (const match of text.matchAll(/"text_delta","text":"([^"]*)"/g)) onText(match[1] ?? '');
  }
  const status = response.statusCode ?? 0;
  if (status === 200) return { status, code: '', message: '' };
  const { code, message } = JSON.parse(whole) as { code: string; message: string };
  return { status, code, message };
}

function fingerprint(key: string): string {
  return `sha256:${createHash('sha256').update(key).digest('hex').slice(0, 12)}`;
}

function title(io: Io, number: number, name: string, text: string): void {
  io.stdout(`${paint(io, 'bold', `${number}. ${name}`)}: ${text}\n\n`);
}

/** What the agent sent beside what the upstream received, a header a row; the key only as its fingerprint. */
function sideBySide(io: Io, sent: SeenRequest, received: SeenRequest | undefined, key: string): void {
  const left = new Map(sent.headers);
  const right = new Map(received?.headers);
  const names = [...new Set([...left.keys(), ...right.keys()])].sort();
  const cell = (name: string, value: string | undefined) => {
    if (value === undefined) return '-';
    return `${name}: ${value === key ? `<the key, ${fingerprint(key)}>` : value}`;
  };
  const rows = [
    ['the agent sent', 'the upstream received'],
    [sent.line, received?.line ?? '-'],
    ...names.map((name) => [cell(name, left.get(name)), cell(name, right.get(name))]),
  ] as [string, string][];
  const width = Math.max(...rows.map(([text]) => text.length)) + 3;
  rows.forEach(([one, other], i) => {
    const line = `  ${one.padEnd(width)}${other}`;
    io.stdout(`${i === 0 ? paint(io, 'dim', line) : line}\n`);
  });
  io.stdout('\n');
}
