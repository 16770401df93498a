/** Which halts mean something under a configuration. */
import type { HaltScope } from '../guards/kill-switch.ts';
import type { Config } from './effective.ts';

export const NO_SUCH_NAME = 'no such listener or provider is configured';

/** A halt of a misspelt name would stop nothing and look as if it had. */
export function isConfigured(scope: HaltScope, config: Config): boolean {
  if (scope.kind === 'all') return true;
  return scope.kind === 'provider'
    ? config.providers.has(scope.name)
    : config.listeners.some(({ name }) => name === scope.name);
}
