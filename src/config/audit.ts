/** Compiles `[audit]`: defaults, and what the values must be together. */
import type { AuditConfig } from './effective.ts';
import { at, type Place, type Report } from './place.ts';
import type { AuditTable } from './schema-audit.ts';
import { formatSize } from './units.ts';

const MIB = 1024 ** 2;
const DAY = 86_400_000;

export function compileAudit(table: AuditTable, place: Place, report: Report): AuditConfig {
  const config: AuditConfig = {
    durability: table.durability ?? 'commit',
    segmentSize: table.segment_size ?? 64 * MIB,
    maxBytes: table.max_bytes ?? 4096 * MIB,
    retainMs: table.retain ?? 400 * DAY,
    checkpointEvery: table.checkpoint_every ?? 1000,
    checkpointIntervalMs: table.checkpoint_interval ?? 60_000,
    checkpointFile: table.checkpoint_file,
    key: compileKey(table.key, at(place, 'key'), report),
  };
  if (config.maxBytes < 2 * config.segmentSize)
    report.problem(
      at(place, 'max_bytes'),
      `must be at least two segments, ${formatSize(2 * config.segmentSize)}`,
      'only whole segments are ever removed; lower segment_size, or raise max_bytes',
    );
  if (config.durability === 'off')
    report.warning(
      at(place, 'durability'),
      'there is no audit log: what was asked of which upstream is not recorded for good',
      'durability = "async" costs next to nothing',
    );
  return config;
}

function compileKey(table: AuditTable['key'], place: Place, report: Report): AuditConfig['key'] {
  if (table === undefined) return undefined;
  if ((table.file === undefined) === (table.systemd === undefined))
    report.problem(place, 'needs exactly one of file and systemd');
  if (table.file !== undefined) return { kind: 'file', path: table.file };
  return table.systemd === undefined ? undefined : { kind: 'systemd', name: table.systemd };
}
