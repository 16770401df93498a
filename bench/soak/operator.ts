/** What an operator does in the hours of a day: reloads, a new credential, a halt, a signal, a faulty file. */
import process from 'node:process';
import { until } from '../../test/support/deadline.ts';
import { connect } from '../../test/support/raw-client.ts';
import type { Scene } from './mix.ts';
import type { Stand } from './stand.ts';
import type { Watch } from './watch.ts';

const EXIT_CONFIG = 78;
const SEEN_MS = 10_000;

export interface Operator {
  /** One hour, `ms` long. */
  readonly hour: (ms: number) => Promise<void>;
  readonly done: () => Readonly<Record<string, number>>;
  readonly faults: () => readonly string[];
}

export function createOperator(stand: Stand, scene: Scene, watch: Watch): Operator {
  const done: Record<string, number> = {};
  const faults: string[] = [];
  let generation = 0;

  async function cli(name: string, code: number, ...args: string[]): Promise<void> {
    const result = await stand.cli(...args);
    done[name] = (done[name] ?? 0) + 1;
    if (result.code !== code) throw new Error(`ended with ${result.code}: ${result.stderr.slice(0, 300)}`);
  }

  async function step(name: string, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      const fault = `${new Date().toISOString()} ${name}: ${(error as Error).message}`;
      faults.push(fault);
      process.stderr.write(`${fault}\n`);
    }
  }

  async function addListener(): Promise<void> {
    stand.writeExtra('good');
    await cli('listener added, reload', 0, 'reload');
    (await connect(stand.places.extra.endpoint)).close();
    scene.hasExtra = true;
  }

  async function removeListener(): Promise<void> {
    scene.hasExtra = false;
    // Its last requests end first: what a removed listener does with them is another test.
    await until(
      'the last requests of the listener',
      async () => (await watch.inFlightOf('extra')) === 0,
      SEEN_MS,
    );
    await Bun.sleep(100);
    stand.writeExtra('none');
    await cli('listener removed, reload', 0, 'reload');
    const client = await connect(stand.places.extra.endpoint).catch(() => undefined);
    client?.close();
    if (client !== undefined) throw new Error('it still accepts');
  }

  async function rotate(): Promise<void> {
    stand.rotate(++generation);
    await until('the new credential upstream', () => scene.generation === generation, SEEN_MS);
    done['credential replaced'] = (done['credential replaced'] ?? 0) + 1;
  }

  async function halt(ms: number): Promise<void> {
    const change = (spare: Scene['spare']) => {
      scene.spare = spare;
      scene.spareChanges++;
    };
    change('changing');
    await cli('provider halted and resumed', 0, 'halt', '--provider', 'spare', '--reason', 'soak');
    change('halted');
    await Bun.sleep(ms);
    change('changing');
    const { code, stderr } = await stand.cli('resume', '--provider', 'spare');
    if (code !== 0) throw new Error(`resume ended with ${code}: ${stderr.slice(0, 300)}`);
    change('open');
  }

  async function hangUp(): Promise<void> {
    const before = await watch.configGeneration();
    process.kill(stand.pid, 'SIGHUP');
    await until('a reload', async () => (await watch.configGeneration()) > before, SEEN_MS);
    done['SIGHUP'] = (done['SIGHUP'] ?? 0) + 1;
  }

  async function faultyFile(): Promise<void> {
    stand.writeExtra('faulty');
    try {
      await cli('faulty file refused by reload', EXIT_CONFIG, 'reload');
    } finally {
      stand.writeExtra('good');
    }
  }

  return {
    async hour(ms) {
      const end = performance.now() + ms;
      await step('add a listener', addListener);
      await step('replace the credential', rotate);
      await step('halt a provider', () => halt(ms / 10));
      await step('SIGHUP', hangUp);
      await step('faulty file', faultyFile);
      const left = end - performance.now() - ms / 4;
      if (left > 0) await Bun.sleep(left);
      await step('remove a listener', removeListener);
      const rest = end - performance.now();
      if (rest > 0) await Bun.sleep(rest);
    },
    done: () => done,
    faults: () => faults,
  };
}
