/**
 * `GET /.well-known/isoproxy`: what this listener may reach, for `isoproxy run` and for a curious person.
 * Names, rules and client settings only; never a secret, an upstream address or another listener.
 */
import {
  type Config,
  type ListenerConfig,
  type ProviderConfig,
  reachableProviders,
} from './config/effective.ts';
import { permitsHost } from './proxy/network-profile.ts';

export interface Discovery {
  /** Version of this document's shape. */
  readonly isoproxy: 1;
  readonly version: string;
  readonly listener: string;
  readonly providers: Readonly<Record<string, DiscoveredProvider>>;
}

export interface DiscoveredProvider {
  /** Put before every path: "/anthropic", or "" for the mounted provider. */
  readonly base_path: string;
  /** The key in `client_env`, which is none; where the listener has a token, that takes its place. */
  readonly placeholder: string;
  /** Environment for clients; `{client_base_url}` stands for the client's own origin + base_path. */
  readonly client_env: Readonly<Record<string, string>>;
  /** Arguments that a command needs before the user's, by command name; same placeholder. */
  readonly client_args: Readonly<Record<string, readonly string[]>>;
  readonly endpoints: readonly {
    readonly methods: readonly string[];
    readonly path: string;
    readonly query?: readonly string[];
    /** The endpoint is for WebSocket upgrades, and for nothing else. */
    readonly websocket?: true;
  }[];
}

export function describeListener(config: Config, listener: ListenerConfig, version: string): Discovery {
  const providers: Record<string, DiscoveredProvider> = {};
  for (const name of reachableProviders(listener)) {
    const provider = config.providers.get(name);
    // A provider that the profile denies is not within reach, whatever its endpoints.
    const profile = listener.networkProfile;
    if (provider && (profile === undefined || permitsHost(profile, provider.hostname)))
      providers[name] = describeProvider(provider, listener.mount === undefined ? `/${name}` : '');
  }
  return { isoproxy: 1, version, listener: listener.name, providers };
}

function describeProvider(provider: ProviderConfig, basePath: string): DiscoveredProvider {
  const { placeholder } = provider.client;
  const fill = (text: string) => text.replaceAll('{placeholder}', placeholder);
  return {
    base_path: basePath,
    placeholder,
    client_env: Object.fromEntries([...provider.client.env].map(([name, value]) => [name, fill(value)])),
    client_args: Object.fromEntries(
      [...provider.client.args].map(([command, args]) => [command, args.map(fill)]),
    ),
    endpoints: provider.rules.rules.map((rule) => ({
      methods: [...rule.methods],
      path: rule.pattern.text,
      ...(rule.options.query === undefined ? {} : { query: [...rule.options.query] }),
      ...(rule.options.websocket ? { websocket: true as const } : {}),
    })),
  };
}
