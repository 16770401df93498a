/** What works but is probably not meant. `check --strict` makes errors of these. */

import { findCoveredRules } from '../proxy/compile-rules.ts';
import { type NetworkProfile, permitsHost } from '../proxy/network-profile.ts';
import { METHODS } from '../proxy/rules.ts';
import type { ListenerConfig, ProviderConfig } from './effective.ts';
import { at, type Place, type Report } from './place.ts';

/** A compiled part and where it was written. */
export interface Placed<T> {
  readonly config: T;
  readonly place: Place;
}

export interface WarningSubject {
  readonly listeners: readonly Placed<ListenerConfig>[];
  readonly providers: readonly Placed<ProviderConfig>[];
  readonly profiles: readonly Placed<NetworkProfile>[];
  /** The main file. */
  readonly root: Place;
}

export function collectWarnings(subject: WarningSubject, report: Report): void {
  if (subject.listeners.length === 0)
    report.warning(
      at(subject.root, 'listeners'),
      'there is no listener, so nobody can connect',
      'add [[listeners]] with a name',
    );
  if (subject.providers.length === 0)
    report.warning(
      at(subject.root, 'providers'),
      'there is no provider, so every request is refused',
      'add [providers.NAME], or start from isoproxy init',
    );
  for (const listener of subject.listeners) warnOfListener(listener, subject, report);
  for (const provider of subject.providers) warnOfProvider(provider, subject, report);
  for (const { config, place } of subject.profiles) {
    if (config.allow.length === 0) report.warning(at(place, 'allow'), 'an empty list allows no upstream');
    if (!subject.listeners.some((listener) => listener.config.networkProfile === config))
      report.warning(place, 'no listener uses this profile', 'name it as network_profile of a listener');
  }
}

function warnOfListener(
  { config, place }: Placed<ListenerConfig>,
  subject: WarningSubject,
  report: Report,
): void {
  const { address, mount, networkProfile } = config;
  if (address.kind === 'unix' && address.mode === 0o666)
    report.warning(
      at(place, 'mode'),
      'every local user who can enter the directory can connect',
      'bar others by a parent directory, or use "0660" with a group',
    );
  if (address.kind === 'tcp' && address.token.kind === 'env')
    warnOfVariable(at(place, 'token', 'env'), report);
  if (mount !== undefined && config.providers.length > 1)
    report.warning(
      at(place, 'mount'),
      'the mounted provider takes every path, so the others of this listener cannot be reached',
      'give them a listener of their own',
    );
  const reached = subject.providers.filter((provider) => config.providers.includes(provider.config.name));
  for (const provider of reached) {
    if (networkProfile !== undefined && !permitsHost(networkProfile, provider.config.hostname))
      report.warning(
        at(place, 'network_profile'),
        `denies the upstream of provider ${provider.config.name}`,
        'allow its host in the profile, or remove the provider here',
      );
  }
  const setBy = new Map<string, string>();
  for (const { config: provider } of reached) {
    for (const name of provider.client.env.keys()) {
      const first = setBy.get(name);
      if (first !== undefined)
        report.warning(
          at(place, 'providers'),
          `providers ${first} and ${provider.name} set the same client variable, the later one wins`,
          'rename one in its client_env',
        );
      setBy.set(name, provider.name);
    }
  }
}

function warnOfProvider(
  { config, place }: Placed<ProviderConfig>,
  subject: WarningSubject,
  report: Report,
): void {
  if (
    subject.listeners.length > 0 &&
    !subject.listeners.some((listener) => listener.config.providers.includes(config.name))
  )
    report.warning(place, 'no listener reaches this provider', 'name it in the providers of a listener');
  warnOfRules(config, place, report);
  config.credentials.forEach((credential, index) => {
    const here = config.credentials.length > 1 ? at(place, 'credential', index) : at(place, 'credential');
    if (credential.source.kind === 'env') warnOfVariable(at(here, 'env'), report);
    if (credential.unsafeShortSecret)
      report.warning(
        at(here, 'unsafe_short_secret'),
        'a short secret is not searched for in answers',
        'remove this if the secret has 16 bytes or more',
      );
  });
}

function warnOfVariable(place: Place, report: Report): void {
  report.warning(
    place,
    'a secret in the environment stays visible in /proc and to child processes',
    'prefer file or systemd',
  );
}

function warnOfRules(config: ProviderConfig, place: Place, report: Report): void {
  const { rules } = config.rules;
  if (rules.length === 0)
    report.warning(
      at(place, 'endpoints'),
      'allows nothing, so every request is refused',
      'list methods and paths',
    );
  const everything = rules.find(
    (rule) => rule.pattern.open && rule.pattern.segments.length === 0 && rule.methods.size === METHODS.length,
  );
  if (everything !== undefined)
    report.warning(
      at(place, 'endpoints'),
      'one entry allows every method and path',
      'list what is needed: the credential can do no more than that',
    );
  for (const { rule, by } of findCoveredRules(config.rules))
    report.warning(
      at(place, 'endpoints'),
      `entry ${rule.entry + 1} allows nothing that entry ${by.entry + 1} does not allow already`,
      'remove it, or narrow the other one',
    );
}
