/**
 * The verifiers that were written from docs/audit.md alone, on logs that were written from it alone: what the page says
 * is enough, and it is found out. `bothAgree` in test/support asks the same of logs that the product wrote.
 */
import { describe, expect, test } from 'bun:test';
import { createHash, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { askPython, bothAgree, withoutPython } from '../support/audit-agreement.ts';
import { LogWriter, makeKeys, segmentName } from '../support/audit-log-writer.ts';
import { type AuditVerdict, UnknownVersion, verifyAudit } from '../support/audit-verifier.ts';
import { createWorkspace } from '../support/workspace.ts';

const keys = makeKeys();
/** Somebody else's, on the same machine. */
const others = makeKeys('cd'.repeat(32));

/** 14 records in segments of 4: the records 6 and 11 are checkpoints of 5 and 10 records. */
function sample(): { log: LogWriter; a: string; b: string } {
  const log = new LogWriter(keys);
  log.start();
  log.request('r-1');
  log.request('r-2');
  const a = log.checkpoint();
  log.request('r-3');
  log.request('r-4');
  const b = log.checkpoint();
  log.request('r-5');
  log.add('stop', { lost: 0 });
  return { log, a, b };
}

/** What the sample would be had it gone another way after record `seq`. */
function otherwise(log: LogWriter, seq: number): LogWriter {
  const fork = log.fork();
  fork.lines.length = seq;
  for (let index = 0; index < 5; index++) fork.request(`other-${index}`);
  return fork;
}

function edit(log: LogWriter, seq: number, from: string | RegExp, to: string): void {
  const line = log.lines[seq - 1] as string;
  expect(line).toMatch(from);
  log.lines[seq - 1] = line.replace(from, to);
}

type Files = Record<string, string | Buffer>;

interface Case {
  readonly files: Files;
  readonly anchors?: readonly string[];
  readonly publicKey?: string;
  readonly expected: Partial<AuditVerdict>;
}

const INTACT = { ok: true, records: 14, anchoredTo: 0, torn: false, unfinished: 0, open: 0, faults: [] };
const faulty = (kind: string, from: number, to: number, rest: Partial<AuditVerdict> = {}) => ({
  ok: false,
  faults: [{ kind, from, to }],
  ...rest,
});

function without(files: Files, ...seqs: number[]): Files {
  const names = seqs.map(segmentName);
  expect(Object.keys(files)).toEqual(expect.arrayContaining(names));
  return Object.fromEntries(Object.entries(files).filter(([name]) => !names.includes(name)));
}

/** A log whose first segment may go: the checkpoint in record 15 says that number 5 is the oldest that is kept. */
function pruned(): { log: LogWriter; note: string; older: string } {
  const { log } = sample();
  const older = log.note(4, (log.lines[3] as string).slice(-66, -2)).note;
  return { log, note: log.checkpoint(5), older };
}

const INTACT_LOGS: Record<string, () => Case> = {
  'a log in segments': () => ({ files: sample().log.segments(4), expected: INTACT }),
  'a log in one segment': () => ({ files: sample().log.segments(100), expected: INTACT }),
  'with signed anchors and its own checkpoints': () => {
    const { log, a, b } = sample();
    return {
      files: { ...log.segments(4), checkpoints: a + b },
      anchors: [a + b],
      publicKey: keys.publicKey,
      expected: { ...INTACT, anchoredTo: 10 },
    };
  },
  'with an anchor without the blank line after it': () => {
    const { log, a } = sample();
    return {
      files: log.segments(4),
      anchors: [a.trimEnd(), `${a.trimEnd()}\n`],
      expected: { anchoredTo: 5 },
    };
  },
  'with an anchor that is of another log': () => {
    const { log, a } = sample();
    const other = new LogWriter(others);
    other.start();
    return {
      files: log.segments(4),
      anchors: [other.checkpoint() + a],
      expected: { ...INTACT, anchoredTo: 5 },
    };
  },
  'with a checkpoint that is still being written': () => {
    const { log, a, b } = sample();
    return { files: { ...log.segments(4), checkpoints: a + b.slice(0, -40) }, expected: INTACT };
  },
  'after a crash with a request under way': () => {
    const { log } = sample();
    log.lines.length = 13;
    log.request('r-6', false);
    log.bootId = '11111111';
    log.start(false);
    // The same name for another request: it is another start.
    log.request('r-6');
    return { files: log.segments(4), expected: { ok: true, records: 17, unfinished: 1 } };
  },
  'with a torn tail': () => {
    const { log } = sample();
    const files: Files = log.segments(4);
    files[segmentName(13)] += (log.lines[13] as string).slice(0, 100);
    return { files, expected: { ...INTACT, torn: true } };
  },
  'with a whole line as its tail that has no newline': () => {
    const files = sample().log.segments(4);
    files[segmentName(13)] = (files[segmentName(13)] as string).slice(0, -1);
    return { files, expected: { ...INTACT, records: 13, torn: true } };
  },
  'with a segment that has no record yet': () => {
    const files = { ...sample().log.segments(4), [segmentName(15)]: '' };
    return { files, expected: INTACT };
  },
  'with a checkpoint that was not finished, and others behind it': () => {
    const { log, a, b } = sample();
    return {
      files: { ...log.segments(4), checkpoints: a.slice(0, -40) + a + b },
      anchors: [a.slice(0, -40) + a + b, `${a.slice(0, -40)}\n\n${a}`],
      publicKey: keys.publicKey,
      expected: { ...INTACT, anchoredTo: 10 },
    };
  },
  'with texts that are no checkpoints, and one that only others signed': () => {
    const { log, b } = sample();
    return {
      files: log.segments(4),
      anchors: ['hello\n\nworld\n\n', b.replace(/\u2014.*/, '\u2014 somebody else')],
      publicKey: keys.publicKey,
      expected: INTACT,
    };
  },
  'with anchors as a journal has them': () => {
    const { log, a, b } = sample();
    const event = (note: string) => JSON.stringify({ level: 'info', event: 'audit_checkpoint', note });
    return {
      files: log.segments(4),
      anchors: [`Jan 31 12:00:00 host isoproxy[7]: ${event(a)}\n`, JSON.stringify({ MESSAGE: event(b) })],
      publicKey: keys.publicKey,
      expected: { ...INTACT, anchoredTo: 10 },
    };
  },
  'with kinds and members that are not known': () => {
    const { log } = sample();
    log.add('later', { more: 'x' });
    edit(log, 14, '"lost":0', '"lost":0,"more":[1,{"a":"b"}]');
    log.rechain(14);
    return { files: log.segments(4), expected: { ...INTACT, records: 15 } };
  },
  'whose segment in the middle has no newline at its end': () => {
    const files = sample().log.segments(4);
    files[segmentName(5)] = (files[segmentName(5)] as string).slice(0, -1);
    return { files, expected: INTACT };
  },
  'whose oldest segment was removed': () => {
    const { log, note, older } = pruned();
    return {
      files: log.segments(4, 5),
      anchors: [older + note],
      expected: { ok: true, records: 11, anchoredTo: 14 },
    };
  },
  'whose oldest segment is about to be removed': () => ({
    files: pruned().log.segments(4),
    expected: { ok: true, records: 15 },
  }),
  'that is an older copy, where nobody kept a checkpoint': () => {
    const { log } = sample();
    log.lines.length = 8;
    return { files: log.segments(4), expected: { ok: true, records: 8 } };
  },
};

const FAULTY_LOGS: Record<string, () => Case> = {
  'an edited path': () => {
    const { log, a, b } = sample();
    edit(log, 7, '/v1/messages', '/v1/massages');
    return {
      files: log.segments(4),
      anchors: [a + b],
      expected: faulty('edited', 7, 7, { records: 13, anchoredTo: 10 }),
    };
  },
  'two edited lines, one of them in its number': () => {
    const { log } = sample();
    edit(log, 8, '"seq":8', '"seq":99');
    edit(log, 9, 'agent-1', 'agent-2');
    return { files: log.segments(4), expected: faulty('edited', 8, 9) };
  },
  'an edited hash': () => {
    const { log } = sample();
    edit(log, 14, /"hash":"./, '"hash":"x');
    return { files: log.segments(4), expected: faulty('malformed', 14, 14) };
  },
  'the same hash in capitals': () => {
    const { log } = sample();
    log.lines[13] = (log.lines[13] as string).replace(/[0-9a-f]{64}"}$/, (hash) => hash.toUpperCase());
    return { files: log.segments(4), expected: faulty('malformed', 14, 14) };
  },
  'a line broken in two': () => {
    const { log } = sample();
    edit(log, 7, ',"kind"', ',\n"kind"');
    return { files: log.segments(4), expected: faulty('malformed', 7, 7) };
  },
  'a line that is too long, though its hash is right': () => {
    const { log } = sample();
    edit(log, 14, '"lost":0', `"lost":0,"x":"${'x'.repeat(800)}"`);
    log.rechain(14);
    return { files: log.segments(4), expected: faulty('malformed', 14, 14) };
  },
  'members in another order, though the hash is right': () => {
    const { log } = sample();
    edit(log, 13, '"status":200,"bytes_in":10', '"bytes_in":10,"status":200');
    log.rechain(13);
    return { files: log.segments(4), expected: faulty('malformed', 13, 13) };
  },
  'another key': () => {
    const other = new LogWriter(others);
    other.start();
    return { files: other.segments(4), expected: faulty('edited', 1, 1, { records: 0 }) };
  },
  'a line that was put in': () => {
    const { log } = sample();
    log.lines.splice(6, 0, '{}');
    return { files: log.segments(100), expected: faulty('inserted', 6, 7, { records: 14 }) };
  },
  'a line twice': () => {
    const { log } = sample();
    log.lines.splice(6, 0, log.lines[6] as string);
    return { files: log.segments(100), expected: faulty('repeated', 7, 7, { records: 15 }) };
  },
  'two lines swapped': () => {
    const { log } = sample();
    [log.lines[6], log.lines[7]] = [log.lines[7] as string, log.lines[6] as string];
    return { files: log.segments(4), expected: faulty('disorder', 7, 7) };
  },
  'a line taken out': () => {
    const { log } = sample();
    const files = log.segments(4);
    files[segmentName(5)] = (files[segmentName(5)] as string).replace(`${log.lines[6]}\n`, '');
    return { files, expected: faulty('missing', 7, 7) };
  },
  'a segment in the middle taken out': () => {
    const { log, a, b } = sample();
    return {
      files: without(log.segments(4), 5),
      anchors: [a + b],
      expected: faulty('missing', 5, 8, { records: 10, anchoredTo: 10 }),
    };
  },
  'the first segment taken out, and nothing says that it may be': () => ({
    files: without(sample().log.segments(4), 1),
    expected: faulty('missing', 1, 4),
  }),
  'more segments taken out than have been removed': () => ({
    files: pruned().log.segments(4, 9),
    expected: faulty('missing', 5, 8),
  }),
  'a segment under another name': () => {
    const { [segmentName(1)]: content = '', ...rest } = sample().log.segments(4);
    return { files: { ...rest, [segmentName(2)]: content }, expected: faulty('disorder', 1, 1) };
  },
  'bytes after the last newline of a segment that is not the last': () => {
    const files = sample().log.segments(4);
    files[segmentName(5)] += '{"v":1';
    return { files, expected: faulty('inserted', 8, 9, { torn: false }) };
  },
  'no newline at the end of a segment that is not the last, and half of its last line': () => {
    const files = sample().log.segments(4);
    files[segmentName(5)] = (files[segmentName(5)] as string).slice(0, -100);
    return { files, expected: faulty('malformed', 8, 8, { torn: false }) };
  },
  'records chained anew with the key, and their checkpoints left': () => {
    const { log } = sample();
    edit(log, 7, '/v1/messages', '/v1/massages');
    log.rechain(7);
    return { files: log.segments(4), expected: faulty('rewritten', 6, 10) };
  },
  'the same against anchors': () => {
    const { log, a, b } = sample();
    edit(log, 7, '/v1/messages', '/v1/massages');
    log.rechain(7);
    return {
      files: log.segments(4),
      anchors: [a, b],
      publicKey: keys.publicKey,
      expected: faulty('rewritten', 6, 10, { records: 14, anchoredTo: 5 }),
    };
  },
  'one record sealed anew with the key, and the chain left': () => {
    const { log } = sample();
    edit(log, 13, 'r-5', 'r-6');
    log.lines[12] = log.seal(log.lines[12] as string);
    return { files: log.segments(4), expected: faulty('rewritten', 13, 14, { unfinished: 1 }) };
  },
  'a log cut at a line, against an anchor': () => {
    const { log, a, b } = sample();
    log.lines.length = 8;
    return {
      files: log.segments(4),
      anchors: [a + b],
      expected: faulty('cut', 9, 10, { records: 8, anchoredTo: 5 }),
    };
  },
  'a log cut within a line, against its own checkpoints': () => {
    const { log, a, b } = sample();
    const files: Files = without(log.segments(4), 13);
    files[segmentName(9)] = `${log.lines[8]}\n{"v":1,"se`;
    return {
      files: { ...files, checkpoints: a + b },
      expected: faulty('cut', 10, 10, { torn: true, anchoredTo: 0 }),
    };
  },
  'nothing left': () => ({
    files: {},
    anchors: [sample().b],
    expected: faulty('cut', 1, 10, { records: 0 }),
  }),
  'an older copy that went on': () => {
    const { log, a, b } = sample();
    return {
      files: otherwise(log, 7).segments(4),
      anchors: [a + b],
      publicKey: keys.publicKey,
      expected: faulty('rewritten', 6, 10, { anchoredTo: 5 }),
    };
  },
  'another log in its place': () => {
    const other = new LogWriter({ ...others, hmac: keys.hmac });
    other.start();
    for (let index = 0; index < 10; index++) other.request(`r-${index}`);
    return {
      files: other.segments(4),
      anchors: [sample().b],
      publicKey: keys.publicKey,
      expected: faulty('rewritten', 1, 10),
    };
  },
  'a checkpoint with a signature that does not fit': () => {
    const { log, a, b } = sample();
    return {
      files: log.segments(4),
      anchors: [a + b.replace('12:00:00', '12:00:01')],
      publicKey: keys.publicKey,
      expected: faulty('forged', 10, 10, { anchoredTo: 5 }),
    };
  },
  'a checkpoint that another key signed in the name of this': () => {
    const { log } = sample();
    const { privateKey } = generateKeyPairSync('ed25519');
    const forged = new LogWriter({ ...keys, signing: privateKey });
    forged.lines = log.lines.slice(0, 10);
    return {
      files: log.segments(4),
      anchors: [forged.checkpoint()],
      publicKey: keys.publicKey,
      expected: faulty('forged', 10, 10, { anchoredTo: 0 }),
    };
  },
  'a checkpoint record with a signature that does not fit': () => {
    const { log } = sample();
    edit(log, 11, '"signed":"2026-01-31T12:00:00', '"signed":"2026-01-31T12:00:01');
    log.rechain(11);
    return {
      files: log.segments(4),
      publicKey: keys.publicKey,
      expected: faulty('forged', 11, 11, { records: 14 }),
    };
  },
  'a removal that nobody announced with a good signature': () => {
    const { log } = pruned();
    edit(log, 15, '"first":5', '"first":9');
    log.rechain(15);
    return {
      files: log.segments(4, 9),
      publicKey: keys.publicKey,
      expected: {
        ok: false,
        faults: [
          { kind: 'forged', from: 15, to: 15 },
          { kind: 'missing', from: 1, to: 8 },
        ],
      },
    };
  },
  'only checkpoints of another log': () => {
    const other = new LogWriter(others);
    other.start();
    return {
      files: sample().log.segments(4),
      anchors: [other.checkpoint()],
      publicKey: keys.publicKey,
      expected: faulty('foreign', 1, 14),
    };
  },
  'half a line where two were': () => {
    const { log } = sample();
    log.lines.splice(6, 2, '{"v":1');
    return {
      files: log.segments(100),
      expected: {
        ok: false,
        faults: [
          { kind: 'malformed', from: 7, to: 8 },
          { kind: 'missing', from: 7, to: 8 },
        ],
      },
    };
  },
  'records of a second writer': () => {
    const { log } = sample();
    log.lines.push(...otherwise(log, 12).lines.slice(12));
    return { files: log.segments(100), expected: faulty('forked', 13, 14) };
  },
};

const testPython = withoutPython === undefined ? test : test.skip;
const why = withoutPython === undefined ? '' : ` (skipped: ${withoutPython})`;

describe.each([
  ['intact', INTACT_LOGS],
  ['not intact', FAULTY_LOGS],
])('%s', (_name, cases) => {
  for (const [name, make] of Object.entries(cases)) {
    test(name, () => {
      using workspace = createWorkspace();
      const { files, anchors = [], publicKey, expected } = make();
      const directory = sample().log.save(join(workspace.dir, 'audit'), files);
      const key = join(directory, 'hmac.key');
      expect(verifyAudit(directory, { key, anchors, ...(publicKey && { publicKey }) })).toMatchObject(
        expected,
      );
      // The bytes of the key are what the file has before its newline.
      expect(verifyAudit(directory, { key: Buffer.from(keys.hmac), anchors })).toEqual(
        verifyAudit(directory, { key, anchors }),
      );
    });

    testPython(`${name}: Python agrees${why}`, () => {
      using workspace = createWorkspace();
      const { files, anchors = [], publicKey, expected } = make();
      const directory = sample().log.save(join(workspace.dir, 'audit'), files);
      expect(bothAgree(directory, anchors, publicKey ? { publicKey } : {})).toMatchObject(expected);
    });
  }
});

test('a forged anchor is believed by whoever does not check signatures, and by nobody else', () => {
  using workspace = createWorkspace();
  const { log } = sample();
  const directory = log.save(join(workspace.dir, 'audit'), log.segments(4));
  const anchors = [log.note(12, 'ff'.repeat(32)).note.replace('12:00:00', '12:00:01')];
  expect(bothAgree(directory, anchors).faults).toEqual([{ kind: 'rewritten', from: 11, to: 12 }]);
  const { faults } = bothAgree(directory, anchors, { publicKey: keys.publicKey });
  expect(faults).toEqual([{ kind: 'forged', from: 12, to: 12 }]);
});

test('a version that is not known is a reason to give up', () => {
  using workspace = createWorkspace();
  const { log } = sample();
  edit(log, 7, '"v":1', '"v":2');
  const directory = log.save(join(workspace.dir, 'audit'), log.segments(4));
  const key = join(directory, 'hmac.key');
  expect(() => verifyAudit(directory, { key })).toThrow(UnknownVersion);
  if (withoutPython === undefined) expect(() => askPython(directory, [], key)).toThrow('ended with 3');
});

const FIXTURES = join(import.meta.dir, '../fixtures/audit');
const expectedOfFixtures: Record<
  string,
  Record<string, { exit: number; faults: AuditVerdict['faults'] }>
> = JSON.parse(readFileSync(join(FIXTURES, 'expected.json'), 'utf8'));
const fixtures = Object.entries(expectedOfFixtures).flatMap(([name, ways]) =>
  Object.entries(ways).map(([way, expected]) => ({ name, way, expected })),
);

describe('the logs of the repository', () => {
  const key = join(FIXTURES, 'hmac.key');
  const publicKey = readFileSync(join(FIXTURES, 'public.key'), 'utf8');
  const outside = readFileSync(join(FIXTURES, 'anchors'), 'utf8');
  const byRange = (one: AuditVerdict['faults'][number]) => `${one.kind} ${one.from} ${one.to}`;

  test.each(fixtures)('$name, $way', ({ name, way, expected }) => {
    const anchors = way === 'anchored' ? [outside] : [];
    const { ok, faults } = verifyAudit(join(FIXTURES, name), { key, publicKey, anchors });
    expect({ exit: ok ? 0 : 1, faults: faults.map(byRange).sort() }).toEqual({
      exit: expected.exit,
      faults: expected.faults.map(byRange).sort(),
    });
  });

  // No signature is wrong in these: who cannot check one comes to the same verdict.
  testPython.each(fixtures)(`$name, $way: Python agrees${why}`, ({ name, way }) => {
    const anchors = way === 'anchored' ? [outside] : [];
    const { signatures, ...verdict } = bothAgree(join(FIXTURES, name), anchors, { key, publicKey });
    expect(signatures).toBe('checked');
    expect(verifyAudit(join(FIXTURES, name), { key, anchors })).toMatchObject(verdict);
  });
});

/** The key of this log under the name of another: the id is right for the two. */
function misnamedKey(): string {
  const name = `isoproxy-audit/${others.logId}`;
  const encoded = keys.publicKey.slice(keys.publicKey.indexOf('+', keys.publicKey.indexOf('+') + 1) + 1);
  const id = createHash('sha256').update(`${name}\n`).update(Buffer.from(encoded, 'base64')).digest('hex');
  return `${name}+${id.slice(0, 8)}+${encoded}`;
}

test.each([
  ['is none', 'isoproxy', 'not a verifier key'],
  ['has another id', keys.publicKey.replace(/\+[0-9a-f]{8}\+/, '+00000000+'), 'the key id'],
  ['has the name of another log', misnamedKey(), 'the name'],
])('a verifier key that %s is refused', (_name, publicKey, message) => {
  using workspace = createWorkspace();
  const { log } = sample();
  const directory = log.save(join(workspace.dir, 'audit'), log.segments(4));
  expect(() => verifyAudit(directory, { key: Buffer.from(keys.hmac), publicKey })).toThrow(message);
});

testPython(`the Python verifier says that it checked no signature${why}`, () => {
  using workspace = createWorkspace();
  const { log, a } = sample();
  const directory = log.save(join(workspace.dir, 'audit'), log.segments(4));
  // askPython throws unless it does, and unless its exit status is what it says.
  expect(askPython(directory, [a], join(directory, 'hmac.key'))).toMatchObject({ ok: true, anchoredTo: 5 });
});
