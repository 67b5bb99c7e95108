import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ConfigError, deadlineKnobs, limitKnobs, readConfig, settings } from '../../src/config.ts';
import { catalogue } from '../../src/errors.ts';

const problemsOf = (env: Record<string, string>) => {
  try {
    readConfig(env);
    return [];
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message.split('\n  - ').slice(1);
  }
};

describe('configuration', () => {
  it('The configuration works with nothing set, on loopback', () => {
    const config = readConfig({});
    expect(config.server).toEqual({ host: '127.0.0.1', port: 8787, publicHosts: [], corsOrigins: [] });
    expect(config).toMatchObject({ databaseUrl: null, instancePolicy: 'forward', workers: 1 });
  });

  it.each(Object.entries({ ...deadlineKnobs, ...limitKnobs }))('The configuration reads the knob %s', (name, knob) => {
    const config = readConfig({ [knob.variable]: String(knob.default) });
    expect({ ...config.deadlines, ...config.limits }[name as never]).toBe(knob.default);
    expect(problemsOf({ [knob.variable]: 'many' }).join()).toContain(knob.variable);
    expect(problemsOf({ [knob.variable]: '-1' }).join()).toContain(knob.variable);
    expect(problemsOf({ [knob.variable]: '1.5' }).join()).toContain(knob.variable);
  });

  it('Prices are read by model, and an entry of another form is named by its place', () => {
    const { prices } = readConfig({ HOLDFAST_PRICES: 'gpt-5.5=1.25/0.125, *=2/1' });
    expect([...prices]).toEqual([
      ['gpt-5.5', { input: 1.25, cached: 0.125 }],
      ['*', { input: 2, cached: 1 }],
    ]);
    for (const wrong of ['gpt-5.5', '*=1', '*=1/x', '*=-1/0', '*=1/2,,'])
      expect(problemsOf({ HOLDFAST_PRICES: wrong }).join()).toMatch(/^HOLDFAST_PRICES: entry \d is not of the form/);
  });

  it('A configuration error names every problem at once, and no secret', () => {
    const problems = problemsOf({
      PORT: 'http',
      HOLDFAST_UPSTREAM_URL: 'ftp://x',
      HOLDFAST_INSTANCE_POLICY: 'guess',
      HOLDFAST_API_KEYS: 'no-colon-secret-key',
      HOLDFAST_LEASE_MS: '1',
      DATABASE_URL: 'postgres://u:very-secret@host/db',
    });
    expect(problems.length).toBeGreaterThanOrEqual(6);
    expect(problems.join()).not.toMatch(/secret-key|very-secret/);
  });

  it.each([
    ['API keys without an upstream key', { HOLDFAST_API_KEYS: 't:k' }, 'HOLDFAST_UPSTREAM_KEY'],
    ['an open address without API keys', { HOST: '0.0.0.0' }, 'HOLDFAST_API_KEYS'],
    ['a shared database without secrets', { DATABASE_URL: 'postgres://h/d' }, 'HOLDFAST_SECRETS'],
    ['a self-fence beyond the lease', { HOLDFAST_SELF_FENCE_MS: '10000' }, 'HOLDFAST_SELF_FENCE_MS'],
    ['heartbeats too rare for the self-fence', { HOLDFAST_HEARTBEAT_MS: '7000' }, 'HOLDFAST_HEARTBEAT_MS'],
  ])('The configuration refuses %s', (_, env, named) => {
    expect(problemsOf(env).join()).toContain(named);
  });
});

describe('pasted settings', () => {
  it.each([
    'https://api.test/v1',
    'https://api.test/v1/',
    'https://api.test/v1/responses',
    'https://api.test/v1/responses/',
    'wss://api.test/v1/responses',
    '"https://api.test/v1"',
  ])('A pasted URL is reduced to the base of the upstream: %s', (url) => {
    expect(readConfig({ HOLDFAST_UPSTREAM_URL: url }).upstream.url).toBe('https://api.test/v1');
  });

  it.each([
    ['ws://localhost:9/v1', 'http://localhost:9/v1'],
    ['https://api.test', 'https://api.test'],
    ['https://api.test/', 'https://api.test'],
    ['https://x.test/openai/v1/responses?api-version=preview', 'https://x.test/openai/v1?api-version=preview'],
  ])('A pasted URL keeps the parts that belong to the base: %s', (given, url) => {
    expect(readConfig({ HOLDFAST_UPSTREAM_URL: given }).upstream.url).toBe(url);
  });

  it.each(['https://api.test/v1/chat/completions', 'api.test/v1', 'ftp://api.test'])(
    'An invalid upstream URL is refused with the name of its variable: %s',
    (url) => {
      expect(problemsOf({ HOLDFAST_UPSTREAM_URL: url }).join()).toContain('HOLDFAST_UPSTREAM_URL');
    },
  );

  it.each(['sk-1', 'Bearer sk-1', 'bearer  sk-1', '"sk-1"', "'Bearer sk-1'", 'Authorization: Bearer sk-1', ' sk-1\n'])(
    'A pasted upstream key is cleaned up: %j',
    (key) => {
      expect(readConfig({ HOLDFAST_UPSTREAM_KEY: key }).upstream.key).toBe('sk-1');
    },
  );

  it.each(['sk-1 sk-2', 'sk-1\nsk-2', 'sk-ü', 'Bearer ""'])(
    'An invalid upstream key is refused with the name of its variable and without its value: %j',
    (key) => {
      const problems = problemsOf({ HOLDFAST_UPSTREAM_KEY: key }).join();
      expect(problems).toContain('HOLDFAST_UPSTREAM_KEY');
      expect(problems).not.toContain('sk-');
    },
  );

  it('A family of calls that does not exist is refused by name', () => {
    expect(problemsOf({ HOLDFAST_PASS: 'files,chats' }).join()).toMatch(/HOLDFAST_PASS: "chats" is not one of chat, /);
    expect(readConfig({ HOLDFAST_PASS: ' Files, chat ,' }).upstream.pass).toEqual(['chat', 'files']);
  });

  it('An invalid proxy URL stops the start with the name of its variable', () => {
    expect(problemsOf({ HTTPS_PROXY: 'socks5://u:secret@p:1' }).join()).toMatch(/HTTPS_PROXY(?!.*secret)/);
  });
});

describe('documentation of settings', () => {
  it('Every documented variable is read somewhere in the code', async () => {
    const files = await Promise.all(
      ['src', 'machines'].map(async (dir) => (await readdir(dir, { recursive: true })).map((file) => join(dir, file))),
    );
    const sources = await Promise.all(
      files
        .flat()
        .filter((file) => file.endsWith('.ts'))
        .map((file) => readFile(file, 'utf8')),
    );
    const code = sources.join('\n');
    for (const { variable } of settings) expect(code).toContain(`env.${variable}`);
    for (const name of Object.keys({ ...deadlineKnobs, ...limitKnobs })) {
      const uses = code.match(new RegExp(`\\b${name}\\b`, 'g')) ?? [];
      expect([name, uses.length > 1 || code.includes(`'${name}'`)]).toEqual([name, true]);
    }
  });
});

describe('error catalogue', () => {
  it.each(Object.entries(catalogue))(
    'The catalogue entry %s is complete, and its retry advice fits its status',
    (name, entry) => {
      expect(name).toMatch(/^bridge_[a-z_]+$/);
      expect(entry.message).toMatch(/\.$/);
      expect(entry.action).toMatch(/\.$/);
      expect(entry.status).toBeGreaterThanOrEqual(400);
      // Clients retry 5xx by themselves and treat 4xx as final: the entry must not contradict that.
      if (entry.retry && entry.status < 500) expect([408, 409, 429]).toContain(entry.status);
      if (entry.status === 429) expect(entry).toHaveProperty('retryAfterSeconds');
      if (entry.status === 400) expect(entry.retry).toBe(false);
    },
  );
});
