/**
 * Request ids: unique per process start, and short enough to be read out over a telephone. Clients see them: one
 * count for all listeners would tell each sandbox how much the others ask.
 */
export function createRequestIds(): (listener: string) => string {
  const series = new Map<string, { readonly boot: string; count: number }>();
  return (listener) => {
    const own = series.get(listener) ?? { boot: crypto.randomUUID().slice(0, 8), count: 0 };
    series.set(listener, own);
    return `${own.boot}-${(++own.count).toString(36)}`;
  };
}
