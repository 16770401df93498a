// The line of a key: every way in which TOML can write one.

import { expect, test } from 'bun:test';
import { parse } from 'smol-toml';
import { createLocator } from '../../src/config/locate.ts';

const TEXT = `# a comment with [brackets] = "and quotes
top = 1
[server] # after a header
text = """
fake = 1
[fake]
""" # after a string
"quoted.key" = 'a # b'
literal = '''
another = 1'''
[[listeners]]
name = "a"
limits.max = 1
[[listeners]]
name = "b"
list = [ "a", # a comment, with a comma
  { m = [1,
   2], n = "}]" },
]
[listeners.token]
file = "x"
[providers.x.'y z']
k.j = 1979-05-27 07:32:00
[providers.x]
url = "u"
`;

const LINES: readonly [string, (string | number)[], number | undefined][] = [
  ['a key at the top', ['top'], 2],
  ['a table', ['server'], 3],
  ['a key after a comment', ['server', 'text'], 4],
  ['what only looks like a key in a string', ['server', 'fake'], 3],
  ['a quoted key with a dot', ['server', 'quoted.key'], 8],
  ['a literal string over two lines', ['server', 'literal'], 9],
  ['the first of an array of tables', ['listeners', 0, 'name'], 12],
  ['a dotted key', ['listeners', 0, 'limits', 'max'], 13],
  ['the second of an array of tables', ['listeners', 1], 14],
  ['an element of a list', ['listeners', 1, 'list', 1], 17],
  ['a key of an inline table', ['listeners', 1, 'list', 1, 'm', 1], 18],
  ['a key after a list in an inline table', ['listeners', 1, 'list', 1, 'n'], 18],
  ['a table below an array of tables', ['listeners', 1, 'token', 'file'], 21],
  ['a quoted table name', ['providers', 'x', 'y z', 'k', 'j'], 23],
  ['a table that a longer header named first', ['providers', 'x'], 24],
  ['a missing key: its table', ['providers', 'x', 'missing'], 24],
  ['a missing table: the nearest around it', ['providers', 'missing'], 22],
  ['nothing near', ['missing'], undefined],
];

test('the text is TOML', () => {
  expect(Object.keys(parse(TEXT))).toEqual(['top', 'server', 'listeners', 'providers']);
});

test.each(LINES)('%s', (_, path, line) => {
  expect(createLocator(TEXT).lineOf(path)).toBe(line);
});

test.each([
  '',
  '[',
  '= 1',
  'a = "',
  'a = [1,',
  'a = {',
  'a = [}',
  'a = [\n#',
  'a = {b = [}]}',
  '"a',
  'x = """',
  '\u0000',
  'a.b.',
  '[[a]]\n[a.b]\n[',
])('broken text %p ends the search, not the program', (text) => {
  expect(() => createLocator(text).lineOf(['a', 0, 'b'])).not.toThrow();
});

test('Windows line ends count once', () => {
  expect(createLocator('a = 1\r\nb = 2\r\n').lineOf(['b'])).toBe(2);
});
