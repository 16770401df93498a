// Which addresses are not the public internet, in all their spellings.

import { expect, test } from 'bun:test';
import { isAddress, isLoopbackAddress, isPrivateAddress } from '../../src/proxy/private-address.ts';

const PRIVATE = [
  '0.0.0.0',
  '0.1.2.3',
  '10.0.0.1',
  '10.255.255.255',
  '100.64.0.1',
  '100.100.100.200',
  '100.127.255.255',
  '127.0.0.1',
  '127.255.255.254',
  '169.254.169.254',
  '172.16.0.1',
  '172.31.255.255',
  '192.0.0.1',
  '192.0.2.1',
  '192.168.1.1',
  '198.18.0.1',
  '198.19.255.255',
  '198.51.100.1',
  '203.0.113.1',
  '224.0.0.1',
  '239.1.1.1',
  '240.0.0.1',
  '255.255.255.255',
  '168.63.129.16',
  '::',
  '::1',
  '0:0:0:0:0:0:0:1',
  'fe80::1',
  'febf::1',
  'fec0::1',
  'fc00::1',
  'fd00:ec2::254',
  'ff02::1',
  '100::1',
  '2001:db8::1',
  '3fff:fff::1',
  '5f00::1',
  // IPv4 inside IPv6: mapped, compatible, NAT64 (well-known and local), 6to4, Teredo
  '::ffff:10.0.0.1',
  '::ffff:a00:1',
  '::FFFF:7F00:1',
  '::ffff:169.254.169.254',
  '::10.0.0.1',
  '::8.8.8.8',
  '64:ff9b::10.0.0.1',
  '64:ff9b::a9fe:a9fe',
  '64:ff9b:1::808:808',
  '2002:a00:1::',
  '2002:7f00:1::1',
  '2001:0:4136:e378:8000:63bf:3fff:fdd2',
  '2001::1',
  '2001:10::1',
  '2001:20::1',
];

const PUBLIC = [
  '1.1.1.1',
  '8.8.8.8',
  '9.255.255.255',
  '11.0.0.0',
  '100.63.255.255',
  '100.128.0.0',
  '128.0.0.1',
  '169.253.1.1',
  '172.15.255.255',
  '172.32.0.0',
  '192.0.1.1',
  '192.167.1.1',
  '198.17.1.1',
  '198.20.0.0',
  '223.255.255.255',
  '2606:4700:4700::1111',
  '2a00:1450:4001::1',
  '2001:4860:4860::8888',
  '::ffff:8.8.8.8',
  '::ffff:808:808',
  '64:ff9b::8.8.8.8',
  '2002:808:808::1',
  '3fff:1000::1',
  '2001:200::1',
];

/** No address in its usual form: refused, because resolvers read such texts in different ways. */
const NONE = [
  '',
  'x',
  'localhost',
  '1',
  '127.1',
  '2130706433',
  '0x7f.0.0.1',
  '0177.0.0.1',
  '08.8.8.8',
  '8.8.8',
  '8.8.8.8.',
  '8.8.8.256',
  '8.8.8.8/8',
  ' 8.8.8.8',
  '[::1]',
  'fe80::1%eth0',
  ':',
  ':::',
  '1::2::3',
  ':1:2',
  '1:2:3:4:5:6:7',
  '1:2:3:4:5:6:7:8:9',
  '1:2:3:4:5:6:7::8:9',
  '12345::',
  'g::',
  '::8.8.8',
  '1.2.3.4::',
  '::1.2.3.4:5',
];

test.each(PRIVATE)('%s is private', (ip) => {
  expect(isAddress(ip)).toBe(true);
  expect(isPrivateAddress(ip)).toBe(true);
});

test.each(PUBLIC)('%s is public', (ip) => {
  expect(isAddress(ip)).toBe(true);
  expect(isPrivateAddress(ip)).toBe(false);
});

test.each(NONE)('%p is no address, and counts as private', (text) => {
  expect(isAddress(text)).toBe(false);
  expect(isPrivateAddress(text)).toBe(true);
});

test('loopback is 127.0.0.0/8 and ::1, and nothing that only carries it', () => {
  for (const ip of ['127.0.0.1', '127.9.9.9', '::1', '0:0:0:0:0:0:0:1'])
    expect(isLoopbackAddress(ip)).toBe(true);
  for (const ip of ['128.0.0.1', '0.0.0.0', '::', '::ffff:127.0.0.1', 'localhost'])
    expect(isLoopbackAddress(ip)).toBe(false);
});
