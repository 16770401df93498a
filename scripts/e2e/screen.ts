/** A client on a terminal that can be read and typed on: tmux, with a server of its own. */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { until } from '../../test/support/deadline.ts';
import { isRunning, spawn } from '../../test/support/process.ts';
import { reapAtExit } from '../../test/support/workspace.ts';
import type { Client } from './clients.ts';

/** For one step of a dialog. */
const STEP_MS = 30_000;
/** Keys that came before a dialog listened are typed again. */
const AGAIN_MS = 3000;

/** How long ago the last look was, at least. */
const LOOK_EVERY_MS = 50;

export interface Screen extends AsyncDisposable {
  readonly look: () => Promise<string>;
  /** What has scrolled off, and the screen. */
  readonly history: () => Promise<string>;
  /** Waits until the screen shows `what`. */
  readonly shows: (what: string | RegExp, ms?: number) => Promise<string>;
  readonly type: (text: string) => Promise<void>;
  readonly press: (...keys: string[]) => Promise<void>;
  /** Waits for the end of the command; its exit code. */
  readonly ended: () => Promise<number>;
}

/** Runs a command on a new screen; `dir` holds the server's socket. */
export async function openScreen(
  dir: string,
  command: readonly string[],
  env: Record<string, string>,
): Promise<Screen> {
  const server = ['tmux', '-u', '-S', `${dir}/tmux`, '-f', '/dev/null'];
  const tmux = async (...args: string[]): Promise<string> => {
    const child = spawn([...server, ...args], dir, { env: { ...env, LANG: 'C.UTF-8' } });
    const code = await child.exited;
    if (code !== 0) throw new Error(`tmux ${args[0]} ended with ${code}: ${child.stderr()}`);
    return child.stdout().toString();
  };
  // A shell writes down the exit code: tmux 3.3a now and then does not notice that a command has ended.
  const exitFile = `${dir}/exit-code`;
  rmSync(exitFile, { force: true });
  const keepingCode = ['sh', '-c', '"$@"; echo $? >"$0"', exitFile, ...command];
  const start = ['new-session', '-d', '-x', '110', '-y', '45', ...keepingCode];
  await tmux('start-server', ';', 'set-option', '-g', 'remain-on-exit', 'on', ';', ...start);
  const pid = Number(await tmux('display-message', '-p', '#{pid}'));
  const reaped = reapAtExit(pid);
  const look = async () => {
    await Bun.sleep(LOOK_EVERY_MS);
    return (await tmux('capture-pane', '-p')).trimEnd();
  };
  const has = (screen: string, what: string | RegExp) =>
    typeof what === 'string' ? screen.replace(/\s+/g, ' ').includes(what) : what.test(screen);
  let last = '';
  return {
    look,
    history: () => tmux('capture-pane', '-p', '-J', '-S', '-'),
    shows: (what, ms = STEP_MS) =>
      until(
        () => `${what} on the screen, which is\n${last}\n`,
        async () => {
          last = await look();
          return has(last, what) && last;
        },
        ms,
      ),
    type: async (typed) => void (await tmux('send-keys', '-l', typed)),
    press: async (...keys) => void (await tmux('send-keys', ...keys)),
    async ended() {
      const end = await until(
        () => `the end of the client, whose screen is\n${last}\n`,
        async () => {
          last = await look();
          return existsSync(exitFile) && /^\d+(?=\n)/.exec(readFileSync(exitFile, 'utf8'));
        },
        STEP_MS,
      );
      return Number(end[0]);
    },
    async [Symbol.asyncDispose]() {
      await tmux('kill-server').catch(() => {});
      await until('the end of tmux', () => !isRunning(pid));
      reaped();
    },
  };
}

/** Answers what the client asks at its first start, until it waits for words; the names of what it asked. */
export async function answerQuestions(screen: Screen, client: Client): Promise<string[]> {
  const answered = new Map<string, number>();
  await until(
    'the prompt',
    async () => {
      const text = await screen.look();
      const unwanted = client.unwanted.exec(text);
      if (unwanted) throw new Error(`the client says "${unwanted[0]}":\n${text}`);
      const question = client.questions.find(({ shows }) => shows.test(text));
      if (question === undefined) return client.prompt.test(text);
      const before = answered.get(question.name);
      if (before !== undefined && performance.now() - before < AGAIN_MS) return false;
      answered.set(question.name, performance.now());
      await screen.press(...question.keys);
      return false;
    },
    STEP_MS * 2,
  ).catch(async (error) => {
    throw new Error(`${error.message}\n${await screen.look()}`);
  });
  return [...answered.keys()];
}
