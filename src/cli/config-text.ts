/** The text of a proxy.toml, as `init` and `import` print it: commented, secrets from files, accepted by `check`. */
import { join } from 'node:path';
import { absoluteVariable, type Environment } from '../config/directories.ts';
import type { Preset } from '../config/presets.ts';
import type { EndpointEntry } from '../proxy/rules.ts';
import { endpointsToml, tomlString } from './toml-text.ts';

/** Where the printed configuration and its secrets are meant to live. */
export interface Home {
  readonly directory: string;
  /** Set where the contract has no default for it (no systemd, no XDG, not root). */
  readonly runtimeDir: string | undefined;
}

/** /etc/isoproxy for root, ~/.config/isoproxy for everybody else. */
export function findHome(env: Environment, isRoot: boolean): Home {
  if (isRoot) return { directory: '/etc/isoproxy', runtimeDir: undefined };
  const home = absoluteVariable(env, 'HOME') ?? '/home/USER';
  const directory = join(absoluteVariable(env, 'XDG_CONFIG_HOME') ?? join(home, '.config'), 'isoproxy');
  const hasRuntimeDir =
    absoluteVariable(env, 'XDG_RUNTIME_DIR') ?? absoluteVariable(env, 'RUNTIME_DIRECTORY');
  return { directory, runtimeDir: hasRuntimeDir === undefined ? join(home, '.isoproxy') : undefined };
}

/** Opening comment, [server] where it is needed, and one listener that reaches all of `providers`. */
export function headText(home: Home, origin: string, providers: readonly string[]): string {
  const server =
    home.runtimeDir === undefined ? '' : `[server]\nruntime_dir = ${tomlString(home.runtimeDir)}\n\n`;
  return `# ${origin}
# Save as ${join(home.directory, 'proxy.toml')}, put each secret into the file named below, then: isoproxy check

${server}# One listener per sandbox: the socket is the client's identity. Mount its directory into the sandbox.
[[listeners]]
name = "agent-1"
# socket = default: <runtime_dir>/agent-1/isoproxy.sock
providers = [${providers.map(tomlString).join(', ')}]
`;
}

/** The file of a provider's secret, with the command that makes it. */
export function secretFile(home: Home, name: string): string {
  return join(home.directory, `${name}.key`);
}

function secretComment(path: string): string {
  return `# put the secret there, for its owner only:  install -m 600 /dev/stdin ${path}`;
}

/** A provider from a preset; `endpoints` replaces the preset's if given. */
export function presetText(
  name: string,
  preset: Preset,
  home: Home,
  endpoints: readonly EndpointEntry[] | undefined,
): string {
  const path = secretFile(home, name);
  const tried =
    preset.evidence === 'tried' ? 'tried with its official client' : 'from its documentation, not tried';
  const rules =
    endpoints === undefined
      ? `# The preset allows (endpoints = [...] replaces these, extra_endpoints = [...] adds to them):
${comment(endpointsToml('endpoints', preset.endpoints))}`
      : endpointsToml('endpoints', endpoints);
  return `
# ${preset.title}: ${preset.base_url}
# ${preset.source} (checked ${preset.checked}; ${tried})
[providers.${name}]
preset = ${tomlString(name)}
${secretComment(path)}
credential = { file = ${tomlString(path)} }
${rules}
`;
}

/** A provider for an API that no preset knows; it allows nothing until its endpoints are listed. */
export function customText(name: string, baseUrl: string, home: Home): string {
  const path = secretFile(home, name);
  return `
[providers.${name}]
base_url = ${tomlString(baseUrl)}
${secretComment(path)}
# header and format are the usual ones; other APIs want { header = "x-api-key", file = … },
# { basic = "USER", file = … } or { query = "PARAMETER", file = … }
credential = { header = "authorization", format = "Bearer {secret}", file = ${tomlString(path)} }
# Nothing is allowed yet. An entry allows its methods on its paths, and a trailing "/*" is everything below:
#   endpoints = [{ methods = ["GET"], paths = ["/v1/items", "/v1/items/*"] }]
endpoints = []
`;
}

function comment(text: string): string {
  return text.replace(/^/gm, '# ');
}
