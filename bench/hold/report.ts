/** The tables, the goals and the curves of a hold. */
import { timeChart } from '../chart.ts';
import { markdown } from '../report.ts';
import { short } from '../results.ts';
import type { Answered } from './requests.ts';
import type { Held } from './streams.ts';
import { summarise } from './summary.ts';
import type { Ended } from './upstream.ts';

const MAX_RSS_MIB = 600;
const MAX_STREAM_KIB = 60;
const MAX_P99_MS = 50;
const SLOT_S = 5;

export interface Sample {
  /** Since the first stream was opened, s. */
  readonly at_s: number;
  readonly rss_mib: number;
  readonly descriptors: number;
}

export interface Hold {
  readonly title: string;
  readonly streams: number;
  /** Seconds since the first was opened: when all had begun, and when the upstream was told to end them. */
  readonly heldFrom: number;
  readonly heldTo: number;
  /** Wall clock of `heldFrom`, ms. */
  readonly heldAt: number;
  readonly held: Held;
  readonly sent: Ended;
  /** The other requests: before there were streams, and beside them. */
  readonly alone: Answered;
  readonly beside: Answered;
  readonly samples: readonly Sample[];
  readonly before: Sample;
  readonly after: Sample;
  /** The highest that the kernel has seen, MiB. */
  readonly peak_mib: number;
  /** Lines of the proxy's log that no hold should have. */
  readonly bad: readonly string[];
}

interface Goal {
  readonly goal: string;
  readonly found: string;
  readonly isMet: boolean;
}

const number = (value: number) => value.toLocaleString('en');

function judge(hold: Hold): Goal[] {
  const { streams, held, sent, alone, beside, before, after, peak_mib, bad } = hold;
  const perStream = ((peak_mib - before.rss_mib) * 1024) / streams;
  const { p99 } = summarise(beside.times.map(([, ms]) => ms));
  const open = held.begun - held.early - sent.left;
  const [wrong, cut] = [alone.wrong + beside.wrong, alone.cut + beside.cut];
  return [
    {
      goal: 'every stream held to the end',
      found: `${number(open)} of ${number(streams)}`,
      isMet: open === streams,
    },
    {
      goal: 'no event lost, doubled or out of order',
      found: `${number(sent.sent)} sent, ${number(held.events)} came, ${held.wrong} out of place`,
      isMet: held.wrong === 0 && held.events === sent.sent && sent.sent > 0,
    },
    {
      goal: 'every stream got as many as its time allows, within one',
      found: `${number(held.miscounted)} did not`,
      isMet: held.miscounted === 0,
    },
    {
      goal: 'no other request failed',
      found: `${number(alone.times.length + beside.times.length)} asked, ${wrong} wrong answers, ${cut} without one`,
      isMet: wrong + cut === 0 && beside.times.length > 0,
    },
    { goal: `p99 of other requests ≤ ${MAX_P99_MS} ms`, found: `${short(p99)} ms`, isMet: p99 <= MAX_P99_MS },
    {
      goal: `highest memory ≤ ${MAX_RSS_MIB} MiB`,
      found: `${short(peak_mib)} MiB`,
      isMet: peak_mib <= MAX_RSS_MIB,
    },
    {
      goal: `memory of a stream, by the highest, ≤ ${MAX_STREAM_KIB} KiB`,
      found: `${short(perStream)} KiB`,
      isMet: perStream <= MAX_STREAM_KIB,
    },
    {
      goal: 'descriptors as before, after a minute of quiet',
      found: `${before.descriptors} before, ${after.descriptors} after`,
      isMet: after.descriptors === before.descriptors,
    },
    {
      goal: 'every line of the log is of a good answer',
      found: `${bad.length} are not`,
      isMet: bad.length === 0,
    },
  ];
}

function perMinute(hold: Hold): string[][] {
  const { heldAt, heldFrom, beside, held, samples } = hold;
  return held.minutes.map((events, n) => {
    const isLast = n === held.minutes.length - 1;
    const isWithin = (seconds: number) => seconds >= n * 60 && (isLast || seconds < (n + 1) * 60);
    const times = beside.times
      .filter(([at]) => isWithin(Math.max(0, (at - heldAt) / 1000)))
      .map(([, ms]) => ms);
    const part = samples.filter(({ at_s }) => at_s <= hold.heldTo && isWithin(at_s - heldFrom));
    const most = (name: 'rss_mib' | 'descriptors') => Math.max(...part.map((sample) => sample[name]));
    const requests = summarise(times);
    return [
      String(n + 1),
      number(requests.count),
      ...[requests.p50, requests.p99, requests.worst].map(short),
      number(events.count),
      ...[events.p50, events.p99, events.worst].map(short),
      short(most('rss_mib')),
      number(most('descriptors')),
    ];
  });
}

export function report(hold: Hold): { text: string; svg: string; isMet: boolean } {
  const { held, alone, beside, samples, before, after, peak_mib, heldFrom, heldTo } = hold;
  const goals = judge(hold);
  const ofAll = (answered: Answered) => summarise(answered.times.map(([, ms]) => ms));
  const whole = samples
    .filter(({ at_s }) => at_s >= heldFrom && at_s <= heldTo)
    .map(({ rss_mib }) => rss_mib);
  const line = (name: string, { count, p50, p99, worst }: Held['all']) => [
    name,
    number(count),
    ...[p50, p99, worst].map(short),
  ];
  const tables = [
    {
      title: 'Goals',
      columns: ['goal', 'found', ''],
      rows: goals.map(({ goal, found, isMet }) => [goal, found, isMet ? 'met' : '**not met**']),
    },
    {
      title: 'In all',
      columns: ['ms', 'how many', 'p50', 'p99', 'worst'],
      rows: [
        line('other requests, before there are streams', ofAll(alone)),
        line('other requests, beside the streams', ofAll(beside)),
        line('delay of an event', held.all),
      ],
    },
    {
      title: 'Memory',
      columns: ['MiB', ''],
      rows: [
        ['before the streams', short(before.rss_mib)],
        [
          'first, median and last sample while held',
          [whole[0], middle(whole), whole.at(-1)].map((mib) => short(mib ?? Number.NaN)).join(', '),
        ],
        ['highest, opening and end included', short(peak_mib)],
        ['after a minute of quiet', short(after.rss_mib)],
      ],
    },
    {
      title: 'Minute by minute',
      note: 'Times are ms, memory and descriptors the highest sample.',
      columns: [
        'minute',
        'requests',
        'p50',
        'p99',
        'worst',
        'events',
        'p50',
        'p99',
        'worst',
        'RSS MiB',
        'descriptors',
      ],
      rows: perMinute(hold),
    },
  ];
  const opening = `The streams were opened in ${short(heldFrom)} s and held for ${short(heldTo - heldFrom)} s.`;
  const reopened = `The other requests opened ${number(beside.reopened)} connections anew, as the proxy had closed theirs.`;
  const text = [`${hold.title} ${opening} ${reopened}`, ...tables.map(markdown)].join('\n\n');
  return { text, svg: chart(hold), isMet: goals.every(({ isMet }) => isMet) };
}

function middle(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

function chart({ samples, beside, heldAt, heldFrom, streams }: Hold): string {
  const slots = new Map<number, number[]>();
  for (const [at, ms] of beside.times) {
    const slot = Math.max(0, Math.floor((at - heldAt) / 1000 / SLOT_S));
    slots.set(slot, [...(slots.get(slot) ?? []), ms]);
  }
  const inTime = [...slots].sort(([a], [b]) => a - b);
  const pick = (name: 'p99' | 'worst') =>
    inTime.map(([slot, times]) => [heldFrom + (slot + 1) * SLOT_S, summarise(times)[name]] as const);
  return timeChart(
    `${number(streams)} event streams, from the first opened to a minute after the last`,
    's',
    [
      { title: 'memory, MiB', points: samples.map(({ at_s, rss_mib }) => [at_s, rss_mib] as const) },
      { title: 'descriptors', points: samples.map(({ at_s, descriptors }) => [at_s, descriptors] as const) },
      { title: `other requests, p99 of each ${SLOT_S} s, ms`, points: pick('p99') },
      { title: `other requests, the slowest of each ${SLOT_S} s, ms`, points: pick('worst') },
    ],
  );
}
