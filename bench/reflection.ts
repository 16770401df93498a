/**
 * What the reflection guard costs: the same upstream behind a provider with a credential (guarded) and behind one without
 * (open). First event and delay of each event of a stream, in pairs; and time and processor of 1 GiB. Alternating runs
 * within one invocation; the differences of medians count, not the absolute numbers.
 */
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { makeCanary } from '../test/support/canary.ts';
import { simpleConfig, startIsoproxy } from '../test/support/isoproxy.ts';
import { startRecorder } from '../test/support/recorder.ts';

const PAIRS = 150;
const EVENTS = 20;
const ROUNDS = 3;
const GIB = 1024 ** 3;
const KINDS = ['guarded', 'open'] as const;
type Kind = (typeof KINDS)[number];

/** Text as models send it: no escapes, then with JSON escapes in each line. */
const BLOCKS = {
  text: Buffer.from(
    'data: {"type":"content_block_delta","delta":{"text":"and so it goes on"}}\n\n'.repeat(900),
  ),
  escapes: Buffer.from('data: {"delta":{"text":"say \\"this\\" \\u00e9 100% of a\\/b"}}\n\n'.repeat(1000)),
};

const up = await startRecorder({
  hashOnly: true,
  handler: async (seen, connection) => {
    if (seen.target.includes('gib')) {
      const block = BLOCKS[seen.target.endsWith('escapes') ? 'escapes' : 'text'];
      await connection.head(200, { 'Content-Length': String(block.length * Math.floor(GIB / block.length)) });
      for (let i = Math.floor(GIB / block.length); i > 0; i--) if (!(await connection.write(block))) return;
      return;
    }
    await connection.head(200, { 'Content-Type': 'text/event-stream', 'Transfer-Encoding': 'chunked' });
    for (let i = 0; i < EVENTS; i++) {
      await connection.chunk(`data: ${performance.now()}\n\n`);
      await Bun.sleep(1);
    }
    await connection.lastChunk();
  },
});
const proxy = await startIsoproxy((dir) => {
  const shared = {
    base_url: `https://localhost:${up.port}`,
    ca_file: join(dir, 'ca.pem'),
    unsafe_allow_private: true,
    endpoints: [{ methods: ['GET'], paths: ['/v1/*'] }],
    limits: { max_response_body: '2GiB' },
  };
  return simpleConfig(dir, {
    upstreamPort: up.port,
    ca: up.ca,
    canary: makeCanary(),
    listener: { providers: ['guarded', 'open'] },
    top: {
      providers: {
        api: undefined,
        guarded: { ...shared, credential: { header: 'x-api-key', file: join(dir, 'secrets/api.key') } },
        open: { ...shared, credential: 'none' },
      },
    },
  });
});

try {
  const first: Record<Kind, number[]> = { guarded: [], open: [] };
  const each: Record<Kind, number[]> = { guarded: [], open: [] };
  await events('guarded');
  await events('open');
  for (let pair = 0; pair < PAIRS; pair++) {
    for (const kind of pair % 2 === 0 ? KINDS : [...KINDS].reverse()) {
      const seen = await events(kind);
      first[kind].push(seen.first);
      each[kind].push(...seen.delays);
    }
  }
  const ms = (values: number[], part: number) => percentile(values, part).toFixed(3);
  console.log(`${PAIRS} pairs of streams of ${EVENTS} events\n`);
  console.log('| | guarded | open | difference |\n| --- | --- | --- | --- |');
  for (const [name, values] of [
    ['first event', first],
    ['each event', each],
  ] as const)
    for (const part of [0.5, 0.99])
      console.log(
        `| ${name}, p${part * 100}, ms | ${ms(values.guarded, part)} | ${ms(values.open, part)} | ${(percentile(values.guarded, part) - percentile(values.open, part)).toFixed(3)} |`,
      );
  for (const block of ['text', 'escapes'] as const) {
    const seconds: Record<Kind, number[]> = { guarded: [], open: [] };
    const busy: Record<Kind, number[]> = { guarded: [], open: [] };
    for (let round = 0; round < ROUNDS; round++)
      for (const kind of round % 2 === 0 ? KINDS : [...KINDS].reverse()) {
        const seen = await transfer(kind, block);
        seconds[kind].push(seen.seconds);
        busy[kind].push(seen.processor);
      }
    for (const [name, values] of [
      ['seconds', seconds],
      ['processor seconds of the proxy', busy],
    ] as const) {
      const [a, b] = [percentile(values.guarded, 0.5), percentile(values.open, 0.5)];
      console.log(`| 1 GiB, ${block}, ${name} | ${a.toFixed(2)} | ${b.toFixed(2)} | ${(a - b).toFixed(2)} |`);
    }
  }
} finally {
  await proxy[Symbol.asyncDispose]();
  await up.close();
}

function percentile(values: number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

/** One stream: the time to its first event, and how long each event was under way. */
function events(kind: Kind): Promise<{ first: number; delays: number[] }> {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const delays: number[] = [];
    let first = Number.NaN;
    let rest = '';
    const socket = connect(proxy.socket());
    socket.on('data', (part: Buffer) => {
      const now = performance.now();
      rest += part.toString('latin1');
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        const sent = /data: ([0-9.]+)$/.exec(rest.slice(0, end))?.[1];
        rest = rest.slice(end + 2);
        if (sent === undefined) continue;
        if (delays.length === 0) first = now - started;
        delays.push(now - Number(sent));
      }
      if (delays.length < EVENTS) return;
      socket.destroy();
      resolve({ first, delays });
    });
    socket.on('error', reject);
    socket.write(`GET /${kind}/v1/events HTTP/1.1\r\nHost: x\r\n\r\n`);
  });
}

function transfer(kind: Kind, block: string): Promise<{ seconds: number; processor: number }> {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const before = processorSeconds();
    let bytes = 0;
    const socket = connect(proxy.socket());
    socket.on('data', (part: Buffer) => {
      bytes += part.length;
    });
    socket.on('close', () => {
      if (bytes < GIB * 0.99) return reject(new Error(`only ${bytes} bytes`));
      resolve({ seconds: (performance.now() - started) / 1000, processor: processorSeconds() - before });
    });
    socket.on('error', reject);
    socket.write(`GET /${kind}/v1/gib/${block} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  });
}

/** User and system time of the proxy so far (proc(5): in ticks, of which there are 100 a second). */
function processorSeconds(): number {
  const fields = (readFileSync(`/proc/${proxy.child.pid}/stat`, 'utf8').split(') ')[1] ?? '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
