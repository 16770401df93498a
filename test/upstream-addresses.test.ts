import { expect, test } from 'bun:test';
import { reviewUpstreamAddresses } from '../src/upstream-addresses.ts';

const provider = (name: string, origin: string, more: object = {}) => ({
  name,
  origin,
  hostname: new URL(origin).hostname,
  allowPrivate: false,
  upstreamSocket: undefined,
  ...more,
});

const NAMES: Record<string, string[]> = {
  'public.example': ['93.184.216.34', '2606:2800:220:1::1'],
  'loopback.example': ['127.0.0.1'],
  'mixed.example': ['93.184.216.34', '10.0.0.1'],
  'metadata.example': ['169.254.169.254'],
  'mapped.example': ['::ffff:10.0.0.1'],
  'nat64.example': ['64:ff9b::7f00:1'],
  'ula.example': ['fd00::1'],
  'down.example': [],
};

const review = (...providers: ReturnType<typeof provider>[]) =>
  reviewUpstreamAddresses(providers, async (host) => NAMES[host] ?? []);

test.each(['loopback', 'mixed', 'metadata', 'mapped', 'nat64', 'ula'])(
  'C7 a name that leads to a private address is refused: %s.example',
  async (name) => {
    expect(await review(provider(name, `https://${name}.example`))).toEqual({
      refused: [name],
      unresolved: [],
    });
  },
);

test.each(['https://10.0.0.1', 'https://[::1]:8443', 'https://169.254.169.254', 'https://[::ffff:7f00:1]'])(
  'a literal private address is refused: %s',
  async (origin) => {
    expect((await review(provider('literal', origin))).refused).toEqual(['literal']);
  },
);

test('a public name passes, and one that does not resolve is only reported', async () => {
  const found = await review(provider('a', 'https://public.example'), provider('b', 'https://down.example'));
  expect(found).toEqual({ refused: [], unresolved: ['b'] });
});

test('what is opened by name is not looked up: unsafe_allow_private, a unix socket, http to loopback', async () => {
  const asked: string[] = [];
  const found = await reviewUpstreamAddresses(
    [
      provider('a', 'https://loopback.example', { allowPrivate: true }),
      provider('b', 'http://localhost', { upstreamSocket: '/run/x.sock' }),
      provider('c', 'http://127.0.0.1:9000'),
    ],
    async (host) => {
      asked.push(host);
      return ['127.0.0.1'];
    },
  );
  expect([found.refused, asked]).toEqual([[], []]);
});
