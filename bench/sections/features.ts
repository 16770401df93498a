/** What each feature costs: the same load on configurations that differ in one thing. */
import { type Setup, startIsoproxy } from '../isoproxy.ts';
import { type Lab, type Requests, requests, say } from '../lab.ts';
import type { Stand } from '../peers.ts';
import { type Section, short, spread, withErrors } from '../results.ts';
import { type Figure, figure } from '../stats.ts';

const RATE = 'rate = { requests = 1000000, per = "1s", burst = 1000000 }';
const AUDIT = (durability: string) => `[audit]\ndurability = "${durability}"`;

/** One line each; what this build refuses is skipped and named. */
const VARIANTS: readonly (readonly [string, Setup])[] = [
  ['defaults', {}],
  ['TLS upstream', { tls: true }],
  ['no reflection guard (short secret)', { shortSecret: true }],
  ['rate limit', { limits: [RATE] }],
  ['circuit breaker', { limits: ['circuit = { failures = 1000, open = "1s", max_open = "2s" }'] }],
  ['log as text', { tables: ['[log]\nformat = "text"'] }],
  ['log level warn: no access log', { tables: ['[log]\nlevel = "warn"'] }],
  ['log level debug', { tables: ['[log]\nlevel = "debug"'] }],
  ['audit async', { audit: AUDIT('async') }],
  ['audit commit', { audit: AUDIT('commit') }],
  ['all guards, audit async', { limits: [RATE], audit: AUDIT('async') }],
];
const CONNECTIONS = 64;

export async function measureFeatures(lab: Lab): Promise<Section> {
  const figures: Record<string, Figure> = {};
  const stands: Stand[] = [];
  const refused: string[] = [];
  const found = new Map<string, Requests[]>();
  try {
    for (const [name, setup] of VARIANTS) {
      const stand = await startIsoproxy(name, lab.work, lab.upstream, setup).catch(() => undefined);
      if (stand === undefined) refused.push(name);
      else stands.push(stand);
    }
    for (let round = 0; round < lab.rounds; round++) {
      say(`features: round ${round + 1} of ${lab.rounds}`);
      for (const stand of stands) {
        const result = await requests(stand, CONNECTIONS, lab.seconds);
        found.set(stand.name, [...(found.get(stand.name) ?? []), result]);
      }
    }
  } finally {
    for (const { running } of stands) await running?.stop();
  }
  const perSecond = (name: string) => figure((found.get(name) ?? []).map((result) => result.per_second));
  const base = perSecond('defaults').median;
  const rows = [...found].map(([name, results]) => {
    figures[`feature/${name}`] = perSecond(name);
    const cpu = figure(results.map((result) => result.cpu_us ?? Number.NaN)).median;
    return [
      withErrors(name, results),
      spread(perSecond(name)),
      short(perSecond(name).median / base),
      short(cpu),
    ];
  });
  const skipped = refused.length === 0 ? '' : ` Refused by this build, and skipped: ${refused.join(', ')}.`;
  const note = `1 KiB POST over ${CONNECTIONS} connections on a unix socket, median of ${lab.rounds} alternating rounds. Where a feature is named, the rest is as by default.${skipped}`;
  return {
    tables: [
      {
        title: 'What each feature costs',
        note,
        columns: ['with', 'requests/s', 'of defaults', 'CPU us per request'],
        rows,
      },
    ],
    figures,
  };
}
