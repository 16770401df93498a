/** Sends the mix at an even rate, and keeps count of what came of it. */
import process from 'node:process';
import { type Kind, MIX, type Scene } from './mix.ts';

/** Above this many at once nothing is sent: then the machine does not keep up, and the run takes longer. */
const MAX_AT_ONCE = 400;
const TICK_MS = 10;
const TOLD = 5;

export interface KindCount {
  readonly name: string;
  sent: number;
  failed: number;
  /** The first few. */
  readonly faults: string[];
}

export interface Load {
  /** Resolves when so many requests have been sent, or the time is over. */
  readonly send: (requests: number, perSecond: number, longestMs: number) => Promise<void>;
  /** Every kind, so many times. */
  readonly lap: (times: number) => Promise<void>;
  /** Resolves when all have an answer. */
  readonly settle: (ms: number) => Promise<boolean>;
  readonly sent: () => number;
  readonly atOnce: () => number;
  readonly counts: readonly KindCount[];
}

export function createLoad(scene: Scene): Load {
  const counts: KindCount[] = MIX.map(({ name }) => ({ name, sent: 0, failed: 0, faults: [] }));
  const shares = MIX.reduce((sum, { share }) => sum + share, 0);
  let sent = 0;
  let atOnce = 0;

  function pick(): number {
    let left = scene.random() * shares;
    const index = MIX.findIndex(({ share }) => {
      left -= share;
      return left < 0;
    });
    return index === -1 ? 0 : index;
  }

  async function one(index: number): Promise<void> {
    const count = counts[index] as KindCount;
    sent++;
    count.sent++;
    atOnce++;
    try {
      const verdict = await (MIX[index] as Kind).run(scene);
      if (verdict !== undefined) throw new Error(verdict);
    } catch (error) {
      count.failed++;
      if (count.faults.length < TOLD) {
        const fault = `${new Date().toISOString()} ${count.name}: ${(error as Error).message}`;
        count.faults.push(fault);
        process.stderr.write(`${fault}\n`);
      }
    } finally {
      atOnce--;
    }
  }

  return {
    async send(requests, perSecond, longestMs) {
      const [first, from] = [sent, performance.now()];
      // At most a second's worth is made up for where it fell behind.
      let budget = 0;
      let last = from;
      while (sent - first < requests && performance.now() - from < longestMs) {
        const now = performance.now();
        budget = Math.min(budget + ((now - last) / 1000) * perSecond, perSecond);
        last = now;
        for (; budget >= 1 && sent - first < requests && atOnce < MAX_AT_ONCE; budget--) void one(pick());
        await Bun.sleep(TICK_MS);
      }
    },
    async lap(times) {
      for (let n = 0; n < times; n++) await Promise.all(MIX.map((_, index) => one(index)));
    },
    async settle(ms) {
      const end = performance.now() + ms;
      while (atOnce > 0 && performance.now() < end) await Bun.sleep(TICK_MS);
      return atOnce === 0;
    },
    sent: () => sent,
    atOnce: () => atOnce,
    counts,
  };
}
