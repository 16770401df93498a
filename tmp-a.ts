import { runCli } from './src/cli/cli.ts';
const io = { stdout: (t) => process.stdout.write(t), stderr: (t) => process.stderr.write(t), env: process.env, color: false };
console.log('exit', await runCli(process.argv.slice(2), io));
