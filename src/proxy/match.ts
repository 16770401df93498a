/** From a parsed target to a verdict: provider, profile, rule, declared length. Nothing is dialled here. */
import { ProxyError } from '../errors.ts';
import { type NetworkProfile, permitsHost } from './network-profile.ts';
import { queryNames, stripQuery } from './query.ts';
import { decide, type Rule, type RuleSet } from './rules.ts';

/** @throws ProxyError profile_denied when the listener's network profile does not permit the upstream's host. */
export function checkProfile(profile: NetworkProfile | undefined, hostname: string): void {
  if (profile !== undefined && !permitsHost(profile, hostname))
    throw new ProxyError('profile_denied', `profile ${profile.name}`);
}

export interface MatchInput {
  readonly method: string;
  /** Path below the provider. */
  readonly path: string;
  /** The client's query, "" or "?…". */
  readonly query: string;
  readonly hasEncodedSlash: boolean;
  readonly asksForWebSocket: boolean;
}

export interface Match {
  readonly rule: Rule;
  /** The query without credential parameters: what is sent. */
  readonly query: string;
  /** The names in it, percent-decoded. */
  readonly queryNames: readonly string[];
}

/**
 * Finds the rule that allows a request.
 * @throws ProxyError bad_target for an encoded slash that the matching rule does not accept, else
 * endpoint_not_allowed.
 */
export function matchRule(
  rules: RuleSet,
  credentialParameters: ReadonlySet<string>,
  input: MatchInput,
): Match {
  const query = stripQuery(input.query, credentialParameters);
  const names = query === '' ? [] : queryNames(query);
  const decision = decide(rules, {
    method: input.method,
    path: input.path,
    queryNames: names,
    hasEncodedSlash: input.hasEncodedSlash,
    asksForWebSocket: input.asksForWebSocket,
  });
  if (decision.result === 'allow') return { rule: decision.rule, query, queryNames: names };
  if (decision.reason === 'encoded_slash') throw new ProxyError('bad_target', 'encoded slash');
  throw new ProxyError('endpoint_not_allowed', decision.reason);
}

/** @throws ProxyError request_too_large */
export function checkDeclaredLength(declared: number | undefined, limit: number): void {
  if (declared !== undefined && declared > limit)
    throw new ProxyError('request_too_large', 'declared length over max_request_body');
}
