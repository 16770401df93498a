/** `isoproxy audit clear`: after a failure of the audit log, forwards again; the log says who let it. */
import type { AuditStatus } from '../audit/trail.ts';
import { readOptions } from './args.ts';
import { CliError, EXIT, type Io, printError } from './command.ts';
import { askControl, CONTROL_OPTIONS, findControl } from './control-client.ts';

interface Answer {
  /** Code of the failure that was there; null if there was none. */
  readonly cleared: string | null;
  /** Code of the one that is there still. */
  readonly failure: string | null;
  readonly audit: AuditStatus;
  readonly error?: string;
}

export async function clear(args: readonly string[], io: Io): Promise<number> {
  const values = readOptions('audit', args, { ...CONTROL_OPTIONS, reason: { type: 'string' } });
  const { reason = '' } = values;
  if (reason.trim() === '')
    throw new CliError(EXIT.usage, 'audit clear needs a reason', '--reason "disk was full, made room"');
  const answer = await askControl<Answer>(findControl(values, io), 'POST', '/audit/clear', { reason });
  if (values.json) io.stdout(`${JSON.stringify(answer)}\n`);
  if (answer.error !== undefined) throw new CliError(EXIT.usage, answer.error);
  if (answer.failure !== null) {
    if (!values.json)
      printError(
        io,
        `the audit log still cannot be written (${answer.failure})`,
        'mend the cause, then clear again',
      );
    return EXIT.audit;
  }
  if (!values.json) io.stdout(`${describe(answer)}\n`);
  return EXIT.ok;
}

function describe({ cleared, audit }: Answer): string {
  if (audit.durability === 'off') return 'nothing to clear: the audit log is off';
  if (audit.state === 'full')
    return 'nothing to clear: the audit log is full, and nothing is forwarded; raise audit.max_bytes, or lower audit.retain, then isoproxy reload';
  if (cleared === null) return 'nothing to clear: the audit log is written';
  return `cleared (${cleared}): the audit log is written again, requests are forwarded`;
}
