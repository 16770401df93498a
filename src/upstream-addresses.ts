/**
 * At start, upstream names are resolved once, and a name that leads to a private, link-local or metadata
 * address is refused. This catches mistakes, not attacks: against a resolver that changes its answer later
 * stands the certificate, which is verified before a byte of a request is sent.
 */
import { lookup } from 'node:dns/promises';
import type { ProviderConfig } from './config/effective.ts';
import { isAddress, isPrivateAddress } from './proxy/private-address.ts';

/** How long start waits for the resolver, ms. A resolver that is down must not keep the proxy down. */
const RESOLVE_MS = 2_000;

export interface AddressReview {
  /** Providers whose host is private without `unsafe_allow_private`. */
  readonly refused: readonly string[];
  /** Providers whose host could not be resolved in time; they may come up later. */
  readonly unresolved: readonly string[];
}

/** What of a provider decides how its upstream is reached. */
type Upstream = Pick<ProviderConfig, 'name' | 'origin' | 'hostname' | 'allowPrivate' | 'upstreamSocket'>;

/** @param resolve all addresses of a name; empty if there are none, or none in time */
export async function reviewUpstreamAddresses(
  providers: Iterable<Upstream>,
  resolve: (host: string) => Promise<string[]> = resolveName,
): Promise<AddressReview> {
  const refused: string[] = [];
  const unresolved: string[] = [];
  await Promise.all(
    [...providers].map(async (provider) => {
      if (
        provider.allowPrivate ||
        provider.upstreamSocket !== undefined ||
        provider.origin.startsWith('http:')
      )
        return;
      const host = provider.hostname.replace(/^\[|\]$/g, '');
      const addresses = isAddress(host) ? [host] : await resolve(host);
      if (addresses.length === 0) unresolved.push(provider.name);
      else if (addresses.some(isPrivateAddress)) refused.push(provider.name);
    }),
  );
  return { refused, unresolved };
}

async function resolveName(host: string): Promise<string[]> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const expired = new Promise<string[]>((done) => {
    timer = setTimeout(done, RESOLVE_MS, []);
  });
  const found = lookup(host, { all: true }).then(
    (answers) => answers.map((answer) => answer.address),
    () => [],
  );
  const addresses = await Promise.race([found, expired]);
  clearTimeout(timer);
  return addresses;
}
