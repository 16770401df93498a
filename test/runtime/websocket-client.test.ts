/** The WebSocket client is the ws package itself: Bun puts a shim of its own in its place where it is named `ws`. */
import { expect, test } from 'bun:test';
import { WebSocket } from 'real-ws';
import { version } from '../../node_modules/real-ws/package.json';
import manifest from '../../package.json';

test('it is the real one, in the version that is pinned', () => {
  // Internals that the shim lacks, and that the options used here act on.
  const internals = WebSocket.prototype as unknown as Record<string, unknown>;
  expect([typeof internals['setSocket'], typeof internals['pause']]).toEqual(['function', 'function']);
  expect(manifest.dependencies['real-ws']).toBe(`npm:ws@${version}`);
});
