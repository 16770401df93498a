/**
 * File descriptors are shared by all clients. Above half of the limit every answer closes its connection
 * and idle ones are swept at once, so that one sandbox cannot use up the descriptors of all.
 */

/** Each request in flight holds the client's and the upstream's connection. */
export const DESCRIPTORS_PER_REQUEST = 2;
/** For listeners, logs, files and connections on which no request is in flight. */
export const DESCRIPTOR_RESERVE = 128;

export interface DescriptorGauge {
  readonly isAboveHalf: () => boolean;
  /** Counts anew; called every second. */
  readonly measure: () => void;
}

/** @param limit undefined = unknown, then there is never pressure */
export function createDescriptorGauge(
  limit: number | undefined,
  count: () => number | undefined,
): DescriptorGauge {
  let above = false;
  return {
    isAboveHalf: () => above,
    measure() {
      const open = count();
      above = limit !== undefined && open !== undefined && open > limit / 2;
    },
  };
}
