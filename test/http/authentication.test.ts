import { createHmac } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { describe, expect, it } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { createAuthentication } from '../../src/http/app.ts';

function authentication(env: Record<string, string> = {}) {
  const authenticate = createAuthentication(readConfig(env), 'pepper');
  return (headers: IncomingHttpHeaders) => authenticate({ headers });
}
const hashOf = (text: string) => createHmac('sha256', 'pepper').update(text).digest('hex');

describe('callers with a credential of their own', () => {
  const own = authentication();

  it('A request without any credential is local, and sends none', () => {
    expect(own({})).toEqual({
      scope: 'local',
      credentialFp: hashOf(''),
      upstreamAuthorization: null,
      credentialIsClients: true,
    });
    expect(own({ 'api-key': ' ', 'x-api-key': '' })).toEqual(own({}));
  });

  it('A bearer token alone is its scope', () => {
    const fp = hashOf('Bearer k');
    expect(own({ authorization: 'Bearer k' })).toEqual({
      scope: `cred:${fp.slice(0, 24)}`,
      credentialFp: fp,
      upstreamAuthorization: 'Bearer k',
      credentialIsClients: true,
    });
  });

  it('Every part of a credential is part of its scope, in a form that releases share', () => {
    const account = { 'openai-project': 'p' };
    const callers = [
      [{ 'api-key': ' k ' }, ['', [['api-key', 'k']], '']],
      [{ 'x-api-key': 'k' }, ['', [['x-api-key', 'k']], '']],
      [{ 'api-key': 'j', authorization: 'Bearer k' }, ['Bearer k', [['api-key', 'j']], '']],
      [{ 'api-key': 'j', authorization: 'Bearer l' }, ['Bearer l', [['api-key', 'j']], '']],
      [account, ['', [], 'openai-project:p']],
    ] as const;
    const found = callers.map(([headers]) => own(headers));
    expect(found.slice(0, 4).map(({ credentialFp }) => credentialFp)).toEqual(
      callers.slice(0, 4).map(([, parts]) => hashOf(JSON.stringify(parts))),
    );
    const scopes = found.map(({ credentialFp }) => `cred:${credentialFp.slice(0, 24)}`);
    expect(found.map(({ scope }) => scope)).toEqual(scopes);
    expect(new Set(found.map(({ scope }) => scope)).size).toBe(5);
    expect(found[0]!.upstreamKeys).toEqual({ 'api-key': 'k' });
    expect(found[4]).not.toHaveProperty('upstreamKeys');
  });
});

describe('callers under a shared upstream key', () => {
  it('Without API keys every caller is local, and none learns the key', () => {
    const shared = authentication({ HOLDFAST_UPSTREAM_KEY: 'sk-up' });
    for (const headers of [{}, { authorization: 'Bearer k' }, { 'api-key': 'k', 'openai-project': 'p' }])
      expect(shared(headers)).toEqual({
        scope: 'local',
        credentialFp: hashOf('Bearer sk-up'),
        upstreamAuthorization: 'Bearer sk-up',
        credentialIsClients: false,
      });
  });

  it('An API key is a tenant, wherever it stands, and any other key or none is refused', () => {
    const shared = authentication({ HOLDFAST_UPSTREAM_KEY: 'sk-up', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' });
    for (const headers of [
      { authorization: 'Bearer key-bob' },
      { 'api-key': 'key-bob' },
      { 'x-api-key': 'key-bob' },
      { authorization: 'Bearer of-another-proxy', 'x-api-key': 'key-bob' },
    ])
      expect(shared(headers)).toMatchObject({ scope: 'tenant:bob', credentialIsClients: false });
    for (const headers of [{}, { authorization: 'Bearer key-eve' }, { authorization: 'key-bob' }, { 'api-key': '' }])
      expect(() => shared(headers)).toThrow(expect.objectContaining({ code: 'bridge_unauthorized' }));
  });
});
