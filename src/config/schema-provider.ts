/** `[providers.NAME]`: one upstream, its credential and what may be asked of it. */
import * as v from 'valibot';
import { parseBaseUrl } from './base-url.ts';
import { parsePath, parseSocketPath } from './file-paths.ts';
import { parseHeaderName } from './header-fields.ts';
import { credentialSchema } from './schema-credential.ts';
import { limitsSchema } from './schema-limits.ts';
import { list, text } from './schema-values.ts';

/** One entry of `endpoints`; a request needs an entry that fits both its method and its path. */
export const endpointSchema = v.strictObject({
  /** Upper-case methods, or ["*"]. GET does not imply HEAD. */
  methods: v.array(v.string()),
  /** Path patterns below the provider. */
  paths: v.array(v.string()),
  /** Allowed query parameter names. Default: any; [] allows none. */
  query: v.optional(v.array(v.string())),
  /** For WebSocket upgrades, and for nothing else; methods is then ["GET"]. Default false. */
  websocket: v.optional(v.boolean()),
  /** Keep %2F in a path as part of its segment. Default false. */
  allow_encoded_slash: v.optional(v.boolean()),
  /** Pass an answer in an encoding that was not asked for; the reflection guard cannot read it. Default false. */
  unsafe_allow_encoded_response: v.optional(v.boolean()),
  /** Pass an answer with neither length nor chunking, where a cut looks like an end. Default false. */
  unsafe_allow_unframed_response: v.optional(v.boolean()),
});

export const providerSchema = v.strictObject({
  /** Name of a preset that fills in what is not written here. Default: none. */
  preset: v.optional(v.string()),
  /** `https://host[:port][/base]`. Required without a preset. */
  base_url: v.optional(text(parseBaseUrl)),
  /** "none", or where the secret comes from and (without a preset) where it goes. Required. */
  credential: v.optional(credentialSchema),
  /** The allow-list; replaces the preset's. Required without a preset; [] allows nothing. */
  endpoints: v.optional(v.array(endpointSchema)),
  /** Entries besides the preset's. */
  extra_endpoints: v.optional(v.array(endpointSchema)),
  /** Headers always set on the way up. */
  headers: v.optional(v.record(v.string(), v.string())),
  /** Headers set when the client sent none. */
  default_headers: v.optional(v.record(v.string(), v.string())),
  /** Headers removed from the client besides the fixed list and the preset's. */
  strip_headers: v.optional(list(text(parseHeaderName))),
  /** Variables that `run` sets in the sandbox; {client_base_url} and {placeholder} are filled in. */
  client_env: v.optional(v.record(v.string(), v.string())),
  /** Any key of [limits], for this provider. */
  limits: v.optional(limitsSchema),
  /** Pass Set-Cookie to the client. Default false: a session minted from our credential is a credential. */
  allow_set_cookie: v.optional(v.boolean()),
  /** Allow http:// to literal loopback or through upstream_socket. Default false. */
  unsafe_allow_http: v.optional(v.boolean()),
  /** Allow an upstream at a private, link-local or metadata address. Default false. */
  unsafe_allow_private: v.optional(v.boolean()),
  /** Unix socket of the upstream, dialled instead of the host. */
  upstream_socket: v.optional(text(parseSocketPath)),
  /** PEM file that replaces the built-in CA set. Default: [server] ca_file. */
  ca_file: v.optional(text(parsePath)),
  /** PEM client certificate; needs client_key. */
  client_cert: v.optional(text(parsePath)),
  /** PEM key of the client certificate. */
  client_key: v.optional(text(parsePath)),
});

export type ProviderTable = v.InferOutput<typeof providerSchema>;
