import { afterEach, expect, test } from 'bun:test';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { createGoneClients } from '../../src/sandbox/gone-clients.ts';
import { until } from '../support/deadline.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const clean of cleanups.splice(0)) clean();
});

/** Both ends of a connection. */
async function pair(host: string): Promise<{ near: Socket; far: Socket }> {
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer({ allowHalfOpen: true }, accepted.resolve);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  const { port } = server.address() as AddressInfo;
  const far = connect({ host, port, allowHalfOpen: true });
  const near = await accepted.promise;
  for (const socket of [near, far]) socket.on('error', () => {});
  near.resume();
  cleanups.push(() => {
    server.close();
    near.destroy();
    far.destroy();
  });
  return { near, far };
}

test('a peer that has only shut its side stays; once it is closed, it is noticed', async () => {
  const gone = createGoneClients();
  cleanups.push(gone.close);
  const { near, far } = await pair('127.0.0.1');
  const ended = new Promise((resolve) => near.once('end', resolve));
  far.end();
  await ended;
  expect(await gone.isThere(near)).toBe(true);
  gone.watch(near);
  await new Promise((resolve) => setTimeout(resolve, 350));
  expect(near.destroyed).toBe(false);
  far.destroy();
  await until('it to be noticed', () => near.destroyed, 1000);
  expect(await gone.isThere(near)).toBe(false);
});

test('a peer of another machine is in no table here, and so is left alone', async () => {
  const gone = createGoneClients();
  cleanups.push(gone.close);
  let destroyed = false;
  const socket = {
    remoteAddress: '192.0.2.7',
    localAddress: '192.0.2.1',
    remotePort: 1,
    localPort: 2,
    once: () => {},
    destroy: () => {
      destroyed = true;
    },
  } as unknown as Socket;
  gone.watch(socket);
  await new Promise((resolve) => setTimeout(resolve, 250));
  expect([destroyed, await gone.isThere(socket)]).toEqual([false, true]);
});

test('nothing is looked at after close', async () => {
  const gone = createGoneClients();
  const { near, far } = await pair('127.0.0.1');
  const ended = new Promise((resolve) => near.once('end', resolve));
  far.end();
  await ended;
  gone.watch(near);
  gone.close();
  far.destroy();
  await new Promise((resolve) => setTimeout(resolve, 250));
  expect(near.destroyed).toBe(false);
});
