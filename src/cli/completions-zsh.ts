/** The completion script of zsh: sourced after compinit, or autoloaded as _isoproxy. */
import { type CommandUsage, isFile, readPlace, shorten } from './usage-text.ts';

/** In single quotes, for places where zsh's functions give ":", "[" and "]" a meaning. */
function quote(text: string): string {
  return `'${text.replace(/'/g, "'\\''")}'`;
}

const escaped = (text: string): string => text.replace(/[[\]:\\]/g, '\\$&');

function describe(command: CommandUsage): string {
  const options = command.options.map((option) => {
    const { name, value, text } = option;
    const repeated = /more than once|repeated/.test(text) ? '*' : '';
    const argument = value === undefined ? '' : `:${escaped(value)}:${isFile(value) ? '_files' : ' '}`;
    // "=": the value is the next word, or stands behind a "=".
    return quote(
      `${repeated}${name}${value === undefined ? '' : '='}[${escaped(shorten(option))}]${argument}`,
    );
  });
  const places = command.places.map(readPlace).map(({ words, files }, index) => {
    const name = escaped(command.places[index]?.join('|') ?? '');
    if (words.length > 0) return quote(`${index + 1}:${name}:(${words.join(' ')})`);
    return quote(`${index + 1}:${name}:${files ? '_files' : ' '}`);
  });
  const rest = command.runsCommand ? [quote('*:::command: _normal')] : [];
  return `    ${command.name}) _arguments -S ${[...options, ...places, ...rest].join(' ')} ;;`;
}

export function zshScript(commands: readonly CommandUsage[]): string {
  const names = commands.map((command) => quote(`${command.name}:${command.summary}`));
  return `#compdef isoproxy
# zsh completion for isoproxy; made by: isoproxy completions zsh

_isoproxy() {
  if (( CURRENT == 2 )); then
    local -a commands=(
${names.map((name) => `      ${name}`).join('\n')}
    )
    _describe -t commands 'command' commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${commands.map(describe).join('\n')}
  esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _isoproxy "$@"; else compdef _isoproxy isoproxy; fi
`;
}
