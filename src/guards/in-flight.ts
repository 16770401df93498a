/** The requests that are being forwarded, so that a halt can cut those that it is about. */
import { createBag } from '../bag.ts';
import type { ProxyError } from '../errors.ts';

export interface Forwarding {
  readonly listener: string;
  readonly provider: string;
  /** Gives the request up, with the error that its client and its record should see. */
  readonly abort: (error: ProxyError) => void;
}

export interface InFlight {
  /** Returns what takes it off the list again. */
  readonly add: (forwarding: Forwarding) => () => void;
  /** Gives up every request that `concerns` names; returns how many. */
  readonly cut: (concerns: (forwarding: Forwarding) => boolean, error: ProxyError) => number;
}

export function createInFlight(): InFlight {
  const all = createBag<Forwarding & { slot: number }>();
  return {
    add({ listener, provider, abort }) {
      const item = { listener, provider, abort, slot: -1 };
      all.add(item);
      return () => all.remove(item);
    },
    cut(concerns, error) {
      const found = all.items.filter(concerns);
      for (const forwarding of found) forwarding.abort(error);
      return found.length;
    },
  };
}
