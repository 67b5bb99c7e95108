import { describe, expect, it } from 'vitest';
import { internalHost, type MachineAddress } from '../../../src/cluster/forward/advertise.ts';
import { ConfigError, deadlineKnobs, limitKnobs, readConfig, settings } from '../../../src/config.ts';

const problemOf = (env: Record<string, string>): string => {
  try {
    readConfig(env);
    return '';
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message;
  }
};

describe('unknown settings', () => {
  it.each([
    ['HOLDFAST_UPSTREAM_URI', 'HOLDFAST_UPSTREAM_URL'],
    ['HOLDFAST_API_KEY', 'HOLDFAST_API_KEYS'],
    ['HOLDFAST_ADMINTOKEN', 'HOLDFAST_ADMIN_TOKEN'],
    ['HOLDFAST_MAX_BODY', 'HOLDFAST_MAX_BODY_BYTES'],
    ['HOLDFAST_INTRNAL_PORT', 'HOLDFAST_INTERNAL_PORT'],
  ])('An unknown setting is refused with the closest known name: %s', (name, closest) => {
    expect(problemOf({ [name]: 'sk-secret-value' })).toContain(
      `${name} is not a setting of Holdfast: did you mean ${closest}?`,
    );
    expect(problemOf({ [name]: 'sk-secret-value' })).not.toContain('secret-value');
  });

  it('An unknown setting without a close match is refused without a suggestion', () => {
    expect(problemOf({ HOLDFAST_SOMETHING_ENTIRELY_DIFFERENT: '1' })).toMatch(/is not a setting of Holdfast$/m);
  });

  it('Variables that Kubernetes sets for a service named holdfast are ignored', () => {
    const env = {
      HOLDFAST_SERVICE_HOST: '10.0.0.1',
      HOLDFAST_SERVICE_PORT: '8787',
      HOLDFAST_SERVICE_PORT_HTTP: '8787',
      HOLDFAST_PORT: 'tcp://10.0.0.1:8787',
      HOLDFAST_PORT_8787_TCP: 'tcp://10.0.0.1:8787',
      HOLDFAST_PORT_8787_TCP_PROTO: 'tcp',
      HOLDFAST_PORT_8787_TCP_PORT: '8787',
      HOLDFAST_PORT_8787_TCP_ADDR: '10.0.0.1',
    };
    expect(problemOf(env)).toBe('');
    expect(problemOf({ HOLDFAST_PORT: '8787' })).toContain('HOLDFAST_PORT');
  });

  it('No documented setting is refused as unknown', () => {
    const all = [...Object.values(deadlineKnobs), ...Object.values(limitKnobs), ...settings].map(
      ({ variable }) => variable,
    );
    for (const name of all) expect(problemOf({ [name]: '' }), name).toBe('');
  });
});

describe('invalid values', () => {
  it.each([
    [{ HOLDFAST_LOG_LEVEL: 'loud' }, 'HOLDFAST_LOG_LEVEL'],
    [{ HOLDFAST_SECRETS: 'short' }, 'HOLDFAST_SECRETS'],
    [{ HOLDFAST_PUBLIC_HOSTS: 'https://name' }, 'HOLDFAST_PUBLIC_HOSTS'],
    [{ HOLDFAST_CORS_ORIGINS: 'name.example' }, 'HOLDFAST_CORS_ORIGINS'],
    [{ HOLDFAST_TURN_BUDGET_MS: '3000000000' }, 'HOLDFAST_TURN_BUDGET_MS'],
    [{ HOST: 'http://127.0.0.1' }, 'HOST'],
    [{ HOST: '127.evil.example' }, 'HOLDFAST_API_KEYS'],
    [{ HOLDFAST_BODIES_BYTES: '0' }, 'HOLDFAST_BODIES_BYTES'],
    [{ HOLDFAST_ADMIN_TOKEN: 'two words' }, 'HOLDFAST_ADMIN_TOKEN'],
    [{ HOLDFAST_UPSTREAM_KEY: 'k', HOLDFAST_API_KEYS: 'a:two words' }, 'HOLDFAST_API_KEYS: the key of entry 1'],
    [{ HOLDFAST_UPSTREAM_KEY: 'k', HOLDFAST_API_KEYS: 'a:sch\u00f6n' }, 'HOLDFAST_API_KEYS: the key of entry 1'],
    [{ HOLDFAST_UPSTREAM_KEY: 'k', HOLDFAST_API_KEYS: 'a:x,b:x' }, 'HOLDFAST_API_KEYS: entry 2 has the key of another'],
    [
      { HOLDFAST_UPSTREAM_KEY: 'k', HOLDFAST_API_KEYS: 'a:x', HOLDFAST_ADMIN_TOKEN: 'x' },
      'HOLDFAST_ADMIN_TOKEN must not be a key',
    ],
  ])('An invalid value is refused: %o', (env, named) => {
    expect(problemOf(env as unknown as Record<string, string>)).toContain(named);
  });
});

it('A tenant may have several keys, and a key any characters that a header can carry', () => {
  const { security } = readConfig({ HOLDFAST_UPSTREAM_KEY: 'k', HOLDFAST_API_KEYS: 'a:x,a:y,a:x,b:p:q=/~"' });
  expect(security.apiKeys.map(({ tenant, key }) => `${tenant} ${key}`)).toEqual(['a x', 'a y', 'a x', 'b p:q=/~"']);
});

describe('address of the internal listener', () => {
  const lan: MachineAddress = { address: '10.0.0.4', family: 'IPv4', internal: false };
  const other: MachineAddress = { ...lan, address: '192.168.7.4' };
  const open: MachineAddress = { ...lan, address: '203.0.113.4' };
  const loopback: MachineAddress = { address: '127.0.0.1', family: 'IPv4', internal: true };
  const secrets = { HOLDFAST_SECRETS: `k:${'x'.repeat(32)}` };
  const keys = { HOLDFAST_API_KEYS: 't:k', HOLDFAST_UPSTREAM_KEY: 'k' };
  const far = { DATABASE_URL: 'postgres://db.internal/h', ...secrets };
  const near = { DATABASE_URL: 'postgres://127.0.0.1/h', ...secrets };
  const hostOf = (env: Record<string, string>, ...addresses: MachineAddress[]) =>
    internalHost(readConfig({ ...keys, ...env }), [loopback, ...addresses]);

  it('The internal listener uses loopback while the database is local, whatever HOST is', () => {
    expect(hostOf(near, lan, open)).toBe('127.0.0.1');
    expect(hostOf({ ...near, HOST: '0.0.0.0' }, lan)).toBe('127.0.0.1');
    expect(hostOf({ HOST: '203.0.113.4' }, open)).toBe('127.0.0.1');
  });

  it('The internal listener uses the one private address when the database is remote', () => {
    expect(hostOf({ ...far, HOST: '0.0.0.0' }, lan, open)).toBe('10.0.0.4');
    expect(hostOf({ ...far, HOST: '203.0.113.4' }, lan, open)).toBe('10.0.0.4');
    expect(hostOf({ ...far, HOST: '192.168.7.4' }, lan, other)).toBe('192.168.7.4');
    expect(hostOf({ ...far, HOLDFAST_ADVERTISE_URL: 'http://192.168.7.4:1' }, lan, other)).toBe('192.168.7.4');
  });

  it('The internal listener uses a public address only when it is configured explicitly', () => {
    for (const addresses of [[open], [lan, other], []])
      expect(() => hostOf({ ...far, HOST: '0.0.0.0' }, ...addresses)).toThrow(/Set HOLDFAST_INTERNAL_HOST/);
    expect(hostOf({ ...far, HOLDFAST_INTERNAL_HOST: '203.0.113.4' }, open)).toBe('203.0.113.4');
  });
});
