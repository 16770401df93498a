/**
 * The two ends of the bridge benchmark, each a process of its own: `server SOCKET` answers on a unix socket,
 * `client KIND PORT COUNT` measures through a loopback port and prints one JSON line.
 *
 * A connection begins with one line: `down N` wants N bytes, `up N` sends N bytes and wants one back, `echo` wants
 * each byte back, `idle` wants one byte now and then.
 */
import { connect, createServer, type Socket } from 'node:net';
import process from 'node:process';

const PIECE = Buffer.alloc(256 * 1024, 'x');
const EVENT_MS = 1_000;
/** True once nothing more is expected of any connection. */
let done = false;

const [role = '', first = '', second = '', third = ''] = process.argv.slice(2);
if (role === 'server') serve(first);
else console.log(JSON.stringify(await measure(first, Number(second), Number(third))));

function serve(path: string): void {
  createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.once('data', (line) => {
      const [kind, count] = line.toString('latin1').trim().split(' ');
      if (kind === 'down') void send(socket, Number(count));
      else if (kind === 'up') receive(socket, Number(count), () => socket.write('k'));
      else if (kind === 'echo') socket.on('data', (bytes) => void socket.write(bytes));
      else {
        const timer = setInterval(() => socket.write('.'), EVENT_MS);
        socket.once('close', () => clearInterval(timer));
      }
    });
  }).listen({ path, backlog: 4096 }, () => console.log('listening'));
}

async function send(socket: Socket, count: number): Promise<void> {
  for (let left = count; left > 0 && !socket.destroyed; left -= PIECE.length) {
    if (!socket.write(PIECE.subarray(0, Math.min(left, PIECE.length))))
      await new Promise((resolve) => socket.once('drain', resolve));
  }
}

function receive(socket: Socket, count: number, done: () => void): void {
  let left = count;
  socket.on('data', (bytes) => {
    left -= bytes.length;
    if (left === 0) done();
  });
}

async function measure(kind: string, port: number, count: number): Promise<Record<string, number>> {
  if (kind === 'down' || kind === 'up') return transfer(kind, port, count);
  return kind === 'echo' ? echo(port, count) : idle(port, count);
}

/** Opens a connection; the small pause lets the first line arrive alone. */
async function open(port: number, line: string): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', () => resolve());
    socket.once('error', reject);
  });
  socket.once('close', () => {
    if (!done) throw new Error(`the connection closed during ${line}`);
  });
  socket.write(`${line}\n`);
  await new Promise((resolve) => setTimeout(resolve, 20));
  return socket;
}

function close(sockets: readonly Socket[]): void {
  done = true;
  for (const socket of sockets) socket.destroy();
}

async function transfer(kind: 'down' | 'up', port: number, bytes: number) {
  const line = `${kind} ${bytes}`;
  const start = performance.now();
  const socket = await open(port, line);
  const received = new Promise<void>((resolve) => receive(socket, kind === 'down' ? bytes : 1, resolve));
  if (kind === 'up') await send(socket, bytes);
  await received;
  const seconds = (performance.now() - start) / 1000;
  close([socket]);
  return { mb_per_s: Math.round(bytes / seconds / 1e6) };
}

async function echo(port: number, count: number) {
  const socket = await open(port, 'echo');
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    const back = new Promise((resolve) => socket.once('data', resolve));
    socket.write('0123456789');
    await back;
    times.push((performance.now() - start) * 1000);
  }
  close([socket]);
  times.sort((a, b) => a - b);
  const at = (q: number) => Math.round((times[Math.floor(times.length * q)] ?? 0) * 10) / 10;
  return { p50_us: at(0.5), p99_us: at(0.99) };
}

/** Holds `count` streams until each has brought 5 events; tells how many events came. */
async function idle(port: number, count: number) {
  const sockets: Socket[] = [];
  let events = 0;
  for (let i = 0; i < count; i += 50) {
    const some = await Promise.all(Array.from({ length: Math.min(50, count - i) }, () => open(port, 'idle')));
    for (const socket of some)
      socket.on('data', (bytes) => {
        events += bytes.length;
      });
    sockets.push(...some);
  }
  events = 0;
  const start = performance.now();
  const beside = await echo(port, 500);
  await new Promise((resolve) =>
    setTimeout(resolve, Math.max(0, 5 * EVENT_MS - (performance.now() - start))),
  );
  const alive = sockets.filter((socket) => !socket.destroyed).length;
  close(sockets);
  return { alive, events_per_stream: Math.round((events / count) * 10) / 10, ...beside };
}
