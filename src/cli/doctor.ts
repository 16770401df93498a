/** `isoproxy doctor`: what a sandbox exposes that it should not. */

import { findExposures } from '../sandbox/exposure.ts';
import { defaultPatterns, findSockets } from '../sandbox/place.ts';
import { readOptions } from './args.ts';
import { type Command, EXIT, hint, warn } from './command.ts';

export const doctor: Command = {
  usage: `usage: isoproxy doctor [--strict]

Looks around as the agent would, from inside the sandbox, and warns of what it could misuse: a readable
configuration, secret or state; a control socket or another listener's socket within reach; a writable socket
directory; a default route; real-looking keys in the environment. isoproxy run looks once too, before it starts.

  --strict   exit 1 if there is a warning

Exit codes: 0 looked, 1 a warning with --strict.
`,
  async run(args, io) {
    const values = readOptions('doctor', args, { strict: { type: 'boolean' } });
    const patterns = defaultPatterns(io.env);
    const chosen = io.env['ISOPROXY_SOCKET'];
    const found = findSockets(patterns);
    // The first is taken for this sandbox's own; every further one is too much.
    const sockets = chosen ? [chosen] : found.slice(0, 1);
    const exposures = await findExposures({ env: io.env, sockets, patterns, known: new Set() });
    for (const exposure of exposures) {
      warn(io, exposure.message);
      hint(io, exposure.hint);
    }
    if (exposures.length === 0) io.stdout('nothing is exposed that isoproxy knows of\n');
    return exposures.length > 0 && values.strict ? EXIT.denied : EXIT.ok;
  },
};
