import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { mkdirSync, symlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { defaultPatterns, explainSocketError, findSockets } from '../../src/sandbox/place.ts';
import { startStranger } from '../support/client-side.ts';
import { createWorkspace } from '../support/workspace.ts';

const work = createWorkspace();
let server: Disposable;
beforeAll(async () => {
  for (const name of ['one', 'two', 'empty']) mkdirSync(work.path(name));
  server = await startStranger(work.path('one/isoproxy.sock'), () => {});
  work.write('two/isoproxy.sock', 'a file');
});
afterAll(() => {
  server[Symbol.dispose]();
  work.remove();
});

describe('why a socket cannot be used', () => {
  test.each<[string, string, string, RegExp, RegExp, boolean]>([
    [
      'missing',
      'empty/isoproxy.sock',
      'ENOENT',
      /: no such socket$/,
      /serve running on the host\? If it is, mount/,
      true,
    ],
    [
      'its directory missing',
      'none/isoproxy.sock',
      'ENOENT',
      /: no such directory$/,
      /^mount the directory of/,
      false,
    ],
    ['stale', 'one/isoproxy.sock', 'ECONNREFUSED', /: nobody listens$/, /start it there/, true],
    ['full', 'one/isoproxy.sock', 'EAGAIN', /: EAGAIN$/, /whether isoproxy serve is well/, true],
    ['something else', 'one/isoproxy.sock', 'EMFILE', /: EMFILE$/, /whether isoproxy serve is well/, false],
    ['a file', 'two/isoproxy.sock', 'ECONNREFUSED', /is not a socket$/, /^name the socket itself/, false],
    ['a directory', 'empty', 'ECONNREFUSED', /is not a socket$/, /^name the socket itself/, false],
    [
      'denied',
      'one/isoproxy.sock',
      'EACCES',
      /: permission denied: \S+isoproxy\.sock belongs to uid \d+, gid \d+, mode 0[0-7]{3}; this process is uid \d+, gid \d+$/,
      /^on the host, give the listener mode = "0660"/,
      false,
    ],
    ['denied, by a policy', 'one/isoproxy.sock', 'EPERM', /permission denied/, /^on the host/, false],
    [
      'denied, and not to be seen',
      'none/isoproxy.sock',
      'EACCES',
      /permission denied: \S+ belongs to/,
      /^on the host/,
      false,
    ],
  ])('%s', (_, name, code, message, hint, transient) => {
    const error = explainSocketError(work.path(name), code);
    expect(error.message).toStartWith(work.path(name));
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(hint);
    expect(error.isTransient).toBe(transient);
  });

  test.each(['isoproxy.sock', './x/isoproxy.sock', '/isoproxy.sock', '/', ''])(
    'an odd path (%j) still gets an answer',
    (path) => {
      for (const code of ['ENOENT', 'EACCES', 'ECONNREFUSED', 'no code'])
        expect(explainSocketError(path, code).hint).not.toBe('');
    },
  );
});

describe('where sockets are looked for', () => {
  test.each<[Record<string, string>, number]>([
    [{}, 2],
    [{ XDG_RUNTIME_DIR: '' }, 2],
    [{ XDG_RUNTIME_DIR: '/run/user/1' }, 3],
  ])('%j', (env, count) => {
    const patterns = defaultPatterns(env);
    expect(patterns).toHaveLength(count);
    expect(patterns.slice(0, 2)).toEqual(['/run/isoproxy/isoproxy.sock', '/run/isoproxy/*/isoproxy.sock']);
    if (count === 3) expect(patterns[2]).toBe('/run/user/1/isoproxy/*/isoproxy.sock');
  });

  test('only sockets count, each once', () => {
    const pattern = work.path('*/isoproxy.sock');
    const found = findSockets([pattern, work.path('one/isoproxy.sock'), '/nowhere/*/x']);
    expect(found).toEqual([work.path('one/isoproxy.sock')]);
    expect(findSockets([dirname(pattern)])).toEqual([]);
  });

  test('a link to a directory is a directory', () => {
    mkdirSync(work.path('mounted'));
    symlinkSync(work.path('one'), work.path('mounted/one'));
    expect(findSockets([work.path('mounted/*/isoproxy.sock')])).toEqual([
      work.path('mounted/one/isoproxy.sock'),
    ]);
  });

  test('a name is taken as it is', async () => {
    mkdirSync(work.path('a[b]{c}?/x'), { recursive: true });
    using _server = await startStranger(work.path('a[b]{c}?/x/isoproxy.sock'), () => {});
    const [pattern] = defaultPatterns({ XDG_RUNTIME_DIR: '/x' }).slice(2);
    expect(pattern).toBe('/x/isoproxy/*/isoproxy.sock');
    expect(findSockets([work.path('a[b]{c}?/*/isoproxy.sock')])).toEqual([
      work.path('a[b]{c}?/x/isoproxy.sock'),
    ]);
  });
});
