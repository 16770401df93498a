/** `isoproxy completions`: what the shells need, made from the table of commands and their usage texts. */
import { readArgs } from './args.ts';
import type { CommandEntry } from './cli.ts';
import { CliError, type Command, EXIT } from './command.ts';
import { bashScript } from './completions-bash.ts';
import { fishScript } from './completions-fish.ts';
import { zshScript } from './completions-zsh.ts';
import { type CommandUsage, readUsage } from './usage-text.ts';

const SCRIPTS: Readonly<Record<string, (commands: readonly CommandUsage[]) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

/** @param commands the table of all commands, this one included */
export function createCompletionsCommand(commands: readonly CommandEntry[]): Command {
  return {
    usage: `usage: isoproxy completions bash|zsh|fish

Prints the completion script of a shell: commands, options and files.

  bash   source <(isoproxy completions bash)
         or, for every shell: isoproxy completions bash > ~/.local/share/bash-completion/completions/isoproxy
  zsh    source <(isoproxy completions zsh), after compinit; or as the file _isoproxy in a directory of $fpath
  fish   isoproxy completions fish > ~/.config/fish/completions/isoproxy.fish
`,
    async run(args, io) {
      const [shell = '', ...more] = readArgs('completions', args, {}).positionals;
      const script = Object.hasOwn(SCRIPTS, shell) ? SCRIPTS[shell] : undefined;
      if (script === undefined || more.length > 0) {
        const shells = Object.keys(SCRIPTS).join(', ');
        throw new CliError(EXIT.usage, 'completions takes one shell', `isoproxy completions ${shells}`);
      }
      io.stdout(script(await describeCommands(commands)));
      return EXIT.ok;
    },
  };
}

/** Every command with its parsed usage; `help` takes the names of all. */
export async function describeCommands(commands: readonly CommandEntry[]): Promise<CommandUsage[]> {
  const names = commands.map((command) => command.name);
  return Promise.all(
    commands.map(async ({ name, summary, load }) => {
      const usage = readUsage(name, summary, (await load()).usage);
      const places = name === 'help' ? [names] : usage.places;
      const help = { name: '--help', value: undefined, text: 'show the help of this command' };
      return { ...usage, places, options: [...usage.options, help] };
    }),
  );
}
