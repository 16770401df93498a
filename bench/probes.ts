/** What each alternative does with bytes, found by sending them: fidelity first, then what must be refused. */
import type { Place } from './load.ts';
import {
  type Arrival,
  answering,
  exchange,
  isWhole,
  OK,
  openClient,
  type Script,
  type ScriptedUpstream,
  statusOf,
} from './probe-stand.ts';

export interface Probed {
  readonly place: Place;
  readonly upstream: ScriptedUpstream;
  /** The group of its processes. */
  readonly pid: number;
}

export interface Probe {
  readonly name: string;
  /** Short, for a cell of a table. */
  readonly find: (probed: Probed) => Promise<string>;
}

const yes = (holds: boolean) => (holds ? 'yes' : 'no');
export const get = (target: string, ...lines: string[]) =>
  [`GET ${target} HTTP/1.1`, 'Host: localhost', ...lines, '', ''].join('\r\n');
export const post = (method: string, body: string, ...lines: string[]) =>
  [`${method} /v1/x HTTP/1.1`, 'Host: localhost', `Content-Length: ${body.length}`, ...lines, '', body].join(
    '\r\n',
  );

/** Which of some names stand in a head, in their order. */
function order(text: string, names: readonly string[]): string {
  const head = text.slice(0, text.indexOf('\r\n\r\n')).toLowerCase();
  const found = names.map((name) => [head.indexOf(`\r\n${name.toLowerCase()}:`), name] as const);
  return found
    .filter(([at]) => at !== -1)
    .sort(([a], [b]) => a - b)
    .map(([, name]) => name)
    .join();
}

function target(path: string): Probe {
  return {
    name: `target \`${path}\` reaches the upstream as it is`,
    async find({ place, upstream }) {
      await upstream.use(answering(OK));
      const text = await exchange(place, get(path));
      const seen = /^GET (.*) HTTP\/1\.1/.exec(upstream.text())?.[1];
      if (seen === undefined) return `refused, ${statusOf(text) || 'closed'}`;
      return seen === path ? 'yes' : `no: \`${seen}\``;
    },
  };
}

const UP_FIELDS = ['X-Zeta', 'Accept', 'x-alpha', 'User-Agent', 'X-MiXed'];

async function upHead({ place, upstream }: Probed): Promise<string> {
  await upstream.use(answering(OK));
  const fields = ['X-Zeta: 1', 'Accept: */*', 'x-alpha: a', 'User-Agent: t', 'X-MiXed: c', 'x-alpha: b'];
  await exchange(place, get('/v1/x', ...fields));
  return upstream.text();
}

const ANSWER_FIELDS = ['X-Zeta', 'Content-Type', 'x-alpha', 'X-MiXed', 'Content-Length'];
const DECLARED =
  'HTTP/1.1 200 Very Well\r\nX-Zeta: 1\r\nContent-Type: text/plain\r\nx-alpha: a\r\nWWW-Authenticate: One\r\nWWW-Authenticate: Two\r\nX-MiXed: c\r\nContent-Length: 2\r\n\r\nok';

async function downHead({ place, upstream }: Probed): Promise<string> {
  await upstream.use(answering(DECLARED));
  return exchange(place, get('/v1/x'));
}

const headOf = (text: string) => text.slice(0, text.indexOf('\r\n\r\n') + 4);

export const FIDELITY: readonly Probe[] = [
  ...['/v1/a/../b', '/v1//x', '//v1/x', '/v1/%2e%2e/x', '/v1/a\\b', '/v1/a?'].map(target),
  {
    name: 'request: order of fields kept',
    find: async (probed) => yes(order(await upHead(probed), UP_FIELDS) === UP_FIELDS.join()),
  },
  {
    name: 'request: case of names kept',
    find: async (probed) => yes((await upHead(probed)).includes('\r\nX-MiXed: c')),
  },
  {
    name: 'request: duplicate fields stay two',
    find: async (probed) => yes(((await upHead(probed)).match(/\r\nx-alpha: /gi) ?? []).length === 2),
  },
  {
    name: 'request: fields that the client did not send',
    async find({ place, upstream }) {
      await upstream.use(answering(OK));
      await exchange(place, get('/v1/x'));
      const names = [...headOf(upstream.text()).matchAll(/\r\n([\w-]+):/g)].map(([, name]) => name ?? '');
      const more = names.filter((name) => !/^(?:host|x-api-key|connection)$/i.test(name));
      return more.length === 0 ? 'none' : more.join(', ');
    },
  },
  {
    name: 'answer: order of fields kept',
    find: async (probed) => yes(order(await downHead(probed), ANSWER_FIELDS) === ANSWER_FIELDS.join()),
  },
  {
    name: 'answer: case of names kept',
    find: async (probed) => yes((await downHead(probed)).includes('\r\nX-MiXed: c')),
  },
  {
    name: 'answer: duplicate fields stay two',
    find: async (probed) => yes(((await downHead(probed)).match(/www-authenticate: /gi) ?? []).length === 2),
  },
  {
    name: 'answer: reason phrase kept',
    find: async (probed) => yes((await downHead(probed)).startsWith('HTTP/1.1 200 Very Well\r\n')),
  },
  {
    name: 'answer: Content-Length kept where the body is streamed',
    async find({ place, upstream }) {
      await upstream.use({
        data({ socket }) {
          socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\nfirst');
          setTimeout(() => socket.write('x'.repeat(100_000 - 5)), 60);
        },
      });
      return yes(/\r\ncontent-length: *100000/i.test(headOf(await exchange(place, get('/v1/x')))));
    },
  },
  {
    name: 'answer: 103 before it',
    async find({ place, upstream }) {
      await upstream.use(answering(`HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${OK}`));
      const client = await openClient(place);
      client.send(get('/v1/x'));
      const text = await client.until((seen) => seen.endsWith('ok') || seen.includes('0\r\n\r\n'));
      client.destroy();
      if (!text.includes(' 200 ')) return `broken, ${statusOf(text)}`;
      return text.includes(' 103 ') ? 'passed on' : 'dropped';
    },
  },
  {
    name: 'answer: trailers',
    async find({ place, upstream }) {
      const head =
        'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n';
      await upstream.use(answering(`${head}2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n`));
      const text = await exchange(place, get('/v1/x'));
      if (statusOf(text) !== 200) return `refused, ${statusOf(text)}`;
      return /\r\nx-sum: 9/i.test(text) ? 'passed on' : 'dropped';
    },
  },
];

/** Sends what must not pass; the parts of a request are sent at once. */
function refusal(name: string, request: string): Probe {
  return {
    name,
    async find({ place, upstream }) {
      await upstream.use({
        data: ({ socket }, text) => void (text.includes('\r\n\r\n') && socket.write(OK)),
      });
      const client = await openClient(place);
      client.send(request);
      const text = await client.until(isWhole, 700);
      await Bun.sleep(40);
      client.destroy();
      const seen = upstream.text();
      if (seen === '')
        return statusOf(text) || client.closed() ? `refused, ${statusOf(text) || 'closed'}` : 'waits';
      if (request.includes(HIDDEN)) return hiddenIn(seen);
      const cut = upstream.arrivals().some((one: Arrival) => one.closedAt() !== undefined);
      return cut ? 'sent up, then cut' : `**passes**, ${statusOf(text)}`;
    },
  };
}

const HIDDEN = 'GET /v1/hidden HTTP/1.1\r\nHost: h\r\n\r\n';

/** What came of a request in a body: with the length that frames it, without, or the length alone. */
function hiddenIn(seen: string): string {
  const isFramed = /\r\n(?:content-length: *\d+|transfer-encoding: *chunked)\r\n/i.test(headOf(seen));
  if (seen.includes('/v1/hidden')) return isFramed ? 'passes, framed' : '**smuggled**';
  return isFramed ? '**framing without the body**' : 'passes without the body';
}

const chunked = 'POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n';
/** An answer that two readers may read in two ways. */
function badAnswer(name: string, answer: string): Probe {
  return {
    name,
    async find({ place, upstream }) {
      await upstream.use(answering(answer));
      const client = await openClient(place);
      client.send(get('/v1/x'));
      const text = await client.until(isWhole, 700);
      const isWaiting = text === '' && !client.closed();
      client.destroy();
      if (isWaiting) return 'waits';
      const status = statusOf(text);
      if (status !== 200) return `refused, ${status || 'closed'}`;
      const both = /content-length:/i.test(text) && /transfer-encoding:/i.test(text);
      return both ? '**passes, with both**' : 'passes, framed anew';
    },
  };
}

/** Does what stands behind one answer become the next one? */
function poisoning(name: string, script: Script): Probe {
  return {
    name,
    async find({ place, upstream }) {
      await upstream.use(script);
      const client = await openClient(place);
      client.send(get('/v1/one'));
      await client.until(isWhole, 700);
      await Bun.sleep(60);
      const before = client.text().length;
      if (!client.closed()) client.send(get('/v1/two'));
      await Bun.sleep(120);
      const second = client.closed()
        ? await exchange(place, get('/v1/two'), 700)
        : client.text().slice(before);
      client.destroy();
      return client.text().includes('EVIL') || second.includes('EVIL') ? '**poisoned**' : 'clean';
    },
  };
}

const EVIL = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nEVIL';
const CLOSE_DELIMITED = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\npart';

/** How an answer that is not whole arrives: the client must be able to tell. */
function cut(name: string, head: string, how: 'end' | 'reset', isWholeThen = false): Probe {
  return {
    name,
    async find({ place, upstream }) {
      await upstream.use({
        data({ socket }) {
          socket.write(head);
          setTimeout(() => (how === 'end' ? socket.end() : socket.resetAndDestroy()), 60);
        },
      });
      const text = await exchange(place, get('/v1/x'), 700);
      if (statusOf(text) !== 200) return `refused, ${statusOf(text) || 'closed'}`;
      const isRead = /\r\n0\r\n\r\n$/.test(text) || /content-length: *4\r\n/i.test(text);
      if (isWholeThen) return isRead ? 'whole' : 'cut';
      return isRead ? '**reads as whole**' : 'cut';
    },
  };
}

const CL = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\npart';
const TE = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n';

export const PARSING: readonly Probe[] = [
  refusal('request: two Hosts', get('/v1/x', 'Host: evil')),
  refusal('request: Content-Length and chunked', `${chunked}Content-Length: 5\r\n\r\n0\r\n\r\n`),
  refusal('request: two Content-Lengths that differ', post('POST', '{}', 'Content-Length: 3')),
  refusal('request: malformed chunk size', `${chunked}\r\n0x2\r\n{}\r\n0\r\n\r\n`),
  refusal('request: folded line', get('/v1/x', 'X-A: 1', ' folded')),
  refusal('request: bare LF', 'GET /v1/x HTTP/1.1\nHost: localhost\n\n'),
  refusal(
    'request: GET with a body that is a request',
    get('/v1/x', `Content-Length: ${HIDDEN.length}`) + HIDDEN,
  ),
  badAnswer(
    'answer: two Content-Lengths that differ',
    OK.replace('\r\n\r\n', '\r\nContent-Length: 3\r\n\r\n'),
  ),
  badAnswer(
    'answer: Content-Length and chunked',
    'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  ),
  badAnswer('answer: folded line', OK.replace('\r\n\r\n', '\r\nX-A: 1\r\n folded\r\n\r\n')),
  badAnswer('answer: bare LF', OK.replaceAll('\r\n', '\n')),
  badAnswer(
    'answer: fields of 200 KiB',
    OK.replace('\r\n\r\n', `${`\r\nX-A: ${'a'.repeat(1000)}`.repeat(200)}\r\n\r\n`),
  ),
  poisoning('bytes behind an answer, in the same write', answering(OK + EVIL)),
  poisoning('bytes behind an answer, 20 ms later', {
    data({ socket }) {
      socket.write(OK);
      setTimeout(() => socket.writable && socket.write(EVIL), 20);
    },
  }),
  cut('answer with a length, cut', CL, 'end'),
  cut('answer in chunks, cut', TE, 'end'),
  cut('answer delimited by the close, ended in order', CLOSE_DELIMITED, 'end', true),
  cut('answer delimited by the close, reset', CLOSE_DELIMITED, 'reset'),
];
