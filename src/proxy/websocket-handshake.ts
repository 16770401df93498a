/** The client's half of a WebSocket handshake (RFC 6455 4.2.1), and what of it goes on in either direction. */
import { ProxyError } from '../errors.ts';
import { CREDENTIAL_PROTOCOLS } from './header-names.ts';

/** Does this request ask for a WebSocket? */
export function asksForWebSocket(method: string, headers: Headers): boolean {
  return (
    method === 'GET' &&
    headers.get('upgrade')?.toLowerCase() === 'websocket' &&
    (headers.get('connection') ?? '').split(',').some((name) => name.trim().toLowerCase() === 'upgrade')
  );
}

/** 16 bytes in base64 (RFC 6455 4.1). */
const KEY = /^[A-Za-z0-9+/]{22}==$/;
const TOKEN = /^[!#$%&'*+.^_`|~A-Za-z0-9-]+$/;

/**
 * Checks a request that asks for a WebSocket; returns the subprotocols that may be offered to the upstream.
 * One that carries a credential, as OpenAI and Kubernetes let browsers do, is the client's own and stays here.
 * @throws ProxyError bad_request
 */
export function checkHandshake(headers: Headers): readonly string[] {
  const refuse = (reason: string): never => {
    throw new ProxyError('bad_request', reason);
  };
  if (headers.get('sec-websocket-version') !== '13') refuse('Sec-WebSocket-Version other than 13');
  if (!KEY.test(headers.get('sec-websocket-key') ?? '')) refuse('malformed Sec-WebSocket-Key');
  const offered = headers.get('sec-websocket-protocol');
  if (offered === null) return [];
  const protocols = offered.split(',').map((name) => name.trim());
  if (!protocols.every((name) => TOKEN.test(name)) || new Set(protocols).size !== protocols.length)
    refuse('malformed Sec-WebSocket-Protocol');
  return protocols.filter((name) => {
    const lower = name.toLowerCase();
    return !CREDENTIAL_PROTOCOLS.some((prefix) => lower.startsWith(prefix));
  });
}

/** Removes what this hop says by itself: key and version are its own, and no extension is offered. */
export function removeHandshakeHeaders(headers: Headers): void {
  for (const name of [...headers.keys()]) if (name.startsWith('sec-websocket-')) headers.delete(name);
}

/** Of a 101, what this hop says by itself or what has no place in it. */
const ANSWER_REMOVED = [
  'sec-websocket-accept',
  'sec-websocket-extensions',
  'content-length',
  'content-type',
  'date',
];

/** The same for the head of the upstream's answer on its way to the client. */
export function removeAnswerHeaders(headers: Headers): void {
  for (const name of ANSWER_REMOVED) headers.delete(name);
}
