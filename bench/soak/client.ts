/** Clients of the soak: connections that are kept for the next request, as an agent's HTTP library keeps them. */
import {
  connect,
  type Endpoint,
  formatRequest,
  type RawClient,
  type RawResponse,
  type RequestOptions,
} from '../../test/support/raw-client.ts';
import type { Place } from './stand.ts';

export interface Ask extends RequestOptions {
  readonly place: Place;
  /** A connection of its own, closed afterwards. */
  readonly isFresh?: boolean;
}

export interface Clients {
  /** @throws when nothing answers */
  readonly ask: (ask: Ask) => Promise<RawResponse>;
  /** A connection with the request sent; the caller closes it. */
  readonly open: (ask: Ask) => Promise<RawClient>;
  /** Requests that met a kept connection which the proxy was closing, and went out again on another. */
  readonly repeated: () => number;
  readonly closeIdle: () => void;
}

const ANSWER_MS = 30_000;

export function createClients(): Clients {
  const idle = new Map<Endpoint, RawClient[]>();
  let repeated = 0;

  const bytesOf = ({ place, headers = [], ...rest }: Ask) =>
    formatRequest({
      ...rest,
      headers: [...place.headers, ...(headers as [string, string][])],
    } as RequestOptions);

  /** The connection that has waited longest, so that none waits long. */
  function takeIdle({ endpoint }: Place): RawClient | undefined {
    const kept = idle.get(endpoint) ?? [];
    for (let client = kept.shift(); client !== undefined; client = kept.shift()) {
      if (client.closed === undefined) return client;
      client.close();
    }
    return undefined;
  }

  function giveBack(client: RawClient, { place, isFresh }: Ask, response: RawResponse): void {
    const closes = /\bclose\b/i.test(response.header('connection') ?? '');
    if (isFresh || closes || !response.complete || client.closed !== undefined) {
      client.close();
      return;
    }
    const kept = idle.get(place.endpoint) ?? [];
    idle.set(place.endpoint, kept);
    kept.push(client);
  }

  async function ask(what: Ask): Promise<RawResponse> {
    const kept = what.isFresh ? undefined : takeIdle(what.place);
    const client = kept ?? (await connect(what.place.endpoint, { keep: false }));
    try {
      void client.send(bytesOf(what));
      const response = await client.response({
        method: what.method ?? 'GET',
        hashOnly: what.hashOnly ?? false,
        ms: ANSWER_MS,
      });
      if (kept !== undefined && response.status === 0 && response.bodyBytes === 0) {
        repeated++;
        client.close();
        return ask({ ...what, isFresh: true });
      }
      giveBack(client, what, response);
      return response;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  return {
    ask,
    async open(what) {
      const client = await connect(what.place.endpoint);
      void client.send(bytesOf(what));
      return client;
    },
    repeated: () => repeated,
    closeIdle() {
      for (const client of [...idle.values()].flat()) client.close();
      idle.clear();
    },
  };
}
