/**
 * Giving an exchange up, and waiting for what cannot be cancelled in one that can be given up.
 *
 * Code of our own registers here and not on the AbortSignal: a listener on a signal of the runtime costs some 2 us of
 * CPU for each request (measured), most of it in the collector, which has to follow it.
 */
export interface Abort {
  readonly isAborted: () => boolean;
  /** What it was given up with: a ProxyError (limits, halt), or another error (the client left); undefined before. */
  readonly reason: () => unknown;
  /** For those who want a signal: fetch, node:http. */
  readonly signal: () => AbortSignal;
  /** The first call decides; without a reason, the client has left. */
  readonly abort: (reason?: Error) => void;
  /**
   * Has `callback` called once when it is given up, also when it is already: then at once. Returns what takes that back.
   * One that throws keeps none of the others from being called.
   */
  readonly onAbort: (callback: () => void) => () => void;
}

export function createAbort(): Abort {
  let aborted = false;
  let reason: unknown;
  let controller: AbortController | undefined;
  const callbacks: (() => void)[] = [];

  return {
    isAborted: () => aborted,
    reason: () => reason,
    signal() {
      if (controller === undefined) {
        controller = new AbortController();
        if (aborted) controller.abort(reason);
      }
      return controller.signal;
    },
    abort(given = new DOMException('the client left', 'AbortError')) {
      if (aborted) return;
      aborted = true;
      reason = given;
      controller?.abort(given);
      const faults: unknown[] = [];
      for (let next = callbacks.shift(); next !== undefined; next = callbacks.shift()) {
        try {
          next();
        } catch (error) {
          faults.push(error);
        }
      }
      if (faults.length > 0) throw faults[0];
    },
    onAbort(callback) {
      if (aborted) callback();
      else callbacks.push(callback);
      return () => {
        const at = callbacks.indexOf(callback);
        if (at !== -1) callbacks.splice(at, 1);
      };
    },
  };
}

/** What `promise` yields; rejects with the reason as soon as `abort` is given up. */
export function unlessAborted<T>(promise: Promise<T>, { onAbort, reason }: Abort): Promise<T> {
  return new Promise((resolve, reject) => {
    const leave = onAbort(() => reject(reason()));
    promise.then(
      (value) => {
        leave();
        resolve(value);
      },
      (error) => {
        leave();
        reject(error);
      },
    );
  });
}
