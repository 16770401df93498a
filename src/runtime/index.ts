/** Picks the runtime that this process runs on. */
import { bunRuntime } from './bun.ts';
import { denoRuntime } from './deno.ts';
import type { Runtime } from './runtime.ts';

export const runtime: Runtime = 'Bun' in globalThis ? bunRuntime : denoRuntime;
