/** A configured upstream made ready for requests: secrets' readers, header policy, route. Reads no secret yet. */
import { readFileSync } from 'node:fs';
import type { Config, ProviderConfig } from './config/effective.ts';
import { injectedHeader } from './credentials/inject.ts';
import type { SourceContext } from './credentials/source.ts';
import { createVault, type Vault } from './credentials/vault.ts';
import type { Upstream } from './proxy/forward.ts';
import { compileHeaderPolicy, type HeaderPolicy } from './proxy/headers.ts';
import type { Runtime } from './runtime/runtime.ts';

export interface Provider {
  readonly config: ProviderConfig;
  readonly vault: Vault;
  readonly policy: HeaderPolicy;
  /** Lower-case names of query parameters that carry credentials. */
  readonly credentialParameters: ReadonlySet<string>;
  readonly upstream: Upstream;
}

/** @throws the system's error for a CA, certificate or key file that cannot be read */
export function prepareProviders(
  config: Config,
  runtime: Pick<Runtime, 'openUpstream'>,
  context: SourceContext,
): Map<string, Provider> {
  const prepared = new Map<string, Provider>();
  for (const provider of config.providers.values()) {
    const placements = provider.credentials.map((credential) => credential.placement);
    prepared.set(provider.name, {
      config: provider,
      vault: createVault(provider.credentials, context),
      policy: compileHeaderPolicy({
        injected: placements.map(injectedHeader).filter((name) => name !== undefined),
        stripHeaders: provider.stripHeaders,
        headers: provider.headers,
        defaultHeaders: provider.defaultHeaders,
        allowSetCookie: provider.allowSetCookie,
      }),
      credentialParameters: new Set([
        ...provider.stripQuery,
        ...placements.flatMap((placement) =>
          placement.kind === 'query' ? [placement.parameter.toLowerCase()] : [],
        ),
      ]),
      upstream: runtime.openUpstream({
        ca: readOptional(provider.tls.caFile ?? config.server.caFile),
        cert: readOptional(provider.tls.certFile),
        key: readOptional(provider.tls.keyFile),
        // Plain HTTP is for loopback and unix sockets only, which no proxy can reach.
        proxy: provider.origin.startsWith('https:') ? config.server.upstreamProxy : undefined,
        socket: provider.upstreamSocket,
      }),
    });
  }
  return prepared;
}

function readOptional(path: string | undefined): string | undefined {
  return path === undefined ? undefined : readFileSync(path, 'utf8');
}
