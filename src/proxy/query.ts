/** The query string: parameter names for the rules, and credential parameters cut out of the text. */

/** One parameter: where it stands in the text, and its percent-decoded name. */
interface Parameter {
  readonly start: number;
  readonly end: number;
  readonly name: string;
}

/**
 * Splits a query ("" or "?…") at "&" and ";". The latter is a separator for older form decoders only
 * (W3C HTML 4.01 B.2.2), but a credential parameter must not hide behind it.
 */
function parameters(query: string): Parameter[] {
  const found: Parameter[] = [];
  let start = 1;
  for (let i = 1; i <= query.length; i++) {
    const code = i === query.length ? 0x26 : query.charCodeAt(i);
    if (code !== 0x26 && code !== 0x3b) continue;
    const equals = query.indexOf('=', start);
    const nameEnd = equals === -1 || equals > i ? i : equals;
    found.push({ start, end: i, name: decodeName(query.slice(start, nameEnd)) });
    start = i + 1;
  }
  return found;
}

function decodeName(raw: string): string {
  const spaced = raw.includes('+') ? raw.replaceAll('+', ' ') : raw;
  if (!spaced.includes('%')) return spaced;
  try {
    return decodeURIComponent(spaced);
  } catch {
    // Not UTF-8: decode byte for byte, so that an ASCII name cannot hide behind a broken escape.
    return spaced.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
  }
}

/** Percent-decoded names of all non-empty parameters, in order. */
export function queryNames(query: string): string[] {
  if (query.length < 2) return [];
  return parameters(query)
    .filter((parameter) => parameter.end > parameter.start)
    .map((parameter) => parameter.name);
}

/**
 * Cuts every parameter whose decoded, case-folded name is in `names` out of the text; every other byte
 * stays as it was. Returns "" when nothing but the "?" would be left of a query that had parameters.
 */
export function stripQuery(query: string, names: ReadonlySet<string>): string {
  if (query.length < 2 || names.size === 0) return query;
  const all = parameters(query);
  const kept = all.filter((parameter) => !names.has(parameter.name.toLowerCase()));
  if (kept.length === all.length) return query;
  if (kept.length === 0) return '';
  // Keep the separator that stood before each kept parameter, so that "a=1;b=2" stays "a=1;b=2".
  let text = '?';
  kept.forEach((parameter, index) => {
    if (index > 0) text += query[parameter.start - 1];
    text += query.slice(parameter.start, parameter.end);
  });
  return text;
}

/** Appends `name=value`, both percent-encoded, to a query. */
export function appendQuery(query: string, name: string, value: string): string {
  const pair = `${encode(name)}=${encode(value)}`;
  if (query === '' || query === '?') return `?${pair}`;
  return query.endsWith('&') ? `${query}${pair}` : `${query}&${pair}`;
}

/** The apostrophe too, which encodeURIComponent leaves and the URL parser would encode (WHATWG URL, special-query). */
function encode(text: string): string {
  return encodeURIComponent(text).replaceAll("'", '%27');
}
