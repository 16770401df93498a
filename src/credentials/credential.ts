/** What a credential is made of, as configured: a placement, a source, and facts about its value. */

/** Where the secret goes in the upstream request; exactly one. */
export type Placement =
  /** `header: name`, value is `format` with `{secret}` replaced (default `{secret}`). */
  | { readonly kind: 'header'; readonly name: string; readonly format: string }
  /** `Authorization: Basic base64(user:secret)` (RFC 7617). */
  | { readonly kind: 'basic'; readonly user: string }
  /** `?parameter=secret`, percent-encoded. Ends up in upstream logs: for APIs that want it only. */
  | { readonly kind: 'query'; readonly parameter: string };

/** Where the secret comes from; exactly one. */
export type SecretSource =
  /** A file; not world-readable, group-readable only if root-owned; links followed; re-read when it changes. */
  | { readonly kind: 'file'; readonly path: string }
  /** An environment variable of the proxy. Stays visible in the process environment: prefer the others. */
  | { readonly kind: 'env'; readonly variable: string }
  /** A systemd credential: the file of that name in `$CREDENTIALS_DIRECTORY`. */
  | { readonly kind: 'systemd'; readonly name: string }
  /** What a program prints, exactly one line. Environment: PATH, HOME, LANG only. */
  | {
      readonly kind: 'command';
      readonly argv: readonly [string, ...string[]];
      /** How long a value is used before the program runs again, ms (default 5 min). */
      readonly ttlMs: number;
      /** How long the program may run, ms (default 10 s). */
      readonly timeoutMs: number;
    };

export interface CredentialConfig {
  readonly placement: Placement;
  readonly source: SecretSource;
  /** Accept a secret under 16 bytes; the reflection guard is off for it. */
  readonly unsafeShortSecret: boolean;
  /** Public, constant beginnings of such keys (`sk-ant-api03-`): they do not count as secret text. */
  readonly publicPrefixes: readonly string[];
}

/** Below this, a match in an answer is likely chance, so reflection cannot be judged (bytes). */
export const MIN_SECRET_BYTES = 16;
