/** A curve as text, for the terminal. */

const [WIDTH, HEIGHT] = [96, 9];

/** The range of each column, so that no peak is lost. */
export function plot(title: string, values: readonly number[]): string {
  const known = values.filter((value) => !Number.isNaN(value));
  if (known.length === 0) return `${title}: not known`;
  const [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  const columns = Math.min(WIDTH, known.length);
  const ranges = Array.from({ length: columns }, (_, n) => {
    const from = Math.floor((n * known.length) / columns);
    const part = known.slice(from, Math.max(from + 1, Math.floor(((n + 1) * known.length) / columns)));
    return [Math.min(...part), Math.max(...part)].map((value) =>
      Math.round(((value - low) / (high - low || 1)) * (HEIGHT - 1)),
    ) as [number, number];
  });
  const rows = Array.from({ length: HEIGHT }, (_, n) => {
    const level = HEIGHT - 1 - n;
    const label = level === HEIGHT - 1 ? high : level === 0 ? low : undefined;
    const marks = ranges.map(([from, to]) => (level >= from && level <= to ? '#' : ' ')).join('');
    return `${(label === undefined ? '' : label.toFixed(0)).padStart(6)} |${marks}`;
  });
  return [title, ...rows, `${' '.repeat(7)}+${'-'.repeat(columns)}`].join('\n');
}
