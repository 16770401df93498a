/** File descriptors are shared by all clients: what requests need of them, and when they run short. */

/** Each request in flight holds the client's and the upstream's connection. */
export const DESCRIPTORS_PER_REQUEST = 2;
/** For listeners, logs, files and connections on which no request is in flight. */
export const DESCRIPTOR_RESERVE = 128;

/** Is more than half of the limit open? Never, where either number cannot be known. */
export function isAboveHalf(limit: number | undefined, open: number | undefined): boolean {
  return limit !== undefined && open !== undefined && open > limit / 2;
}
