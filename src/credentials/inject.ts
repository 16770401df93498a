/** Injection: the last thing that happens to a request before it is sent, and the only place that opens a secret for it. */
import { appendQuery } from '../proxy/query.ts';
import type { Placement } from './credential.ts';
import type { Secret } from './secret.ts';

/** The parts of an upstream request that a credential can touch. */
export interface Injectable {
  readonly headers: Headers;
  /** "" or "?…". */
  query: string;
}

/** Puts `secret` where `placement` says, replacing whatever stands there. */
export function inject(request: Injectable, placement: Placement, secret: Secret): void {
  switch (placement.kind) {
    case 'header':
      // A replacer function, because "$&" in a secret is no pattern.
      request.headers.set(
        placement.name,
        placement.format.replace('{secret}', () => secret.reveal()),
      );
      return;
    case 'basic':
      request.headers.set('authorization', `Basic ${btoa(`${placement.user}:${secret.reveal()}`)}`);
      return;
    case 'query':
      request.query = appendQuery(request.query, placement.parameter, secret.reveal());
  }
}

/** The header that a placement occupies, if it is one. */
export function injectedHeader(placement: Placement): string | undefined {
  if (placement.kind === 'header') return placement.name.toLowerCase();
  return placement.kind === 'basic' ? 'authorization' : undefined;
}

/** Lower-case names of query parameters that carry credentials: the preset's, and those that are injected. */
export function credentialParameters(
  stripQuery: readonly string[],
  placements: readonly Placement[],
): ReadonlySet<string> {
  const injected = placements.flatMap((placement) =>
    placement.kind === 'query' ? [placement.parameter.toLowerCase()] : [],
  );
  return new Set([...stripQuery, ...injected]);
}
