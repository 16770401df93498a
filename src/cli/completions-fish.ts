/** The completion script of fish, from 3.0 on. */
import { type CommandUsage, isFile, readPlace, shorten } from './usage-text.ts';

const quote = (text: string): string => `'${text.replace(/[\\']/g, '\\$&')}'`;

function describe({ name, summary, options, places, runsCommand }: CommandUsage): string[] {
  const lines = [`complete -c isoproxy -n __isoproxy_first -a ${name} -d ${quote(summary)}`];
  for (const option of options) {
    // -r: a value is required; -F: it is a file; -x: it is something else.
    const value = option.value === undefined ? '' : isFile(option.value) ? ' -rF' : ' -x';
    const text = option.text === '' ? '' : ` -d ${quote(shorten(option))}`;
    lines.push(`complete -c isoproxy -n '__isoproxy_in ${name}' -l ${option.name.slice(2)}${value}${text}`);
  }
  places.map(readPlace).forEach(({ words, files }, index) => {
    const at = `complete -c isoproxy -n '__isoproxy_in ${name} ${index}'`;
    if (words.length > 0) lines.push(`${at} -a ${quote(words.join(' '))}`);
    if (files) lines.push(`${at} -F`);
  });
  if (runsCommand)
    lines.push(
      `complete -c isoproxy -n '__isoproxy_behind_dashes ${name} 0' -a '(__fish_complete_command)'`,
      `complete -c isoproxy -n '__isoproxy_behind_dashes ${name}' -F`,
    );
  return lines;
}

export function fishScript(commands: readonly CommandUsage[]): string {
  return `# fish completion for isoproxy; made by: isoproxy completions fish

function __isoproxy_first
    test (count (commandline -opc)) -eq 1
end

# __isoproxy_in COMMAND [N]: the line is of this command, before any "--", with N arguments so far.
function __isoproxy_in
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = $argv[1]; and not contains -- -- $words; or return 1
    set -q argv[2]; or return 0
    test (count (string match -v -- '-*' $words)) -eq (math $argv[2] + 2)
end

# __isoproxy_behind_dashes COMMAND [0]: behind "--"; with 0: directly behind it.
function __isoproxy_behind_dashes
    set -l words (commandline -opc)
    test (count $words) -ge 3; and test $words[2] = $argv[1]; and contains -- -- $words; or return 1
    set -q argv[2]; or return 0
    test $words[-1] = --
end

complete -c isoproxy -f
complete -c isoproxy -n __isoproxy_first -l help -d 'show all commands'
complete -c isoproxy -n __isoproxy_first -l version -d 'print the version'
${commands.flatMap(describe).join('\n')}
`;
}
