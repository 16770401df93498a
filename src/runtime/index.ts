/** Picks the runtime that this process runs on, and loads no other. */
import type { Runtime } from './runtime.ts';

export const runtime: Runtime =
  'Bun' in globalThis ? (await import('./bun.ts')).bunRuntime : (await import('./deno.ts')).denoRuntime;
