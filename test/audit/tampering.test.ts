// Every way to change a log that the catalogue names, and what `isoproxy audit verify` says of it.

import { afterAll, describe, expect, test } from 'bun:test';
import { existsSync } from 'node:fs';
import type { Verdict } from '../../src/audit/verify.ts';
import { runCommand } from '../config/command-io.ts';
import { HMAC_KEY, makeLog, notesText, SIGNING_KEY, signer, writeLog } from '../support/audit-log.ts';
import { type Fault, TAMPERINGS } from '../support/audit-tampering.ts';
import { createWorkspace } from '../support/workspace.ts';

const work = createWorkspace();
afterAll(() => work.remove());
const anchors = work.write('elsewhere', notesText(makeLog().notes));

async function verify(dir: string, ...more: string[]) {
  const { code, out, err } = await runCommand(['audit', 'verify', '--dir', work.path(dir), ...more]);
  const said = out + err;
  expect(said).not.toContain(HMAC_KEY.trim());
  expect(said).not.toContain(SIGNING_KEY.split('\n')[1]);
  return { code, out, err };
}

function faultsOf(out: string): Fault[] {
  return (JSON.parse(out) as Verdict).gaps.map(({ kind, from, to }) => [kind, from, to] as const);
}

describe.each(TAMPERINGS.map((each) => [`${each.id} ${each.name}`, each] as const))('%s', (_, each) => {
  const make = () => {
    const { segments } = makeLog();
    each.tamper(segments);
    if (!existsSync(work.path(each.name))) writeLog(work.path(each.name), { segments });
    return each.name;
  };
  const [exit, ...faults] = each.anchored;
  const [exitAlone, ...faultsAlone] = each.alone;

  test('with checkpoints from elsewhere it is named with its range', async () => {
    const dir = make();
    const { code, out } = await verify(dir, '--checkpoints', anchors, '--json');
    expect([code, ...faultsOf(out)]).toEqual([exit, ...faults]);
    const text = await verify(dir, '--checkpoints', anchors);
    expect(text.code).toBe(exit);
    expect(text.out).toStartWith(exit === 1 ? 'TAMPERED WITH' : 'intact, and anchored up to record 49');
    for (const [kind, from, to] of faults)
      expect(text.out).toContain(`\n${kind}: ${from === to ? `record ${from}` : `records ${from} to ${to}`}`);
  });

  test('without any it is named, or said not to be anchored', async () => {
    const dir = make();
    const { code, out, err } = await verify(dir, '--json');
    expect(code).toBe(exitAlone);
    if (exitAlone === 74) {
      expect(err).toContain('there is no audit log');
      return;
    }
    expect(faultsOf(out)).toEqual(faultsAlone);
    const required = await verify(dir, '--require-anchor');
    expect(required.code).toBe(exitAlone === 0 ? 2 : 1);
    expect(required.out).toStartWith(exitAlone === 0 ? 'intact, but NOT ANCHORED' : 'TAMPERED WITH');
  });
});

test('A3 the directory is removed: checkpoints and keys that were kept elsewhere say what is missing', async () => {
  const gone = await verify('gone', '--checkpoints', anchors);
  expect([gone.code, gone.out]).toEqual([74, '']);
  expect(gone.err).toContain('does not exist');
  const key = work.write('hmac.copy', HMAC_KEY);
  const kept = ['--checkpoints', anchors, '--key', key, '--public-key', signer.verifierKey];
  const { code, out } = await verify('gone', ...kept, '--json');
  expect([code, ...faultsOf(out)]).toEqual([1, ['cut', 1, 49]]);
});

test('A3 a new log in the place of the old one: its name is another, and that is said', async () => {
  const { segments } = makeLog();
  writeLog(work.path('new'), { segments });
  const seed = Buffer.from(SIGNING_KEY.split('\n')[1] as string, 'base64')
    .fill(9, 16)
    .toString('base64');
  work.write('new/signing.key', `-----BEGIN PRIVATE KEY-----\n${seed}\n-----END PRIVATE KEY-----\n`);
  const { code, out, err } = await verify('new', '--checkpoints', anchors, '--require-anchor');
  expect(code).toBe(1);
  expect(out).toContain('foreign: records 1 to 58: all checkpoints from outside are of another log');
  expect(err).toContain(`checkpoints of another log were given (${signer.origin}, up to record 49)`);
});

test('A7 a segment that is a link is not read', async () => {
  const { segments } = makeLog();
  writeLog(work.path('link'), { segments });
  const [name] = segments.keys();
  const { renameSync, symlinkSync } = await import('node:fs');
  renameSync(work.path(`link/${name}`), work.path('link/moved'));
  symlinkSync('moved', work.path(`link/${name}`));
  const { code, out, err } = await verify('link', '--checkpoints', anchors);
  expect([code, out]).toEqual([74, '']);
  expect(err).toContain('ELOOP');
});
