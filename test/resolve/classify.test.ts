import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { type ClassifyInput, classify } from '../../src/session/decide.ts';
import type { TurnRequest } from '../../src/session/port.ts';
import { parseSecrets } from '../../src/token/keyring.ts';
import { createTokens } from '../../src/token/token.ts';
import { readRequest } from '../../src/transcript/read.ts';

const tokens = createTokens({ secrets: parseSecrets(`k:${'s'.repeat(32)}`), clock: { wall: () => 1_800_000_000_000 } });
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

interface Asked {
  headers?: Record<string, string>;
  body?: Record<string, unknown>;
  caller?: Partial<TurnRequest['caller']>;
  bytes?: number;
  limits?: Partial<ClassifyInput['limits']>;
}

function read({ headers = {}, body = {}, caller = {}, bytes = 100, limits = {} }: Asked) {
  const given = { model: 'm', input: 'hi', ...body };
  const request: TurnRequest = {
    requestId: 'r',
    caller: {
      scope: 'acme',
      credentialFp: 'cred',
      upstreamAuthorization: 'Bearer x',
      credentialIsClients: false,
      ...caller,
    },
    headers,
    ...readRequest(given, JSON.stringify(given), bytes),
    receivedAt: 0,
  };
  return classify({ request, tokens, limits: { frameBytes: 1000, webSocket: true, ...limits } });
}

describe('reading a request', () => {
  it('A request of a plain client yields nothing but its content', () => {
    expect(read({})).toEqual({
      scope: 'acme',
      credentialFp: 'cred',
      credentialIsClients: false,
      token: { kind: 'none' },
      anchor: null,
      hardKey: null,
      idempotencyKey: null,
      repeats: false,
      clientTurnId: null,
      shape: 'fresh',
      requestFp: expect.stringMatching(/^[0-9a-f]{64}$/),
      contextFp: expect.stringMatching(/^[0-9a-f]{64}$/),
      references: [],
      comparison: null,
      owned: new Map(),
      foreign: null,
      store: true,
      passThrough: null,
    });
  });

  it('A request of Codex yields its thread, its turn and its cache key', () => {
    const thread = '0197a4c2-aaaa-7000-8000-000000000001';
    const found = read({
      headers: {
        'session-id': 'parent-session',
        'thread-id': thread,
        'x-client-request-id': thread,
        'x-codex-turn-metadata': JSON.stringify({ turn_id: 'from-header' }),
      },
      body: { store: false, prompt_cache_key: thread, client_metadata: { turn_id: 'turn-7', thread_id: thread } },
    });
    expect(found).toMatchObject({
      hardKey: { kind: 'thread', hash: sha256(thread) },
      clientTurnId: 'turn-7',
      store: false,
    });
  });

  it('The fingerprint of a request depends on anchor and input, and not on delivery options', () => {
    const own = (body: Record<string, unknown>) => read({ body });
    const plain = own({});
    expect(plain).toMatchObject({ shape: 'fresh', requestFp: expect.stringMatching(/^[0-9a-f]{64}$/) });
    expect(own({ stream: true }).requestFp).toBe(plain.requestFp);
    expect(own({ previous_response_id: 'resp_1' })).toMatchObject({ shape: 'delta', contextFp: plain.contextFp });
    expect(own({ previous_response_id: 'resp_1' }).requestFp).not.toBe(plain.requestFp);
    expect(own({ input: 'ho' }).requestFp).not.toBe(plain.requestFp);
  });

  it('An anchor is taken unchanged, and a value of any other type is not an anchor', () => {
    expect(read({ body: { previous_response_id: ' resp_1 ' } })).toMatchObject({ anchor: ' resp_1 ', shape: 'delta' });
    for (const previous_response_id of ['', null, 7, {}]) {
      expect(read({ body: { previous_response_id } }).anchor).toBeNull();
    }
  });
});

describe('the one hard key', () => {
  const inOrder = ['thread-id', 'session-id', 'session_id', 'x-session-id', 'x-session-affinity'];

  it.each(inOrder.map((name, at) => [name, inOrder.slice(at)] as const))(
    'The hard key is %s when no stronger one is sent',
    (name, sent) => {
      const headers = Object.fromEntries(sent.map((each) => [each, `value of ${each}`]));
      const kind = name === 'thread-id' ? 'thread' : 'session';
      expect(read({ headers }).hardKey).toEqual({ kind, hash: sha256(`value of ${name}`) });
    },
  );

  it('An empty header, a cache key or a request id is not a hard key', () => {
    const headers = { 'thread-id': ' ', 'session-id': '', 'x-session-id': 's', 'x-client-request-id': 'q' };
    expect(read({ headers }).hardKey).toEqual({ kind: 'session', hash: sha256('s') });
    expect(read({ headers: { 'x-client-request-id': 'q' }, body: { prompt_cache_key: 'c' } }).hardKey).toBeNull();
  });

  it('The hard key is kept only as a hash', () => {
    expect(JSON.stringify(read({ headers: { 'thread-id': 'my-secret-thread' } }))).not.toContain('my-secret-thread');
  });
});

describe('the client’s turn id', () => {
  it.each([
    ['client_metadata', { body: { client_metadata: { turn_id: 't' } } }],
    ['metadata inside client_metadata', { body: { client_metadata: { 'x-codex-turn-metadata': '{"turn_id":"t"}' } } }],
    [
      'the metadata header',
      { headers: { 'x-codex-turn-metadata': '{"turn_id":"t"}' }, body: { client_metadata: { turn_id: '' } } },
    ],
    [
      'the metadata header beside a client_metadata of null',
      { headers: { 'x-codex-turn-metadata': '{"turn_id":"t"}' }, body: { client_metadata: null } },
    ],
  ])('The client’s turn id is read from %s', (_, asked) => {
    expect(read(asked).clientTurnId).toBe('t');
  });

  it.each(['{', '[]', 'null', '"t"', '{"turn_id":7}', `{"turn_id":"t","pad":"${'x'.repeat(40_000)}"}`])(
    'The client’s turn id is not read from a header of another form (case %#)',
    (header) => {
      expect(
        read({ headers: { 'x-codex-turn-metadata': header }, body: { client_metadata: 'text' } }).clientTurnId,
      ).toBeNull();
    },
  );

  it('The Idempotency-Key and the retry count are read from their own headers', () => {
    expect(read({ headers: { 'idempotency-key': ' again ' } }).idempotencyKey).toBe('again');
    const counted = (count: string) => read({ headers: { 'x-stainless-retry-count': count } }).repeats;
    expect(['0', '', '1', '12'].map(counted)).toEqual([false, false, true, true]);
  });
});

describe('the turn-state token', () => {
  const session = { sessionId: 's', epoch: 2 };

  it('The turn-state token is read from the header, under the scope of the caller', () => {
    const token = tokens.issue({ ...session, scope: 'acme', scopeKind: 'tenant' });
    const headers = { 'x-codex-turn-state': ` ${token} ` };
    expect(read({ headers }).token).toEqual({ kind: 'ours', ...session });
    expect(read({ headers, caller: { scope: 'globex' } }).token.kind).toBe('invalid');
  });

  it('A turn-state token of a passed-through credential that changed is ignored', () => {
    const token = tokens.issue({ ...session, scope: 'hash-1', scopeKind: 'credential' });
    const caller = { scope: 'hash-2', credentialIsClients: true };
    expect(read({ headers: { 'x-codex-turn-state': token }, caller }).token.kind).toBe('ignored');
  });

  it('A turn state in the body is not read as a token, because over HTTP the token is in the header', () => {
    const token = tokens.issue({ ...session, scope: 'acme', scopeKind: 'tenant' });
    expect(read({ body: { client_metadata: { 'x-codex-turn-state': token } } }).token).toEqual({ kind: 'none' });
  });
});

describe('requests over plain HTTP', () => {
  it.each([
    ['background', { body: { background: true, conversation: 'conv_1' } }],
    ['conversation', { body: { conversation: 'conv_1' } }],
    ['conversation', { body: { conversation: { id: 'conv_1' } }, bytes: 5000 }],
    ['oversize', { bytes: 1001, limits: { webSocket: false } }],
    ['no_websocket', { bytes: 1000, limits: { webSocket: false } }],
    [null, { bytes: 1000, body: { background: false, conversation: null } }],
  ])('The reason to send a request over plain HTTP is %s', (reason, asked) => {
    expect(read(asked).passThrough).toBe(reason);
  });
});
