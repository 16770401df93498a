// Faults of listeners and network profiles.

import { API, CANARY, credential, type Fault, LISTENER, listener } from './snippets.ts';

export const LISTENER_FAULTS: readonly Fault[] = [
  [
    'two listeners without providers',
    `${API}${LISTENER}[[listeners]]\nname = "agent-2"\nproviders = ["api"]\n`,
    'FILE:5: listeners#1.providers: required as soon as there are two listeners; name what this client may reach',
  ],
  [
    'an empty list of providers',
    listener('providers = []'),
    'FILE:7: listeners#1.providers: an empty list reaches nothing; name the providers, or remove the listener',
  ],
  [
    'a provider that does not exist',
    listener('providers = ["apu"]'),
    'FILE:7: listeners#1.providers#1: no such provider; did you mean "api"?',
  ],
  [
    'a provider named twice',
    listener('providers = ["api", "api"]'),
    'FILE:7: listeners#1.providers: the list holds an entry twice',
  ],
  [
    'mount of a provider that is not listed',
    `${API}${API.replace('.api', '.other')}${LISTENER}providers = ["api"]\nmount = "other"\n`,
    'FILE:12: listeners#1.mount: not among the providers of this listener; providers: api',
  ],
  [
    'mount among providers that do not exist',
    listener(`providers = ["${CANARY}"]\nmount = "api"`),
    'FILE:7: listeners#1.providers#1: no such provider; providers: api',
    'FILE:8: listeners#1.mount: not among the providers of this listener; there are no providers',
  ],
  [
    'a network profile that does not exist',
    `${listener('network_profile = "cding"')}[network_profiles.coding]\nallow = []\n`,
    'FILE:7: listeners#1.network_profile: no such profile; did you mean "coding"?',
  ],
  [
    'two listeners of one name',
    `${API}${LISTENER}providers = ["api"]\n${LISTENER}providers = ["api"]\nsocket = "/run/isoproxy/${CANARY}/s"\n`,
    'FILE:9: listeners#2.name: another listener has this name already; give each listener its own',
  ],
  [
    'two listeners on one socket',
    `${API}${LISTENER}providers = ["api"]\nsocket = "/run/isoproxy/${CANARY}/s"\n[[listeners]]\nname = "agent-2"\nproviders = ["api"]\nsocket = "/run/isoproxy/${CANARY}/x/../s"\n`,
    'FILE:12: listeners#2.socket: another listener has this socket already; give each listener its own',
  ],
  [
    'two sockets in one directory',
    `${API}${LISTENER}providers = ["api"]\nsocket = "/run/${CANARY}/a.sock"\n[[listeners]]\nname = "agent-2"\nproviders = ["api"]\nsocket = "/run/${CANARY}/b.sock"\n`,
    'FILE:8: listeners#1.socket: its directory also holds the socket of another listener; a sandbox mounts the whole directory, so give this socket one of its own',
    'FILE:12: listeners#2.socket: its directory also holds the socket of another listener; a sandbox mounts the whole directory, so give this socket one of its own',
  ],
  [
    'a socket above the directory of another',
    `${API}${LISTENER}providers = ["api"]\nsocket = "/run/${CANARY}/a.sock"\n[[listeners]]\nname = "agent-2"\nproviders = ["api"]\nsocket = "/run/${CANARY}/b/b.sock"\n`,
    'FILE:8: listeners#1.socket: its directory also holds the socket of another listener; a sandbox mounts the whole directory, so give this socket one of its own',
  ],
  [
    'two listeners on one port',
    `${API}${LISTENER}providers = ["api"]\ntcp = "127.0.0.1:8787"\ntoken = { file = "/etc/${CANARY}" }\n[[listeners]]\nname = "agent-2"\nproviders = ["api"]\ntcp = "127.0.0.1:8787"\ntoken = { file = "/etc/${CANARY}" }\n`,
    'FILE:13: listeners#2.tcp: another listener has this address already; give each listener its own',
  ],
  [
    'a socket beside the control socket',
    `[server]\ncontrol = "/run/${CANARY}/control.sock"\n${listener(`socket = "/run/${CANARY}/agent.sock"`)}`,
    'FILE:9: listeners#1.socket: its directory also holds the control socket; a sandbox mounts the whole directory, so give this socket one of its own',
  ],
  [
    'a socket above the state directory',
    listener('socket = "/var/lib/agent.sock"'),
    'FILE:7: listeners#1.socket: its directory also holds the control socket; a sandbox mounts the whole directory, so give this socket one of its own',
  ],
  [
    'a socket beside a secret',
    `${credential(`{ header = "x-api-key", file = "/run/${CANARY}/key" }`)}${LISTENER}socket = "/run/${CANARY}/agent.sock"\n`,
    'FILE:7: listeners#1.socket: its directory also holds a secret; a sandbox mounts the whole directory, so give this socket one of its own',
  ],
  [
    'a socket beside the configuration',
    listener('socket = "@DIR@/agent.sock"'),
    'FILE:7: listeners#1.socket: its directory also holds a configuration file; a sandbox mounts the whole directory, so give this socket one of its own',
  ],
  [
    'a relative socket path',
    listener(`socket = "${CANARY}/agent.sock"`),
    'FILE:7: listeners#1.socket: must be an absolute path, so that the working directory has no say in it',
  ],
  [
    'an abstract socket',
    listener(`socket = "@${CANARY}"`),
    'FILE:7: listeners#1.socket: abstract sockets have no permissions, any local user could connect; name a path',
  ],
  [
    'a socket path that is too long',
    listener(`socket = "/run/${'x'.repeat(100)}/agent.sock"`),
    'FILE:7: listeners#1.socket: a socket path has at most 107 bytes, this one has 116; shorten the directory or the name',
  ],
  [
    'a mode that is not offered',
    listener('mode = "0777"'),
    'FILE:7: listeners#1.mode: must be "0600" or "0660" or "0666"',
  ],
  [
    'mode 0660 without a group',
    listener('mode = "0660"'),
    'FILE:7: listeners#1.mode: "0660" needs a group; add group = "NAME"',
  ],
  [
    'a group without mode 0660',
    listener(`group = "${CANARY}"`),
    'FILE:7: listeners#1.group: group belongs to mode "0660"; add mode = "0660", or remove the group',
  ],
  [
    'socket and tcp',
    listener(`socket = "/run/${CANARY}/s"\ntcp = "127.0.0.1:8787"\ntoken = { file = "/etc/${CANARY}" }`),
    'FILE:7: listeners#1.socket: socket and tcp exclude each other; a listener is a unix socket or a loopback port',
  ],
  [
    'tcp without a token',
    listener('tcp = "127.0.0.1:8787"'),
    'FILE:5: listeners#1.token: required with tcp: every local process can connect to a port; add token = { file = "…" }',
  ],
  [
    'tcp on all interfaces',
    listener(`tcp = "0.0.0.0:8787"\ntoken = { file = "/etc/${CANARY}" }`),
    'FILE:7: listeners#1.tcp: only literal loopback with a port: "127.0.0.1:PORT" or "[::1]:PORT", PORT from 1 to 65535',
  ],
  [
    'tcp by name',
    listener(`tcp = "localhost:8787"\ntoken = { file = "/etc/${CANARY}" }`),
    'FILE:7: listeners#1.tcp: only literal loopback with a port: "127.0.0.1:PORT" or "[::1]:PORT", PORT from 1 to 65535',
  ],
  [
    'tcp on port 0',
    listener(`tcp = "[::1]:0"\ntoken = { file = "/etc/${CANARY}" }`),
    'FILE:7: listeners#1.tcp: only literal loopback with a port: "127.0.0.1:PORT" or "[::1]:PORT", PORT from 1 to 65535',
  ],
  [
    'a token on a unix socket',
    listener(`token = { file = "/etc/${CANARY}" }`),
    'FILE:7: listeners#1.token: token belongs to tcp; on a unix socket, file permissions decide who may connect',
  ],
  [
    'hosts on a unix socket',
    listener('hosts = ["host.docker.internal"]'),
    'FILE:7: listeners#1.hosts: hosts belongs to tcp; on a unix socket, file permissions decide who may connect',
  ],
  [
    'a token without a source',
    listener('tcp = "127.0.0.1:8787"\ntoken = {}'),
    'FILE:8: listeners#1.token: does not say where the secret comes from; add file, env, systemd or command',
  ],
  [
    'any origin',
    listener('allow_origins = ["*"]'),
    'FILE:7: listeners#1.allow_origins#1: an origin is "scheme://host" or "scheme://host:port" in lower case; "*" and "null" are refused',
  ],
  [
    '"*" as a network profile',
    `[network_profiles.all]\nallow = ["*"]\n`,
    'FILE:2: network_profiles.all.allow#1: "*" alone is no pattern; leave network_profile out to allow every provider of the listener',
  ],
  [
    'a network profile with a port',
    `[network_profiles.all]\nallow = ["${CANARY}.example:443"]\n`,
    'FILE:2: network_profiles.all.allow#1: a host is a bare name or address: no scheme, no port, no path, no final dot',
  ],
];
