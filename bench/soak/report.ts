/** The table, the goals and the curves of a soak. */
import { timeChart } from '../chart.ts';
import { short } from '../results.ts';
import type { AuditCount, Proof } from './audit.ts';
import { ENOUGH_FOR_SLOPE, fitFloor, fitRss, type Slope } from './figures.ts';
import type { KindCount } from './load.ts';
import { plot } from './plot.ts';
import type { LogReader, Sample } from './watch.ts';

/** MiB for 100,000 requests. */
const MAX_SLOPE = 1;
const MAX_VERIFY_S = 30;

export interface Soak {
  readonly title: string;
  readonly wanted: number;
  /** Without those of the first lap, which the table of requests has too. */
  readonly sent: number;
  readonly seconds: number;
  readonly counts: readonly KindCount[];
  readonly repeated: number;
  readonly operations: Readonly<Record<string, number>>;
  readonly operatorFaults: readonly string[];
  /** Samples while requests were sent, and all. */
  readonly busy: readonly Sample[];
  readonly samples: readonly Sample[];
  readonly baseline: Sample;
  readonly final: Sample;
  readonly stopCode: number | null;
  readonly proof: Proof;
  readonly audit: AuditCount;
  readonly log: LogReader;
}

interface Goal {
  readonly goal: string;
  readonly found: string;
  /** Undefined where the run cannot say. */
  readonly isMet: boolean | undefined;
}

const number = (value: number) => value.toLocaleString('en');
const sayMet = (isMet: boolean | undefined) =>
  isMet === undefined ? 'too short to say' : isMet ? 'met' : 'NOT MET';
const saySlope = ({ perHundredThousand, plusMinus }: Slope) =>
  `${perHundredThousand.toFixed(2)} ± ${plusMinus.toFixed(2)}`;

function judge(soak: Soak): Goal[] {
  const { baseline, final, proof, audit, log, counts, operatorFaults } = soak;
  const slope = fitRss(soak.busy);
  const failed = counts.reduce((sum, count) => sum + count.failed, 0);
  const same = (name: 'descriptors' | 'sockets'): Goal => ({
    goal: `${name} as before`,
    found: `${baseline[name]} before, ${final[name]} after`,
    isMet: Number.isNaN(final[name]) ? undefined : final[name] === baseline[name],
  });
  const missing = audit.unfinished.length;
  return [
    { goal: 'requests sent as asked', found: number(soak.sent), isMet: soak.sent >= soak.wanted },
    { goal: 'requests that failed and should not', found: number(failed), isMet: failed === 0 },
    {
      goal: 'operations that failed',
      found: String(operatorFaults.length),
      isMet: operatorFaults.length === 0,
    },
    {
      goal: `memory grows by < ${MAX_SLOPE} MiB for 100,000 requests`,
      found: `${saySlope(slope)} (over ${number(slope.over)})`,
      isMet: slope.over < ENOUGH_FOR_SLOPE ? undefined : slope.perHundredThousand < MAX_SLOPE,
    },
    same('descriptors'),
    same('sockets'),
    { goal: 'nothing in flight at the end', found: String(final.in_flight), isMet: final.in_flight === 0 },
    {
      goal: 'every allowed request has intent and outcome',
      found: `${number(audit.intents)} intents, ${missing} unfinished; ${number(audit.allowed)} allowed, ${number(log.allowed.size)} access lines`,
      isMet: missing === 0 && audit.allowed === log.allowed.size,
    },
    {
      goal: 'every refusal is recorded',
      found: `${number(audit.denials)} in the log, ${number(log.denied())} access lines`,
      isMet: audit.denials === log.denied(),
    },
    {
      goal: `audit verify --require-anchor: intact, ≤ ${MAX_VERIFY_S} s`,
      found: `${proof.ok ? 'intact' : 'NOT intact'} (exit ${proof.code}), ${number(proof.records)} records in ${proof.seconds.toFixed(1)} s`,
      isMet: proof.code === 0 && proof.ok && proof.seconds <= MAX_VERIFY_S && audit.holes === 0,
    },
    { goal: 'no bug in the log', found: `${log.bad.length} lines`, isMet: log.bad.length === 0 },
    { goal: 'ends with 0', found: String(soak.stopCode), isMet: soak.stopCode === 0 },
  ];
}

export function report(soak: Soak): { text: string; svg: string; isMet: boolean } {
  const goals = judge(soak);
  const { busy, samples, final, baseline } = soak;
  const rss = busy.map(({ rss_mib }) => rss_mib);
  const most = (name: 'rss_mib' | 'descriptors' | 'threads' | 'in_flight') =>
    samples.reduce((high, sample) => Math.max(high, sample[name]), 0);
  const faults = [...soak.operatorFaults, ...soak.counts.flatMap((count) => count.faults), ...soak.log.bad];
  const removed = soak.log.events.get('audit_segment_removed') ?? 0;
  const facts: [string, string][] = [
    ['time, s; requests a second', `${short(soak.seconds)}; ${short(soak.sent / soak.seconds)}`],
    [
      'memory before, highest, last, after a minute of quiet, MiB',
      [baseline.rss_mib, most('rss_mib'), rss.at(-1) ?? Number.NaN, final.rss_mib].map(short).join(', '),
    ],
    ['memory slope of the lowest of each hour, MiB for 100,000', saySlope(fitFloor(busy))],
    ['descriptors, highest', number(most('descriptors'))],
    ['threads before, highest, after', `${baseline.threads}, ${most('threads')}, ${final.threads}`],
    ['in flight, highest', number(most('in_flight'))],
    [
      'audit: records, segments, removed by retention',
      `${number(soak.audit.records)}, ${soak.audit.segments}, ${removed}`,
    ],
    ['audit: checkpoints', number(soak.log.events.get('audit_checkpoint') ?? 0)],
    ['sent again on another connection', number(soak.repeated)],
  ];
  const rows = (list: readonly (readonly string[])[], columns: readonly string[]) => table(columns, list);
  const text = [
    soak.title,
    rows(
      goals.map(({ goal, found, isMet }) => [goal, found, sayMet(isMet)]),
      ['goal', 'found', ''],
    ),
    rows(facts, ['figure', '']),
    rows(
      soak.counts.map(({ name, sent, failed }) => [name, number(sent), number(failed)]),
      ['requests', 'sent', 'failed'],
    ),
    rows(
      Object.entries(soak.operations).map(([name, times]) => [name, number(times)]),
      ['operations', 'times'],
    ),
    plot(
      'memory, MiB',
      samples.map(({ rss_mib }) => rss_mib),
    ),
    plot(
      'descriptors',
      samples.map(({ descriptors }) => descriptors),
    ),
    ...faults,
  ].join('\n\n');
  return { text, svg: chart(soak), isMet: goals.every(({ isMet }) => isMet !== false) };
}

function chart({ samples, title }: Soak): string {
  const series = (name: string, read: (sample: Sample) => number) => ({
    title: name,
    points: samples.map((sample) => [sample.at_s, read(sample)] as const),
  });
  return timeChart(`A day in minutes: ${title}`, 's', [
    series('memory, MiB', ({ rss_mib }) => rss_mib),
    series('descriptors', ({ descriptors }) => descriptors),
    series('sockets', ({ sockets }) => sockets),
    series('in flight', ({ in_flight }) => in_flight),
    series('threads', ({ threads }) => threads),
  ]);
}

/** Markdown that also reads well as it is. */
function table(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map((column, n) =>
    rows.reduce((wide, row) => Math.max(wide, (row[n] ?? '').length), Math.max(3, column.length)),
  );
  const line = (cells: readonly string[]) =>
    `| ${widths.map((width, n) => (cells[n] ?? '').padEnd(width)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [line(columns), rule, ...rows.map(line)].join('\n');
}
