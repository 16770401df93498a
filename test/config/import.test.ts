// `isoproxy import isorun`: the meaning of a credentials_v2 document, without its keys.

import { afterAll, expect, test } from 'bun:test';
import { loadConfig } from '../../src/config/load.ts';
import { createWorkspace } from '../support/workspace.ts';
import { runCommand } from './command-io.ts';
import { CANARY } from './faults/snippets.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { HOME: '/home/u', XDG_RUNTIME_DIR: '/run/user/1000' };

const convert = (document: unknown) =>
  runCommand(
    [
      'import',
      'isorun',
      workspace.write('in.json', typeof document === 'string' ? document : JSON.stringify(document)),
    ],
    ENV,
  );
const service = (endpoints: unknown, more: object = {}) => ({
  credentials_v2: { openai: { key: CANARY, endpoints, ...more } },
});

async function rulesOf(document: unknown): Promise<string[]> {
  const { code, out } = await convert(document);
  expect(code).toBe(0);
  expect(out).not.toContain(CANARY);
  const config = loadConfig({ file: workspace.write('proxy.toml', out), env: ENV });
  return [...config.providers.values()].flatMap((provider) => provider.rules.rules.map((rule) => rule.name));
}

test.each([
  ['a plain path is a prefix', { methods: ['POST'], paths: ['/v1/x'] }, ['POST /v1/x', 'POST /v1/x/*']],
  ['so is one with a final slash', { methods: ['POST'], paths: ['/v1/'] }, ['POST /v1/', 'POST /v1/*']],
  ['and the root', { methods: ['GET'], paths: ['/'] }, ['GET /', 'GET /*']],
  [
    'a glob stays what it is',
    { methods: ['GET'], paths: ['/repos/myorg/*', '/a/*/b'] },
    ['GET /repos/myorg/*', 'GET /a/*/b'],
  ],
  ['a double star at the end is every depth', { methods: ['GET'], paths: ['/repos/**'] }, ['GET /repos/*']],
  ['empty methods are any method', { methods: [], paths: ['/a/*'] }, ['* /a/*']],
  ['methods in lower case', { methods: ['get', 'post'], paths: ['/a/*'] }, ['GET,POST /a/*']],
])('%s', async (_, entry, rules) => {
  expect(await rulesOf(service([entry]))).toEqual(rules);
});

test("the document of the vendor's own page, in a whole request", async () => {
  const document = {
    image: 'python:3.12-slim',
    credentials_v2: {
      openai: {
        key: CANARY,
        endpoints: [
          { methods: ['POST'], paths: ['/v1/chat/completions'] },
          { methods: ['GET'], paths: ['/v1/models'] },
        ],
      },
    },
  };
  expect(await rulesOf(document)).toEqual([
    'POST /v1/chat/completions',
    'POST /v1/chat/completions/*',
    'GET /v1/models',
    'GET /v1/models/*',
  ]);
  expect((await convert(document)).err).toBe(
    'isoproxy: warning: not converted, because it is not about credentials: image\n',
  );
  expect(await rulesOf(document.credentials_v2)).toHaveLength(4);
});

test("a service without endpoints gets the preset's narrower list, with a warning", async () => {
  const { out, err } = await convert(service([]));
  expect(err).toContain('openai lists no endpoints');
  expect(out).toContain('\n# endpoints = [\n');
  expect(await rulesOf(service([]))).toContain('POST /v1/responses');
});

test('equal entries are one', async () => {
  const entry = { methods: ['GET'], paths: ['/a/*'] };
  expect(await rulesOf(service([entry, entry]))).toEqual(['GET /a/*']);
});

test('the key becomes a file that a comment names', async () => {
  const { out } = await convert(service([]));
  expect(out).toMatch(
    /install -m 600 \/dev\/stdin \/.*isoproxy\/openai\.key\ncredential = \{ file = "\/.*isoproxy\/openai\.key" \}/,
  );
});

test.each([
  ['not JSON', `{ "${CANARY}`, 'the file is not valid JSON'],
  ['no object', [CANARY], 'document: must be an object'],
  ['no service', { credentials_v2: {} }, 'credentials_v2: holds no service'],
  ['an unknown service', { opnai: { key: CANARY } }, 'opnai: no preset of that name'],
  ['an unknown field', service([], { secret: CANARY }), 'credentials_v2.openai.secret: unknown key'],
  [
    'an unknown field of an entry',
    service([{ methods: [], paths: ['/a'], hosts: [CANARY] }]),
    'credentials_v2.openai.endpoints#1.hosts: unknown key',
  ],
  ['no key', { openai: { endpoints: [] } }, 'openai.key: must be a string'],
  [
    'endpoints that are no list',
    service({ paths: [CANARY] }),
    'credentials_v2.openai.endpoints: must be a list',
  ],
  ['no methods', service([{ paths: ['/a'] }]), 'credentials_v2.openai.endpoints#1.methods: required'],
  [
    'paths that are no strings',
    service([{ methods: [], paths: [1] }]),
    'credentials_v2.openai.endpoints#1.paths: must be a list of strings',
  ],
  [
    'no paths',
    service([{ methods: [], paths: [] }]),
    'credentials_v2.openai.endpoints#1.paths: an empty list is not converted',
  ],
  [
    'a method that is never forwarded',
    service([{ methods: ['TRACE'], paths: ['/a'] }]),
    'credentials_v2.openai.endpoints#1.methods: holds a method that is never forwarded',
  ],
  [
    'a glob that is no pattern',
    service([{ methods: [], paths: [`/${CANARY}*`] }]),
    'credentials_v2.openai.endpoints#1.paths#1: "*" is a whole segment',
  ],
])('%s is refused by its key, without its value', async (_, document, text) => {
  const { code, out, err } = await convert(document);
  expect({ code, out }).toEqual({ code: 78, out: '' });
  expect(err).toContain(text);
  expect(err).not.toContain(CANARY);
});

test('a file that is not there, and wrong usage', async () => {
  expect(await runCommand(['import', 'isorun', '/nowhere/in.json'])).toMatchObject({ code: 78 });
  expect(await runCommand(['import', 'other', 'x'])).toMatchObject({ code: 64 });
  expect(await runCommand(['import', 'isorun'])).toMatchObject({ code: 64 });
});
