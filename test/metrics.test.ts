/** The metrics page: what it says, that it stays small, and that its alerts, dashboard and documentation name what is on it. */
import { describe, expect, test } from 'bun:test';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createNoTrail } from '../src/audit/trail.ts';
import { createMetrics, type MetricsOptions } from '../src/metrics.ts';
import type { AccessRecord } from '../src/proxy/exchange.ts';
import { makeCanary } from './support/canary.ts';
import { testCerts } from './support/certs.ts';
import { simpleConfig, startIsoproxy } from './support/isoproxy.ts';
import { connect } from './support/raw-client.ts';

const ROOT = resolve(import.meta.dir, '..');
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8');

const RECORD: AccessRecord = {
  time: '2026-01-01T00:00:00.000Z',
  request_id: 'r-1',
  listener: 'agent-1',
  provider: 'api',
  method: 'POST',
  path: '/api/v1/messages',
  status: 200,
  decision: 'allow',
  reason: '',
  rule: 'messages',
  bytes_in: 10,
  bytes_out: 2000,
  ttfb_ms: 700,
  duration_ms: 42_000,
  error: '',
};

const OPTIONS: MetricsOptions = {
  inFlight: () => [],
  circuits: () => [],
  halts: () => [],
  audit: createNoTrail().status,
  lostLogLines: () => 0,
  generation: () => 1,
  reloads: () => ({ succeeded: 0, failed: 0 }),
  openDescriptors: () => 12,
  descriptorLimit: () => 1024,
  version: '0.1.0',
  runtime: 'bun 1.4.5',
  startedAt: 1_700_000_000_500,
};

interface Family {
  readonly type: string;
  readonly help: string;
  /** Value by `name{label="value",…}`, labels sorted. */
  readonly samples: Map<string, number>;
  readonly labels: Set<string>;
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const LABEL = '([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\\\\n]|\\\\[\\\\"n])*)"';

/** Reads the text format (version 0.0.4) strictly; throws at the first line that is none of it. */
function parsePage(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  let help = '';
  let current: { name: string; family: Family } | undefined;
  if (!text.endsWith('\n')) throw new Error('the last line must end');
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [, kind, name = '', rest = ''] = new RegExp(`^# (HELP|TYPE) (${NAME}) ([^\\n]+)$`).exec(line) ?? [];
    if (kind === 'HELP') help = rest;
    else if (kind === 'TYPE') {
      if (!/^(counter|gauge|histogram)$/.test(rest)) throw new Error(`bad type: ${line}`);
      if (families.has(name)) throw new Error(`twice: ${name}`);
      current = { name, family: { type: rest, help, samples: new Map(), labels: new Set() } };
      families.set(name, current.family);
    } else {
      const sample = new RegExp(`^(${NAME})(?:\\{(${LABEL}(?:,${LABEL})*)\\})? (\\S+)$`).exec(line);
      if (sample === null || current === undefined) throw new Error(`no sample: ${line}`);
      const [, of = '', inner = ''] = sample;
      const value = Number((sample.at(-1) as string).replace('+Inf', 'Infinity'));
      if (Number.isNaN(value)) throw new Error(`no number: ${line}`);
      const suffixes = current.family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
      if (!suffixes.some((suffix) => of === current?.name + suffix)) throw new Error(`stray: ${line}`);
      const labels = [...inner.matchAll(new RegExp(LABEL, 'g'))];
      for (const [, label = ''] of labels) if (label !== 'le') current.family.labels.add(label);
      const key = labels.map(([pair]) => pair).sort();
      const id = `${of}{${key.join(',')}}`;
      if (current.family.samples.has(id)) throw new Error(`the same series twice: ${line}`);
      current.family.samples.set(id, value);
    }
  }
  return families;
}

async function page(
  records: readonly Partial<AccessRecord>[],
  options: Partial<MetricsOptions> = {},
): Promise<Map<string, Family>> {
  const metrics = createMetrics({ ...OPTIONS, ...options });
  for (const record of records) metrics.observe({ ...RECORD, ...record });
  return parsePage(await metrics.render());
}

/** A page on which every metric has a series with all its labels. */
const fullPage = () =>
  page([{}, { decision: 'deny', status: 403, reason: 'endpoint_not_allowed', ttfb_ms: null }], {
    inFlight: () => [{ listener: 'agent-1', provider: 'api', count: 3 }],
    circuits: () => [
      { key: 'api', state: 'open' },
      { key: 'agent-1 api', state: 'half_open' },
    ],
    halts: () => [{ kind: 'provider', name: 'api' }],
  });

const samples = (families: Map<string, Family>, name: string) =>
  Object.fromEntries(families.get(name)?.samples ?? []);

test('a forwarded request is counted, with its bytes and times', async () => {
  const families = await page([{}, { status: 418 }]);
  const pair = '{listener="agent-1",provider="api"}';
  expect(samples(families, 'isoproxy_requests_total')).toEqual({
    'isoproxy_requests_total{decision="allow",listener="agent-1",provider="api",status="200"}': 1,
    'isoproxy_requests_total{decision="allow",listener="agent-1",provider="api",status="4xx"}': 1,
  });
  expect(samples(families, 'isoproxy_request_body_bytes_total')).toEqual({
    [`isoproxy_request_body_bytes_total${pair}`]: 20,
  });
  expect(samples(families, 'isoproxy_response_body_bytes_total')).toEqual({
    [`isoproxy_response_body_bytes_total${pair}`]: 4000,
  });
  const times = samples(families, 'isoproxy_time_to_first_byte_seconds');
  expect(times[`isoproxy_time_to_first_byte_seconds_sum${pair}`]).toBeCloseTo(1.4);
  const bucket = (le: string) =>
    times[`isoproxy_time_to_first_byte_seconds_bucket{le="${le}",listener="agent-1",provider="api"}`];
  expect([bucket('0.5'), bucket('1'), bucket('+Inf')]).toEqual([0, 2, 2]);
  expect(samples(families, 'isoproxy_request_duration_seconds')).toHaveProperty(
    [`isoproxy_request_duration_seconds_count${pair}`],
    2,
  );
  expect(families.get('isoproxy_refusals_total')?.samples.size).toBe(0);
});

test('a refusal is counted by its reason, and is in no histogram', async () => {
  const families = await page([
    { decision: 'deny', provider: '', status: 404, reason: 'unknown_provider', ttfb_ms: null },
    { decision: 'own', provider: '', status: 200, ttfb_ms: null },
    { status: 504, reason: 'upstream_timeout', ttfb_ms: null },
    { status: 499, reason: 'client_closed', ttfb_ms: null },
  ]);
  expect(samples(families, 'isoproxy_refusals_total')).toEqual({
    'isoproxy_refusals_total{listener="agent-1",reason="unknown_provider"}': 1,
    'isoproxy_refusals_total{listener="agent-1",reason="upstream_timeout"}': 1,
  });
  expect(families.get('isoproxy_time_to_first_byte_seconds')?.samples.size).toBe(0);
  expect(samples(families, 'isoproxy_request_duration_seconds')).toHaveProperty(
    ['isoproxy_request_duration_seconds_count{listener="agent-1",provider="api"}'],
    2,
  );
});

test('what is true at the moment is asked for each page, and what is over leaves it', async () => {
  let state = {
    inFlight: [{ listener: 'agent-1', provider: 'api', count: 3 }],
    halts: [{ kind: 'all' }, { kind: 'listener', name: 'agent-1' }] as { kind: 'all' | 'listener' }[],
    circuits: [{ key: 'agent-1 api', state: 'open' as const }],
    lost: 2,
    open: 7 as number | undefined,
  };
  const metrics = createMetrics({
    ...OPTIONS,
    inFlight: () => state.inFlight,
    halts: () => state.halts,
    circuits: () => state.circuits,
    lostLogLines: () => state.lost,
    openDescriptors: () => state.open,
  });
  const names = [
    'isoproxy_in_flight',
    'isoproxy_halted',
    'isoproxy_circuit_open',
    'isoproxy_log_lines_lost_total',
    'process_open_fds',
  ];
  const now = async () => {
    const families = parsePage(await metrics.render());
    return Object.assign({}, ...names.map((name) => samples(families, name)));
  };
  const before = {
    'isoproxy_in_flight{listener="agent-1",provider="api"}': 3,
    'isoproxy_halted{name="",scope="all"}': 1,
    'isoproxy_halted{name="agent-1",scope="listener"}': 1,
    'isoproxy_circuit_open{listener="agent-1",provider="api",state="open"}': 1,
    'isoproxy_log_lines_lost_total{}': 2,
    'process_open_fds{}': 7,
  };
  expect(await now()).toEqual(before);
  expect(await now()).toEqual(before);
  state = { inFlight: [], halts: [], circuits: [], lost: 5, open: undefined };
  expect(await now()).toEqual({
    'isoproxy_halted{name="",scope="all"}': 0,
    'isoproxy_log_lines_lost_total{}': 5,
  });
});

test('the process tells about itself in base units', async () => {
  const families = await page([]);
  const value = (name: string) => families.get(name)?.samples.get(`${name}{}`) ?? Number.NaN;
  expect(value('process_start_time_seconds')).toBe(1_700_000_000.5);
  expect(value('process_resident_memory_bytes')).toBeGreaterThan(2 ** 20);
  expect(value('process_cpu_seconds_total')).toBeGreaterThan(0);
  expect(value('process_cpu_seconds_total')).toBeLessThan(3600);
  expect(value('process_max_fds')).toBe(1024);
  expect(samples(families, 'isoproxy_build_info')).toEqual({
    'isoproxy_build_info{runtime="bun 1.4.5",version="0.1.0"}': 1,
  });
});

test('two proxies in one process count for themselves', async () => {
  await page([{}]);
  expect((await page([])).get('isoproxy_requests_total')?.samples.size).toBe(0);
  expect(createMetrics(OPTIONS).contentType).toBe('text/plain; version=0.0.4; charset=utf-8');
});

describe('nothing that the agent sends becomes a label', () => {
  test('an upstream that answers with any status asked for adds few series', async () => {
    const families = await page(Array.from({ length: 500 }, (_, i) => ({ status: 100 + i })));
    const { samples } = families.get('isoproxy_requests_total') as Family;
    expect(samples.size).toBeLessThan(85);
    expect([...samples.values()].reduce((sum, count) => sum + count)).toBe(500);
  });

  test('a flood of methods, paths, hosts and providers at the real proxy adds none after the first of each kind', async () => {
    const certs = await testCerts();
    await using proxy = await startIsoproxy((dir) =>
      simpleConfig(dir, { upstreamPort: 1, ca: certs.ca, canary: makeCanary('sk-test-') }),
    );
    const metrics = createMetrics(OPTIONS);
    let fed = 0;
    /** Sends one of each kind, each time with other names, and counts the series afterwards. */
    async function flood(rounds: number): Promise<number> {
      for (let i = 0; i < rounds; i++) {
        const name = `x${fed}y${i}"\\n`;
        const kinds = [
          `GET /p${i}-${fed}/v1/messages HTTP/1.1\r\nHost: localhost\r\n\r\n`,
          `GET /api/v1/p${i}-${fed} HTTP/1.1\r\nHost: localhost\r\n\r\n`,
          `GET /api/../${encodeURIComponent(name)} HTTP/1.1\r\nHost: h${i}-${fed}.example\r\n\r\n`,
          `GET /api//v1/${encodeURIComponent(name)} HTTP/1.1\r\nHost: localhost\r\n\r\n`,
          `PROPFIND /api/v1/${i} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r${i}\r\n\r\n`,
          `POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://o${i}.example\r\nContent-Length: 0\r\n\r\n`,
        ];
        const before = proxy.records().length;
        for (const text of kinds) {
          using client = await connect(proxy.endpoint());
          await client.send(text);
          await client.response().catch(() => {});
        }
        await proxy.recordCount(before + kinds.length);
      }
      const records = proxy.records() as unknown as AccessRecord[];
      for (const record of records.slice(fed)) metrics.observe(record);
      fed = records.length;
      const text = await metrics.render();
      expect(text).not.toMatch(/p[0-9]+-[0-9]+|\.example|PROPFIND|\/v1|x[0-9]+y/);
      return [...parsePage(text).values()].reduce((sum, { samples }) => sum + samples.size, 0);
    }
    const first = await flood(1);
    expect(fed).toBe(6);
    expect(await flood(30)).toBe(first);
    expect(fed).toBe(186);
  });
});

describe('what names the metrics names those that there are', () => {
  /** Names of metrics in a PromQL text; those of series as well (`_bucket`, …). */
  const namesIn = (text: string) => [
    ...new Set([...text.matchAll(/\b(?:isoproxy|process)_[a-z_]+/g)].map(([name]) => name)),
  ];
  async function seriesNames(): Promise<Set<string>> {
    const families = await fullPage();
    return new Set(
      [...families.values()].flatMap(({ samples }) =>
        [...samples.keys()].map((id) => id.replace(/\{.*/, '')),
      ),
    );
  }
  /** Names of labels in the selectors and groupings of a PromQL text. */
  const labelsIn = (text: string) => [
    ...[...text.matchAll(/([a-z_]+)\s*(?:=~|!~|!=|=)\s*"/g)].map(([, label]) => label as string),
    ...[...text.matchAll(/\b(?:by|without) \(([^)]+)\)/g)].flatMap(([, list]) =>
      (list as string).split(/,\s*/),
    ),
  ];
  async function assertNamesExist(text: string): Promise<void> {
    const known = await seriesNames();
    expect(namesIn(text).length).toBeGreaterThan(5);
    expect(namesIn(text).filter((name) => !known.has(name))).toEqual([]);
    const labels = [...(await fullPage()).values()].flatMap((family) => [...family.labels]);
    // Those that Prometheus adds.
    const allowed = new Set([...labels, 'le', 'job', 'instance']);
    expect(labelsIn(text).filter((label) => !allowed.has(label))).toEqual([]);
  }

  test('the alerts', async () => {
    const rules = Bun.YAML.parse(read('packaging/alerts.yml')) as {
      groups: {
        rules: { alert: string; expr: string; annotations: { summary: string; description: string } }[];
      }[];
    };
    const all = rules.groups.flatMap((group) => group.rules);
    expect(all.every((rule) => rule.annotations.summary !== '' && rule.annotations.description !== '')).toBe(
      true,
    );
    await assertNamesExist(all.map(({ expr }) => expr).join('\n'));
    const written = [...read('docs/metrics.md').matchAll(/`(Isoproxy[A-Za-z]+)`/g)].map(
      ([, name]) => name as string,
    );
    expect(written.sort()).toEqual(all.map(({ alert }) => alert).sort());
  });

  test('the dashboard', async () => {
    const dashboard = JSON.parse(read('packaging/grafana-dashboard.json')) as {
      panels: { id: number; title: string; targets: { expr: string }[] }[];
    };
    const { panels } = dashboard;
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    expect(panels.every(({ targets }) => targets.length > 0)).toBe(true);
    await assertNamesExist(panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)).join('\n'));
  });

  test('the table in docs/metrics.md', async () => {
    const written = read('docs/metrics.md')
      .split('\n')
      .filter((line) => /^\| `(?:isoproxy|process)_/.test(line))
      .map((line) =>
        line
          .split('|')
          .slice(1, -1)
          .map((cell) => cell.trim()),
      );
    const real = [...(await fullPage())].map(([name, { type, labels, help }]) => [
      `\`${name}\``,
      type,
      unitOf(name),
      [...labels].map((label) => `\`${label}\``).join(' '),
      help,
    ]);
    expect(written).toEqual(real);
  });

  const unitOf = (name: string) => /_(bytes|seconds)(?:_total)?$/.exec(name)?.[1] ?? '';
});

const promtool = process.env['PROMTOOL'] ?? 'promtool';
const hasPromtool = spawnSync(promtool, ['--version']).status === 0;

describe.skipIf(!hasPromtool)('promtool', () => {
  const run = (args: string[], input = '') => {
    const { status, stdout, stderr } = spawnSync(promtool, args, { input, encoding: 'utf8', cwd: ROOT });
    return { status, text: stdout + stderr };
  };

  test('finds nothing wrong with the page', async () => {
    const metrics = createMetrics(OPTIONS);
    metrics.observe(RECORD);
    expect(run(['check', 'metrics'], await metrics.render())).toEqual({ status: 0, text: '' });
  });

  test('accepts the alerts, and they are raised when they must be', () => {
    expect(run(['check', 'rules', 'packaging/alerts.yml'])).toMatchObject({ status: 0 });
    expect(run(['test', 'rules', 'test/fixtures/alerts.test.yml'])).toMatchObject({ status: 0 });
  });
});
