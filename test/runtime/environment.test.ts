import { expect, test } from 'bun:test';
import { reviewEnvironment } from '../../src/runtime/environment.ts';

test.each([
  'HTTP_PROXY',
  'https_proxy',
  'ALL_PROXY',
  'NO_PROXY',
  'NODE_OPTIONS',
  'NODE_TLS_REJECT_UNAUTHORIZED',
  'NODE_EXTRA_CA_CERTS',
  'SSL_CERT_FILE',
  'SSL_CERT_DIR',
  'SSLKEYLOGFILE',
  'OPENSSL_CONF',
  'BUN_CONFIG_VERBOSE_FETCH',
  'BUN_JSC_useJIT',
  'BUN_FEATURE_FLAG_X',
  'DENO_TLS_CA_STORE',
  'DENO_CERT',
])('%s is dropped', (name) => {
  const review = reviewEnvironment({ [name]: 'x', PATH: '/bin' });
  expect(review).toEqual({ refused: [], dropped: [name], cleaned: { PATH: '/bin' } });
});

test.each(['BUN_OPTIONS', 'BUN_BE_BUN', 'BUN_INSPECT', 'BUN_INSPECT_CONNECT_TO', 'BUN_INSPECT_PRELOAD'])(
  '%s is refused',
  (name) => {
    expect(reviewEnvironment({ [name]: '1' }).refused).toEqual([name]);
  },
);

test.each([
  'PATH',
  'HOME',
  'LANG',
  'CREDENTIALS_DIRECTORY',
  'XDG_RUNTIME_DIR',
  'ISOPROXY_CONFIG',
  'MY_API_KEY',
  'NODENAME',
  'PROXYING',
])('%s is kept', (name) => {
  expect(reviewEnvironment({ [name]: 'x' }).cleaned).toEqual({ [name]: 'x' });
});

test('the limit of requests is kept at its one right value only', () => {
  const name = 'BUN_CONFIG_MAX_HTTP_REQUESTS';
  expect(reviewEnvironment({ [name]: '65535' }).cleaned).toEqual({ [name]: '65535' });
  expect(reviewEnvironment({ [name]: '1' }).dropped).toEqual([name]);
});
