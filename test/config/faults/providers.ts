// Faults of providers: upstream, credential, endpoints, headers.

import { CANARY, credential, endpoints, type Fault, provider, url } from './snippets.ts';

export const PROVIDER_FAULTS: readonly Fault[] = [
  [
    'an unknown preset with a near name',
    `[providers.api]\npreset = "antropic"\ncredential = { file = "/etc/${CANARY}" }\n`,
    'FILE:2: providers.api.preset: no such preset; did you mean "anthropic"?',
  ],
  [
    'neither preset nor base_url, credential, endpoints',
    `[providers.api]\nallow_set_cookie = true\n`,
    'FILE:1: providers.api.base_url: required without a preset; add base_url = "https://HOST"',
    'FILE:1: providers.api.credential: required; say where the secret comes from, like credential = { file = "/etc/isoproxy/NAME.key" }, or "none"',
    'FILE:1: providers.api.endpoints: required without a preset; list what is allowed; endpoints = [] allows nothing',
  ],
  [
    'http without its switch',
    url(`http://${CANARY}.example`),
    'FILE:2: providers.api.base_url: http would carry the credential in the clear; use https (unsafe_allow_http = true serves literal loopback and upstream_socket only)',
  ],
  [
    'http to a name, with the switch',
    url('http://localhost:8080', 'unsafe_allow_http = true\n'),
    'FILE:2: providers.api.base_url: unsafe_allow_http serves literal loopback (127.0.0.1, [::1]) and upstream_socket only; use https',
  ],
  [
    'a password in the URL',
    url(`https://user:${CANARY}@api.example`),
    'FILE:2: providers.api.base_url: no user or password in a URL; use credential',
  ],
  [
    'a query in the URL',
    url(`https://api.example/v1?key=${CANARY}`),
    'FILE:2: providers.api.base_url: no query in a base URL',
  ],
  [
    'a fragment in the URL',
    url(`https://api.example/#${CANARY}`),
    'FILE:2: providers.api.base_url: no fragment in a base URL',
  ],
  [
    'another scheme',
    url(`ftp://${CANARY}.example`),
    'FILE:2: providers.api.base_url: must begin with "https://"',
  ],
  [
    'an address in disguise',
    url('https://2130706433/'),
    'FILE:2: providers.api.base_url: the host is not in its usual form; write the name, or the address in its usual notation',
  ],
  [
    'a metadata address',
    url('https://169.254.169.254'),
    'FILE:2: providers.api.base_url: a loopback, private, link-local or metadata address; unsafe_allow_private = true if that is meant',
  ],
  [
    'an IPv6 address that carries a private one',
    url('https://[::ffff:a00:1]'),
    'FILE:2: providers.api.base_url: a loopback, private, link-local or metadata address; unsafe_allow_private = true if that is meant',
  ],
  [
    'localhost over https',
    url('https://localhost:8443'),
    'FILE:2: providers.api.base_url: a loopback, private, link-local or metadata address; unsafe_allow_private = true if that is meant',
  ],
  [
    'dot segments in the base path',
    url('https://api.example/v1/../admin'),
    'FILE:2: providers.api.base_url: the base path is plain segments: no "//", no dot segments, no percent-escapes',
  ],
  [
    'a literal secret as credential',
    credential(`"sk-ant-${CANARY}"`),
    'FILE:4: providers.api.credential: a secret never stands in this file; write { file = "/etc/isoproxy/NAME.key" }, or "none" for an API without one',
  ],
  [
    'a credential without a place',
    credential(`{ file = "/etc/${CANARY}" }`),
    'FILE:4: providers.api.credential: does not say where the secret goes; add header (with format), basic or query',
  ],
  [
    'a credential with two places',
    credential(`{ header = "x-api-key", query = "key", file = "/etc/${CANARY}" }`),
    'FILE:4: providers.api.credential: header and query exclude each other; a credential goes to exactly one place',
  ],
  [
    'a credential without a source',
    credential('{ header = "x-api-key" }'),
    'FILE:4: providers.api.credential: does not say where the secret comes from; add file, env, systemd or command',
  ],
  [
    'a credential with two sources',
    credential(`{ header = "x-api-key", file = "/etc/${CANARY}", env = "API_KEY" }`),
    'FILE:4: providers.api.credential: file and env exclude each other; a secret comes from exactly one source',
  ],
  [
    'a relative secret file',
    credential(`{ header = "x-api-key", file = "${CANARY}" }`),
    'FILE:4: providers.api.credential.file: must be an absolute path, so that the working directory has no say in it',
  ],
  [
    'a literal secret with an unknown key',
    credential(`{ header = "x-api-key", value = "${CANARY}" }`),
    'FILE:4: providers.api.credential.value: unknown key; known keys: header, format, basic, query, unsafe_short_secret, file, env, systemd, command, ttl, timeout',
  ],
  [
    'a format without {secret}',
    credential(`{ header = "authorization", format = "Bearer ${CANARY}", file = "/k" }`),
    'FILE:4: providers.api.credential.format: must hold {secret} exactly once, like "Bearer {secret}"',
  ],
  [
    'a format with {secret} twice',
    credential('{ header = "authorization", format = "{secret}{secret}", file = "/k" }'),
    'FILE:4: providers.api.credential.format: must hold {secret} exactly once, like "Bearer {secret}"',
  ],
  [
    'a format with a line break',
    credential(`{ header = "authorization", format = "{secret}\\r\\nx: ${CANARY}", file = "/k" }`),
    'FILE:4: providers.api.credential.format: a header value is printable ASCII without spaces at its ends',
  ],
  [
    'a format without a header',
    credential('{ query = "key", format = "{secret}", file = "/k" }'),
    'FILE:4: providers.api.credential.format: format belongs to header; name the header too',
  ],
  [
    'a credential in a hop-by-hop header',
    credential('{ header = "Connection", file = "/k" }'),
    "FILE:4: providers.api.credential.header: this header is the proxy's own business (hop-by-hop, framing, Host or X-Isoproxy-*)",
  ],
  [
    'a credential in Host',
    credential('{ header = "Host", file = "/k" }'),
    "FILE:4: providers.api.credential.header: this header is the proxy's own business (hop-by-hop, framing, Host or X-Isoproxy-*)",
  ],
  [
    'a credential in no header name',
    credential(`{ header = "x ${CANARY}", file = "/k" }`),
    'FILE:4: providers.api.credential.header: not a header name (letters, digits and "-")',
  ],
  [
    'a command by relative path',
    credential(`{ header = "x-api-key", command = ["pass", "${CANARY}"] }`),
    'FILE:4: providers.api.credential.command: must begin with the absolute path of a program',
  ],
  [
    'ttl without a command',
    credential('{ header = "x-api-key", file = "/k", ttl = "5m" }'),
    'FILE:4: providers.api.credential.ttl: ttl belongs to command; remove it',
  ],
  [
    'two credentials in one header',
    credential('[{ header = "x-api-key", file = "/k" }, { header = "X_API_KEY", file = "/l" }]'),
    'FILE:4: providers.api.credential#2: goes to the same place as another credential of this provider; only one of them would arrive',
  ],
  [
    'an empty list of credentials',
    credential('[]'),
    'FILE:4: providers.api.credential: an empty list is no credential; write "none" if the API needs none',
  ],
  [
    'an entry without methods',
    endpoints(`[{ methods = [], paths = ["/${CANARY}"] }]`),
    'FILE:4: providers.api.endpoints#1.methods: an empty list allows nothing; list methods, or ["*"] for all',
  ],
  [
    'an entry without paths',
    endpoints('[{ methods = ["GET"], paths = [] }]'),
    'FILE:4: providers.api.endpoints#1.paths: an empty list allows nothing; list paths, or remove the entry',
  ],
  [
    'an entry that lacks paths',
    endpoints('[{ methods = ["GET"] }]'),
    'FILE:4: providers.api.endpoints#1.paths: required',
  ],
  [
    'a method in lower case',
    endpoints(`[{ methods = ["get"], paths = ["/${CANARY}"] }]`),
    'FILE:4: providers.api.endpoints#1.methods: not a method that is forwarded; use GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS (upper case) or "*"',
  ],
  [
    'a path without its slash',
    endpoints(`[{ methods = ["GET"], paths = ["${CANARY}"] }]`),
    'FILE:4: providers.api.endpoints#1.paths: a path starts with "/"',
  ],
  [
    'a double star',
    endpoints(`[{ methods = ["GET"], paths = ["/${CANARY}/**"] }]`),
    'FILE:4: providers.api.endpoints#1.paths: "**" is not a pattern; a trailing "/*" already covers every depth',
  ],
  [
    'two equal entries',
    endpoints(
      `[\n  { methods = ["GET"], paths = ["/${CANARY}"] },\n  { methods = ["GET"], paths = ["/${CANARY}"] },\n]`,
    ),
    'FILE:6: providers.api.endpoints#2.paths: equal to entry 1; remove one of them',
  ],
  [
    'two entries that disagree',
    endpoints(
      `[\n  { methods = ["GET"], paths = ["/a/*"] },\n  { methods = ["GET"], paths = ["/a/b"], query = ["${CANARY}"] },\n]`,
    ),
    'FILE:6: providers.api.endpoints#2.paths: entries 1 and 2 (counted from 1) match the same requests but disagree on an option; merge them or make their paths distinct',
  ],
  [
    'a secret in headers',
    provider(`headers = { authorization = "Bearer ${CANARY}" }`),
    'FILE:5: providers.api.headers.authorization: a credential is never written into this file; use credential = { header = "…", file = "…" }',
  ],
  [
    'a framing header in headers',
    provider(`headers = { Content-Length = "${CANARY}" }`),
    "FILE:5: providers.api.headers.Content-Length: this header is the proxy's own business (hop-by-hop, framing, Host or X-Isoproxy-*)",
  ],
  [
    'a header value with a line break',
    provider(`headers = { x-a = "1\\r\\nx-b: ${CANARY}" }`),
    'FILE:5: providers.api.headers.x-a: a header value is printable ASCII without spaces at its ends',
  ],
  [
    'a header in both tables',
    provider(`headers = { x-a = "${CANARY}" }\ndefault_headers = { X-A = "2" }`),
    'FILE:6: providers.api.default_headers.X-A: headers sets this one always; remove it from one of the two',
  ],
  [
    'a header that the credential sets',
    `[providers.api]\nbase_url = "https://api.example"\nendpoints = []\ncredential = { header = "x-auth-email", file = "/k" }\nheaders = { X-Auth-Email = "${CANARY}" }\n`,
    'FILE:5: providers.api.headers.X-Auth-Email: the credential of this provider sets this header; remove it here',
  ],
  [
    'an unknown word in client_env',
    provider(`client_env = { API_URL = "{base_url}/${CANARY}" }`),
    'FILE:5: providers.api.client_env.API_URL: only {client_base_url} and {placeholder} are filled in',
  ],
  [
    'no variable name in client_env',
    provider(`client_env = { "API-URL" = "${CANARY}" }`),
    'FILE:5: providers.api.client_env.API-URL: a variable name is letters, digits and "_", and starts with no digit',
  ],
  [
    'a client certificate without its key',
    provider(`client_cert = "/etc/${CANARY}.crt"`),
    'FILE:1: providers.api.client_key: required with client_cert',
  ],
];
