/**
 * Which addresses are not the public internet: loopback, private, link-local, metadata, multicast and
 * reserved ones, also where an IPv6 address only carries an IPv4 one. An upstream there needs
 * `unsafe_allow_private` (SSRF: 169.254.169.254 hands out cloud credentials).
 *
 * Lists: IANA special-purpose address registries (RFC 6890 and successors), IPv6 global unicast 2000::/3.
 */

import { isDigits } from './decimal.ts';

/** First address and prefix length of the IPv4 blocks that are not public. */
const PRIVATE_V4: readonly (readonly [string, number])[] = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
  // A public block, but Azure answers with instance metadata there.
  ['168.63.129.16', 32],
];

/**
 * Is this literal address outside the public internet? What is no address at all counts as private, so
 * that a text this function cannot read is refused, not dialled.
 */
export function isPrivateAddress(ip: string): boolean {
  const v4 = parseV4(ip);
  if (v4 !== undefined) return isPrivateV4(v4);
  const v6 = parseV6(ip);
  return v6 === undefined || isPrivateV6(v6);
}

/** Is this literal address loopback (127.0.0.0/8 or ::1)? */
export function isLoopbackAddress(ip: string): boolean {
  const v4 = parseV4(ip);
  if (v4 !== undefined) return v4 >>> 24 === 127;
  const v6 = parseV6(ip);
  return v6?.every((group, index) => group === (index === 7 ? 1 : 0)) ?? false;
}

/** Is this text a literal IPv4 or IPv6 address (no brackets)? */
export function isAddress(text: string): boolean {
  return parseV4(text) !== undefined || parseV6(text) !== undefined;
}

/** Dotted quad, decimal, no leading zeros: other spellings are read differently by different resolvers. */
function parseV4(text: string): number | undefined {
  const parts = text.split('.');
  const isPart = (part: string) => isDigits(part, 0, 3) && (part === '0' || !part.startsWith('0'));
  if (parts.length !== 4 || !parts.every(isPart)) return undefined;
  const bytes = parts.map(Number);
  if (bytes.some((byte) => byte > 255)) return undefined;
  return bytes.reduce((sum, byte) => sum * 256 + byte, 0);
}

/** The eight 16-bit groups of an IPv6 address; a zone ("%eth0") makes it none. */
function parseV6(text: string): number[] | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0] ?? '', halves.length === 1);
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined;
  return [...head, ...new Array<number>(missing).fill(0), ...tail];
}

/** Groups of one side of "::"; only the last may be a dotted quad. */
function parseGroups(text: string, mayEndInV4: boolean): number[] | undefined {
  if (text === '') return [];
  const groups: number[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (/^[0-9A-Fa-f]{1,4}$/.test(part)) {
      groups.push(Number.parseInt(part, 16));
      continue;
    }
    const v4 = mayEndInV4 && index === parts.length - 1 ? parseV4(part) : undefined;
    if (v4 === undefined) return undefined;
    groups.push(v4 >>> 16, v4 & 0xffff);
  }
  return groups;
}

function isPrivateV4(address: number): boolean {
  return PRIVATE_V4.some(([first, bits]) => {
    const shift = 32 - bits;
    return address >>> shift === (parseV4(first) as number) >>> shift;
  });
}

function isPrivateV6(groups: readonly number[]): boolean {
  const [a, b] = groups as [number, number];
  const low = v4Of(groups, 6);
  const startsWithZeros = (count: number) => groups.slice(0, count).every((group) => group === 0);
  // ::ffff:a.b.c.d (RFC 4291 2.5.5.2) and 64:ff9b::a.b.c.d (NAT64, RFC 6052) mean the IPv4 address.
  if (startsWithZeros(5) && groups[5] === 0xffff) return isPrivateV4(low);
  if (a === 0x64 && b === 0xff9b && groups.slice(2, 6).every((group) => group === 0)) return isPrivateV4(low);
  // 2002:a.b.c.d::/16, 6to4 (RFC 3056).
  if (a === 0x2002) return isPrivateV4(v4Of(groups, 1));
  // Outside 2000::/3 nothing is global unicast: ::, ::1, 64:ff9b:1::/48, 100::/64, fc00::/7, fe80::/10, ff00::/8 …
  if (a >>> 13 !== 1) return true;
  // 2001:0::/23: IETF assignments, among them Teredo 2001::/32, which hides an IPv4 address.
  if (a === 0x2001 && b < 0x200) return true;
  if (a === 0x2001 && b === 0xdb8) return true;
  return a === 0x3fff && b < 0x1000;
}

function v4Of(groups: readonly number[], at: number): number {
  return (((groups[at] as number) << 16) | (groups[at + 1] as number)) >>> 0;
}
