/** The goals, judged by the figures of the run. */
import { TCP, UNIX } from './lab.ts';
import { short, type Table } from './results.ts';
import type { Figure } from './stats.ts';

type Figures = Readonly<Record<string, Figure>>;

interface Goal {
  readonly goal: string;
  /** Undefined where the run has no figure. */
  readonly found: number | undefined;
  readonly isMet: (found: number) => boolean;
}

export function judge(figures: Figures): Table {
  const median = (name: string) => figures[name]?.median;
  const minus = (a: number | undefined, b: number | undefined) =>
    a === undefined || b === undefined ? undefined : a - b;
  const ratio = (listener: string, peer: string) => {
    const [ours, theirs] = [median(`per_second/64/${listener}`), median(`per_second/64/${peer}`)];
    return ours === undefined || theirs === undefined ? undefined : ours / theirs;
  };
  const atLeast = (limit: number) => (found: number) => found >= limit;
  const atMost = (limit: number) => (found: number) => found <= limit;
  const goals: Goal[] = [];
  for (const listener of [UNIX, TCP]) {
    for (const [peer, times] of [
      ['Go ReverseProxy', 2],
      ['Caddy', 2],
      ['Portkey', 20],
      ['nginx', 0.6],
    ] as const)
      goals.push({
        goal: `${listener}: requests/s at 64 connections ≥ ${times} × ${peer}`,
        found: ratio(listener, peer),
        isMet: atLeast(times),
      });
    const added = minus(median(`p50/1/${listener}`), median('p50/1/nginx'));
    goals.push({
      goal: `${listener}: added p50 at one connection ≤ nginx's + 100 us`,
      found: added,
      isMet: atMost(100),
    });
    goals.push({
      goal: `${listener}: first event ≤ 1 ms after the upstream's (p50)`,
      found: median(`first/1/${listener}`),
      isMet: atMost(1),
    });
    goals.push({
      goal: `${listener}: p99 of an event at 100 streams ≤ 0.5 ms`,
      found: median(`event_p99/100/${listener}`),
      isMet: atMost(0.5),
    });
  }
  const guarded = median('feature/all guards, audit async');
  const plain = median('feature/defaults');
  goals.push({
    goal: 'all guards and audit async within 20 % of the plain figure',
    found: guarded && plain && guarded / plain,
    isMet: atLeast(0.8),
  });
  const [off, commit] = [median('audit/per_second/off'), median('audit/per_second/commit')];
  goals.push({
    goal: 'audit commit: requests/s at 64 connections ≥ 0.5 × off',
    found: off && commit && commit / off,
    isMet: atLeast(0.5),
  });
  const syncs = median('fdatasync');
  const addedByCommit = minus(median('audit/p50/commit'), median('audit/p50/off'));
  goals.push({
    goal: 'audit commit: added p50 at one connection ≤ 2 fdatasync',
    found: syncs && addedByCommit && addedByCommit / syncs,
    isMet: atMost(2),
  });
  const held = Object.entries(figures).filter(
    ([name]) => name.startsWith('kib_per_stream/') && name.endsWith('isoproxy, TLS upstream'),
  );
  goals.push({
    goal: 'memory of a held stream over TLS ≤ 60 KiB',
    found: held[0]?.[1].median,
    isMet: atMost(60),
  });
  goals.push({
    goal: 'a match among 10,000 literal rules ≤ 2 us',
    found: median('match/10000/literal'),
    isMet: atMost(2),
  });
  goals.push({
    goal: 'a match among 10,000 wildcard rules ≤ 2 us',
    found: median('match/10000/wildcard'),
    isMet: atMost(2),
  });
  goals.push({
    goal: 'a match among 10,000 wildcard rules behind one common segment ≤ 2 us',
    found: median('match/10000/wildcard behind one common segment'),
    isMet: atMost(2),
  });
  goals.push({ goal: 'cold start ≤ 50 ms', found: median('cold_start'), isMet: atMost(50) });
  goals.push({ goal: 'idle RSS ≤ 50 MiB', found: median('idle_rss'), isMet: atMost(50) });
  const rows = goals.map(({ goal, found, isMet }) =>
    found === undefined
      ? [goal, '–', 'not measured']
      : [goal, short(found), isMet(found) ? 'met' : '**not met**'],
  );
  return { title: 'Goals', columns: ['goal', 'found', ''], rows };
}
