// A socket's directory is handed to the sandbox: nothing else may lie in it, under any name.

import { afterAll, expect, test } from 'bun:test';
import { mkdirSync, symlinkSync } from 'node:fs';
import { loadConfig } from '../../src/config/load.ts';
import { createWorkspace } from '../support/workspace.ts';
import { API, LISTENER } from './faults/snippets.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };
const dir = (name: string) => workspace.path(name);

const SOCKET = `${LISTENER}socket = "${dir('box/agent.sock')}"\n`;
const keyed = (file: string) => API.replace('"none"', `{ header = "x-api-key", file = "${file}" }`);

function check(toml: string, env: Record<string, string> = ENV): void {
  loadConfig({ file: workspace.write('etc/proxy.toml', toml), env });
}

test('a directory of its own is fine, also inside the state directory', () => {
  expect(() => check(API + SOCKET)).not.toThrow();
  expect(() => check(API + SOCKET, { ...ENV, STATE_DIRECTORY: workspace.dir })).not.toThrow();
});

test.each([
  ['the control socket', `[server]\ncontrol = "${dir('box/control.sock')}"\n${API}${SOCKET}`, ENV],
  [
    'the state directory',
    `[server]\ncontrol = "/run/c.sock"\n${API}${SOCKET}`,
    { ...ENV, STATE_DIRECTORY: dir('box/state') },
  ],
  ['a CA file', `[server]\nca_file = "${dir('box/ca.pem')}"\n${API}${SOCKET}`, ENV],
  ['a client key', `${API}client_cert = "/c"\nclient_key = "${dir('box/k')}"\n${SOCKET}`, ENV],
  ['a secret', keyed(dir('box/deep/key')) + SOCKET, ENV],
  [
    'a secret',
    `${API.replace('"none"', '{ header = "x-api-key", systemd = "k" }')}${SOCKET}`,
    { ...ENV, CREDENTIALS_DIRECTORY: dir('box') },
  ],
  [
    'a program that prints a secret',
    `${API.replace('"none"', `{ header = "x-api-key", command = ["${dir('box/p')}"] }`)}${SOCKET}`,
    ENV,
  ],
  [
    'a token',
    `${API}${SOCKET}providers = ["api"]
[[listeners]]
name = "tcp"
providers = ["api"]
tcp = "127.0.0.1:1"
token = { file = "${dir('box/t')}" }
`,
    ENV,
  ],
])('%s beside the socket is refused', (what, toml, env) => {
  expect(() => check(toml, env)).toThrow(`its directory also holds ${what}`);
});

test('links do not hide what a directory holds', () => {
  mkdirSync(dir('box'), { recursive: true });
  symlinkSync(dir('box'), dir('alias'));
  expect(() => check(keyed(dir('alias/key')) + SOCKET)).toThrow('a secret');
  symlinkSync('/etc/hostname', dir('box/link'));
  expect(() => check(keyed(dir('box/link')) + SOCKET)).toThrow('a secret');
});

test('a name that only begins alike is another directory', () => {
  expect(() => check(keyed(dir('box2/key')) + SOCKET)).not.toThrow();
});
