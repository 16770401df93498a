/** Plain SVG charts, readable on a light and on a dark page. */
import type { Curve } from './results.ts';
import type { Figure } from './stats.ts';

export interface Bar {
  readonly name: string;
  readonly figure: Figure;
  readonly isOurs: boolean;
}

const INK = '#7d8590';
const OURS = '#2f81f7';

function escapeXml(text: string): string {
  return text.replace(/[<>&"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function text(x: number, y: number, content: string, anchor = 'start', size = 13): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}">${escapeXml(content)}</text>`;
}

function svg(width: number, height: number, parts: readonly string[]): string {
  const style = `font-family="system-ui, sans-serif" fill="${INK}"`;
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ${style}>`;
  return `${[open, ...parts, '</svg>'].join('\n')}\n`;
}

/** Horizontal bars with whiskers from the lowest to the highest round. */
export function barChart(title: string, bars: readonly Bar[]): string {
  const [left, width, row] = [190, 480, 26];
  const most = Math.max(...bars.map(({ figure }) => figure.high));
  const scale = (value: number) => Math.round((value / most) * width * 10) / 10;
  const parts = [text(10, 24, title, 'start', 15)];
  bars.forEach(({ name, figure, isOurs }, index) => {
    const y = 42 + index * row;
    const [low, high] = [left + scale(figure.low), left + scale(figure.high)];
    parts.push(
      text(left - 10, y + 14, name, 'end'),
      `<rect x="${left}" y="${y}" width="${scale(figure.median)}" height="18" rx="2" fill="${isOurs ? OURS : INK}" fill-opacity="${isOurs ? 1 : 0.55}"/>`,
      `<path d="M${low} ${y + 9}H${high}M${low} ${y + 5}v8M${high} ${y + 5}v8" stroke="currentColor" stroke-opacity="0.6"/>`,
      text(high + 8, y + 14, Math.round(figure.median).toLocaleString('en')),
    );
  });
  return svg(left + width + 90, 56 + bars.length * row, parts);
}

/** One small panel a curve, both axes logarithmic: a line along the dotted diagonal's slope is linear growth. */
export function curveChart(curves: readonly Curve[]): string {
  const [width, height, gap] = [300, 190, 70];
  const parts = curves.map((curve, index) => {
    const [x0, y0] = [gap + (index % 2) * (width + gap), 40 + Math.floor(index / 2) * (height + gap)];
    const xs = curve.points.map(([x]) => Math.log10(x));
    const ys = curve.points.map(([, y]) => Math.log10(y));
    const [lowX, highX] = [Math.min(...xs), Math.max(...xs)];
    const lowY = Math.floor(Math.min(...ys));
    const highY = Math.max(lowY + 2, Math.ceil(Math.max(...ys)));
    const place = (x: number, y: number) =>
      [
        x0 + ((x - lowX) / (highX - lowX || 1)) * width,
        y0 + height - ((y - lowY) / (highY - lowY)) * height,
      ].map((value) => Math.round(value * 10) / 10);
    const dots = xs.map((x, at) => place(x, ys[at] ?? lowY));
    const ticks = Array.from({ length: highY - lowY + 1 }, (_, n) => {
      const [, y = 0] = place(lowX, lowY + n);
      return `<path d="M${x0} ${y}h${width}" stroke="${INK}" stroke-opacity="0.25"/>${text(x0 - 6, y + 4, (10 ** (lowY + n)).toLocaleString('en'), 'end', 11)}`;
    });
    return [
      text(x0, y0 - 14, `${curve.title}: ${curve.y}`, 'start', 14),
      ...ticks,
      `<polyline points="${dots.map((dot) => dot.join(',')).join(' ')}" fill="none" stroke="${OURS}" stroke-width="2"/>`,
      ...dots.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="3" fill="${OURS}"/>`),
      text(x0, y0 + height + 16, (curve.points[0]?.[0] ?? 0).toLocaleString('en'), 'start', 11),
      text(
        x0 + width,
        y0 + height + 16,
        `${(curve.points.at(-1)?.[0] ?? 0).toLocaleString('en')} ${curve.x}`,
        'end',
        11,
      ),
    ].join('\n');
  });
  return svg(2 * (width + gap) + gap, 40 + Math.ceil(curves.length / 2) * (height + gap), parts);
}

export interface Series {
  readonly title: string;
  /** In the order of time; an unknown value is NaN and left out. */
  readonly points: readonly (readonly [number, number])[];
}

/** One flat panel a series below each other, over one linear axis of time. */
export function timeChart(title: string, unit: string, series: readonly Series[]): string {
  const [left, width, height, gap] = [70, 760, 90, 44];
  const times = series.flatMap(({ points }) => points.map(([x]) => x));
  const end = times.reduce((a, b) => Math.max(a, b), 1);
  const parts = [text(10, 24, title, 'start', 15)];
  series.forEach(({ title: name, points }, index) => {
    const known = points.filter(([, y]) => !Number.isNaN(y));
    const top = 60 + index * (height + gap);
    const most = known.reduce((high, [, y]) => Math.max(high, y), 1);
    const place = ([x, y]: readonly [number, number]) =>
      `${(left + (x / end) * width).toFixed(1)},${(top + height - (y / most) * height).toFixed(1)}`;
    parts.push(
      text(left, top - 8, name),
      `<path d="M${left} ${top}h${width}M${left} ${top + height}h${width}" stroke="${INK}" stroke-opacity="0.25"/>`,
      text(left - 6, top + 4, Math.round(most).toLocaleString('en'), 'end', 11),
      text(left - 6, top + height + 4, '0', 'end', 11),
      `<polyline points="${known.map(place).join(' ')}" fill="none" stroke="${OURS}" stroke-width="1.5"/>`,
    );
  });
  const bottom = 60 + series.length * (height + gap);
  parts.push(
    text(left + width, bottom - gap + 18, `${Math.round(end).toLocaleString('en')} ${unit}`, 'end', 11),
  );
  return svg(left + width + 30, bottom, parts);
}
