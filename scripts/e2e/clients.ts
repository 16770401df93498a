/** What is particular to each client of the end-to-end runs: where it is, how it is asked, what its screens say. */
import { spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { type FakeOptions, fakeAnthropic, fakeOpenai } from '../../test/support/fake-apis.ts';
import type { Handler } from '../../test/support/recorder.ts';

/** A dialog of a first start, and the keys (tmux names) that answer it. */
export interface Question {
  readonly name: string;
  readonly shows: RegExp;
  readonly keys: readonly string[];
}

export interface Client {
  readonly command: string;
  readonly package: string;
  /** Where npm puts the binary of this platform, below node_modules: the package's own file only launches it. */
  readonly binaries: string;
  readonly preset: 'anthropic' | 'openai';
  readonly fake: (options: FakeOptions) => Handler;
  readonly keyPrefix: string;
  /** The one header, and its value, by which the upstream must get the key. */
  readonly credential: (key: string) => readonly [header: string, value: string];
  /** The call that carries a question. */
  readonly endpoint: string;
  /** Asks one question without a terminal. */
  readonly ask: (question: string) => readonly string[];
  /** Asked at the first interactive start. */
  readonly questions: readonly Question[];
  /** Signs of a start that `run` should have spared the user. */
  readonly unwanted: RegExp;
  /** The client waits for the user's words. */
  readonly prompt: RegExp;
  /** Typed at the prompt, ends the client. */
  readonly quit: string;
}

const claude: Client = {
  command: 'claude',
  package: '@anthropic-ai/claude-code',
  binaries: '@anthropic-ai/claude-code-*/claude',
  preset: 'anthropic',
  fake: fakeAnthropic,
  keyPrefix: 'sk-ant-api03-',
  credential: (key) => ['x-api-key', key],
  endpoint: '/v1/messages',
  ask: (question) => ['-p', question],
  questions: [
    { name: 'theme', shows: /Choose the (?:text )?style|text style that looks best/i, keys: ['Enter'] },
    { name: 'security notes', shows: /Security notes:/, keys: ['Enter'] },
    { name: 'trust in the folder', shows: /trust (?:the files in )?this folder/i, keys: ['Enter'] },
  ],
  unwanted: /Unable to connect|Failed to connect|Select login method|Detected a custom API key/i,
  prompt: /\? for shortcuts/,
  quit: '/exit',
};

const codex: Client = {
  command: 'codex',
  package: '@openai/codex',
  binaries: '@openai/codex-*/vendor/*/bin/codex',
  preset: 'openai',
  fake: fakeOpenai,
  keyPrefix: 'sk-proj-',
  credential: (key) => ['authorization', `Bearer ${key}`],
  endpoint: '/v1/responses',
  ask: (question) => ['exec', question],
  questions: [
    { name: 'trust in the folder', shows: /Trust this folder\?|Do you trust the contents/i, keys: ['Enter'] },
  ],
  unwanted: /Sign in with ChatGPT|Provide your own API key/i,
  // Its input line is there before it asks for trust; the line with the model and the folder is not.
  prompt: / · ~\/project$/m,
  quit: '/quit',
};

export const CLIENTS: Readonly<Record<string, Client>> = { claude, codex };

/** The client's program on this machine. */
export interface Installed {
  readonly version: string;
  /** Read-only mounts, path inside -> path outside. */
  readonly mounts: Readonly<Record<string, string>>;
}

/** Where the client is in the sandbox. */
export const CLIENT_PATH = '/run/client/bin';

/**
 * The copy that CLIENT names, or the newest one of npm, installed into `directory`.
 * @returns a sentence where there is none
 */
export function install(client: Client, directory: string, copy: string | undefined): Installed | string {
  if (copy !== undefined) return describe(client, [copy]);
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const npm = spawnSync('npm', ['install', '--prefix', directory, ...options, client.package], {
    encoding: 'utf8',
  });
  if (npm.error) return 'npm is missing, and CLIENT names no copy';
  if (npm.status !== 0) return `npm cannot install ${client.package}: ${npm.stderr.trim().split('\n')[0]}`;
  return describe(client, nativeBinaries(client, join(directory, 'node_modules')));
}

const nativeBinaries = (client: Client, modules: string): string[] =>
  [...new Bun.Glob(client.binaries).scanSync({ cwd: modules, absolute: true })].sort();

/** The first that runs here: npm may have brought the builds for two C libraries. */
function describe(client: Client, candidates: readonly string[]): Installed | string {
  for (const candidate of candidates) {
    const file = realpathSync(candidate);
    const modules = /^(.*\/node_modules)\/.*\.[cm]?js$/.exec(file)?.[1];
    if (modules !== undefined) return describe(client, nativeBinaries(client, modules));
    const version = spawnSync(file, ['--version'], { encoding: 'utf8' });
    if (version.status === 0) return { version: version.stdout.trim(), mounts: mountsOf(client, file) };
  }
  return `${client.package} has no binary that runs on this machine`;
}

/** Codex brings helpers in the directories beside its own. */
function mountsOf(client: Client, file: string): Record<string, string> {
  const whole = resolve(file, '../..');
  const isPackage = existsSync(join(whole, 'codex-package.json')) && basename(file) === client.command;
  return isPackage ? { '/run/client': whole } : { [`${CLIENT_PATH}/${client.command}`]: file };
}
