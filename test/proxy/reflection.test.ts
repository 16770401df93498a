import { describe, expect, test } from 'bun:test';
import fc from 'fast-check';
import { Secret } from '../../src/credentials/secret.ts';
import { carriesSecret, createScanner, holdsSecret } from '../../src/proxy/reflection.ts';
import { buildAutomaton } from '../../src/proxy/reflection-forms.ts';
import { propertyRuns } from '../support/random.ts';

const PREFIX = 'sk-ant-api03-';
const SECRET = `${PREFIX}Zk3v9QpL0xWm7Rt2Ya8Bn4Cd6Ef1Gh5-_Jk`;
const automaton = buildAutomaton([{ secret: new Secret(SECRET), publicPrefixLength: PREFIX.length }])!;
const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Pushes `text` cut at `cuts`; returns what went out and whether the guard struck. */
function scan(text: string, cuts: readonly number[]) {
  const scanner = createScanner(automaton);
  const bytes = encode(text);
  let out = '';
  let from = 0;
  for (const to of [...cuts, bytes.length]) {
    const result = scanner.push(bytes.subarray(from, to));
    if (result.reflected) return { out, reflected: true };
    out += decode(result.clean);
    from = to;
  }
  const rest = scanner.end();
  return { out: out + decode(rest.clean), reflected: rest.reflected };
}

function percentMix(text: string, every: number): string {
  return [...text]
    .map((c, i) => (i % every === 0 ? `%${c.charCodeAt(0).toString(16).padStart(2, '0')}` : c))
    .join('');
}
function jsonMix(text: string, every: number): string {
  return [...text]
    .map((c, i) => (i % every === 0 ? `\\u00${c.charCodeAt(0).toString(16).padStart(2, '0')}` : c))
    .join('');
}
const base64At = (lead: string) => Buffer.from(`${lead}${SECRET}tail`).toString('base64');

const FORMS: [string, string][] = [
  ['raw', SECRET],
  ['base64, alignment 0', base64At('')],
  ['base64, alignment 1', base64At('x')],
  ['base64, alignment 2', base64At('xy')],
  ['base64 without anything after it', Buffer.from(SECRET).toString('base64')],
  ['base64url', Buffer.from(`a${SECRET}`).toString('base64url')],
  ['Basic', Buffer.from(`user:${SECRET}`).toString('base64')],
  ['hex', Buffer.from(SECRET).toString('hex')],
  ['HEX', Buffer.from(SECRET).toString('hex').toUpperCase()],
  ['percent, every byte', percentMix(SECRET, 1)],
  ['percent, every third byte', percentMix(SECRET, 3)],
  ['JSON, every byte', jsonMix(SECRET, 1)],
  ['JSON, every fourth byte', jsonMix(SECRET, 4)],
  ['base64 inside JSON with escaped slashes', base64At('??>').replaceAll('/', '\\/')],
  ['percent-escaped base64', encodeURIComponent(base64At('?>?'))],
];

describe('reflection guard', () => {
  test.each(FORMS)('finds %s, split at every byte', (_name, form) => {
    const text = `{"echo":"${form}","more":1}`;
    expect(scan(text, []).reflected).toBe(true);
    for (let cut = 1; cut < text.length; cut++) {
      const result = scan(text, [cut]);
      expect(result.reflected).toBe(true);
    }
    const everyByte = Array.from({ length: encode(text).length - 1 }, (_, i) => i + 1);
    expect(scan(text, everyByte).reflected).toBe(true);
  });

  test.each([
    ['a percent sign', '%'],
    ['a broken percent escape', '%2'],
    ['a backslash', '\\'],
    ['a broken unicode escape', '\\u00'],
    ['half a unicode escape', '\\u'],
    ['its own beginning', SECRET.slice(0, 20)],
    ['a percent escape of its beginning', `%73${SECRET.slice(1, 30)}`],
  ])('finds the secret right behind %s', (_name, lead) => {
    expect(scan(`${lead}${SECRET}`, []).reflected).toBe(true);
    expect(scan(`${lead}${SECRET}`, [lead.length + 3]).reflected).toBe(true);
  });

  test('what goes out before a cut never holds more than the public prefix and 15 bytes', () => {
    for (let cut = 1; cut < SECRET.length; cut++) {
      const { out } = scan(`abc${SECRET}`, [3 + cut]);
      expect(out.length).toBeLessThanOrEqual(3 + PREFIX.length + 15);
    }
  });

  test('a tail under 16 bytes beyond the prefix goes out at once (the hold-back oracle)', () => {
    for (let known = 1; known < 16; known++) {
      const scanner = createScanner(automaton);
      const guess = SECRET.slice(0, PREFIX.length + known);
      expect(decode(scanner.push(encode(guess)).clean)).toBe(guess);
    }
  });

  test('the hold-back oracle: a guess, right or wrong, in any form, cut anywhere, is out at once below 16 bytes', () => {
    const forms: [string, number][] = [
      [SECRET, PREFIX.length],
      [SECRET.toLowerCase(), PREFIX.length],
      [Buffer.from(SECRET).toString('hex'), PREFIX.length * 2],
      [Buffer.from(SECRET).toString('hex').toUpperCase(), PREFIX.length * 2],
      // Base64: the characters that the public prefix alone decides, and where the secret begins in the text.
      ...['', 'x', 'xy'].map((lead): [string, number] => [
        base64At(lead).slice(Math.ceil((lead.length * 8) / 6)),
        Math.floor(((lead.length + PREFIX.length) * 8) / 6) - Math.ceil((lead.length * 8) / 6),
      ]),
    ];
    for (const [form, open] of forms) {
      for (let known = 1; known < 16; known++) {
        const right = form.slice(0, open + known);
        const wrong = `${right.slice(0, -1)}${right.endsWith('0') ? '1' : '0'}`;
        for (const guess of [right, wrong]) {
          // An agent decides where its text is cut; whatever it learns, it learns by what comes late.
          for (const cut of [guess.length, 1, Math.floor(guess.length / 2)]) {
            const scanner = createScanner(automaton);
            const first = decode(scanner.push(encode(`say: ${guess.slice(0, cut)}`)).clean);
            const second = decode(scanner.push(encode(guess.slice(cut))).clean);
            expect(first + second).toBe(`say: ${guess}`);
          }
        }
      }
    }
  });

  test('the hold-back oracle: nor does an escape tell, whole or half', () => {
    for (let known = 1; known < 16; known++) {
      for (const mix of [percentMix, jsonMix]) {
        const escaped = mix(SECRET.slice(0, PREFIX.length + known), 3);
        for (const guess of [escaped, `${escaped}%`, `${escaped}%4`, `${escaped}\\`, `${escaped}\\u00`]) {
          const scanner = createScanner(automaton);
          expect(decode(scanner.push(encode(guess)).clean)).toBe(guess);
        }
      }
    }
  });

  test('a held tail that turns out to be something else is released unchanged', () => {
    const text = `${SECRET.slice(0, 35)}!and more`;
    for (let cut = 1; cut < text.length; cut++)
      expect(scan(text, [cut])).toEqual({ out: text, reflected: false });
  });

  test('a held tail is released at the end of the stream', () => {
    const text = `x${SECRET.slice(0, -1)}`;
    expect(scan(text, [10])).toEqual({ out: text, reflected: false });
  });

  test('clean chunks pass as the very same bytes, not copied', () => {
    const chunk = encode('data: {"type":"ping","pct":"100%","path":"a\\/b"}\n\n');
    expect(createScanner(automaton).push(chunk).clean).toBe(chunk);
  });

  test('any bytes in any chunks come out as they went in', () => {
    const piece = fc.oneof(
      fc.string(),
      fc.constantFrom('%', '\\', '\\u00', '%7', SECRET.slice(0, 30), '%73', PREFIX),
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 12 }),
        fc.array(fc.nat(40), { maxLength: 8 }),
        (pieces, steps) => {
          const text = pieces.join('');
          fc.pre(!scan(text, []).reflected);
          let at = 0;
          const bytes = encode(text);
          const scanner = createScanner(automaton);
          const out: Uint8Array[] = [];
          for (const step of [...steps, bytes.length]) {
            const result = scanner.push(bytes.subarray(at, at + step));
            expect(result.reflected).toBe(false);
            out.push(result.clean);
            at += step;
          }
          out.push(scanner.end().clean);
          expect(Buffer.concat(out).equals(Buffer.from(bytes))).toBe(true);
        },
      ),
      propertyRuns(2000),
    );
  });

  test('random text around and random escapes of the secret never get through', () => {
    const mixed = fc
      .array(fc.nat(2), { minLength: SECRET.length, maxLength: SECRET.length })
      .map((kinds) =>
        kinds
          .map((kind, i) =>
            kind === 0 ? SECRET[i] : kind === 1 ? percentMix(SECRET[i]!, 1) : jsonMix(SECRET[i]!, 1),
          )
          .join(''),
      );
    fc.assert(
      fc.property(fc.string(), mixed, fc.array(fc.nat(50), { maxLength: 6 }), (lead, form, steps) => {
        const text = lead + form;
        const bytes = encode(text);
        const scanner = createScanner(automaton);
        let at = 0;
        let reflected = false;
        for (const step of [...steps, bytes.length]) {
          reflected ||= scanner.push(bytes.subarray(at, at + step)).reflected;
          at += step;
        }
        expect(reflected).toBe(true);
      }),
      propertyRuns(1000),
    );
  });

  test('a very long secret is found by its beginning', () => {
    const long = `eyJ${'abcdefghij0123456789'.repeat(500)}`;
    const scanner = createScanner(buildAutomaton([{ secret: new Secret(long), publicPrefixLength: 0 }])!);
    expect(scanner.push(encode(`x${long}`)).reflected).toBe(true);
  });

  test('a secret with a backslash is found, JSON-escaped or not', () => {
    const odd = 'pass\\word-with\\back"slash-0123456789';
    const guard = buildAutomaton([{ secret: new Secret(odd), publicPrefixLength: 0 }])!;
    for (const text of [odd, JSON.stringify(odd)])
      expect(createScanner(guard).push(encode(`..${text}..`)).reflected).toBe(true);
  });

  test.each(['sk-0123456789abcde%', 'sk-0123456789abcd\\', 'sk-0123456789abc%%', 'sk-0123456789ab\\%'])(
    'a secret that ends as an escape begins is found at the end of the text: %s',
    (odd) => {
      const guard = buildAutomaton([{ secret: new Secret(odd), publicPrefixLength: 0 }])!;
      for (const text of [odd, `%73${odd.slice(1)}`, `\\u0073${odd.slice(1)}`]) {
        expect(holdsSecret(guard, encode(`..${text}`))).toBe(true);
        const scanner = createScanner(guard);
        expect(scanner.push(encode(text)).reflected || scanner.end().reflected).toBe(true);
        // Nothing of a tail that turns out to be one goes out.
        expect(decode(scanner.end().clean)).toBe('');
      }
      expect(holdsSecret(guard, encode(`%73${odd.slice(1, -1)}`))).toBe(false);
    },
  );

  test('a text as long as the secret may hold it, a shorter one cannot', () => {
    expect(automaton.shortest).toBe(SECRET.length);
    expect(carriesSecret(automaton, SECRET)).toBe(true);
    expect(carriesSecret(automaton, SECRET.toLowerCase())).toBe(true);
    expect(carriesSecret(automaton, SECRET.slice(1))).toBe(false);
    expect(holdsSecret(automaton, encode(SECRET))).toBe(true);
    expect(holdsSecret(automaton, encode(SECRET.slice(0, -1)))).toBe(false);
  });

  test('two secrets are both found', () => {
    const other = 'another-secret-value-0123456789';
    const both = buildAutomaton([
      { secret: new Secret(SECRET), publicPrefixLength: PREFIX.length },
      { secret: new Secret(other), publicPrefixLength: 0 },
    ])!;
    for (const secret of [SECRET, other])
      expect(createScanner(both).push(encode(`..${secret}..`)).reflected).toBe(true);
  });
});
