// proxy.toml.example: it loads, it warns of nothing, and it shows every key that the schema has.

import { afterAll, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { DEFAULT_LIMITS, LIMIT_KEYS } from '../../src/config/limits.ts';
import { loadConfig } from '../../src/config/load.ts';
import { documentSchema, logSchema, profileSchema, serverSchema } from '../../src/config/schema.ts';
import { auditSchema } from '../../src/config/schema-audit.ts';
import { credentialTableSchema } from '../../src/config/schema-credential.ts';
import { limitsSchema, listenerLimitsSchema } from '../../src/config/schema-limits.ts';
import { listenerSchema } from '../../src/config/schema-listener.ts';
import { endpointSchema, providerSchema } from '../../src/config/schema-provider.ts';
import { formatDuration, formatSize } from '../../src/config/units.ts';
import { createWorkspace } from '../support/workspace.ts';

const TEXT = readFileSync(new URL('../../proxy.toml.example', import.meta.url), 'utf8');
const workspace = createWorkspace();
afterAll(() => workspace.remove());
const load = (toml: string) => loadConfig({ file: workspace.write('proxy.toml', toml), env: {}, uid: 1000 });

test('it loads on a machine that has none of its files, without a warning', () => {
  const config = load(TEXT);
  expect(config.warnings).toEqual([]);
  expect(config.listeners.map((listener) => listener.name)).toEqual(['agent-1', 'editor']);
  expect([...config.providers.keys()]).toEqual(['anthropic', 'github', 'internal']);
});

test.each([
  ['document', documentSchema],
  ['server', serverSchema],
  ['listeners', listenerSchema],
  ['listeners.limits', listenerLimitsSchema],
  ['network_profiles', profileSchema],
  ['providers', providerSchema],
  ['credential', credentialTableSchema],
  ['endpoints', endpointSchema],
  ['limits', limitsSchema],
  ['audit', auditSchema],
  ['log', logSchema],
] as const)('every key of %s is shown', (_, schema) => {
  for (const key of Object.keys(schema.entries))
    expect(TEXT).toMatch(new RegExp(`(^|[ #{,[.(])${key}( =|\\]|\\.)`, 'm'));
});

test('the limits that it shows as defaults are the defaults', () => {
  const section = TEXT.slice(TEXT.indexOf('\n[limits]\n'), TEXT.indexOf('\n[log]\n'));
  for (const [key, field, unit] of LIMIT_KEYS) {
    const value = DEFAULT_LIMITS[field];
    const written = /"(.*)"|(\d+)/.exec(new RegExp(`^${key} = (.*)$`, 'm').exec(section)?.[1] ?? '');
    const text = written?.[1] ?? written?.[2] ?? '';
    const expected =
      unit === 'size' ? formatSize(value) : unit === 'duration' ? formatDuration(value) : String(value);
    expect([key, text.replace('60s', '1m')]).toEqual([key, expected]);
  }
});

test('what is commented out can be put in force', () => {
  const alternatives = TEXT.replace(
    /^# (upstream_proxy|ca_file|upstream_socket|client_cert|client_key|unsafe_allow_private) =/gm,
    '$1 =',
  );
  expect(alternatives).not.toBe(TEXT);
  expect(load(alternatives).providers.get('internal')?.tls.keyFile).toBe('/etc/isoproxy/internal.key');
});
