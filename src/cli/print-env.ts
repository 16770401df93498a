/** `isoproxy run --print-env`: shell exports, with the bridges left in the background, as ssh-agent does it. */
import { spawn } from 'node:child_process';
import process from 'node:process';
import { ownCommand } from '../runtime/environment.ts';
import { clientSettings } from '../sandbox/client-settings.ts';
import { type Found, PlaceError, reach } from '../sandbox/place.ts';
import { EXIT, type Io, warn } from './command.ts';

export interface PrintOptions {
  readonly found: readonly Found[];
  /** The command that is meant to be run, if one was named. */
  readonly command: string | undefined;
  readonly extra: ReadonlyMap<string, string>;
  readonly io: Io;
}

export async function printEnvironment({ found, command, extra, io }: PrintOptions): Promise<number> {
  const pids: number[] = [];
  const reachable = await reach(found, async (socket) => {
    const { pid, origin } = await startBridge(socket).catch((error) => {
      // Nobody would learn of those that run already.
      for (const started of pids) process.kill(started);
      throw error;
    });
    pids.push(pid);
    return origin;
  });
  const settings = clientSettings(reachable, command, io.env);
  for (const { variable, message } of settings.conflicts) if (!extra.has(variable)) warn(io, message);
  const variables = new Map([...settings.env, ...extra]);
  if (pids.length > 0) variables.set('ISOPROXY_BRIDGE_PID', pids.join(' '));
  for (const [name, value] of variables) io.stdout(`export ${name}=${quote(value)}\n`);
  const line = [command ?? '', ...settings.args].map(quote).join(' ');
  // Every line of it a comment: the shell evaluates all of this.
  if (settings.args.length > 0) io.stdout(`# ${line.replaceAll('\n', '\n# ')}\n`);
  return EXIT.ok;
}

/** For sh: everything between single quotes is literal. */
function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Starts this program as a bridge that outlives it; resolves when it listens. */
function startBridge(socket: string): Promise<{ pid: number; origin: string }> {
  const [program, ...self] = ownCommand();
  const args = [...self, 'bridge', '--socket', socket, '--listen', '127.0.0.1:0'];
  return new Promise((resolve, reject) => {
    const failed = () => reject(new PlaceError('the bridge does not start', 'isoproxy bridge says why'));
    const child = spawn(program, args, { detached: true, stdio: ['ignore', 'pipe', 'ignore'] });
    child.once('error', failed);
    child.once('exit', failed);
    child.stdout.once('data', (line: Uint8Array) => {
      const origin = new TextDecoder().decode(line).trim();
      child.stdout.destroy();
      child.unref();
      resolve({ pid: child.pid ?? 0, origin });
    });
  });
}
