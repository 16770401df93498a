// Attack ids are explained in SECURITY.md. One view of the request target. What is judged is what is sent, byte for byte; all else is refused.

import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { join } from 'node:path';
import { assertClean, makeCanary } from '../support/canary.ts';
import { until } from '../support/deadline.ts';
import {
  createWorkspace,
  freePort,
  type Isoproxy,
  recorderAt,
  run,
  SECRET_FILE,
  type SimpleConfigOptions,
  simpleConfig,
  startIsoproxy,
  startSimple,
} from '../support/isoproxy.ts';
import { connect, type Endpoint, type RawResponse, request } from '../support/raw-client.ts';
import { type Recorder, startRecorder } from '../support/recorder.ts';

const DENO = process.env['ISOPROXY_RUNTIME'] === 'deno';

/**
 * What must be seen of one request. `sent`: forwarded, with exactly this target on the wire. `refused`: status and code
 * of our own answer, and one record. `closed`: the runtime's parser answers by itself with this status (several: any of
 * them; 0 = closes without a word), and nothing is recorded.
 */
type Verdict = { sent: string } | { refused: string } | { closed: number[] };

const sent = (target: string): Verdict => ({ sent: target });
const closed = (...statuses: number[]): Verdict => ({ closed: statuses });
const BAD = { refused: '400 bad_target' };
const MALFORMED = { refused: '400 bad_request' };
const DENIED = { refused: '403 endpoint_not_allowed' };
const UNKNOWN = { refused: '404 unknown_provider' };
const NO_METHOD = { refused: '405 method_not_supported' };

/** `line` is the request line without its version; `host` replaces the Host header lines. */
interface Row {
  id: string;
  what: string;
  line: string;
  expect: Verdict;
  deno?: Verdict;
  host?: string;
  version?: string;
}

type Extra = Partial<Pick<Row, 'deno' | 'host' | 'version'>>;
const row = (id: string, what: string, line: string, verdict: Verdict, extra: Extra = {}): Row => ({
  id,
  what,
  line,
  expect: verdict,
  ...extra,
});

const rows: Row[] = [
  // Bun resolves dot segments before the handler: the resolved form is judged and sent. Deno hands over raw text.
  row('P1', 'leaves the endpoint upwards', 'POST /api/v1/messages/../files', DENIED, { deno: BAD }),
  row('P1', 'goes through a denied path', 'POST /api/v1/files/../messages', sent('/v1/messages'), {
    deno: BAD,
  }),
  row('P1', 'has a single dot inside', 'POST /api/v1/./messages', sent('/v1/messages'), { deno: BAD }),
  row('P1', 'has a single dot after the provider', 'POST /api/./v1/messages', sent('/v1/messages'), {
    deno: BAD,
  }),
  row('P1', 'leaves the provider and comes back', 'POST /api/../api/v1/messages', sent('/v1/messages'), {
    deno: BAD,
  }),
  row('P1', 'climbs above the root', 'POST /../../../api/v1/messages', sent('/v1/messages'), { deno: BAD }),
  row('P1', 'climbs into another provider', 'POST /api/../other/v1/messages', UNKNOWN, { deno: BAD }),
  row('P1', 'climbs out of a wildcard', 'GET /api/v1/models/a/../../files', DENIED, { deno: BAD }),
  row('P1', 'climbs out of the base path', 'GET /based/../../secret', UNKNOWN, { deno: BAD }),
  row('P1', 'ends with a dot segment', 'POST /api/v1/messages/.', DENIED, { deno: BAD }),
  row('P1', 'ends with two dots', 'POST /api/v1/messages/..', DENIED, { deno: BAD }),
  row('P1', 'is the provider and two dots', 'GET /api/..', UNKNOWN, { deno: BAD }),
  row('P1', 'has three dots, which are a name', 'GET /api/v1/models/...', sent('/v1/models/...')),

  row('P2', 'has encoded dots', 'POST /api/v1/messages/%2e%2e/files', DENIED, { deno: BAD }),
  row('P2', 'has one dot encoded', 'POST /api/v1/messages/%2E./files', DENIED, { deno: BAD }),
  row('P2', 'has the other dot encoded', 'POST /api/v1/messages/.%2e/files', DENIED, { deno: BAD }),
  row('P2', 'has an encoded single dot', 'POST /api/v1/%2e/messages', sent('/v1/messages'), { deno: BAD }),
  row('P2', 'has an encoded dot in a name', 'GET /api/v1/models/a%2eb', BAD),
  row('P2', 'has an encoded dot at the end', 'POST /api/v1/messages%2E', BAD),
  row('P2', 'has three encoded dots', 'GET /api/v1/models/%2e%2e%2e', BAD),

  row('P3', 'has an encoded slash', 'POST /plain/v1%2fmessages', BAD),
  row('P3', 'has an upper-case encoded slash', 'POST /plain/v1%2Fmessages', BAD),
  row('P3', 'has dots between encoded slashes', 'POST /plain/v1/messages%2f..%2ffiles', BAD),
  row('P3', 'has encoded backslashes', 'POST /plain/v1/x%5c..%5cmessages', BAD),
  row('P3', 'has an upper-case encoded backslash', 'GET /plain/v1/models/a%5Cb', BAD),
  row('P3', 'hides the provider behind an encoded slash', 'POST /plain%2fv1/messages', BAD),
  row('P3', 'begins with an encoded slash', 'POST /%2fplain/v1/messages', BAD),
  row('P3', 'has an encoded slash where a wildcard stands', 'GET /plain/v1/models/a%2Fb', BAD),
  row('P3', 'has an encoded slash that a rule keeps', 'GET /api/kept/a%2Fb/end', sent('/kept/a%2Fb/end')),
  row('P3', 'has a lower-case one that a rule keeps', 'GET /api/kept/a%2fb/end', sent('/kept/a%2fb/end')),
  row('P3', 'has a real slash where only %2F is kept', 'GET /api/kept/a/b/end', DENIED),
  row('P3', 'has an encoded slash outside the rule that keeps it', 'GET /api/v1/models/a%2Fb', BAD),
  row('P3', 'has a kept %2F with nothing before it', 'GET /api/kept/%2Fb/end', BAD),
  row('P3', 'has a kept %2F with nothing after it', 'GET /api/kept/a%2F/end', BAD),
  row('P3', 'has two kept %2F in a row', 'GET /api/kept/a%2F%2Fb/end', BAD),
  row('P3', 'has two dots between kept %2F', 'GET /api/kept/a%2F..%2Fb/end', BAD),
  row('P3', 'has one dot between kept %2F', 'GET /api/kept/a%2F.%2Fb/end', BAD),
  row('P3', 'has two dots before a kept %2F', 'GET /api/kept/..%2Fb/end', BAD),
  row('P3', 'has two dots after a kept %2F', 'GET /api/kept/b%2F../end', BAD),
  row('P3', 'has encoded dots after a kept %2F', 'GET /api/kept/b%2F%2e%2e/end', BAD),
  row('P3', 'has a backslash beside a kept %2F', 'GET /api/kept/b%2Fa%5Cc/end', BAD),

  row('P4', 'has doubly encoded dots', 'POST /api/v1/messages/%252e%252e/files', BAD),
  row('P4', 'has a doubly encoded slash', 'GET /api/v1/models/a%252fb', BAD),
  row('P4', 'has a doubly encoded letter', 'POST /api/v1/%256dessages', BAD),
  row('P4', 'is encoded three times', 'GET /api/v1/models/%25252e', BAD),
  row('P4', 'has a percent sign, encoded once', 'GET /api/v1/models/100%25', sent('/v1/models/100%25')),
  row(
    'P4',
    'has an encoded percent sign before no hex digits',
    'GET /api/v1/models/%25zz',
    sent('/v1/models/%25zz'),
  ),

  row('P5', 'encodes an allowed letter', 'POST /api/v1/%6dessages', DENIED),
  row('P5', 'encodes an allowed digit', 'POST /api/v%31/messages', DENIED),
  row('P5', 'encodes a letter of the provider', 'POST /%61pi/v1/messages', UNKNOWN),
  row('P5', 'encodes a letter under a wildcard', 'GET /api/v1/models/%61', sent('/v1/models/%61')),

  row('P6', 'has backslashes for slashes', 'GET /api/v1\\models\\a', sent('/v1/models/a'), { deno: BAD }),
  row('P6', 'has backslashes and dots', 'GET /api/v1/models\\..\\files', DENIED, { deno: BAD }),
  row('P6', 'begins with slash backslash host', 'GET /\\evil.test/v1/models/a', BAD),
  row('P6', 'begins with two backslashes', 'GET \\\\evil.test/v1/models/a', closed(400, 505), {
    deno: closed(400),
  }),

  row('P7', 'has a path parameter', 'POST /api/v1/messages;x=1', DENIED),
  row('P7', 'has two dots with a parameter', 'POST /api/v1/..;/files', BAD),
  row('P7', 'has two dots with a named parameter', 'POST /api/v1/..;foo=bar/messages', BAD),
  row('P7', 'has two dots with an encoded semicolon', 'POST /api/v1/..%3bx/files', BAD),
  row('P7', 'has one dot with a parameter', 'POST /api/v1/.;x/messages', BAD),
  row('P7', 'has one dot with an encoded semicolon', 'POST /api/v1/.%3B/messages', BAD),
  row('P7', 'has encoded dots with a parameter', 'POST /api/v1/%2e%2e;/files', BAD),
  row('P7', 'has a parameter at the provider', 'POST /api;x=1/v1/messages', UNKNOWN),
  row('P7', 'has a parameter under a wildcard', 'GET /api/v1/models/a;b=c', sent('/v1/models/a;b=c')),

  row('P8', 'begins with two slashes', 'POST //api/v1/messages', BAD),
  row('P8', 'has two slashes after the provider', 'POST /api//v1/messages', BAD),
  row('P8', 'has two slashes inside', 'POST /api/v1//messages', BAD),
  row('P8', 'has three slashes', 'POST ///api/v1/messages', BAD),
  row('P8', 'ends with two slashes', 'GET /api/v1/models/a//', BAD),
  row('P8', 'is scheme-relative', 'GET //evil.test/v1/models/a', BAD),
  row('P8', 'is scheme-relative below the provider', 'GET /api//evil.test/v1/models/a', BAD),
  row('P8', 'makes two slashes out of dots', 'GET /api/v1/..//models/a', BAD),
  row('P8', 'holds a url', 'GET /api/v1/models/http://evil.test/', BAD),
  row('P8', 'is the unix: trick of mod_proxy', 'GET /api/unix:/x%7Chttp://h/', BAD),
  row('P8', 'is two slashes', 'GET //', BAD),

  row('P9', 'goes on after the pattern', 'POST /api/v1/messagesX', DENIED),
  row('P9', 'ends with a slash', 'POST /api/v1/messages/', DENIED),
  row('P9', 'ends with a dot', 'POST /api/v1/messages.', DENIED),
  row('P9', 'ends with an encoded space', 'POST /api/v1/messages%20', DENIED),
  row('P9', 'goes below the pattern', 'POST /api/v1/messages/batches', DENIED),
  row('P9', 'stops before the wildcard', 'GET /api/v1/models', DENIED),
  row('P9', 'has an empty segment for the wildcard', 'GET /api/v1/models/', DENIED),
  row('P9', 'has a longer first segment', 'GET /api/v1/modelsX/a', DENIED),
  row('P9', 'repeats the prefix', 'POST /api/api/v1/messages', DENIED),
  row('P9', 'is the provider alone', 'GET /api', DENIED),
  row('P9', 'is the provider and a slash', 'GET /api/', DENIED),
  row('P9', 'is the root', 'GET /', UNKNOWN),
  row('P9', 'goes below a last wildcard', 'GET /api/v1/models/a/b/c', sent('/v1/models/a/b/c')),
  row('P9', 'fills a middle wildcard', 'GET /api/repos/x/pulls', sent('/repos/x/pulls')),
  row('P9', 'fills a middle wildcard twice', 'GET /api/repos/x/y/pulls', DENIED),
  row('P9', 'empties a middle wildcard', 'GET /api/repos//pulls', BAD),
  row(
    'P9',
    'fits a suffix',
    'POST /api/v1beta/models/g-1:generateContent',
    sent('/v1beta/models/g-1:generateContent'),
  ),
  row('P9', 'has another suffix', 'POST /api/v1beta/models/g-1:batchGenerateContent', DENIED),
  row('P9', 'has the suffix alone', 'POST /api/v1beta/models/:generateContent', DENIED),
  row('P9', 'has the suffix in another segment', 'POST /api/v1beta/models/a/b:generateContent', DENIED),
  row('P9', 'lies below the base path', 'GET /based/v1/x', sent('/base/path/v1/x')),
  row('P9', 'repeats the base path', 'GET /based/base/path/v1/x', DENIED),

  row('P10', 'has an overlong slash', 'GET /api/v1/models/a%c0%af..', BAD),
  row('P10', 'has a lone continuation byte', 'GET /api/v1/models/%80', BAD),
  row('P10', 'has a cut sequence', 'GET /api/v1/models/%c3', BAD),
  row('P10', 'has an encoded surrogate', 'GET /api/v1/models/%ed%a0%80', BAD),
  row('P10', 'has a code point above the last', 'GET /api/v1/models/%f4%90%80%80', BAD),
  row('P10', 'has good UTF-8, encoded', 'GET /api/v1/models/%c3%a9', sent('/v1/models/%c3%a9')),
  row('P10', 'has a raw fullwidth slash', 'POST /api/v1\xef\xbc\x8fmessages', DENIED, {
    deno: closed(400),
  }),
  row(
    'P10',
    'has a raw fullwidth slash under a wildcard',
    'GET /api/v1/models/a\xef\xbc\x8fb',
    sent('/v1/models/a%EF%BC%8Fb'),
    { deno: closed(400) },
  ),
  row(
    'P10',
    'has ghost bits of CR and LF',
    'GET /api/v1/models/\xe7\x98\x8d\xe7\x98\x8a',
    sent('/v1/models/%E7%98%8D%E7%98%8A'),
    { deno: closed(400) },
  ),
  row('P10', 'has a raw byte that is no UTF-8', 'GET /api/v1/models/\xff', sent('/v1/models/%EF%BF%BD'), {
    deno: closed(400),
  }),
  row('P10', 'has an encoded NUL', 'GET /api/v1/models/a%00', BAD),
  row('P10', 'has an encoded line end', 'GET /api/v1/models/a%0d%0aX:%20y', BAD),
  row('P10', 'has an encoded tab', 'GET /api/v1/models/a%09', BAD),
  row('P10', 'has an encoded DEL', 'GET /api/v1/models/a%7f', BAD),
  row('P10', 'has a raw DEL', 'GET /api/v1/models/a\x7f', BAD, { deno: closed(400) }),
  row('P10', 'has a raw NUL', 'GET /api/v1/models/a\0', closed(400, 505), { deno: closed(400) }),
  row('P10', 'has a raw tab', 'GET /api/v1/models/a\tb', closed(400, 505), { deno: closed(400) }),
  row('P10', 'has a raw space', 'GET /api/v1/models/a b', closed(400, 505), { deno: closed(400) }),
  row('P10', 'has a percent sign alone', 'GET /api/v1/models/a%', BAD),
  row('P10', 'has an escape of one digit', 'GET /api/v1/models/a%2', BAD),
  row('P10', 'has an escape of no digits', 'GET /api/v1/models/a%zz', BAD),
  row('P10', 'has an escape of IIS', 'GET /api/v1/models/%u002e', BAD),
  row('P10', 'has a pipe', 'GET /api/v1/models/a|b', BAD),
  row('P10', 'has brackets', 'GET /api/v1/models/a[b]', BAD),
  row(
    'P10',
    'has quotes and braces, which Bun escapes',
    'GET /api/v1/models/a"<>{}`',
    sent('/v1/models/a%22%3C%3E%7B%7D%60'),
    { deno: BAD },
  ),

  row('P11', 'has a lower-case method', 'post /api/v1/messages', closed(0), { deno: closed(400) }),
  row('P11', 'has a mixed-case method', 'Get /api/v1/models/a', closed(0), { deno: closed(400) }),
  row('P11', 'has another case in the path', 'POST /api/V1/messages', DENIED),
  row('P11', 'has another case in the provider', 'POST /API/v1/messages', UNKNOWN),
  row('P11', 'has the method of another rule', 'GET /api/v1/messages', DENIED),
  row('P11', 'asks HEAD where GET is allowed', 'HEAD /api/v1/models/a', DENIED),
  row('P11', 'asks OPTIONS where it is not listed', 'OPTIONS /api/v1/messages', DENIED),
  row('P11', 'asks DELETE where it is not listed', 'DELETE /api/v1/models/a', DENIED),
  row('P11', 'asks PROPFIND', 'PROPFIND /api/v1/models/a', NO_METHOD),
  row('P11', 'asks PURGE', 'PURGE /api/v1/models/a', NO_METHOD),
  row('P11', 'asks an unknown method', 'FOO /api/v1/models/a', closed(0), { deno: closed(400) }),

  row('P12', 'has a fragment with a path', 'GET /api/v1/models/a#/../files', BAD),
  row('P12', 'has an empty fragment', 'GET /api/v1/models/a#', BAD),
  row('P12', 'has a fragment after the query', 'GET /api/v1/models/a?x=1#f', BAD),
  row('P12', 'has a fragment after the provider', 'POST /api#/v1/messages', BAD),
  row('P12', 'has an encoded fragment mark', 'GET /api/v1/models%23', DENIED),

  row('P13', 'names an allowed path in the query', 'GET /api/v1/files?x=/v1/models/a', DENIED),
  row('P13', 'has the allowed path after a question mark', 'GET /api/?/v1/models/a', DENIED),
  row('P13', 'has an encoded question mark', 'POST /api/v1/messages%3fx=1', DENIED),
  row('P13', 'has an empty query', 'POST /api/v1/messages?', sent('/v1/messages?')),
  row('P13', 'repeats a parameter', 'POST /api/v1/messages?a=1&a=2', sent('/v1/messages?a=1&a=2')),
  row('P13', 'has an encoded NUL in the query', 'POST /api/v1/messages?%00', BAD),
  row('P13', 'has an encoded LF in the query', 'POST /api/v1/messages?a=%0a', BAD),
  row('P13', 'has an encoded CR in the query', 'POST /api/v1/messages?a=%0D', BAD),
  row(
    'P13',
    'has a path in the query',
    'POST /api/v1/messages?a=//b/../c%2F%2e',
    sent('/v1/messages?a=//b/../c%2F%2e'),
  ),
  row(
    'P13',
    'has a broken escape in the query',
    'POST /api/v1/messages?a=%zz&b=%',
    sent('/v1/messages?a=%zz&b=%'),
  ),
  row(
    'P13',
    'has only listed parameters',
    'GET /api/v1/list?page=1&per_page=2',
    sent('/v1/list?page=1&per_page=2'),
  ),
  row('P13', 'has a listed parameter, escaped', 'GET /api/v1/list?p%61ge=1', sent('/v1/list?p%61ge=1')),
  row('P13', 'has a listed parameter without a value', 'GET /api/v1/list?page', sent('/v1/list?page')),
  row(
    'P13',
    'has a question mark in a value',
    'GET /api/v1/list?page=1?evil=2',
    sent('/v1/list?page=1?evil=2'),
  ),
  row('P13', 'has one that is not listed', 'GET /api/v1/list?page=1&evil=2', DENIED),
  row('P13', 'has one that is not listed behind a semicolon', 'GET /api/v1/list?page=1;evil=2', DENIED),
  row('P13', 'has a listed one in another case', 'GET /api/v1/list?PAGE=1', DENIED),
  row('P13', 'has a listed one with a space', 'GET /api/v1/list?page+=1', DENIED),
  row('P13', 'has a parameter without a name', 'GET /api/v1/list?=1', DENIED),
  row('P13', 'has a listed one as array', 'GET /api/v1/list?page[]=1', DENIED),
  row('P13', 'has a parameter where none is listed', 'GET /api/v1/none?a', DENIED),
  row('P13', 'has an empty query where none is listed', 'GET /api/v1/none?', sent('/v1/none?')),
  row(
    'P13',
    'has 8192 bytes',
    `POST /api/v1/messages?${'a'.repeat(8192 - 17)}`,
    sent(`/v1/messages?${'a'.repeat(8192 - 17)}`),
  ),
  row('P13', 'has 8193 bytes', `POST /api/v1/messages?${'a'.repeat(8193 - 17)}`, BAD),
  row('P13', 'has a path of 9000 bytes', `GET /api/v1/models/${'a'.repeat(9000)}`, BAD),

  // Bun drops the authority of an absolute form, so it cannot be told from the origin form: it has no say.
  row(
    'P14',
    'is absolute with a metadata address',
    'POST http://169.254.169.254/api/v1/messages',
    sent('/v1/messages'),
    { deno: BAD },
  ),
  row('P14', 'is absolute with a denied path', 'GET http://evil.test/v1/models/a', UNKNOWN, { deno: BAD }),
  row(
    'P14',
    'is absolute with user info',
    'POST http://a:b@evil.test:99/api/v1/messages',
    sent('/v1/messages'),
    { deno: BAD },
  ),
  row('P14', 'is absolute with another scheme', 'GET ftp://evil.test/api/v1/models/a', closed(400, 505), {
    deno: BAD,
  }),
  row('P14', 'is absolute with file:', 'GET file:///api/v1/models/a', closed(400, 505), {
    deno: BAD,
  }),
  row('P14', 'is an asterisk', 'OPTIONS *', closed(400, 505), { deno: BAD }),
  row('P14', 'is an asterisk with GET', 'GET *', closed(400, 505), { deno: BAD }),
  row('P14', 'is an authority', 'CONNECT api.x:443', NO_METHOD, { deno: closed(405) }),
  row('P14', 'is an authority with GET', 'GET api.x:443', closed(400, 505), { deno: closed(400) }),
  row('P14', 'has no slash', 'GET admin', closed(400, 505), { deno: closed(400) }),
  row('P14', 'is only a query', 'GET ?/api/v1/models/a', closed(400, 505), { deno: closed(400) }),

  row('P15', 'has a Host that ends the url early', 'GET /v1/files', BAD, {
    host: 'Host: api/v1/models/a?',
    deno: MALFORMED,
  }),
  row('P15', 'has a Host that holds a path', 'GET /models/a', BAD, {
    host: 'Host: x/api/v1',
    deno: MALFORMED,
  }),
  row('P15', 'has a Host with a fragment', 'GET /v1/files', BAD, {
    host: 'Host: x/api/v1/models/a#',
    deno: MALFORMED,
  }),
  row('P15', 'has a Host with a query', 'GET /api/v1/models/a', BAD, { host: 'Host: a/?', deno: MALFORMED }),
  row('P15', 'has a Host with user info', 'GET /api/v1/models/a', BAD, {
    host: 'Host: a@b',
    deno: MALFORMED,
  }),
  row('P15', 'has a Host with a backslash', 'GET /api/v1/models/a', BAD, {
    host: 'Host: a\\b',
    deno: MALFORMED,
  }),
  row('P15', 'has a Host with a space', 'GET /api/v1/models/a', BAD, { host: 'Host: a b', deno: MALFORMED }),
  row('P15', 'has an escaped Host', 'GET /api/v1/models/a', MALFORMED, { host: 'Host: a%2fb' }),
  row('P15', 'has an empty Host', 'GET /api/v1/models/a', BAD, { host: 'Host:', deno: MALFORMED }),
  row('P15', 'has a port that is no number', 'GET /api/v1/models/a', MALFORMED, { host: 'Host: a:b' }),
  row('P15', 'has two Hosts', 'GET /api/v1/models/a', MALFORMED, {
    host: 'Host: localhost\r\nHost: b',
  }),
  row('P15', 'has two equal Hosts', 'GET /api/v1/models/a', MALFORMED, {
    host: 'Host: localhost\r\nHOST: localhost',
  }),
  row('P15', 'has a list of Hosts', 'GET /api/v1/models/a', BAD, {
    host: 'Host: localhost, b',
    deno: MALFORMED,
  }),
  row('P15', 'has no Host', 'GET /api/v1/models/a', closed(400), { host: '', deno: MALFORMED }),
  row('P15', 'has no Host in HTTP/1.0', 'GET /api/v1/models/a', BAD, {
    host: '',
    version: 'HTTP/1.0',
    deno: closed(505),
  }),
  row('P15', 'has a foreign Host, which has no say', 'GET /api/v1/models/a', sent('/v1/models/a'), {
    host: 'Host: evil.test:1',
  }),
];

const endpoints = [
  'POST /v1/messages',
  'GET /v1/models/*',
  'GET /repos/*/pulls',
  'POST /v1beta/models/*:generateContent',
  { methods: ['GET'], paths: ['/kept/*/end'], allow_encoded_slash: true },
  { methods: ['GET'], paths: ['/v1/list'], query: ['page', 'per_page'] },
  { methods: ['GET'], paths: ['/v1/none'], query: [] },
];

const canary = makeCanary();
/** Everything that came back to clients, for the last look. */
const answers: Buffer[] = [];
let up: Recorder;
let proxy: Isoproxy;

/** A provider on the same upstream, besides `api`. */
const provider = (dir: string, over: object) => ({
  ...recorderAt(dir, up.port),
  credential: 'none',
  endpoints: [
    { methods: ['POST'], paths: ['/v1/messages'] },
    { methods: ['GET'], paths: ['/v1/models/*', '/v1/x'] },
  ],
  ...over,
});

beforeAll(async () => {
  up = await startRecorder();
  proxy = await startIsoproxy((dir) =>
    simpleConfig(dir, {
      upstreamPort: up.port,
      ca: up.ca,
      canary,
      endpoints,
      listener: { providers: ['api', 'plain', 'based'] },
      top: {
        providers: {
          plain: provider(dir, {}),
          based: provider(dir, { base_url: `https://localhost:${up.port}/base/path` }),
        },
      },
    }),
  );
  await sendHonest();
});
afterAll(async () => {
  await proxy?.[Symbol.asyncDispose]();
  await up?.close();
});

/** What the upstream has seen so far: a refusal changes nothing of it. */
const upstreamSide = () => ({
  connections: up.connections.length,
  requests: up.requests.length,
  bytes: up.connections.reduce((sum, connection) => sum + connection.bytesIn, 0),
});

let honestCount = 0;
/** A request that is allowed works, on a connection of its own. Its record comes after all that ended before. */
async function sendHonest(): Promise<void> {
  const path = `/api/v1/models/honest-${++honestCount}`;
  expect((await request(proxy.socket(), { target: path })).status).toBe(200);
  await proxy.record((record) => record.path === path);
}

const texts = new Map<string, string>();
/** The one shape of a refusal. */
function expectRefusal(answer: RawResponse, expected: string): string {
  const [status, code = ''] = expected.split(' ');
  const body = answer.json();
  expect(`${answer.status} ${body.code}`).toBe(expected);
  expect(body).toMatchObject({
    type: `urn:isoproxy:error:${code}`,
    status: Number(status),
    detail: body.message,
  });
  expect(body.error).toEqual({ type: code, message: body.message });
  expect(body.message).toStartWith('isoproxy: ');
  // The text is constant per code, so nothing of the request can be in it.
  expect(body.message).toBe(texts.get(code) ?? body.message);
  texts.set(code, body.message);
  expect([answer.header('x-isoproxy-error'), answer.header('x-request-id')]).toEqual([code, body.request_id]);
  expect(answer.header('connection')).toBe('close');
  return body.request_id;
}

describe('1.1 targets', () => {
  test.each(rows.map((item): [string, Row] => [nameOf(item), item]))('%s', async (_, item) => {
    const verdict = (DENO && item.deno) || item.expect;
    const before = { upstream: upstreamSide(), records: proxy.records().length };
    const method = item.line.split(' ', 1)[0]!;
    const body = method === 'POST' ? 'Content-Length: 2\r\n\r\n{}' : '\r\n';
    const host = item.host === '' ? '' : `${item.host ?? 'Host: localhost'}\r\n`;
    using client = await connect(proxy.socket());
    await client.send(`${item.line} ${item.version ?? 'HTTP/1.1'}\r\n${host}${body}`);
    const answer = await client.response({ method });
    const after = upstreamSide();

    if ('sent' in verdict) {
      expect(answer.status).toBe(200);
      expect(after.requests).toBe(before.upstream.requests + 1);
      const seen = up.requests.at(-1)!;
      expect([seen.method, seen.target, seen.state]).toEqual([method, verdict.sent, 'complete']);
      expect(seen.headerAll('host')).toEqual([`localhost:${up.port}`]);
    } else {
      expect(after).toEqual(before.upstream);
      await client.untilClosed();
      if ('refused' in verdict && method !== 'HEAD') expectRefusal(answer, verdict.refused);
      else if ('refused' in verdict) expect(answer.status).toBe(Number(verdict.refused.split(' ')[0]));
      else expect(verdict.closed).toContain(answer.status);
    }
    answers.push(client.received());

    await sendHonest();
    // Ours first, if the pipeline was reached; then the honest one.
    const records = proxy.records().slice(before.records);
    expect(records).toHaveLength('closed' in verdict ? 1 : 2);
    expect(records.at(-1)).toMatchObject({ decision: 'allow', status: 200 });
    if ('refused' in verdict) {
      const [status, reason] = verdict.refused.split(' ');
      expect(records[0]).toMatchObject({ decision: 'deny', status: Number(status), reason, rule: '' });
    }
    if ('sent' in verdict) expect(records[0]).toMatchObject({ decision: 'allow', status: 200, reason: '' });
  });

  test('P17 a body that names another upstream is passed on as the bytes it is', async () => {
    const body = `{"api_base":"https://evil.test","url":"http://169.254.169.254/","stream":"\\u0000\xff"}`;
    const seenBefore = up.requests.length;
    const answer = await request(proxy.socket(), {
      method: 'POST',
      target: '/api/v1/messages',
      body: Buffer.from(body, 'latin1'),
    });
    expect(answer.status).toBe(200);
    expect(up.requests.length).toBe(seenBefore + 1);
    expect(up.requests.at(-1)!.body).toEqual(Buffer.from(body, 'latin1'));
  });

  test('a record shows the path of a refused target as printable text of at most 512 bytes, and no query', async () => {
    await request(proxy.socket(), { target: `/api//${'a'.repeat(2000)}?secret=1` });
    const record = await proxy.record((item) => item.path.startsWith('/api//aaaa'));
    expect(record.path).toHaveLength(512);
    // Under Deno the parser refuses what is no ASCII, without a record.
    await request(proxy.socket(), { target: `/api/v1/%00${DENO ? '|' : '\x7f\xff'}?secret=2` });
    const odd = await proxy.record((item) => item.path.startsWith('/api/v1/%00'));
    expect(odd.path).toMatch(/^[\x21-\x7e]+$/);
    expect(proxy.child.stderr().includes('secret=')).toBe(false);
  });
});

describe('1.1 configuration', () => {
  const entry = { methods: ['GET'], paths: ['/v1/x'] };
  type Change = Omit<SimpleConfigOptions, 'upstreamPort' | 'ca' | 'canary'>;
  const marker = 'value-that-must-not-be-shown';
  const refused: [string, Change, RegExp][] = [
    [
      'an entry without methods',
      { endpoints: [{ ...entry, methods: [] }] },
      /endpoints.*methods.*empty list/,
    ],
    ['an entry without paths', { endpoints: [{ ...entry, paths: [] }] }, /endpoints.*paths.*empty list/],
    ['a method in lower case', { endpoints: [{ ...entry, methods: ['get'] }] }, /endpoints.*methods/],
    ['TRACE', { endpoints: [{ ...entry, methods: ['TRACE'] }] }, /endpoints.*methods/],
    ['CONNECT', { endpoints: [{ ...entry, methods: ['CONNECT'] }] }, /endpoints.*methods/],
    ['a star beside a method', { endpoints: [{ ...entry, methods: ['*', 'GET'] }] }, /endpoints.*methods/],
    ['the same entry twice', { endpoints: [entry, entry] }, /equal to entry 1/],
    [
      'two entries that disagree',
      { endpoints: [entry, { ...entry, paths: ['/v1/*'], query: [] }] },
      /disagree/,
    ],
    ['a pattern without a slash', { endpoints: [{ ...entry, paths: ['v1'] }] }, /endpoints.*paths/],
    ['a pattern with dot segments', { endpoints: [{ ...entry, paths: ['/v1/../x'] }] }, /endpoints.*paths/],
    ['a pattern with two slashes', { endpoints: [{ ...entry, paths: ['/v1//x'] }] }, /endpoints.*paths/],
    ['a pattern with a query', { endpoints: [{ ...entry, paths: ['/v1/x?a=1'] }] }, /endpoints.*paths/],
    [
      'a pattern with a star inside a name',
      { endpoints: [{ ...entry, paths: ['/v1/x*y'] }] },
      /endpoints.*paths/,
    ],
    ['a pattern with two stars', { endpoints: [{ ...entry, paths: ['/v1/**'] }] }, /endpoints.*paths/],
    [
      'a pattern that is an expression',
      { endpoints: [{ ...entry, paths: ['/v1/(a|b)'] }] },
      /endpoints.*paths/,
    ],
    ['an unknown key of an entry', { endpoints: [{ ...entry, method: marker }] }, /endpoints.*method/],
    [
      'an unknown key of a provider',
      { provider: { endpoint: marker } },
      /providers\.api\.endpoint.*\n.*endpoints/,
    ],
    ['an unknown key of a listener', { listener: { provider: marker } }, /listeners.*provider/],
    ['an unknown key of the limits', { limits: { max_request_bodi: marker } }, /limits\.max_request_bodi/],
    ['an unknown table', { top: { alow: { x: marker } } }, /alow/],
    ['an entry that is a string', { provider: { endpoints: [marker] } }, /endpoints/],
    ['no endpoints at all', { provider: { endpoints: undefined } }, /endpoints.*required/],
    ['a provider that does not exist', { listener: { providers: ['api', marker] } }, /listeners.*providers/],
    ['an empty list of providers', { listener: { providers: [] } }, /listeners.*providers/],
    ['user info in the base url', { provider: { base_url: `https://u:${marker}@up.test` } }, /base_url/],
    ['a query in the base url', { provider: { base_url: `https://up.test/?${marker}` } }, /base_url/],
    ['plain http', { provider: { base_url: 'http://up.test' } }, /base_url/],
    [
      'plain http to a name, though allowed',
      { provider: { base_url: 'http://localhost:1', unsafe_allow_http: true } },
      /base_url/,
    ],
    ['dot segments in the base path', { provider: { base_url: 'https://up.test/a/../b' } }, /base_url/],
    ['a private upstream', { provider: { unsafe_allow_private: undefined } }, /base_url/],
    [
      'a metadata upstream',
      { provider: { base_url: 'https://169.254.169.254', unsafe_allow_private: undefined } },
      /base_url/,
    ],
    [
      'a decimal loopback',
      { provider: { base_url: 'https://2130706433', unsafe_allow_private: undefined } },
      /base_url/,
    ],
    [
      'a mapped loopback',
      { provider: { base_url: 'https://[::ffff:127.0.0.1]', unsafe_allow_private: undefined } },
      /base_url/,
    ],
  ];
  test.each(refused)('P16 %s: refused with 78, the key and no value', async (_, change, message) => {
    using dir = createWorkspace();
    const { toml, files } = simpleConfig(dir.dir, { upstreamPort: up.port, ca: up.ca, canary, ...change });
    for (const [name, content] of Object.entries(files)) dir.write(name, content);
    const config = dir.write('proxy.toml', toml);
    const result = await run(['check', '--config', config], { dir: dir.dir });
    expect([result.code, result.stdout]).toEqual([78, '']);
    expect(result.stderr).toMatch(message);
    expect(result.stderr).toMatch(/^isoproxy: error: /);
    expect(result.stderr).not.toContain(marker);
    assertClean(canary, { stderr: result.stderr });
  });

  test('P16 a key given twice is refused with 78 and its line', async () => {
    using dir = createWorkspace();
    const { toml, files } = simpleConfig(dir.dir, { upstreamPort: up.port, ca: up.ca, canary });
    for (const [name, content] of Object.entries(files)) dir.write(name, content);
    const twice = toml.replace(/^(base_url = .*)$/m, '$1\n$1');
    const result = await run(['check', '--config', dir.write('proxy.toml', twice)], { dir: dir.dir });
    expect(result.code).toBe(78);
    const line = twice.split('\n').findLastIndex((text) => text.startsWith('base_url')) + 1;
    expect(result.stderr).toContain(`:${line}`);
    expect(result.stderr).not.toContain('localhost');
  });

  test('P16 an empty allow-list allows nothing', async () => {
    await using empty = await startSimple({ upstreamPort: up.port, ca: up.ca, canary, endpoints: [] });
    const before = upstreamSide();
    for (const [method, target] of [
      ['GET', '/api/'],
      ['POST', '/api/v1/messages'],
      ['GET', '/api'],
      ['OPTIONS', '/api/*'],
    ] as const)
      expectRefusal(await request(empty.socket(), { method, target }), '403 endpoint_not_allowed');
    expect(upstreamSide()).toEqual(before);
  });
});

describe('the order of refusals: a request that breaks two rules gets the earlier code', () => {
  const token = makeCanary('token-');
  let ordered: Isoproxy;
  let tcp: Endpoint;

  beforeAll(async () => {
    const port = await freePort();
    tcp = { port };
    ordered = await startIsoproxy((dir) => {
      const config = simpleConfig(dir, {
        upstreamPort: up.port,
        ca: up.ca,
        canary,
        listener: {
          name: 'tcp-1',
          socket: undefined,
          tcp: `127.0.0.1:${port}`,
          token: { file: join(dir, 'secrets/token') },
          providers: ['api', 'barred'],
          network_profile: 'only-localhost',
        },
        limits: { max_request_body: '1KiB', max_concurrent: 1 },
        endpoints: [
          'POST /v1/messages',
          { methods: ['GET'], paths: ['/v1/kept/*'], allow_encoded_slash: true },
        ],
        files: { 'secrets/token': token },
        top: {
          network_profiles: { 'only-localhost': { allow: ['localhost'] } },
          providers: { barred: provider(dir, { base_url: `https://127.0.0.1:${up.port}` }) },
        },
      });
      return config;
    });
  });
  afterAll(async () => {
    assertClean(token, ordered.visible());
    assertClean(canary, ordered.visible());
    await ordered[Symbol.asyncDispose]();
  });

  const TOKEN = () => `Authorization: Bearer ${token}\r\n`;
  const BIG = 'Content-Length: 999999\r\n';
  /** Each breaks the rule of its own row and at least the next one. Lines: method and target, then header lines. */
  const pairs: [string, string, string, (() => string)?][] = [
    ['405 method before 400 target', 'TRACE /api/v1/%2e', '405 method_not_supported'],
    ['405 method before 400 framing', 'PROPFIND /api/x', '405 method_not_supported', () => 'Expect: y\r\n'],
    [
      '405 method before 403 origin',
      'PURGE /api/x',
      '405 method_not_supported',
      () => 'Origin: http://evil.test\r\n',
    ],
    ['400 target before 400 framing', 'GET //x', '400 bad_target', () => 'Expect: y\r\n'],
    ['400 target before 403 origin', 'GET /api/a%00', '400 bad_target', () => 'Origin: http://evil.test\r\n'],
    ['400 target before 401 token', 'GET /api//x', '400 bad_target'],
    ['400 encoded slash before 401 token', 'GET /barred/a%2Fb', '400 bad_target'],
    [
      '400 encoded slash that no rule of this path keeps before 401 token',
      'GET /api/v1/a%2Fb',
      '400 bad_target',
    ],
    ['400 encoded slash before 404 provider', 'GET /nobody/a%2Fb', '400 bad_target', TOKEN],
    [
      '400 framing before 403 origin',
      'GET /api/x',
      '400 bad_request',
      () => 'Expect: y\r\nOrigin: http://evil.test\r\n',
    ],
    ['400 body of GET before 401 token', 'GET /api/x', '400 bad_request', () => 'Content-Length: 1\r\n'],
    ['403 origin before 401 token', 'GET /api/x', '403 browser_origin', () => 'Origin: http://evil.test\r\n'],
    [
      '403 origin before own routes',
      'GET /healthz',
      '403 browser_origin',
      () => `Origin: null\r\n${TOKEN()}`,
    ],
    ['401 token before own routes', 'GET /healthz', '401 client_unauthorized'],
    ['401 token before the discovery', 'GET /.well-known/isoproxy', '401 client_unauthorized'],
    ['401 token before 404 provider', 'GET /nobody/x', '401 client_unauthorized'],
    ['401 token before 403 profile', 'GET /barred/x', '401 client_unauthorized'],
    ['401 token before 413 length', 'POST /api/v1/messages', '401 client_unauthorized', () => BIG],
    ['404 provider before 413 length', 'POST /nobody/x', '404 unknown_provider', () => BIG + TOKEN()],
    ['403 profile before 403 endpoint', 'POST /barred/nowhere', '403 profile_denied', TOKEN],
    ['403 profile before 413 length', 'POST /barred/v1/messages', '403 profile_denied', () => BIG + TOKEN()],
    ['403 endpoint before 413 length', 'POST /api/v1/files', '403 endpoint_not_allowed', () => BIG + TOKEN()],
    ['413 length alone', 'POST /api/v1/messages', '413 request_too_large', () => BIG + TOKEN()],
  ];
  test.each(pairs)('%s', async (_, line, code, lines = () => '') => {
    const before = upstreamSide();
    using client = await connect(tcp);
    await client.send(`${line} HTTP/1.1\r\nHost: localhost\r\n${lines()}\r\n`);
    const declared = /Content-Length: ([0-9]+)/.exec(lines())?.[1];
    void client.send('x'.repeat(Number(declared ?? 0)));
    const id = expectRefusal(await client.response(), code);
    expect(upstreamSide()).toEqual(before);
    const record = await ordered.record((item) => item.request_id === id);
    expect(record).toMatchObject({ decision: 'deny', reason: code.split(' ')[1] });
    expect(ordered.records().filter((item) => item.request_id === id)).toHaveLength(1);
  });

  test('403 host before 401 token, and 400 target before 403 host', async () => {
    const foreign = { headers: { Host: 'evil.test' } };
    expectRefusal(await request(tcp, { target: '/api/x', ...foreign }), '403 host_not_allowed');
    expectRefusal(await request(tcp, { target: '/healthz', ...foreign }), '403 host_not_allowed');
    expectRefusal(await request(tcp, { target: '/api//x', ...foreign }), '400 bad_target');
    expectRefusal(await request(tcp, { method: 'TRACE', ...foreign }), '405 method_not_supported');
  });

  test('413 length before 503 overloaded before 503 credential, and both before the upstream', async () => {
    const auth = { Authorization: `Bearer ${token}` };
    const post = (body = '{}') =>
      request(tcp, { method: 'POST', target: '/api/v1/messages', headers: auth, body });
    const release = Promise.withResolvers<void>();
    up.handle(async (_, connection) => {
      await release.promise;
      await connection.reply(200, {}, 'late');
    });
    const seen = up.requests.length;
    const held = post();
    await until('the held request', () => up.requests.length === seen + 1);
    ordered.workspace.write(SECRET_FILE, '');
    const before = upstreamSide();
    expectRefusal(await post('x'.repeat(2000)), '413 request_too_large');
    const overloaded = await post();
    expectRefusal(overloaded, '503 overloaded');
    expect(overloaded.header('retry-after')).toMatch(/^[1-9][0-9]*$/);
    release.resolve();
    expect((await held).text()).toBe('late');
    up.reset();
    await until('the emptied credential to be noticed', async () => (await post()).status === 503);
    const nothing = upstreamSide();
    expectRefusal(await post(), '503 credential_unavailable');
    expectRefusal(await post('x'.repeat(2000)), '413 request_too_large');
    expect(upstreamSide()).toEqual(nothing);
    expect(before.requests).toBe(seen + 1);
    ordered.workspace.write(SECRET_FILE, canary);
    await until('the credential to come back', async () => (await post()).status === 200);
  });
});

test('the credential is in nothing that clients, outputs or files have shown', async () => {
  expect(up.requests.length).toBeGreaterThan(0);
  expect(up.problems).toEqual([]);
  assertClean(canary, { answers: Buffer.concat(answers), ...proxy.visible() });
  expect(await proxy.stop()).toBe(0);
});

function nameOf({ id, what, expect: verdict }: Row): string {
  if ('sent' in verdict)
    return `${id} a target that ${what} is judged and sent as it stands after normalisation`;
  if ('refused' in verdict) return `${id} a target that ${what} is refused: ${verdict.refused}`;
  return `${id} a target that ${what} is turned away by the parser`;
}
