import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';
import { type ObjectProvider, startObjects } from './provider.ts';
import { SHARED } from './support.ts';

/**
 * Every operation of the `openai` package: found by walking the client's resources at run time, called through the bridge, and
 * compared with the list that the package's own sources declare, so that none is left out.
 */

const ID = 'obj_1';
const RESOURCES = join(import.meta.dirname, '..', '..', 'node_modules', 'openai', 'resources');

/** Returns `METHOD /path` with `*` for each parameter, for every call in the package's sources. */
function declared(folder = RESOURCES): Set<string> {
  const found = new Set<string>();
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) for (const each of declared(path)) found.add(each);
    if (!entry.name.endsWith('.mjs')) continue;
    const calls = readFileSync(path, 'utf8').matchAll(
      /\.(get|post|put|patch|delete|getAPIList)\(\s*(?:path\s*)?(['`])(\/[^'`]*)\2(?:[^{}]*\{\s*(?:[^{}]*)method: '(\w+)')?/g,
    );
    for (const [, call, , at, method] of calls) {
      const verb = method ?? (call === 'getAPIList' ? 'get' : call!);
      found.add(`${verb.toUpperCase()} ${at!.replaceAll(/\$\{[^}]*\}/g, '*').replace(/\?.*$/, '')}`);
    }
  }
  return found;
}

type Method = (...args: unknown[]) => unknown;

/** Yields every method of every resource of a client. */
function* methodsOf(client: OpenAI): Generator<{ name: string; call: Method; on: object }> {
  const seen = new Set<object>();
  const walk = function* (on: object, name: string): Generator<{ name: string; call: Method; on: object }> {
    if (seen.has(on)) return;
    seen.add(on);
    for (const [key, value] of Object.entries(on)) {
      if (value !== null && typeof value === 'object' && '_client' in value && key !== '_client')
        yield* walk(value, `${name}${key}.`);
    }
    if (on === client) return;
    for (let type = Object.getPrototypeOf(on); type && type !== Object.prototype; type = Object.getPrototypeOf(type)) {
      for (const key of Object.getOwnPropertyNames(type)) {
        const call = (on as Record<string, unknown>)[key];
        if (key !== 'constructor' && !key.startsWith('_') && typeof call === 'function')
          yield { name: name + key, call: call as Method, on };
      }
    }
  };
  yield* walk(client, '');
}

/** Arguments for a method, from its own text: ids are strings, bodies and parameters are objects with the ids they hold. */
function argumentsFor(call: Method): unknown[] {
  const text = Function.prototype.toString.call(call);
  const parameters = /^(?:async )?\w+\(([^)]*)\)/.exec(text)?.[1] ?? '';
  const taken = [...text.matchAll(/const \{([^{}]*)\} = \w+/g)].flatMap(([, names]) => names!.split(','));
  const ids = taken.map((each) => each.trim()).filter((each) => /^\w+$/.test(each) && each !== 'betas');
  const content = /_client\.post\(/.test(text)
    ? [
        ['input', 'hi'],
        ['model', 'm'],
      ]
    : [];
  return parameters
    .split(',')
    .map((each) => each.trim().replace(/\s*=.*$/, ''))
    .filter((each) => each !== '' && each !== 'options')
    .map((each) =>
      /^(?:body|params|query|_?params|_?body)$/.test(each)
        ? Object.fromEntries([...ids.map((id) => [id, ID]), ...content])
        : ID,
    );
}

/** Methods that combine other methods of the client, wait, or work without a request. They are not called. */
const helpers =
  /AndPoll$|Stream$|\.(?:poll|stream|parse|runTools|connect|waitForProcessing|forResult)$|^webhooks\.(?:unwrap|verifySignature)$|environments\.files\.(?:prepare|upload)$/;
const isHelper = (name: string, call: Method) =>
  helpers.test(name) && !/_client\.(?:get|post|delete)\(/.test(Function.prototype.toString.call(call));

interface Observed {
  name: string;
  /** `METHOD /path` with `*` for ids. */
  operation: string;
  status: number;
  code: string | null;
  message: string;
  /** The same call reached the provider. */
  reached: boolean;
}

let provider: ObjectProvider;
let at: TestBridge;
const bridges: TestBridge[] = [];
beforeAll(async () => {
  provider = await startObjects();
  provider.answer = (req, res, path) => {
    req.resume();
    req.once('end', () => {
      provider.calls.push({ method: req.method!, path, headers: req.headers, sha256: '', bytes: 0, text: '' });
      res.writeHead(200, { 'content-type': 'application/json' });
      const response = { id: 'resp_1', object: 'response', created_at: 1, model: 'm', status: 'completed', output: [] };
      res.end(
        JSON.stringify(/^\/responses(?:\?|$)/.test(path) ? response : { id: 'made_1', object: 'list', data: [] }),
      );
    });
    return true;
  };
});
afterAll(async () => {
  for (const each of bridges) await each.close();
  await provider.close();
});

/** Calls every method of a client whose requests go through a bridge, and returns what happened to each request. */
async function observeAll(env: Record<string, string>, key: string): Promise<Map<string, Observed[]>> {
  at = await testBridge({ env: { HOLDFAST_UPSTREAM_URL: provider.url, HOLDFAST_UPSTREAM_TRANSPORT: 'http', ...env } });
  bridges.push(at);
  const base = `${at.url}/v1`;
  let seen: Observed[] = [];
  let running = '';
  const client = new OpenAI({
    baseURL: base,
    apiKey: key,
    adminAPIKey: key,
    maxRetries: 0,
    webhookSecret: 'whsec_dGVzdA==',
    async fetch(url, init) {
      // The SDK tries here whether this runtime can send forms.
      if (!String(url).startsWith(base)) return fetch(url as string, init as RequestInit);
      const path = String(url).slice(base.length);
      const method = init?.method?.toUpperCase() ?? 'GET';
      provider.calls.length = 0;
      const answer = await fetch(url as string, init as RequestInit);
      const text = await answer.clone().text();
      const error = text.includes('"bridge_code"')
        ? (JSON.parse(text) as { error: { bridge_code: string; message: string } }).error
        : null;
      const operation = `${method} ${path.replace(/\?.*$/, '').replaceAll(ID, '*')}`;
      const reached = provider.calls.some(
        (sent) => sent.method === method && sent.path.replace(/\?.*$/, '') === path.replace(/\?.*$/, ''),
      );
      seen.push({
        name: running,
        operation,
        status: answer.status,
        code: error?.bridge_code ?? null,
        message: error?.message ?? '',
        reached,
      });
      return answer;
    },
  });
  const observed = new Map<string, Observed[]>();
  for (const { name, call, on } of methodsOf(client)) {
    seen = [];
    running = name;
    if (!isHelper(name, call)) {
      // An earlier call has deleted it.
      await at.store.keepObjects('tenant:ann', 'test', [ID, 'made_1']);
      // Some methods refuse the arguments, or fail on the answer: only their requests count.
      await Promise.resolve()
        .then(() => call.apply(on, argumentsFor(call)))
        .catch(() => {});
    }
    observed.set(name, seen);
  }
  return observed;
}

const named = new Set(['bridge_realtime_unsupported', 'bridge_shared_credential']);

describe.each([
  ["the client's own credential", {}, 'sk-own'],
  ['a credential that tenants share', SHARED, 'key-ann'],
] as const)('the operations of the openai package with %s', (_, env, key) => {
  let observed: Map<string, Observed[]>;
  beforeAll(async () => {
    observed = await observeAll(env, key);
  }, 300_000);

  it('Every operation that the package declares was called', () => {
    const called = new Set([...observed.values()].flat().map(({ operation }) => operation));
    expect([...declared()].filter((operation) => !called.has(operation))).toEqual([]);
    expect(called.size).toBeGreaterThan(300);
  });

  it('Every method makes a request, except those that work locally', () => {
    const silent = [...observed].filter(([, requests]) => requests.length === 0).map(([name]) => name);
    expect(silent.filter((name) => !helpers.test(name))).toEqual([]);
  });

  it('Every operation is served, or refused with a named error that says why', () => {
    const all = [...observed.values()].flat();
    const wrong = all.filter(({ status, code, reached, message, operation }) => {
      if (status === 200)
        return !reached && !/^GET \/responses\/\*\/input_items/.test(operation) && !isOwnList(operation);
      return reached || code === null || !named.has(code) || message.length < 40 || status >= 500;
    });
    expect(wrong).toEqual([]);
  });

  it('Only operations of these families are refused', () => {
    const refused = [...observed.values()].flat().filter(({ status }) => status !== 200);
    const families = new Set(refused.map(({ operation }) => operation.split('/')[1]));
    const realtime = ['live', 'realtime'];
    expect([...families].sort()).toEqual(
      key === 'sk-own'
        ? realtime
        : [
            'agents',
            'batches',
            'chatkit',
            'content_provenance_checks',
            'decisions',
            'evals',
            'fine_tuning',
            ...['live', 'models', 'organization', 'projects', 'realtime', 'safety', 'vaults'],
            ...['webhook_endpoints', 'webhook_event_types'],
          ],
    );
  });
});

/** Lists of a tenant's own objects are built from rows: with no objects of that kind nothing is asked for upstream. */
const isOwnList = (operation: string) =>
  /^GET \/(?:files|vector_stores|containers|videos|skills|assistants|chat\/completions|audio\/voice_consents)$/.test(
    operation,
  );
