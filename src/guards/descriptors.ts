/** File descriptors are shared by all clients: what requests need of them. */

/** Each request in flight holds the client's and the upstream's connection. */
export const DESCRIPTORS_PER_REQUEST = 2;
/** For listeners, logs, files and connections on which no request is in flight. */
export const DESCRIPTOR_RESERVE = 128;
