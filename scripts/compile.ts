/** The one place that knows how the binary is built. */
import { spawnSync } from 'node:child_process';
import process from 'node:process';

/** The platform on which the suites run. */
const TRIED_TARGET = 'bun-linux-x64';

/**
 * Compiles src/main.ts into one executable.
 * @param target Bun's name of a platform; undefined = this machine
 * @throws Error with the compiler's output
 */
export function compile(outfile: string, target: string | undefined): void {
  const flags = [
    '--compile',
    ...(target === undefined ? [] : [`--target=${target}`]),
    '--minify',
    '--format=esm',
    // The engine loads what it would otherwise compile: half of a cold start (measured). Only where the result is run before
    // it is given to anybody: that of another platform is the engine's own affair.
    ...(target === undefined || target === TRIED_TARGET ? ['--bytecode'] : []),
    // What main.ts imports late is loaded late: without it the first of the two starts loads everything too.
    '--splitting',
    // Nothing that lies in a working directory may steer the binary: without these flags it would load
    // .env and run the preloads of a bunfig.toml from there.
    '--no-compile-autoload-dotenv',
    '--no-compile-autoload-bunfig',
    '--no-compile-autoload-tsconfig',
    '--no-compile-autoload-package-json',
    '--define',
    'process.env.NODE_ENV="production"',
    // The ws package would look for two optional packages when it is loaded, outside of the binary.
    '--define',
    'process.env.WS_NO_BUFFER_UTIL="1"',
    '--define',
    'process.env.WS_NO_UTF_8_VALIDATE="1"',
  ];
  const child = spawnSync(process.execPath, ['build', ...flags, 'src/main.ts', '--outfile', outfile], {
    encoding: 'utf8',
  });
  if (child.status !== 0) throw new Error(`building ${outfile} failed:\n${child.stderr}`);
}
