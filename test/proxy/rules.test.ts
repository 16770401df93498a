import { describe, expect, test } from 'bun:test';
import { compileRules, findCoveredRules, RuleError } from '../../src/proxy/compile-rules.ts';
import { compilePattern, coversPattern, matchesPattern, PatternError } from '../../src/proxy/pattern.ts';
import { decide, type EndpointEntry } from '../../src/proxy/rules.ts';

const matches = (pattern: string, path: string) =>
  matchesPattern(compilePattern(pattern), path, path.slice(1).split('/'));

describe('patterns', () => {
  test.each([
    [
      '/v1/messages',
      ['/v1/messages'],
      ['/v1/messages/', '/v1/messages/batches', '/v1/messagesX', '/V1/messages', ''],
    ],
    [
      '/v1/models/*',
      ['/v1/models/a', '/v1/models/a/b'],
      ['/v1/models', '/v1/models/', '/v1/models/a/', '/v1/models/a//b'],
    ],
    [
      '/repos/*/pulls',
      ['/repos/x/pulls'],
      ['/repos/x/y/pulls', '/repos//pulls', '/repos/pulls', '/repos/x/pulls/1'],
    ],
    [
      '/v1beta/models/*:generateContent',
      ['/v1beta/models/g-1:generateContent', '/v1beta/models/g:x:generateContent'],
      [
        '/v1beta/models/g-1:batchGenerateContent',
        '/v1beta/models/:generateContent',
        '/v1beta/models/a/b:generateContent',
      ],
    ],
    ['/org/*.git/info/refs', ['/org/a.git/info/refs'], ['/org/a/b.git/info/refs', '/org/.git/info/refs']],
    ['/*', ['/a', '/a/b'], ['/', '']],
    ['/*/x/*', ['/a/x/b', '/a/x/b/c'], ['/a/x', '/x/b']],
    ['/', ['/'], ['', '/a']],
    ['/v1/', ['/v1/'], ['/v1', '/v1/a']],
  ])('%s', (pattern, yes, no) => {
    for (const path of yes) expect(`${path} ${matches(pattern, path)}`).toBe(`${path} true`);
    for (const path of no) expect(`${path} ${matches(pattern, path)}`).toBe(`${path} false`);
  });

  test.each([
    '',
    'v1',
    '/v1//x',
    '/v1/**',
    '/v1/../x',
    '/v1/./x',
    '/v1/..;x',
    '/v1/a*',
    '/v1/*a',
    '/v1/*a/x',
    '/v1/*:a*',
    '/v1/*:*',
    '/v1?x',
    '/v1#x',
    '/v1/%2e',
    '/v1/%2F',
    '/v1/%2fx',
    '/v1/a b',
    '/é',
  ])('%p is no pattern', (text) => {
    expect(() => compilePattern(text)).toThrow(PatternError);
  });

  test.each([
    ['/v1/*', '/v1/a', true],
    ['/v1/*', '/v1/a/*', true],
    ['/v1/*', '/v1/*', true],
    ['/v1/*', '/v1', false],
    ['/v1/*', '/v1/', false],
    ['/v1/a', '/v1/*', false],
    ['/*/a', '/v1/a', true],
    ['/v1/*/x', '/v1/*:y/x', true],
    ['/v1/*:y', '/v1/*:x:y', true],
    ['/v1/*:x:y', '/v1/*:y', false],
    ['/v1/*:y', '/v1/a:y', true],
    ['/v1/*:y', '/v1/:y', false],
  ])('%s covers %s: %p', (outer, inner, expected) => {
    expect(coversPattern(compilePattern(outer), compilePattern(inner))).toBe(expected);
  });
});

const subject = (method: string, path: string, queryNames: string[] = []) => ({
  method,
  path,
  segments: path.slice(1).split('/'),
  queryNames,
  hasEncodedSlash: /%2f/i.test(path),
  asksForWebSocket: false,
});

describe('rules', () => {
  const set = compileRules([
    { methods: ['POST'], paths: ['/v1/messages', '/v1/messages/count_tokens'] },
    { methods: ['GET'], paths: ['/v1/models', '/v1/models/*'], query: ['limit', 'after_id'] },
    { methods: ['GET'], paths: ['/files/*'], allow_encoded_slash: true },
    { methods: ['*'], paths: ['/any'] },
    { methods: ['GET'], paths: ['/socket'], websocket: true },
  ]);

  test.each([
    ['POST', '/v1/messages', [], 'POST /v1/messages'],
    ['GET', '/v1/models', ['limit', 'limit'], 'GET /v1/models'],
    ['GET', '/v1/models/a/b', [], 'GET /v1/models/*'],
    ['GET', '/files/a%2Fb', [], 'GET /files/*'],
    ['OPTIONS', '/any', [], '* /any'],
  ])('%s %s %p is allowed by %s', (method, path, query, rule) => {
    const decision = decide(set, subject(method, path, query as string[]));
    expect(decision.result === 'allow' && decision.rule.name).toBe(rule);
  });

  test.each([
    ['GET', '/v1/messages', [], 'no_method', 'POST /v1/messages'],
    ['HEAD', '/v1/models', [], 'no_method', 'GET /v1/models'],
    ['GET', '/v1/models', ['secret'], 'query_name', 'GET /v1/models'],
    ['GET', '/v1/models/a%2Fb', [], 'encoded_slash', 'GET /v1/models/*'],
    ['POST', '/v1/messages/batches', [], 'no_path', undefined],
    ['POST', '', [], 'no_path', undefined],
    ['GET', '/socket', [], 'websocket_only', 'GET /socket'],
    ['POST', '/socket', [], 'no_method', 'GET /socket'],
  ])('%s %s %p is denied: %s, nearest %p', (method, path, query, reason, nearest) => {
    const decision = decide(set, subject(method, path, query as string[]));
    expect(decision).toMatchObject({ result: 'deny', reason });
    expect(decision.result === 'deny' && decision.nearest?.name).toBe(nearest as string);
  });

  test('what asks for a WebSocket matches a websocket rule, and any other as a plain request', () => {
    for (const [path, rule] of [
      ['/socket', 'GET /socket'],
      ['/v1/models', 'GET /v1/models'],
    ] as const) {
      const decision = decide(set, { ...subject('GET', path), asksForWebSocket: true });
      expect(decision.result === 'allow' && decision.rule.name).toBe(rule);
    }
  });

  test('no rules allow nothing', () => {
    expect(decide(compileRules([]), subject('GET', '/')).result).toBe('deny');
  });

  test.each<[string, EndpointEntry[], string]>([
    ['an empty list of methods', [{ methods: [], paths: ['/a'] }], 'methods'],
    ['an empty list of paths', [{ methods: ['GET'], paths: [] }], 'paths'],
    ['a method in lower case', [{ methods: ['get'], paths: ['/a'] }], 'methods'],
    ['TRACE', [{ methods: ['TRACE'], paths: ['/a'] }], 'methods'],
    ['"*" beside a method', [{ methods: ['*', 'GET'], paths: ['/a'] }], 'methods'],
    ['websocket on POST', [{ methods: ['POST'], paths: ['/a'], websocket: true }], 'websocket'],
    ['a bad pattern', [{ methods: ['GET'], paths: ['/a//b'] }], 'paths'],
    [
      'an entry equal to another',
      [
        { methods: ['GET', 'POST'], paths: ['/a'] },
        { methods: ['POST', 'GET'], paths: ['/a'] },
      ],
      'paths',
    ],
    [
      'two matching entries that disagree on an option',
      [
        { methods: ['GET'], paths: ['/a/*'] },
        { methods: ['GET'], paths: ['/a/b'], query: ['x'] },
      ],
      'paths',
    ],
    [
      'two wildcards that meet and disagree',
      [
        { methods: ['*'], paths: ['/a/*/c'] },
        { methods: ['GET'], paths: ['/*/b/c'], allow_encoded_slash: true },
      ],
      'paths',
    ],
  ])('%s is refused', (_name, entries, field) => {
    let thrown: unknown;
    try {
      compileRules(entries);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(RuleError);
    expect((thrown as RuleError).field).toBe(field);
  });

  test('entries that cannot meet may disagree', () => {
    expect(() =>
      compileRules([
        { methods: ['GET'], paths: ['/a/*'] },
        { methods: ['POST'], paths: ['/a/b'], query: ['x'] },
        { methods: ['GET'], paths: ['/b', '/a'], query: [] },
      ]),
    ).not.toThrow();
  });

  test('covered rules are found, also a repeated path', () => {
    const covered = findCoveredRules(
      compileRules([
        { methods: ['GET'], paths: ['/a/*', '/b'] },
        { methods: ['GET'], paths: ['/a/b'] },
        { methods: ['GET', 'POST'], paths: ['/b'] },
        { methods: ['POST'], paths: ['/a/c'] },
      ]),
    ).map(({ rule, by }) => `${rule.name} < ${by.name}`);
    expect(covered).toEqual(['GET /a/b < GET /a/*']);
  });

  test('10,000 rules are compiled and matched through an index', () => {
    const entries = Array.from({ length: 10_000 }, (_, i) => ({ methods: ['GET'], paths: [`/s${i}/*/x`] }));
    const big = compileRules(entries);
    expect(decide(big, subject('GET', '/s9999/a/x')).result).toBe('allow');
    expect(decide(big, subject('GET', '/s10000/a/x')).result).toBe('deny');
    expect(findCoveredRules(big)).toEqual([]);
  });
});
