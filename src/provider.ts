/** A configured upstream made ready for requests: secrets' readers, header policy, route. Reads no secret yet. */
import { readFileSync } from 'node:fs';
import type { Config, ProviderConfig } from './config/effective.ts';
import { credentialParameters, injectedHeader } from './credentials/inject.ts';
import type { SourceContext } from './credentials/source.ts';
import { createVault, type Vault } from './credentials/vault.ts';
import type { Upstream } from './proxy/forward.ts';
import { compileHeaderPolicy, type HeaderPolicy } from './proxy/headers.ts';
import type { OpenWebSocket } from './proxy/websocket.ts';
import type { Runtime, UpstreamRoute } from './runtime/runtime.ts';

export interface Provider {
  readonly config: ProviderConfig;
  readonly vault: Vault;
  readonly policy: HeaderPolicy;
  /** Lower-case names of query parameters that carry credentials. */
  readonly credentialParameters: ReadonlySet<string>;
  readonly upstream: Upstream;
  /** Undefined where the runtime has none. */
  readonly openWebSocket: OpenWebSocket | undefined;
}

/** A CA, certificate or key file that cannot be used; the message names its configuration key. */
export class PemFileError extends Error {}

/**
 * @param previous those that a reload replaces: what they guarded is guarded on
 * @throws PemFileError for a CA, certificate or key file that cannot be used
 */
export function prepareProviders(
  config: Config,
  runtime: Pick<Runtime, 'openUpstream' | 'webSocket'>,
  context: SourceContext,
  previous?: ReadonlyMap<string, Provider>,
): Map<string, Provider> {
  const prepared = new Map<string, Provider>();
  for (const provider of config.providers.values()) {
    const route: UpstreamRoute = {
      ...readTls(provider, config.server.caFile),
      // No proxy can reach loopback (which is all that plain HTTP is for) or a unix socket.
      proxy: isProxied(provider) ? config.server.upstreamProxy : undefined,
      socket: provider.upstreamSocket,
    };
    const placements = provider.credentials.map((credential) => credential.placement);
    prepared.set(provider.name, {
      config: provider,
      vault: createVault(provider.credentials, context, previous?.get(provider.name)?.vault.retire()),
      policy: compileHeaderPolicy({
        injected: placements.map(injectedHeader).filter((name) => name !== undefined),
        stripHeaders: provider.stripHeaders,
        headers: provider.headers,
        defaultHeaders: provider.defaultHeaders,
        allowSetCookie: provider.allowSetCookie,
      }),
      credentialParameters: credentialParameters(provider.stripQuery, placements),
      upstream: runtime.openUpstream(route),
      openWebSocket: runtime.webSocket?.openUpstream(route),
    });
  }
  return prepared;
}

function isProxied(provider: ProviderConfig): boolean {
  return provider.origin.startsWith('https:') && provider.upstreamSocket === undefined;
}

function readTls(provider: ProviderConfig, serverCaFile: string | undefined) {
  const { caFile, certFile, keyFile } = provider.tls;
  const at = (key: string) => `providers.${provider.name}.${key}`;
  return {
    ca:
      caFile === undefined
        ? readPem('server.ca_file', serverCaFile, 'CERTIFICATE')
        : readPem(at('ca_file'), caFile, 'CERTIFICATE'),
    cert: readPem(at('client_cert'), certFile, 'CERTIFICATE'),
    key: readPem(at('client_key'), keyFile, 'PRIVATE KEY'),
  };
}

/** @throws PemFileError naming the key for a file that cannot be read or holds no such block */
function readPem(key: string, path: string | undefined, block: string): string | undefined {
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as { code?: string };
    throw new PemFileError(
      `${key}: ${path} ${code === 'ENOENT' ? 'does not exist' : `cannot be read (${code ?? (error as Error).name})`}`,
    );
  }
  if (!new RegExp(`-----BEGIN (?:[A-Z]+ )?${block}-----`).test(text)) {
    throw new PemFileError(`${key}: ${path} holds no PEM block of type ${block}`);
  }
  return text;
}
