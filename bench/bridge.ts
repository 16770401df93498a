/**
 * `isoproxy bridge` beside socat, which people chain by hand for the same job: throughput, added latency, memory.
 * Runs alternate within one invocation; the ratio of medians counts, not the absolute numbers.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';

const ROUNDS = 5;
const GIB = 1024 ** 3;
const ECHOES = 20_000;
const STREAMS = 2_000;
const PEER = join(import.meta.dir, 'bridge-peer.ts');
const BIN = process.env['ISOPROXY_BIN'] ?? join(import.meta.dir, '../dist/isoproxy');

if (spawnSync('socat', ['-V']).status !== 0) {
  console.log('bench/bridge: skipped: socat is not installed');
  process.exit(0);
}

const work = mkdtempSync(join(tmpdir(), 'isoproxy-bench-'));
const children: ChildProcess[] = [];
try {
  const socket = join(work, 'peer.sock');
  await start(process.execPath, [PEER, 'server', socket], 'stdout', 'listening');
  const [bridgePort, socatPort] = [await freePort(), await freePort()];
  const listen = `127.0.0.1:${bridgePort}`;
  const bridge = await start(BIN, ['bridge', '--listen', listen, '--socket', socket], 'stdout', 'http://');
  const socatListen = `TCP-LISTEN:${socatPort},bind=127.0.0.1,fork,backlog=4096,nodelay`;
  await start('socat', ['-d', '-d', socatListen, `UNIX-CONNECT:${socket}`], 'stderr', 'listening on');
  const before = memory(bridge, 'VmRSS');

  const ports = { bridge: bridgePort, socat: socatPort };
  const transfers = {
    down: compare('down', ports, GIB, 'mb_per_s'),
    up: compare('up', ports, GIB, 'mb_per_s'),
  };
  const peak = memory(bridge, 'VmHWM');
  const latency = compare('echo', ports, ECHOES, 'p50_us');
  const direct = { ...ports, socat: socatPort };
  const idle = run('idle', direct.bridge, STREAMS);
  const held = memory(bridge, 'VmHWM');

  const row = (name: string, unit: string, { bridge: a, socat: b }: Pair) =>
    console.log(`| ${name} | ${a} ${unit} | ${b} ${unit} | ${(a / b).toFixed(2)} |`);
  console.log(`median of ${ROUNDS} alternating runs\n`);
  console.log('| through one connection | isoproxy bridge | socat | ratio |\n| --- | --- | --- | --- |');
  row('1 GiB to the client', 'MB/s', transfers.down);
  row('1 GiB from the client', 'MB/s', transfers.up);
  row(`round trip of 10 bytes, p50 of ${ECHOES}`, 'us', latency);
  console.log(`\nbridge memory: ${mib(before)} MiB at start; peak ${mib(peak)} MiB after ${2 * ROUNDS} GiB`);
  console.log(`${STREAMS} idle streams: ${JSON.stringify(idle)}; peak ${mib(held)} MiB`);
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(work, { recursive: true, force: true });
}

interface Pair {
  readonly bridge: number;
  readonly socat: number;
}

function compare(kind: string, ports: Pair, count: number, figure: string): Pair {
  const found: Record<keyof Pair, number[]> = { bridge: [], socat: [] };
  for (let round = 0; round < ROUNDS; round++)
    for (const name of ['bridge', 'socat'] as const)
      found[name].push(run(kind, ports[name], count)[figure] ?? 0);
  const median = (numbers: number[]) => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
  return { bridge: median(found.bridge), socat: median(found.socat) };
}

function run(kind: string, port: number, count: number): Record<string, number> {
  const args = [PEER, 'client', kind, String(port), String(count)];
  const child = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 120_000 });
  if (child.status !== 0) throw new Error(`${kind} failed: ${child.stderr}`);
  return JSON.parse(child.stdout) as Record<string, number>;
}

function start(
  command: string,
  args: string[],
  stream: 'stdout' | 'stderr',
  sign: string,
): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`${command} ended with ${code}`)));
    child[stream].on('data', (text) => String(text).includes(sign) && resolve(child));
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** A figure of /proc/PID/status, KiB. */
function memory(child: ChildProcess, name: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
  return Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]);
}

function mib(kib: number): number {
  return Math.round(kib / 1024);
}
