/** What a client inside the sandbox needs to find the proxy: environment and arguments. Pure. */
import { basename } from 'node:path';
import type { Reachable } from './place.ts';

export interface ClientSettings {
  /** Variables to set. */
  readonly env: ReadonlyMap<string, string>;
  /** Arguments that go before the user's. */
  readonly args: readonly string[];
  /** Placeholder keys and tokens: what looks like a key in the environment and is none. */
  readonly placeholders: ReadonlySet<string>;
  /** Variables that two providers want to set differently, with a sentence for the user. */
  readonly conflicts: readonly { readonly variable: string; readonly message: string }[];
}

/** Loopback, as programs spell it in NO_PROXY. */
const LOOPBACK = ['127.0.0.1', 'localhost', '::1'];

/**
 * @param command the program that is run, with or without its directory; its name chooses the arguments
 * @param env the environment that it would have otherwise
 */
export function clientSettings(
  reachable: readonly Reachable[],
  command: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
): ClientSettings {
  const set = new Map<string, string>();
  const setBy = new Map<string, string>();
  const args: string[] = [];
  const placeholders = new Set<string>();
  const conflicts: { variable: string; message: string }[] = [];
  const name = command === undefined ? '' : basename(command);

  for (const { origin, discovery, token } of reachable) {
    for (const [provider, settings] of Object.entries(discovery.providers)) {
      const key = token ?? settings.placeholder;
      placeholders.add(key);
      const baseUrl = origin + settings.base_path;
      // Functions, because "$&" in a replacement is no text.
      const fill = (text: string) =>
        text.replaceAll('{client_base_url}', () => baseUrl).replaceAll(settings.placeholder, () => key);
      for (const [variable, template] of Object.entries(settings.client_env)) {
        const value = fill(template);
        const other = set.get(variable);
        if (other === undefined) {
          set.set(variable, value);
          setBy.set(variable, provider);
        } else if (other !== value)
          conflicts.push({
            variable,
            message: `${variable} is set for provider ${setBy.get(variable)}; ${provider} wants another value (choose with --env ${variable}=…)`,
          });
      }
      // A command may be called like what every object has (`constructor`).
      const own = Object.hasOwn(settings.client_args, name) ? settings.client_args[name] : undefined;
      args.push(...(own ?? []).map(fill));
    }
  }
  const direct = [...LOOPBACK, ...reachable.map(({ origin }) => new URL(origin).hostname)];
  // Where only one spelling is set, its entries go into both: some programs read the other one first.
  const { NO_PROXY, no_proxy } = env;
  set.set('NO_PROXY', withHosts(NO_PROXY ?? no_proxy ?? '', direct));
  set.set('no_proxy', withHosts(no_proxy ?? NO_PROXY ?? '', direct));
  return { env: set, args, placeholders, conflicts };
}

/** NO_PROXY with `hosts` added: an environment's proxy is not for the way to isoproxy. */
function withHosts(list: string, hosts: readonly string[]): string {
  const entries = list.split(',').map((entry) => entry.trim());
  if (entries.includes('*')) return list;
  return [...new Set([...entries.filter(Boolean), ...hosts])].join(',');
}
