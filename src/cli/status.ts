/** `isoproxy status`: what the running proxy does. */
import process from 'node:process';
import type { AuditStatus } from '../audit/trail.ts';
import { formatSize } from '../config/units.ts';
import type { ListenerStatus, Status } from '../control.ts';
import { readOptions } from './args.ts';
import { type Command, EXIT, type Io, paint } from './command.ts';
import {
  askControl,
  CONTROL_OPTIONS,
  CONTROL_USAGE,
  type ControlPlace,
  findControl,
} from './control-client.ts';

const WATCH_MS = 1_000;

export const status: Command = {
  usage: `usage: isoproxy status [--watch] [--control PATH] [--config FILE] [--json]

Shows uptime, configuration, what is halted, and for each listener and provider: requests in flight, forwarded and
refused, body bytes, circuit, tokens left.

  --watch         go on, once a second, until Ctrl-C; on a terminal in place
${CONTROL_USAGE}

Exit codes: 0 it runs, 69 no proxy answers.
`,
  async run(args, io) {
    const values = readOptions('status', args, { ...CONTROL_OPTIONS, watch: { type: 'boolean' } });
    const place = findControl(values, io);
    for (;;) {
      const now = await askControl<Status>(place, 'GET', '/status');
      // Home and clear: the table stays where it is.
      const clear = values.watch && process.stdout.isTTY ? '\x1b[H\x1b[J' : '';
      io.stdout(clear + (values.json ? `${JSON.stringify(now)}\n` : format(now, place, io)));
      if (!values.watch) return EXIT.ok;
      await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
    }
  },
};

function format(now: Status, place: ControlPlace, io: Io): string {
  const head = [
    `isoproxy ${now.version}, pid ${now.pid}, up ${formatUptime(now.uptime_s)} (${place.socket})`,
    `configuration ${now.config}, generation ${now.generation}`,
  ];
  const halts = now.halts.map(({ scope, reason, since }) =>
    paint(io, 'red', `halted: ${scope} since ${since}${reason && `: ${reason}`}`),
  );
  const audit = formatAudit(now.audit, io);
  const rows = now.listeners.flatMap(rowsOf);
  const titles = [
    'listener',
    'provider',
    'in flight',
    'forwarded',
    'refused',
    'bytes in',
    'bytes out',
    'circuit',
    'tokens',
  ];
  const widths = titles.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const lines = [titles, ...rows].map((row) =>
    row
      .map((text, i) => text.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  return `${[...head, audit, ...halts, '', ...lines].join('\n')}\n`;
}

function formatAudit(audit: AuditStatus, io: Io): string {
  if (audit.durability === 'off') return paint(io, 'yellow', 'audit off');
  if (audit.state === 'failed')
    return paint(
      io,
      'red',
      `audit failed since ${audit.since}: ${audit.failure}; nothing is forwarded until isoproxy audit clear`,
    );
  const room = `${size(audit.bytes)} of ${size(audit.max_bytes)}`;
  if (audit.state === 'full') return paint(io, 'red', `audit full: ${room}; nothing is forwarded`);
  return `audit ${audit.durability}, ${audit.records} records, signed to ${audit.checkpointed}, ${room}`;
}

function rowsOf(listener: ListenerStatus): string[][] {
  const rows = listener.providers.map((provider) => [
    listener.name,
    provider.name,
    String(provider.in_flight),
    String(provider.allowed),
    String(provider.denied),
    size(provider.bytes_in),
    size(provider.bytes_out),
    provider.circuit,
    [listener.rate_tokens, provider.provider_tokens, provider.pair_tokens]
      .filter((n) => n !== null)
      .join('/'),
  ]);
  if (listener.denied_elsewhere > 0)
    rows.push([listener.name, '(none)', '', '', String(listener.denied_elsewhere)]);
  return rows;
}

/** Bytes with three digits or so: exact numbers are in --json. */
function size(bytes: number): string {
  if (bytes < 10_240) return `${bytes}B`;
  for (const [unit, factor] of [
    ['TiB', 2 ** 40],
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
  ] as const)
    if (bytes >= factor) return `${(bytes / factor).toFixed(1)}${unit}`;
  return formatSize(Math.round(bytes / 1024) * 1024);
}

function formatUptime(seconds: number): string {
  const days = Math.floor(seconds / 86_400);
  const clock = new Date(seconds * 1000).toISOString().slice(11, 19);
  return days > 0 ? `${days}d ${clock}` : clock;
}
