/** Network profiles: which upstream hosts a client may reach at all. Deny first, then allow, else deny. */

export interface NetworkProfile {
  readonly name: string;
  readonly allow: readonly string[];
  readonly deny: readonly string[];
}

/** A host pattern: a name, or `*.` and a name (one or more labels before it, never the apex itself). */
export function matchesHost(pattern: string, host: string): boolean {
  if (!pattern.startsWith('*.')) return pattern === host;
  const suffix = pattern.slice(1);
  return host.length > suffix.length && host.endsWith(suffix);
}

/** May `host` (lower case, no port) be reached under this profile? */
export function permitsHost(profile: NetworkProfile, host: string): boolean {
  if (profile.deny.some((pattern) => matchesHost(pattern, host))) return false;
  return profile.allow.some((pattern) => matchesHost(pattern, host));
}
