// Checkpoints are C2SP signed notes: known answers, and what is none.

import { expect, test } from 'bun:test';
import { createHash, createPublicKey, verify } from 'node:crypto';
import { createSigner, formatNote, parseNotes, parseVerifierKey } from '../../src/audit/checkpoint.ts';
import { SIGNING_KEY, signer } from '../support/audit-log.ts';

const note = signer.sign({ size: 1000, head: 'ab'.repeat(32), first: 7, time: '2026-01-31T12:00:00.000Z' });
const verifier = parseVerifierKey(signer.verifierKey);

test('the public key of a known seed (RFC 8032), its name and its verifier key', () => {
  // Section 7.1, test 1: the secret key and the public key.
  const seed = '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60';
  const publicKey = 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a';
  const der = Buffer.from(`302e020100300506032b657004220420${seed}`, 'hex').toString('base64');
  const { origin, verifierKey } = createSigner(
    `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n`,
  );
  const raw = Buffer.from(publicKey, 'hex');
  const name = `isoproxy-audit/${createHash('sha256').update(raw).digest('hex').slice(0, 16)}`;
  const id = createHash('sha256').update(`${name}\n\x01`).update(raw).digest('hex').slice(0, 8);
  expect(origin).toBe(name);
  expect(verifierKey).toBe(`${name}+${id}+${Buffer.concat([Buffer.of(1), raw]).toString('base64')}`);
});

test('a note, line by line', () => {
  const lines = formatNote(note).split('\n');
  expect(lines.slice(0, 6)).toEqual([
    signer.origin,
    '1000',
    Buffer.from('ab'.repeat(32), 'hex').toString('base64'),
    'first 7',
    'time 2026-01-31T12:00:00.000Z',
    '',
  ]);
  expect(lines[6]).toStartWith(`\u2014 ${signer.origin} `);
  expect(lines.slice(7)).toEqual(['', '']);
  const bytes = Buffer.from(lines[6]?.split(' ')[2] ?? '', 'base64');
  expect(bytes.length).toBe(68);
  expect(bytes.toString('hex', 0, 4)).toBe(signer.verifierKey.split('+')[1] as string);
  const text = Buffer.from(`${lines.slice(0, 5).join('\n')}\n`);
  expect(verify(null, text, createPublicKey(SIGNING_KEY), bytes.subarray(4))).toBe(true);
});

test('notes are read as they were written, with a good signature', () => {
  const read = parseNotes(formatNote(note) + formatNote(note));
  expect(read).toEqual([note, note]);
  expect(read.map((each) => verifier?.isSignedBy(each))).toEqual([true, true]);
});

test.each([
  ['another size', (text: string) => text.replace('\n1000\n', '\n1001\n')],
  ['another head', (text: string) => text.replace('\nq6ur', '\nr6ur')],
  ['another first', (text: string) => text.replace('first 7', 'first 8')],
  ['another time', (text: string) => text.replace('2026', '2025')],
  [
    'another signature',
    (text: string) => text.replace(/(\u2014 \S+ .{20})./, (_, a: string) => `${a}!`.replace('!', 'A')),
  ],
  ['another key id', (text: string) => text.replace(/(\u2014 \S+ )...../, '$1AAAAA')],
  ['a signature that is too short', (text: string) => text.replace(/(\u2014 \S+ .{40}).*/, '$1')],
])('%s: the signature is wrong', (_, change) => {
  const [read] = parseNotes(change(formatNote(note)));
  expect(read !== undefined && verifier?.isSignedBy(read)).toBe(false);
});

test.each([
  ['a number with a zero in front', (text: string) => text.replace('\n1000\n', '\n01000\n')],
  ['no number', (text: string) => text.replace('\n1000\n', '\n-1\n')],
  ['a head that is too short', (text: string) => text.replace(/\nq6ur/, '\n')],
  ['a line more', (text: string) => text.replace('\nfirst', '\nmore\nfirst')],
  ['no blank line', (text: string) => text.replace('\n\n\u2014', '\n\u2014')],
  ['a hyphen for the dash', (text: string) => text.replace('\u2014', '-')],
  [
    'another name in the signature line',
    (text: string) => text.replace('\u2014 isoproxy-audit/', '\u2014 isoproxy-audit/0'),
  ],
  ['no newline at its end', (text: string) => text.trimEnd()],
  ['CRLF', (text: string) => text.replaceAll('\n', '\r\n')],
])('%s: no note', (_, change) => {
  expect(parseNotes(change(formatNote(note)))).toEqual([]);
});

test.each([
  ['empty', ''],
  ['without its key', signer.verifierKey.replace(/\+[^+]*$/, '')],
  ['of another name', signer.verifierKey.replace(/\/..../, '/0000')],
  ['of another id', signer.verifierKey.replace(/\+..../, '+0000')],
  ['of another algorithm', signer.verifierKey.replace(/\+A.(?=[^+]*$)/, '+Ag')],
])('a verifier key that is %s is none', (_, text) => {
  expect(parseVerifierKey(text)).toBeUndefined();
});
