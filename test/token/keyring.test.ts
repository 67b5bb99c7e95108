import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { InvalidSecrets, MIN_SECRET_BYTES, parseSecrets } from '../../src/token/keyring.ts';

const secret = (letter: string) => letter.repeat(MIN_SECRET_BYTES);

describe('reading the secrets', () => {
  it('The keyring signs with the first secret and finds all by key id', () => {
    const ring = parseSecrets(` k2:${secret('b')} , k1:${secret('a')},`);
    expect(ring.signing.kid).toBe('k2');
    expect(ring.kids).toEqual(['k2', 'k1']);
    expect(ring.find('k1')?.kid).toBe('k1');
    expect(ring.find('k3')).toBeUndefined();
  });

  it('A secret may contain colons', () => {
    const { key } = parseSecrets(`k:ab:${secret('c')}`).signing;
    expect(key.export().toString()).toBe(`ab:${secret('c')}`);
  });

  it('The minimum length of a secret is counted in bytes, not in characters', () => {
    expect(() => parseSecrets(`k:${'é'.repeat(MIN_SECRET_BYTES / 2)}`)).not.toThrow();
    expect(() => parseSecrets(`k:${secret('a').slice(1)}`)).toThrow(/"k" has 31 bytes; at least 32/);
  });

  it.each([
    ['', /No secret/],
    [' , ', /No secret/],
    [secret('a'), /Secret 1 has no key id/],
    [`k1:${secret('a')},${secret('b')}`, /Secret 2 has no key id/],
    [`:${secret('a')}`, /key id of secret 1/],
    [`k 1:${secret('a')}`, /key id of secret 1/],
    [`k1:${secret('a')},k1:${secret('b')}`, /"k1" is given twice/],
  ])('The keyring refuses %j with a reason, without showing a secret', (text, why) => {
    const attempt = () => parseSecrets(text);
    expect(attempt).toThrow(InvalidSecrets);
    expect(attempt).toThrow(why);
    try {
      attempt();
    } catch (error) {
      expect(String(error)).not.toMatch(/a{8}|b{8}/);
    }
  });

  it('A printed keyring does not show its secrets', () => {
    const ring = parseSecrets(`k1:${secret('z')}`);
    expect(inspect(ring, { depth: 9 }) + JSON.stringify(ring)).not.toContain('zzzz');
  });
});
