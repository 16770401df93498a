// The smallest useful configuration, with every part replaceable.

import { join } from 'node:path';
import { stringify } from 'smol-toml';

/** TOML text, and the files it names (by path relative to the workspace; written with mode 0600). */
export interface ProxyConfig {
  toml: string;
  files: Record<string, string>;
}

// biome-ignore lint/suspicious/noExplicitAny: a TOML table, also a deliberately wrong one
type Table = Record<string, any>;

export interface SimpleConfigOptions {
  upstreamPort: number;
  /** PEM that verifies the upstream. */
  ca: string;
  /** The credential, injected as `x-api-key`. */
  canary: string;
  /** `'POST /v1/messages'`, or a whole entry. Default: `POST /v1/messages` and `GET /v1/models/*`. */
  endpoints?: (string | Table)[];
  /** Merged into the listener, the provider, `[limits]`, or the document; `undefined` removes a key. */
  listener?: Table;
  provider?: Table;
  limits?: Table;
  top?: Table;
  /** More files. */
  files?: Record<string, string>;
}

/** Path of the credential file in the workspace: writing it anew rotates the credential. */
export const SECRET_FILE = 'secrets/api.key';

/** How a provider reaches a recorder: its address, and that it may. */
export const recorderAt = (dir: string, port: number, path = '') => ({
  base_url: `https://localhost:${port}${path}`,
  ca_file: join(dir, 'ca.pem'),
  unsafe_allow_private: true,
});

/** Listeners `agent-1` and `agent-2`, a sandbox each, that reach these providers. */
export const twoListeners = (dir: string, providers: readonly string[] = ['api']) =>
  ['agent-1', 'agent-2'].map((name) => ({ name, socket: join(dir, name, 'isoproxy.sock'), providers }));

/** One listener `agent-1` (socket `<dir>/agent-1/isoproxy.sock`), one provider `api` at `https://localhost:PORT`. */
export function simpleConfig(dir: string, options: SimpleConfigOptions): ProxyConfig {
  const entry = (text: string): Table => {
    const [method, path] = text.split(' ');
    return { methods: [method], paths: [path] };
  };
  const document: Table = {
    server: { runtime_dir: dir, state_dir: join(dir, 'state') },
    listeners: [
      merge(
        { name: 'agent-1', socket: join(dir, 'agent-1', 'isoproxy.sock'), providers: ['api'] },
        options.listener,
      ),
    ],
    providers: {
      api: merge(
        {
          ...recorderAt(dir, options.upstreamPort),
          credential: { header: 'x-api-key', file: join(dir, SECRET_FILE) },
          endpoints: (options.endpoints ?? ['POST /v1/messages', 'GET /v1/models/*']).map((item) =>
            typeof item === 'string' ? entry(item) : item,
          ),
        },
        options.provider,
      ),
    },
    ...(options.limits && { limits: options.limits }),
  };
  return {
    toml: stringify(merge(document, options.top)),
    files: { 'ca.pem': options.ca, [SECRET_FILE]: options.canary, ...options.files },
  };
}

/** Deep merge of tables; arrays and scalars are replaced, `undefined` removes. */
function merge(base: Table, over: Table = {}): Table {
  const isTable = (value: unknown): value is Table => value?.constructor === Object;
  const result: Table = { ...base };
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) delete result[key];
    else result[key] = isTable(value) && isTable(result[key]) ? merge(result[key], value) : value;
  }
  return result;
}
