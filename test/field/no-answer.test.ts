import { afterEach, describe, expect, it } from 'vitest';
import { post } from '../support/client.ts';
import { type Provider, startProvider } from '../upstream/servers.ts';
import { bodyOf, endsOf, errorOf, startBridge, user } from './support.ts';

const quota = { error: { message: 'insufficient balance', type: 'insufficient_quota', code: 'insufficient_quota' } };
const overloaded = { error: { message: 'model overloaded', type: 'server_error', code: 'server_is_overloaded' } };
const chunk = { id: 'chatcmpl-1', object: 'chat.completion.chunk', choices: [{ delta: { content: 'hi' } }] };
const completion = { id: 'chatcmpl-1', object: 'chat.completion', choices: [{ message: { content: 'hi' } }] };

/** Name, content type, body, and what the client must be able to read from the error. */
const answers: [string, string | null, string, RegExp?, number?][] = [
  ['a login page', 'text/html', '<!doctype html><title>Sign in to network</title>'],
  ['a page labelled as an event stream', 'text/event-stream', '<html>502 Bad Gateway</html>'],
  ['an error of the provider', 'application/json', JSON.stringify(quota), /insufficient balance/, 429],
  [
    'an error in an older envelope',
    'application/json; charset=utf-8',
    JSON.stringify({ ...quota, success: false }),
    /insufficient balance/,
    429,
  ],
  ['an empty stream', 'text/event-stream', ''],
  ['an empty body without a type', null, ''],
  ['an empty object', 'application/json', '{}'],
  ['cut JSON', 'application/json', '{"id":"resp_1","status":"comp'],
  [
    'an event that is an error',
    'text/event-stream',
    `event: error\ndata: ${JSON.stringify(overloaded)}\n\ndata: [DONE]\n\n`,
    /overloaded/,
  ],
  ['only the end mark', 'text/event-stream', 'data: [DONE]\n\n'],
  ['only comments', 'text/event-stream', ': ping\n\n: ping\n\n'],
  ['an answer of another API', 'text/event-stream', `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`],
  ['an object of another API', 'application/json', JSON.stringify(completion)],
];

let provider: Provider;
afterEach(() => provider.close());

describe('a 200 whose body is no response', () => {
  it.each(answers)('A 200 with %s is an error, with and without stream', async (_, type, body, words, status) => {
    provider = await startProvider({
      http(request, response) {
        request.resume().on('end', () => {
          response.writeHead(200, type === null ? {} : { 'content-type': type }).end(body);
        });
      },
    });
    const env = { HOLDFAST_UPSTREAM_URL: provider.url, HOLDFAST_UPSTREAM_TRANSPORT: 'http' };
    const at = await startBridge({ env });
    for (const stream of [true, false]) {
      const answer = await post(at.url, bodyOf([user('one')], { stream }), { 'thread-id': String(stream) });
      if (answer.status < 400) expect(endsOf(answer)).toEqual(['response.failed']);
      expect(errorOf(answer)?.message).toMatch(words ?? /./);
      if (status !== undefined) expect(answer.status).toBe(status);
    }
  });
});
