/** `isoproxy reload`: puts a changed configuration in force, and says what is wrong with one that cannot be. */
import { readOptions } from './args.ts';
import { type Command, EXIT, printError, warn } from './command.ts';
import { askControl, CONTROL_OPTIONS, CONTROL_USAGE, findControl } from './control-client.ts';

interface Answer {
  readonly ok: boolean;
  readonly generation: number;
  readonly warnings: readonly string[];
  readonly problems: readonly { text: string; hint: string | null }[];
}

export const reload: Command = {
  usage: `usage: isoproxy reload [--control PATH] [--config FILE] [--json]

Makes the running proxy read its configuration and secrets anew. All is checked first, then it changes in one step:
requests in flight keep the old configuration, unchanged listeners keep their sockets and connections. Returns when new
sockets accept. A faulty file changes nothing. What needs a restart, it names: server.state_dir,
server.control, audit.durability, audit.key, [log], [metrics].

${CONTROL_USAGE}

Exit codes: 0 reloaded, 69 no proxy answers, 78 the configuration is not usable; the old one stays in force.
`,
  async run(args, io) {
    const values = readOptions('reload', args, CONTROL_OPTIONS);
    const answer = await askControl<Answer>(findControl(values, io), 'POST', '/reload');
    if (values.json) io.stdout(`${JSON.stringify(answer)}\n`);
    else {
      for (const text of answer.warnings) warn(io, text);
      for (const { text, hint } of answer.problems) printError(io, text, hint ?? undefined);
      if (answer.ok) io.stdout(`reloaded: generation ${answer.generation}\n`);
    }
    return answer.ok ? EXIT.ok : EXIT.config;
  },
};
