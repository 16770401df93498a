/** What the system says of a failure: the one part of its errors that is told on, for their texts may hold anything. */

/** Its code (`ENOSPC`), or the kind of the error where there is none. */
export function systemCode(error: unknown): string {
  return (error as { code?: string }).code ?? (error as Error).name;
}
