/**
 * A sandbox mounts the directory of its socket (a mounted socket file goes stale at every restart), so
 * whatever else lies in that directory is handed to the sandbox too: another client's socket, the control
 * socket, the state, a key. Each listener therefore has a directory of its own.
 */
import { basename, dirname, join } from 'node:path';
import type { CredentialConfig, SecretSource } from '../credentials/credential.ts';
import type { AuditConfig, ListenerConfig, ProviderConfig, ServerConfig } from './effective.ts';
import { isWithin, realPath } from './file-paths.ts';
import { at, type Place, type Report } from './place.ts';

interface Protected {
  /** How a message calls it; never a path. */
  readonly what: string;
  readonly path: string;
}

export interface IsolationSubject {
  readonly server: ServerConfig;
  readonly audit: AuditConfig;
  readonly listeners: readonly { readonly config: ListenerConfig; readonly place: Place }[];
  readonly providers: readonly ProviderConfig[];
  /** Absolute paths of the main file and all included ones. */
  readonly files: readonly string[];
  /** `$CREDENTIALS_DIRECTORY`, if it is set. */
  readonly credentialsDirectory: string | undefined;
}

/** Refuses every listener directory that holds more than its own socket. */
export function refuseSharedDirectories(subject: IsolationSubject, report: Report): void {
  const common = protectedPaths(subject).flatMap(resolve);
  for (const { config, place } of subject.listeners) {
    if (config.address.kind !== 'unix') continue;
    const socket = realPath(config.address.path);
    const directory = dirname(socket);
    const neighbours = subject.listeners
      .filter((other) => other.config !== config)
      .flatMap((other) => listenerPaths(other.config))
      .flatMap(resolve)
      .filter((other) => other.path !== socket);
    const found = [...neighbours, ...common].find((other) => isWithin(directory, other.path));
    if (found === undefined) continue;
    report.problem(
      at(place, 'socket'),
      `its directory also holds ${found.what}`,
      'a sandbox mounts the whole directory, so give this socket one of its own',
    );
  }
}

/** As written and with links followed: a link in the directory is as good as the file behind it. */
function resolve(item: Protected): Protected[] {
  const written = { what: item.what, path: join(realPath(dirname(item.path)), basename(item.path)) };
  return [written, { what: item.what, path: realPath(item.path) }];
}

function listenerPaths(listener: ListenerConfig): Protected[] {
  if (listener.address.kind === 'tcp') return sourcePaths(listener.address.token, 'a token');
  return [{ what: 'the socket of another listener', path: listener.address.path }];
}

function protectedPaths(subject: IsolationSubject): Protected[] {
  const { server, audit } = subject;
  const paths: Protected[] = [
    { what: 'the control socket', path: server.controlSocket },
    { what: 'the state directory', path: server.stateDir },
  ];
  for (const path of subject.files) paths.push({ what: 'a configuration file', path });
  if (server.caFile !== undefined) paths.push({ what: 'a CA file', path: server.caFile });
  if (audit.key?.kind === 'file') paths.push({ what: 'the audit key', path: audit.key.path });
  if (audit.checkpointFile !== undefined)
    paths.push({ what: 'the checkpoints of the audit log', path: audit.checkpointFile });
  for (const provider of subject.providers) {
    const { caFile, certFile, keyFile } = provider.tls;
    if (caFile !== undefined) paths.push({ what: 'a CA file', path: caFile });
    if (certFile !== undefined) paths.push({ what: 'a client certificate', path: certFile });
    if (keyFile !== undefined) paths.push({ what: 'a client key', path: keyFile });
    if (provider.upstreamSocket !== undefined)
      paths.push({ what: 'the socket of an upstream', path: provider.upstreamSocket });
    for (const credential of provider.credentials)
      paths.push(...credentialPaths(credential, subject.credentialsDirectory));
  }
  return paths;
}

function credentialPaths(credential: CredentialConfig, directory: string | undefined): Protected[] {
  const { source } = credential;
  if (source.kind !== 'systemd') return sourcePaths(source, 'a secret');
  return directory === undefined ? [] : [{ what: 'a secret', path: join(directory, source.name) }];
}

function sourcePaths(source: SecretSource, what: string): Protected[] {
  if (source.kind === 'file') return [{ what, path: source.path }];
  if (source.kind === 'command') return [{ what: 'a program that prints a secret', path: source.argv[0] }];
  return [];
}
