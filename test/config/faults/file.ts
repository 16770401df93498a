// Faults of the file as a whole: syntax, unknown keys, wrong types, names.

import { API, CANARY, endpoints, type Fault, limits, listener, provider, url } from './snippets.ts';

export const FILE_FAULTS: readonly Fault[] = [
  [
    'a string is not closed',
    `[providers.api]\nbase_url = "https://${CANARY}\n`,
    'FILE:2: not valid TOML, column 34: a control character or line break stands in a string (is its quote missing?)',
  ],
  [
    'a value without quotes',
    `[log]\nlevel = ${CANARY}\n`,
    'FILE:2: not valid TOML, column 9: the value is not TOML (strings need quotes)',
  ],
  [
    'a key twice',
    `[log]\nlevel = "info"\nlevel = "${CANARY}"\n`,
    'FILE:3: not valid TOML, column 1: a key or table is defined twice',
  ],
  [
    'a table twice',
    `[log]\nlevel = "info"\n[log]\nformat = "${CANARY}"\n`,
    'FILE:3: not valid TOML, column 2: a key or table is defined twice',
  ],
  [
    'text after a value',
    `[log]\nlevel = "info" ${CANARY}\n`,
    'FILE:2: not valid TOML, column 16: unexpected text',
  ],
  [
    'an unknown key with a near name',
    `[providers.api]\nbase_url = "https://api.example"\ncredental = "${CANARY}"\ncredential = "none"\nendpoints = []\n`,
    'FILE:3: providers.api.credental: unknown key; did you mean "credential"?',
  ],
  [
    'an unknown table at the top',
    `[listners]\nname = "${CANARY}"\n`,
    'FILE:1: listners: unknown key; did you mean "listeners"?',
  ],
  [
    'an unknown key with nothing near',
    `[log]\ncolour = "${CANARY}"\n`,
    'FILE:2: log.colour: unknown key; known keys: level, format',
  ],
  [
    'a key that looks like a pasted secret',
    `[log]\n"sk-ant-api03-${CANARY}${CANARY}${CANARY}${CANARY}${CANARY}" = 1\n`,
    'FILE:2: log.(key): unknown key; known keys: level, format',
  ],
  [
    'profile instead of network_profile',
    listener(`profile = "${CANARY}"`),
    'FILE:7: listeners#1.profile: unknown key; did you mean "network_profile"?',
  ],
  [
    'two unknown keys, both reported',
    `[server]\nstate = "${CANARY}"\nruntime = "${CANARY}"\n`,
    'FILE:2: server.state: unknown key; known keys: runtime_dir, state_dir, control, shutdown_grace, upstream_proxy, ca_file',
    'FILE:3: server.runtime: unknown key; known keys: runtime_dir, state_dir, control, shutdown_grace, upstream_proxy, ca_file',
  ],
  [
    'an audit durability that there is not',
    `[audit]\ndurability = "${CANARY}"\n`,
    'FILE:2: audit.durability: must be "commit" or "async" or "off"',
  ],
  [
    'metrics on every interface',
    `[metrics]\ntcp = "0.0.0.0:${CANARY}"\n`,
    'FILE:2: metrics.tcp: only literal loopback with a port: "127.0.0.1:PORT" or "[::1]:PORT", PORT from 1 to 65535',
  ],
  ['a rate without its time', limits('rate = { requests = 100 }'), 'FILE:2: limits.rate.per: required'],
  [
    'a rate with a time that is none',
    limits(`rate = { requests = 100, per = "${CANARY}" }`),
    'FILE:2: limits.rate.per: a duration is a whole number and its unit (ms, s, m, h, d), like "90s"',
  ],
  [
    'a listener’s rate of nothing',
    listener(`limits = { rate = { requests = 0, per = "1s" } }`),
    'FILE:7: listeners#1.limits.rate.requests: must be a whole number, 1 to 1000000',
  ],
  [
    'a circuit of a listener, which has none',
    listener(`limits = { circuit = { failures = 5, open = "1s" } }`),
    'FILE:7: listeners#1.limits.circuit: unknown key; known keys: max_concurrent, rate',
  ],
  [
    'a circuit with an unknown key',
    provider(`limits = { circuit = { failures = 5, open = "1s", maxopen = "2s" } }`),
    'FILE:5: providers.api.limits.circuit.maxopen: unknown key; did you mean "max_open"?',
  ],
  [
    'websocket with another method',
    endpoints(`[{ methods = ["POST"], paths = ["/${CANARY}"], websocket = true }]`),
    'FILE:4: providers.api.endpoints#1.websocket: websocket = true needs methods = ["GET"]: an upgrade is a GET (RFC 6455 4.1)',
  ],
  [
    'websocket through a proxy',
    `[server]\nupstream_proxy = "http://proxy:3128"\n${endpoints(`[{ methods = ["GET"], paths = ["/${CANARY}"], websocket = true }]`)}`,
    'FILE:6: providers.api.endpoints: a websocket entry cannot go through server.upstream_proxy in this version; remove the entry, or serve this provider by an instance without the proxy',
  ],
  ['a list where a table is meant', `server = ["${CANARY}"]\n`, 'FILE:1: server: must be a table'],
  [
    'an array of tables where a table is meant',
    `[[limits]]\nmax_concurrent = 1\n`,
    'FILE:1: limits: must be a table',
  ],
  ['a date where a table is meant', `log = 2026-11-23\n`, 'FILE:1: log: must be a table'],
  ['a string where a list is meant', `include = "${CANARY}"\n`, 'FILE:1: include: must be a list'],
  [
    'a table where a list of tables is meant',
    `[listeners]\nname = "${CANARY}"\n`,
    'FILE:1: listeners: must be a list',
  ],
  [
    'a number where a string is meant',
    url('https://api.example', 'preset = 3\n'),
    'FILE:5: providers.api.preset: must be a string',
  ],
  [
    'a string where true or false is meant',
    provider(`allow_set_cookie = "${CANARY}"`),
    'FILE:5: providers.api.allow_set_cookie: must be true or false',
  ],
  [
    'a float where a whole number is meant',
    limits('max_concurrent = 1.5'),
    'FILE:2: limits.max_concurrent: must be a whole number, 1 to 65535',
  ],
  [
    'a header value that is no string',
    provider('headers = { x-a = 5 }'),
    'FILE:5: providers.api.headers.x-a: must be a string',
  ],
  [
    'a listener without a name',
    `${API}[[listeners]]\nsocket = "/run/${CANARY}/s"\n`,
    'FILE:5: listeners#1.name: required',
  ],
  [
    'a listener name in upper case',
    `${API}[[listeners]]\nname = "${CANARY}"\n`,
    'FILE:6: listeners#1.name: a name is a lower-case letter and up to 31 more letters, digits or "-"',
  ],
  [
    'a provider name with an underscore',
    API.replace('providers.api', 'providers.my_api'),
    'FILE:1: providers.my_api: a name is a lower-case letter and up to 31 more letters, digits or "-"',
  ],
  [
    'a provider name that is a route',
    API.replace('providers.api', 'providers.healthz'),
    'FILE:1: providers.healthz: this name is a route of the proxy itself; choose another',
  ],
  [
    'a provider name that JavaScript reserves',
    API.replace('providers.api', 'providers.constructor'),
    'FILE:1: providers.constructor: this name is reserved; choose another',
  ],
  [
    'a profile name with a dot',
    `[network_profiles."a.b"]\nallow = ["${CANARY}"]\n`,
    'FILE:1: network_profiles.a.b: a name is a lower-case letter and up to 31 more letters, digits or "-"',
  ],
];
