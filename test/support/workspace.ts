// A private temporary directory of one test, and the promise that nothing outlives the test process.

import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

export interface Workspace extends Disposable {
  /** Absolute, mode 0700, short: a socket path below it stays under the 107 bytes of sun_path. */
  readonly dir: string;
  path(name: string): string;
  /** Writes a file (directories are made, 0700) and returns its path. Default mode 0600. */
  write(name: string, content: string | Uint8Array, mode?: number): string;
  /** Contents of every regular file below `name` (default: all), by path relative to `dir`. */
  files(name?: string): Record<string, Buffer>;
  remove(): void;
}

/** Makes a workspace. It is removed by `remove()`, by `using`, or at the latest when the test process ends. */
export function createWorkspace(): Workspace {
  const dir = mkdtempSync('/tmp/iso-');
  reaper.tell('dir', dir);
  const path = (name: string) => join(dir, name);
  const remove = () => rmSync(dir, { recursive: true, force: true });
  return {
    dir,
    path,
    write(name, content, mode = 0o600) {
      mkdirSync(dirname(path(name)), { recursive: true, mode: 0o700 });
      writeFileSync(path(name), content, { mode });
      chmodSync(path(name), mode);
      return path(name);
    },
    files(name = '.') {
      const found: Record<string, Buffer> = {};
      for (const entry of readdirSync(path(name), { recursive: true, encoding: 'utf8' })) {
        const file = join(name, entry);
        if (lstatSync(path(file)).isFile()) found[file] = readFileSync(path(file));
      }
      return found;
    },
    remove,
    [Symbol.dispose]: remove,
  };
}

/** Makes sure that the process with this id dies with the test process; call the result once it has ended. */
export function reapAtExit(pid: number): () => void {
  reaper.tell('pid', String(pid));
  return () => reaper.tell('gone', String(pid));
}

/*
 * `bun test` fires no exit event at its normal end, and nobody sees a SIGKILL. So a shell waits on a pipe that closes
 * when this process ends in whatever way, and then kills by id what was not reported gone and removes the directories.
 * It is started when this module loads: what a hook or a test starts is killed when any test of the file times out.
 */
const reaper = createReaper();

function createReaper(): { tell(verb: 'pid' | 'gone' | 'dir', what: string): void } {
  const script = `trap '' INT TERM HUP; pids=' '; dirs=' '
while read -r verb what; do case $verb in
  pid) pids="$pids$what " ;;
  gone) case $pids in *" $what "*) pids="\${pids%% $what *} \${pids#* $what }" ;; esac ;;
  dir) dirs="$dirs$what " ;;
esac; done
for pid in $pids; do kill -9 "$pid"; done 2>/dev/null
for dir in $dirs; do rm -rf -- "$dir"; done`;
  const shell = Bun.spawn(['/bin/sh', '-c', script], {
    stdin: 'pipe',
    stdout: 'ignore',
    stderr: 'ignore',
    cwd: '/',
    env: { PATH: '/usr/bin:/bin' },
  });
  shell.unref();
  return {
    tell(verb, what) {
      shell.stdin.write(`${verb} ${what}\n`);
      shell.stdin.flush();
    },
  };
}
