/** `[[listeners]]`: one per sandbox; the socket is the client's identity. */
import * as v from 'valibot';
import { parseSocketPath } from './file-paths.ts';
import { parseGroup, parseHostName, parseLoopback, parseName, parseOrigin } from './names.ts';
import { tokenSchema } from './schema-credential.ts';
import { listenerLimitsSchema } from './schema-limits.ts';
import { list, text, word } from './schema-values.ts';

export const listenerSchema = v.strictObject({
  /** Client id in logs and audit. Required. */
  name: text(parseName),
  /** Path of the socket, at most 107 bytes. Default <runtime_dir>/<name>/isoproxy.sock. */
  socket: v.optional(text(parseSocketPath)),
  /** Mode of the socket: "0600", "0660" (needs group) or "0666". Default "0600". */
  mode: v.optional(word(['0600', '0660', '0666'])),
  /** Group of the socket, with mode "0660". */
  group: v.optional(text(parseGroup)),
  /** Providers that this client may reach. Required with two listeners or more; default all. */
  providers: v.optional(list(v.string(), 'reaches nothing; name the providers, or remove the listener')),
  /** Name of a network profile that must allow the upstream too. Default: none. */
  network_profile: v.optional(v.string()),
  /** The one provider that is served at "/", without prefix. Default: none. */
  mount: v.optional(v.string()),
  /** Loopback address and port instead of a socket; needs token. */
  tcp: v.optional(text(parseLoopback)),
  /** Names that a TCP client may use in Host besides loopback. Default: none. */
  hosts: v.optional(list(text(parseHostName))),
  /** Where the token of TCP clients comes from: exactly one of file, env, systemd, command. */
  token: v.optional(tokenSchema),
  /** Origins of browsers that are let through. Default: none, a request with Origin is refused. */
  allow_origins: v.optional(list(text(parseOrigin))),
  limits: v.optional(listenerLimitsSchema),
});

export type ListenerTable = v.InferOutput<typeof listenerSchema>;
