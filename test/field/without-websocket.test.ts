import { afterEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge({ ...options, env: { HOLDFAST_UPGRADE_MS: '300', ...options.env } });
};
afterEach(() => at.close());

const ask = (input: unknown[], headers: Record<string, string> = {}, more: object = {}) =>
  post(at.url, { model: 'm', stream: true, store: false, input, ...more }, headers);
const upgrades = () => at.simulator.journal.of('upgrade').length;
const creates = () => at.simulator.journal.of('create').map(({ transport }) => transport);
const page = '<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>';
const html = { 'content-type': 'text/html' };
const apiError = { error: { message: 'No.', type: 'invalid_request_error', code: 'nope', param: null } };
const isB = ({ headers }: { headers: Readonly<Record<string, string>> }) => headers.authorization === 'Bearer sk-b';

describe('a failed upgrade with transport auto', () => {
  it.each([
    ['hangs', { kind: 'hang' }],
    ['is reset', { kind: 'reset' }],
    ['is answered with a challenge page', { kind: 'refuse', status: 403, headers: html, body: page }],
    [
      'is answered with an empty 403',
      { kind: 'refuse', status: 403, headers: { 'content-type': 'text/plain' }, body: '' },
    ],
    ['is answered with 400 in words', { kind: 'refuse', status: 400, headers: html, body: 'Bad Request' }],
    ['is answered with 404', { kind: 'refuse', status: 404 }],
    ['is answered with 502', { kind: 'refuse', status: 502, headers: html, body: page }],
    ['is answered with 503 as JSON', { kind: 'refuse', status: 503, body: apiError }],
    ['is answered with a page and 200', { kind: 'refuse', status: 200, headers: html, body: page }],
    ['is accepted and reset', { kind: 'accept_then_reset' }],
  ] as const)('A turn whose upgrade %s uses HTTP, and so does the next one without trying', async (_what, fault) => {
    await start();
    at.simulator.script.onUpgrade({}, fault, { times: 'always' });
    const first = await ask([user('one')], { 'thread-id': 'a' });
    expect([first.status, first.body.status]).toEqual([200, 'completed']);
    expect(first.headers['x-holdfast-outcome']).toBe('passed_through');
    const tried = upgrades();
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await ask(input, { 'thread-id': 'a' });
    expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
    expect([creates(), upgrades() - tried]).toEqual([['http', 'http'], 0]);
  });

  it('After an upgrade that is accepted and then closed, the next turn uses HTTP', async () => {
    await start();
    at.simulator.script.onUpgrade({}, { kind: 'accept_then_close', code: 1011 }, { times: 'always' });
    // A race decides the status: if the frame was sent before the close arrived, the turn may be sent once more over
    // WebSocket.
    expect([200, 502]).toContain((await ask([user('one')])).status);
    const tried = upgrades();
    expect((await ask([user('two')])).body.status).toBe('completed');
    expect([creates().at(-1), upgrades() - tried]).toEqual(['http', 0]);
  });

  it.each([400, 401, 403, 429])(
    'A refused upgrade with an error of the API is relayed with its status: %i',
    async (status) => {
      await start();
      at.simulator.script.onUpgrade({}, { kind: 'refuse', status, body: apiError });
      const answer = await ask([user('one')]);
      expect([answer.status, JSON.parse(answer.text), creates()]).toEqual([status, apiError, []]);
    },
  );

  it('A failed upgrade is not remembered when HTTP fails too', async () => {
    await start();
    at.simulator.script.onUpgrade({}, { kind: 'reset' });
    at.simulator.script.onRequest({ method: 'POST' }, { kind: 'respond', status: 502, headers: html, body: page });
    const failed = await fetch(`${at.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer sk-test' },
      body: JSON.stringify({ model: 'm', stream: true, store: false, input: [user('one')] }),
    });
    expect([failed.status, await failed.text()]).toEqual([502, page]);
    expect((await ask([user('two')])).body.status).toBe('completed');
    expect(creates()).toEqual(['websocket']);
  });

  it('A failed upgrade affects no other credential, and no warm socket of any', async () => {
    await start();
    const a = { authorization: 'Bearer sk-a', 'thread-id': 'a' };
    const b = { authorization: 'Bearer sk-b' };
    at.simulator.script.onUpgrade({ where: isB }, { kind: 'refuse', status: 404 }, { times: 'always' });
    expect((await ask([user('b')], b)).headers['x-holdfast-outcome']).toBe('passed_through');
    const first = await ask([user('one')], a);
    await ask([user('b again')], b);
    const second = await ask([user('two')], a, { previous_response_id: first.body.id });
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    await ask([user('three')], { ...a, 'thread-id': 'other' });
    expect(creates()).toEqual(['http', 'websocket', 'http', 'websocket', 'websocket']);
  });

  it('A failed upgrade leaves the warm socket of its own credential in use', async () => {
    await start();
    const first = await ask([user('one')], { 'thread-id': 'a' });
    at.simulator.script.onUpgrade({}, { kind: 'refuse', status: 404 }, { times: 'always' });
    const others = ['b', 'c', 'd', 'e'];
    for (const thread of others) await ask([user('other')], { 'thread-id': thread });
    // After WebSocket has worked, the fallback needs three failures in a row: the fourth turn did not try.
    expect(upgrades()).toBe(4);
    const second = await ask([user('two')], { 'thread-id': 'a' }, { previous_response_id: first.body.id });
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    expect(creates()).toEqual(['websocket', ...others.map(() => 'http'), 'websocket']);
  });
});

describe('transport websocket', () => {
  it('With transport websocket a refused upgrade is relayed, a reset is retried, and nothing uses HTTP', async () => {
    await start({ env: { HOLDFAST_UPSTREAM_TRANSPORT: 'websocket' } });
    at.simulator.script.onUpgrade({}, { kind: 'refuse', status: 404 });
    expect((await ask([user('one')])).status).toBe(404);
    at.simulator.script.onUpgrade({}, { kind: 'reset' });
    at.simulator.script.onUpgrade({}, { kind: 'refuse', status: 503, headers: html, body: page });
    expect((await ask([user('two')])).body.status).toBe('completed');
    expect(creates()).toEqual(['websocket']);
  });
});

describe('a frame that is too large', () => {
  it('A frame too large for the upstream is resent over HTTP, and later ones of its size use HTTP at once', async () => {
    await start({ simulator: { maxFrameBytes: 20_000 } });
    const large = await ask([user('x'.repeat(40_000))], {}, { tools: [{ type: 'image_generation' }] });
    expect(large.body.status).toBe('completed');
    expect([upgrades(), creates()]).toEqual([1, ['http']]);
    await ask([user('small')], { 'thread-id': 'a' });
    const larger = [user('y'.repeat(50_000))];
    expect(digestOf((await ask(larger, { 'thread-id': 'a' })).body)).toBe(expectedDigest({ items: larger as never }));
    expect([upgrades(), creates()]).toEqual([2, ['http', 'websocket', 'http']]);
  });

  it('A frame that the bridge’s own limit forbids, because a context is resent, uses HTTP', async () => {
    await start({ env: { HOLDFAST_MAX_FRAME_BYTES: '20000' } });
    const items: unknown[] = [];
    let id: string | undefined;
    for (let n = 0; n < 3; n += 1) {
      const next = user(`${n} ${'z'.repeat(9_000)}`);
      const answer = await ask([next], {}, { previous_response_id: id });
      items.push(next, ...answer.body.output);
      id = answer.body.id;
    }
    at.simulator.dropAll('reset');
    const last = await ask([user('last')], {}, { previous_response_id: id });
    expect(digestOf(last.body)).toBe(expectedDigest({ items: [...items, user('last')] as never }));
    expect(last.headers['x-holdfast-outcome']).toBe('passed_through');
    expect(creates()).toEqual(['websocket', 'websocket', 'websocket', 'http']);
  });
});

describe('a background turn of a conversation with a warm socket', () => {
  it('A background turn uses HTTP, because WebSocket does not support it', async () => {
    await start();
    const headers = { 'thread-id': 'a' };
    const first = await ask([user('one')], headers);
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await ask(input, headers, { background: true, store: true });
    expect(second.body.status).toBe('completed');
    expect(creates()).toEqual(['websocket', 'http']);
  });
});
