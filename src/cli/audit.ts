/** `isoproxy audit`: reading the audit log, and letting the proxy go on after a failure of it. */
import { CliError, type Command, EXIT, type Io } from './command.ts';

type Run = (args: readonly string[], io: Io) => Promise<number> | number;

const SUBCOMMANDS: Readonly<Record<string, () => Promise<Run>>> = {
  verify: async () => (await import('./audit-verify.ts')).verify,
  show: async () => (await import('./audit-show.ts')).show,
  tail: async () => (await import('./audit-tail.ts')).tail,
  key: async () => (await import('./audit-key.ts')).key,
  clear: async () => (await import('./audit-clear.ts')).clear,
};

const USAGE = `usage: isoproxy audit verify [--config FILE | --dir PATH] [--checkpoints FILE]... [--key FILE]
                             [--public-key FILE] [--require-anchor] [--json]
       isoproxy audit show [--config FILE | --dir PATH] [FILTER]... [--last N] [--json]
       isoproxy audit tail [--follow] [--lines N] [--config FILE | --dir PATH] [FILTER]... [--json]
       isoproxy audit key [--config FILE | --dir PATH] [--json]
       isoproxy audit clear --reason TEXT [--control PATH] [--config FILE] [--json]

verify  reads the whole log and says whether it is as it was written, and up to which record checkpoints that
        were kept elsewhere vouch for it. Those in the log's directory vouch for nothing: who can cut the log
        can cut them too. A running proxy is not disturbed.
show    prints what was asked and what came of it, one line a request. It does not verify.
tail    prints the last records, and those to come. It does not verify.
key     prints the public key of the checkpoints. Keep it where the log is not.
clear   tells the running proxy to forward again after its audit log failed (isoproxy status names the cause; mend
        it first). What was not on disk by then is written now, with a record of who let it and why.

  --config FILE       the configuration that names the log (default: the usual search)
  --dir PATH          the log's directory; no configuration is read
  --json              verify, key: one JSON object; show, tail: the records as they stand in the log

Of verify:

  --checkpoints FILE  checkpoints that were kept elsewhere, more than once for more than one file: as
                      checkpoint_file has them, or what the proxy wrote to stderr. The checkpoint_file of the
                      configuration is read anyway
  --key FILE          the key of the chain (default: the configuration's, or hmac.key in the directory)
  --public-key FILE   what isoproxy audit key printed, or the file that it is in (default: that of signing.key in the
                      directory)
  --require-anchor    a log for which no checkpoint from outside vouches is a failure (exit 2). Records after the newest
                      checkpoint are named, and are none

Filters of show and tail; all that are given must hold:

  --since TIME        2026-01-31, 2026-01-31T12:00Z, or how long ago, like 10m
  --until TIME        the same
  --listener NAME     requests of this listener
  --provider NAME     requests to this provider
  --decision NAME     allow or deny
  --status CODE       like 200, or 4xx
  --kind NAME         records of this kind (start, intent, deny, halt …)
  --request ID        the request with this id

  --last N            show: only the last N
  -n, --lines N       tail: how many to begin with (default: 10)
  -f, --follow        tail: go on with what is written, until Ctrl-C

Of clear:

  --reason TEXT       why it may go on; it is recorded
  --control PATH      the control socket (default: the configuration's)

Exit codes: 0 intact, printed, or cleared; 1 tampered with; 2 intact, but no checkpoint from outside vouches for it and
--require-anchor was given; 69 clear: no proxy answers; 74 a log or key that is not there or cannot be read, or a log that
still cannot be written.
`;

export const audit: Command = {
  usage: USAGE,
  async run(args, io) {
    const [name, ...rest] = args;
    if (name === undefined) {
      io.stderr(USAGE);
      return EXIT.usage;
    }
    const load = Object.hasOwn(SUBCOMMANDS, name) ? SUBCOMMANDS[name] : undefined;
    if (load === undefined) {
      const names = Object.keys(SUBCOMMANDS).join(', ');
      throw new CliError(
        EXIT.usage,
        `audit has no command ${JSON.stringify(name.slice(0, 40))}`,
        `one of ${names}`,
      );
    }
    return (await load())(rest, io);
  },
};
