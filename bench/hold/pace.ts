/** What goes through the proxy while it is held, and how fast. */

/** Between two events of a stream. */
export const EVERY_MS = 5_000;
/** Streams that are under way to their first event at once. */
export const AT_ONCE = 200;
/** The other requests. */
export const PER_SECOND = 50;
export const CONNECTIONS = 4;
export const BODY_BYTES = 1024;
