// Faults of limits, units, server, log and include.

import { API, CANARY, type Fault, LISTENER, limits, provider, url } from './snippets.ts';

export const VALUE_FAULTS: readonly Fault[] = [
  [
    'a size without unit',
    limits('max_request_body = 1048576'),
    'FILE:2: limits.max_request_body: a size needs its unit, like "32MiB"; bare numbers are refused',
  ],
  [
    'a size in a unit that is not offered',
    limits('max_request_body = "32MB"'),
    'FILE:2: limits.max_request_body: a size is a whole number and its unit (B, KiB, MiB, GiB, TiB), like "32MiB"',
  ],
  [
    'a duration without unit',
    limits('idle_timeout = 600'),
    'FILE:2: limits.idle_timeout: a duration needs its unit, like "90s"; bare numbers are refused',
  ],
  [
    '0 for unlimited',
    limits('total_timeout = "0s"'),
    'FILE:2: limits.total_timeout: 0 is refused, it does not mean unlimited; name the largest value you can live with',
  ],
  [
    'a duration beyond its range',
    limits('total_timeout = "30d"'),
    'FILE:2: limits.total_timeout: must be 1ms to 7d',
  ],
  [
    'no request in flight',
    limits('max_concurrent = 0'),
    'FILE:2: limits.max_concurrent: must be a whole number, 1 to 65535',
  ],
  [
    'caps beyond what the runtime holds',
    `${API}${API.replace('.api', '.other')}${LISTENER}[limits]\nmax_concurrent = 65535\n`,
    'FILE:12: limits.max_concurrent: the caps of all listeners and providers add up to 131070, the runtime holds 65535; lower max_concurrent in limits or in [listeners.limits]',
  ],
  [
    'limits of a provider below its range',
    provider('limits = { min_body_rate = "2GiB" }'),
    'FILE:5: providers.api.limits.min_body_rate: must be 1B to 1GiB',
  ],
  [
    'an upstream socket by relative path',
    provider(`upstream_socket = "${CANARY}.sock"`),
    'FILE:5: providers.api.upstream_socket: must be an absolute path, so that the working directory has no say in it',
  ],
  [
    'a header name in strip_headers that is none',
    provider(`strip_headers = ["x ${CANARY}"]`),
    'FILE:5: providers.api.strip_headers#1: not a header name (letters, digits and "-")',
  ],
  [
    'a port that is none',
    url('https://api.example:0'),
    'FILE:2: providers.api.base_url: a port is 1 to 65535',
  ],
  [
    'an unknown log level',
    `[log]\nlevel = "${CANARY}"\n`,
    'FILE:2: log.level: must be "error" or "warn" or "info" or "debug"',
  ],
  [
    'a proxy with a password',
    `[server]\nupstream_proxy = "http://user:${CANARY}@proxy:3128"\n`,
    'FILE:2: server.upstream_proxy: no user or password in this URL',
  ],
  [
    'a relative state directory',
    `[server]\nstate_dir = "~/${CANARY}"\n`,
    'FILE:2: server.state_dir: "~" is not expanded; write the absolute path',
  ],
  [
    'a pattern in an include directory',
    `include = ["/etc/*/${CANARY}.toml"]\n`,
    'FILE:1: include#1: "*" stands only in the file name, not in a directory',
  ],
  [
    'an include that is not there',
    'include = ["/nowhere/listeners.toml"]\n',
    '/nowhere/listeners.toml: does not exist; it is included by FILE',
  ],
];
