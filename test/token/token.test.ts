import { createHmac, generateKeyPairSync } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { describe, expect, it } from 'vitest';
import { type KeyRing, parseSecrets } from '../../src/token/keyring.ts';
import { createTokens, scopeKindOf, TOKEN_TYPE, type TokenScope } from '../../src/token/token.ts';

const secretA = 'a'.repeat(40);
const secretB = 'b'.repeat(40);
const acme: TokenScope = { scope: 'acme', scopeKind: 'tenant' };
const session = { sessionId: '0197a4c2-0000-7000-8000-000000000001', epoch: 3 };

function setup(secrets: KeyRing = parseSecrets(`k1:${secretA}`), ttlSeconds?: number) {
  let wall = 1_800_000_000_000;
  const clock = { wall: () => wall };
  const tokens = createTokens(ttlSeconds === undefined ? { secrets, clock } : { secrets, clock, ttlSeconds });
  return { tokens, pass: (seconds: number) => (wall += seconds * 1000), seconds: () => Math.floor(wall / 1000) };
}

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
const sign = (claims: object, header: object = {}, secret = secretA) =>
  jwt.sign(claims, secret, { algorithm: 'HS256', header: { alg: 'HS256', typ: TOKEN_TYPE, kid: 'k1', ...header } });
const decode = (token: string) => jwt.decode(token, { complete: true })!;
const claimsOf = (token: string) => decode(token).payload as Record<string, unknown>;

describe('a token of this bridge', () => {
  it('A token gives its session and epoch to the scope in which it was issued', () => {
    const { tokens } = setup();
    expect(tokens.verify(tokens.issue({ ...session, ...acme }), acme)).toEqual({ kind: 'ours', ...session });
  });

  it('The header of a token has its type and the key id of its signature', () => {
    const { tokens } = setup();
    const { header } = decode(tokens.issue({ ...session, ...acme }));
    expect(header).toEqual({ alg: 'HS256', typ: TOKEN_TYPE, kid: 'k1' });
  });

  it('A token does not reveal its scope, not even to a caller that guesses it', () => {
    const { tokens } = setup();
    const { payload } = decode(tokens.issue({ ...session, ...acme }));
    expect(JSON.stringify(payload)).not.toContain('acme');
    const elsewhere = setup(parseSecrets(`k1:${secretB}`)).tokens;
    expect(claimsOf(elsewhere.issue({ ...session, ...acme })).sch).not.toBe((payload as { sch: string }).sch);
  });

  it('An empty header is no token', () => {
    expect(setup().tokens.verify('', acme)).toEqual({ kind: 'none' });
  });

  it('A token is valid for a day by default, and is ignored from that second on', () => {
    const { tokens, pass } = setup();
    const token = tokens.issue({ ...session, ...acme });
    pass(86_399);
    expect(tokens.verify(token, acme).kind).toBe('ours');
    pass(1);
    expect(tokens.verify(token, acme)).toEqual({ kind: 'ignored', reason: 'expired' });
  });

  it('A token is valid for the configured time', () => {
    const { tokens, pass } = setup(undefined, 60);
    const token = tokens.issue({ ...session, ...acme });
    pass(60);
    expect(tokens.verify(token, acme)).toEqual({ kind: 'ignored', reason: 'expired' });
  });
});

describe('rotation of the secrets', () => {
  it('Tokens are signed with the first secret and verified with all of them', () => {
    const before = setup(parseSecrets(`old:${secretA}`)).tokens.issue({ ...session, ...acme });
    const { tokens } = setup(parseSecrets(`new:${secretB},old:${secretA}`));
    expect(tokens.verify(before, acme)).toEqual({ kind: 'ours', ...session });
    expect(decode(tokens.issue({ ...session, ...acme })).header.kid).toBe('new');
  });

  it('A token whose secret was removed is ignored', () => {
    const before = setup(parseSecrets(`old:${secretA}`)).tokens.issue({ ...session, ...acme });
    const { tokens } = setup(parseSecrets(`new:${secretB}`));
    expect(tokens.verify(before, acme)).toEqual({ kind: 'ignored', reason: 'unknown_key' });
  });

  it('A token that names one secret and was signed with another is refused', () => {
    const { tokens, seconds } = setup(parseSecrets(`k1:${secretA},k2:${secretB}`));
    const claims = { ...claimsOf(tokens.issue({ ...session, ...acme })), exp: seconds() + 60 };
    expect(tokens.verify(sign(claims, { kid: 'k2' }), acme)).toEqual({ kind: 'invalid', reason: 'signature' });
  });
});

describe('another scope', () => {
  const globex: TokenScope = { scope: 'globex', scopeKind: 'tenant' };
  const credential = (scope: string): TokenScope => ({ scope, scopeKind: 'credential' });

  it('A token of another tenant is refused, expired or not', () => {
    const { tokens, pass } = setup();
    const token = tokens.issue({ ...session, ...acme });
    expect(tokens.verify(token, globex)).toEqual({ kind: 'invalid', reason: 'other_tenant' });
    expect(tokens.verify(token, credential('acme'))).toEqual({ kind: 'invalid', reason: 'other_tenant' });
    pass(100_000);
    expect(tokens.verify(token, globex)).toEqual({ kind: 'invalid', reason: 'other_tenant' });
  });

  it('A token of a passed-through credential that changed is ignored', () => {
    const { tokens } = setup();
    const token = tokens.issue({ ...session, ...credential('hash-1') });
    expect(tokens.verify(token, credential('hash-2'))).toEqual({ kind: 'ignored', reason: 'other_credential' });
    expect(tokens.verify(token, { scope: 'local', scopeKind: 'local' }).kind).toBe('ignored');
  });

  it('A credential hash is not confused with a tenant of the same name', () => {
    const { tokens } = setup();
    const token = tokens.issue({ ...session, ...credential('acme') });
    expect(tokens.verify(token, acme)).toEqual({ kind: 'ignored', reason: 'other_credential' });
  });

  it('The scope of a token is a tenant unless the upstream receives the client’s own credential', () => {
    expect(scopeKindOf({ scope: 'local', credentialIsClients: false })).toBe('tenant');
    expect(scopeKindOf({ scope: 'local', credentialIsClients: true })).toBe('local');
    expect(scopeKindOf({ scope: '5f2c', credentialIsClients: true })).toBe('credential');
  });
});

describe('tampering', () => {
  it('A token with one changed character is never accepted', () => {
    const { tokens } = setup();
    const token = tokens.issue({ ...session, ...acme });
    for (let at = 0; at < token.length; at++) {
      for (const other of ['A', 'B', '_', '.', '=']) {
        if (token[at] === other) continue;
        const changed = token.slice(0, at) + other + token.slice(at + 1);
        expect(tokens.verify(changed, acme).kind, `${other} at ${at}`).not.toBe('ours');
      }
    }
  });

  it('A token with a changed payload, signature, or header under the same key id is refused', () => {
    const { tokens } = setup();
    const token = tokens.issue({ ...session, ...acme });
    const [head, payload, signature] = token.split('.') as [string, string, string];
    const claims = claimsOf(token);
    const invalid = { kind: 'invalid', reason: 'signature' };
    expect(tokens.verify(`${head}.${part({ ...claims, epoch: 4 })}.${signature}`, acme)).toEqual(invalid);
    expect(tokens.verify(`${head}.${payload}.${signature.slice(0, -2)}AA`, acme)).toEqual(invalid);
    expect(tokens.verify(`${head}.${payload}.`, acme)).toEqual(invalid);
    expect(tokens.verify(`${head}.${payload}`, acme)).toEqual(invalid);
    expect(tokens.verify(`${token}, ${token}`, acme)).toEqual(invalid);
    const extended = part({ alg: 'HS256', typ: TOKEN_TYPE, kid: 'k1', extra: true });
    expect(tokens.verify(`${extended}.${payload}.${signature}`, acme)).toEqual(invalid);
  });

  it('A token with an algorithm other than HS256 is refused, with the right secret or none', () => {
    const { tokens } = setup();
    const claims = claimsOf(tokens.issue({ ...session, ...acme }));
    const header = (alg: string) => part({ alg, typ: TOKEN_TYPE, kid: 'k1' });
    const mac = (hash: string, input: string) => createHmac(hash, secretA).update(input).digest('base64url');
    const unsigned = `${header('none')}.${part(claims)}`;
    expect(tokens.verify(`${unsigned}.`, acme)).toEqual({ kind: 'invalid', reason: 'signature' });
    expect(tokens.verify(`${unsigned}.${mac('sha256', unsigned)}`, acme).kind).toBe('invalid');

    const hs512 = `${header('HS512')}.${part(claims)}`;
    expect(tokens.verify(`${hs512}.${mac('sha512', hs512)}`, acme).kind).toBe('invalid');

    const asRsa = `${header('RS256')}.${part(claims)}`;
    expect(tokens.verify(`${asRsa}.${mac('sha256', asRsa)}`, acme).kind).toBe('invalid');
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const rsa = jwt.sign(claims, privateKey, {
      algorithm: 'RS256',
      header: { alg: 'RS256', typ: TOKEN_TYPE, kid: 'k1' },
    });
    expect(tokens.verify(rsa, acme).kind).toBe('invalid');
  });

  it('A token with malformed claims under a valid signature is refused', () => {
    const { tokens } = setup();
    const good = claimsOf(tokens.issue({ ...session, ...acme }));
    const wrong: Record<string, unknown>[] = [
      { sid: undefined },
      { sid: 7 },
      { sid: '' },
      { epoch: '3' },
      { epoch: -1 },
      { epoch: 1.5 },
      { sch: null },
      { knd: 'admin' },
      { v: '1' },
      { v: undefined },
    ];
    expect(tokens.verify(sign(good), acme).kind).toBe('ours');
    for (const change of wrong) {
      const claims = JSON.parse(JSON.stringify({ ...good, ...change })) as object;
      expect(tokens.verify(sign(claims), acme), JSON.stringify(change)).toEqual({ kind: 'invalid', reason: 'claims' });
    }
    const { exp: _, ...endless } = good;
    expect(tokens.verify(sign(endless), acme)).toEqual({ kind: 'invalid', reason: 'claims' });
    const text = `${part({ alg: 'HS256', typ: TOKEN_TYPE, kid: 'k1' })}.${Buffer.from('hello').toString('base64url')}`;
    const signed = `${text}.${createHmac('sha256', secretA).update(text).digest('base64url')}`;
    expect(tokens.verify(signed, acme).kind).toBe('invalid');
  });

  it('A signed token of another version is ignored, and an unsigned one is refused', () => {
    const { tokens } = setup();
    const later = { v: 2, something: 'else' };
    expect(tokens.verify(sign(later), acme)).toEqual({ kind: 'ignored', reason: 'other_version' });
    expect(tokens.verify(sign(later, {}, secretB), acme)).toEqual({ kind: 'invalid', reason: 'signature' });
  });
});

describe('foreign tokens', () => {
  it('A token of another system is ignored, even when it uses the bridge’s secret', () => {
    const { tokens } = setup();
    const claims = claimsOf(tokens.issue({ ...session, ...acme }));
    const foreign = { kind: 'ignored', reason: 'foreign' };
    expect(tokens.verify(sign(claims, { typ: 'JWT' }), acme)).toEqual(foreign);
    expect(tokens.verify(jwt.sign({ sub: 'x' }, 'somebody-else'), acme)).toEqual(foreign);
    for (const text of [
      'ts-1',
      'gAAAAAB…',
      '...',
      '.',
      'null',
      'bnVsbA.x.y',
      'W10.x.y',
      'e30.e30.',
      ' ',
      '{"typ":"JWT"}',
    ]) {
      expect(tokens.verify(text, acme), text).toEqual(foreign);
    }
    expect(tokens.verify(`${sign(claims)}${'x'.repeat(5000)}`, acme)).toEqual(foreign);
  });

  it('A token of the bridge’s type without a usable key id is ignored', () => {
    const { tokens } = setup();
    for (const kid of [undefined, null, 7, '', 'k9', '__proto__', ['k1']]) {
      const text = `${part({ alg: 'HS256', typ: TOKEN_TYPE, kid })}.${part({})}.AAAA`;
      expect(tokens.verify(text, acme), String(kid)).toEqual({ kind: 'ignored', reason: 'unknown_key' });
    }
  });

  it('An error never contains any part of the token', () => {
    const { tokens } = setup();
    const token = tokens.issue({ ...session, ...acme });
    for (const text of [`${token}x`, token.slice(5), 'some-foreign-token']) {
      const said = JSON.stringify(tokens.verify(text, acme));
      for (const piece of text.split('.')) expect(said).not.toContain(piece);
    }
  });
});
