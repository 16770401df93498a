/** `credential = …` of a provider and `token = …` of a TCP listener. */
import * as v from 'valibot';
import { ValueError } from './config-error.ts';
import { parsePath } from './file-paths.ts';
import { parseFormat, parseSettableHeader } from './header-fields.ts';
import { parseBasicUser, parseCredentialName, parseParameter, parseVariable } from './names.ts';
import { duration, text } from './schema-values.ts';

const DAY = 86_400_000;

/** Exactly one of file, env, systemd and command. */
const source = {
  /** Path of a file that holds the secret alone. Not world-readable; re-read when it changes. */
  file: v.optional(text(parsePath)),
  /** Environment variable of the proxy. Stays visible in its process environment: prefer the others. */
  env: v.optional(text(parseVariable)),
  /** Name of a systemd credential (LoadCredential=), a file in $CREDENTIALS_DIRECTORY. */
  systemd: v.optional(text(parseCredentialName)),
  /** Program and arguments; what it prints, one line, is the secret. The program's path is absolute. */
  command: v.optional(
    v.pipe(
      v.array(v.string()),
      v.check(
        (argv) => argv.length > 0 && (argv[0] as string).startsWith('/'),
        'must begin with the absolute path of a program',
      ),
      v.check((argv) => argv.every((part) => !part.includes('\0')), 'an argument holds no NUL'),
    ),
  ),
  /** How long a command's secret is used before it runs again, duration. Default "5m". */
  ttl: v.optional(duration(1000, DAY)),
  /** How long the command may run, duration. Default "10s". */
  timeout: v.optional(duration(1, 300_000)),
};

export const tokenSchema = v.strictObject(source);
export type SourceTable = v.InferOutput<typeof tokenSchema>;

export const credentialTableSchema = v.strictObject({
  /** Placement: the header that carries the secret. */
  header: v.optional(text(parseSettableHeader)),
  /** How the header's value is made, with {secret} once. Default "{secret}". */
  format: v.optional(text(parseFormat)),
  /** Placement: user name of HTTP Basic; the secret is the password. */
  basic: v.optional(text(parseBasicUser)),
  /** Placement: the query parameter that carries the secret. It ends up in the upstream's logs. */
  query: v.optional(text(parseParameter)),
  /** Accept a secret under 16 bytes; the reflection guard is off for it. Default false. */
  unsafe_short_secret: v.optional(v.boolean()),
  ...source,
});
export type CredentialTable = v.InferOutput<typeof credentialTableSchema>;

const none = text((value): 'none' => {
  if (value === 'none') return value;
  // Most likely the key itself was pasted here.
  throw new ValueError(
    'a secret never stands in this file; write { file = "/etc/isoproxy/NAME.key" }, or "none" for an API without one',
  );
});

const credentialList = v.pipe(
  v.array(credentialTableSchema),
  v.check((items) => items.length > 0, 'an empty list is no credential; write "none" if the API needs none'),
);

/** `"none"`, one table, or a list of tables where an API wants two secrets. */
export const credentialSchema = v.lazy((input) => {
  if (typeof input === 'string') return none;
  return Array.isArray(input) ? credentialList : credentialTableSchema;
});
