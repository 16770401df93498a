/** The completion script of bash, from 3.2 (macOS) on: no mapfile, and compopt only where there is one. */
import { type CommandUsage, isFile, readPlace } from './usage-text.ts';

const quote = (words: readonly string[]): string => `'${words.join(' ')}'`;

function describe(command: CommandUsage): string {
  const valued = command.options.filter((option) => option.value !== undefined);
  const files = valued.filter((option) => isFile(option.value));
  const names = (options: CommandUsage['options']) => quote(options.map((option) => option.name));
  const parts = [`options=${names(command.options)}`];
  if (valued.length > 0) parts.push(`valued=${names(valued)}`);
  if (files.length > 0) parts.push(`files=${names(files)}`);
  if (command.runsCommand) parts.push('runs=yes');
  if (command.places.length > 0) {
    const places = command.places.map(readPlace);
    parts.push(
      `places=(${places.map((place) => quote([...place.words, ...(place.files ? ['@'] : [])])).join(' ')})`,
    );
  }
  return `    ${command.name}) ${parts.join(' ')} ;;`;
}

export function bashScript(commands: readonly CommandUsage[]): string {
  return `# bash completion for isoproxy; made by: isoproxy completions bash

_isoproxy_files() {
  local name
  compopt -o filenames 2>/dev/null
  while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -f -- "$1")
}

_isoproxy() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} command=\${COMP_WORDS[1]}
  local options='' valued='' files='' runs='' places=() at place=0 IFS=$' \\t\\n'
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W ${quote([...commands.map((command) => command.name), '--help', '--version'])} -- "$word"))
    return
  fi
  case $command in
${commands.map(describe).join('\n')}
    *) return ;;
  esac
  # "--option=value" comes as three words.
  [[ $word == = ]] && word=''
  [[ $before == = ]] && before=\${COMP_WORDS[COMP_CWORD-2]}
  for ((at = 2; at < COMP_CWORD; at++)); do
    case \${COMP_WORDS[at]} in
      --)
        [[ -n $runs ]] || return
        if ((at + 1 == COMP_CWORD)); then COMPREPLY=($(compgen -c -- "$word")); else _isoproxy_files "$word"; fi
        return ;;
      =) ((at++)) ;;
      -*) [[ " $valued " == *" \${COMP_WORDS[at]} "* && \${COMP_WORDS[at+1]} != = ]] && ((at++)) ;;
      *) ((place++)) ;;
    esac
  done
  if [[ $before == -* && " $valued " == *" $before "* ]]; then
    [[ " $files " == *" $before "* ]] && _isoproxy_files "$word"
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  else
    local words=\${places[place]:-}
    COMPREPLY=($(compgen -W "\${words%@}" -- "$word"))
    [[ $words == *@ ]] && _isoproxy_files "$word"
    if [[ -z $words && -z $word ]]; then COMPREPLY=($(compgen -W "$options")); fi
  fi
}

complete -F _isoproxy isoproxy
`;
}
