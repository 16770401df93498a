/** The whole file. Strict: an unknown key is an error, because a rule that is not read protects nobody. */
import * as v from 'valibot';
import { LOG_LEVELS } from './effective.ts';
import { parsePath, parseSocketPath } from './file-paths.ts';
import { parseHostPattern, parseLoopback, parseProxyUrl } from './names.ts';
import { auditSchema } from './schema-audit.ts';
import { limitsSchema } from './schema-limits.ts';
import { listenerSchema } from './schema-listener.ts';
import { providerSchema } from './schema-provider.ts';
import { duration, list, text, word } from './schema-values.ts';

export const serverSchema = v.strictObject({
  /** Directory of the default sockets. Default $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/isoproxy, /run/isoproxy (root). */
  runtime_dir: v.optional(text(parsePath)),
  /** Directory of state and audit. Default $STATE_DIRECTORY, $XDG_STATE_HOME (~/.local/state)/isoproxy, /var/lib/isoproxy (root). */
  state_dir: v.optional(text(parsePath)),
  /** The host-only control socket, 0600. Default <state_dir>/control.sock. */
  control: v.optional(text(parseSocketPath)),
  /** How long streams may finish after SIGTERM, duration. Default "30s". */
  shutdown_grace: v.optional(duration(1, 3_600_000)),
  /** `http://host:port` of a CONNECT proxy; the environment's proxies are ignored. Default: none. */
  upstream_proxy: v.optional(text(parseProxyUrl)),
  /** PEM file that replaces the built-in CA set for every provider. Default: the built-in set. */
  ca_file: v.optional(text(parsePath)),
});

export const profileSchema = v.strictObject({
  /** Upstream hosts that may be reached: names, or "*.name" for everything below a name. Required. */
  allow: list(text(parseHostPattern)),
  /** Upstream hosts that may not, whatever `allow` says. Default: none. */
  deny: v.optional(list(text(parseHostPattern))),
});

export const logSchema = v.strictObject({
  /** Least severe message written: error, warn, info or debug. Default "info". */
  level: v.optional(word(LOG_LEVELS)),
  /** "json" (one object a line) or "text". Default "json". */
  format: v.optional(word(['json', 'text'])),
});

export const metricsSchema = v.strictObject({
  /** Loopback address and port of the metrics page: exactly one of this and `socket`. */
  tcp: v.optional(text(parseLoopback)),
  /** Path of a unix socket for it, 0666, in a directory of its own. */
  socket: v.optional(text(parseSocketPath)),
});

export const documentSchema = v.strictObject({
  /** Further files, absolute paths or patterns with "*" in the file name; sorted; only in the main file. */
  include: v.optional(list(text(parsePath))),
  server: v.optional(serverSchema),
  listeners: v.optional(v.array(listenerSchema)),
  network_profiles: v.optional(v.record(v.string(), profileSchema)),
  providers: v.optional(v.record(v.string(), providerSchema)),
  limits: v.optional(limitsSchema),
  audit: v.optional(auditSchema),
  log: v.optional(logSchema),
  metrics: v.optional(metricsSchema),
});

export type DocumentTable = v.InferOutput<typeof documentSchema>;
export type ServerTable = v.InferOutput<typeof serverSchema>;
