// What works but is probably not meant.

import { afterAll, expect, test } from 'bun:test';
import { loadConfig } from '../../src/config/load.ts';
import { createWorkspace } from '../support/workspace.ts';
import { API, LISTENER } from './faults/snippets.ts';

const workspace = createWorkspace();
afterAll(() => workspace.remove());
const ENV = { RUNTIME_DIRECTORY: '/run/isoproxy', STATE_DIRECTORY: '/var/lib/isoproxy' };
const USEFUL = API.replace('[]', '[{ methods = ["GET"], paths = ["/a"] }]');

function warningsOf(toml: string): readonly string[] {
  const file = workspace.write('proxy.toml', toml);
  return loadConfig({ file, env: ENV }).warnings.map((warning) => warning.replaceAll(file, 'FILE'));
}

test('a sound configuration has none', () => {
  expect(warningsOf(USEFUL + LISTENER)).toEqual([]);
});

test.each([
  [
    'no listener',
    USEFUL,
    'FILE: listeners: there is no listener, so nobody can connect; add [[listeners]] with a name',
  ],
  [
    'no provider',
    LISTENER,
    'FILE: providers: there is no provider, so every request is refused; add [providers.NAME], or start from isoproxy init',
  ],
  [
    'a provider that allows nothing',
    API + LISTENER,
    'FILE:4: providers.api.endpoints: allows nothing, so every request is refused; list methods and paths',
  ],
  [
    'a provider that no listener reaches',
    `${USEFUL}${USEFUL.replace('.api', '.other')}${LISTENER}providers = ["api"]\n`,
    'FILE:5: providers.other: no listener reaches this provider; name it in the providers of a listener',
  ],
  [
    'an entry that another one covers',
    `${API.replace('[]', '[{ methods = ["GET"], paths = ["/a/*"] }, { methods = ["GET"], paths = ["/a/b"] }]')}${LISTENER}`,
    'FILE:4: providers.api.endpoints: entry 2 allows nothing that entry 1 does not allow already; remove it, or narrow the other one',
  ],
  [
    'an entry that allows everything',
    `${API.replace('[]', '[{ methods = ["*"], paths = ["/*"] }]')}${LISTENER}`,
    'FILE:4: providers.api.endpoints: one entry allows every method and path; list what is needed: the credential can do no more than that',
  ],
  [
    'mode 0666',
    `${USEFUL}${LISTENER}mode = "0666"\n`,
    'FILE:7: listeners#1.mode: every local user who can enter the directory can connect; bar others by a parent directory, or use "0660" with a group',
  ],
  [
    'a secret from the environment',
    `${USEFUL.replace('"none"', '{ header = "x-api-key", env = "API_KEY" }')}${LISTENER}`,
    'FILE:3: providers.api.credential.env: a secret in the environment stays visible in /proc and to child processes; prefer file or systemd',
  ],
  [
    'a short secret',
    `${USEFUL.replace('"none"', '{ header = "x-api-key", file = "/k", unsafe_short_secret = true }')}${LISTENER}`,
    'FILE:3: providers.api.credential.unsafe_short_secret: a short secret is not searched for in answers; remove this if the secret has 16 bytes or more',
  ],
  [
    'a profile that denies what the listener lists',
    `${USEFUL}${LISTENER}network_profile = "p"\n[network_profiles.p]\nallow = ["*.api.example"]\n`,
    'FILE:7: listeners#1.network_profile: denies the upstream of provider api; allow its host in the profile, or remove the provider here',
  ],
  [
    'a profile that nobody uses',
    `${USEFUL}${LISTENER}[network_profiles.p]\nallow = ["api.example"]\n`,
    'FILE:7: network_profiles.p: no listener uses this profile; name it as network_profile of a listener',
  ],
  [
    'a mount beside other providers',
    `${USEFUL}${USEFUL.replace('.api', '.other')}${LISTENER}mount = "api"\n`,
    'FILE:11: listeners#1.mount: the mounted provider takes every path, so the others of this listener cannot be reached; give them a listener of their own',
  ],
  [
    'two providers that set one client variable',
    `${USEFUL}client_env = { A = "1" }\n${USEFUL.replace('.api', '.other')}client_env = { A = "2" }\n${LISTENER}`,
    'FILE:11: listeners#1.providers: providers api and other set the same client variable, the later one wins; rename one in its client_env',
  ],
  [
    'an include that matches nothing',
    `include = ["/nowhere/*.toml"]\n${USEFUL}${LISTENER}`,
    'FILE:1: include#1: matches no file',
  ],
])('%s', (_, toml, warning) => {
  expect(warningsOf(toml)).toEqual([warning]);
});
