import { testBridge } from '../../src/testing/index.ts';
import { freshDatabase } from '../support/database.ts';
import { type ObjectProvider, startObjects } from './provider.ts';

/** Two tenants under one credential. */
export const SHARED = { HOLDFAST_UPSTREAM_KEY: 'sk-shared-key', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' };

export interface Answered {
  status: number;
  headers: Record<string, string>;
  text: string;
  body: Record<string, unknown> & { error?: { code?: string; bridge_code?: string; param?: string; message?: string } };
}

export interface Surface {
  url: string;
  provider: ObjectProvider;
  /** Makes one call as a tenant, or with a credential of its own. */
  call(who: string, method: string, path: string, body?: object | FormData | string): Promise<Answered>;
  close(): Promise<void>;
}

/** Starts a bridge on a real database in front of a provider that keeps objects. */
export async function openSurface(env: Record<string, string> = {}, postgres = true): Promise<Surface> {
  const provider = await startObjects();
  const database = postgres ? await freshDatabase() : null;
  const at = await testBridge({
    env: { HOLDFAST_UPSTREAM_URL: provider.url, HOLDFAST_UPSTREAM_TRANSPORT: 'http', ...env },
    ...(database ? { databaseUrl: database.url } : {}),
  });
  return {
    url: at.url,
    provider,
    call: (who, method, path, body) => callAt(at.url, who, method, path, body),
    async close() {
      await at.close();
      await provider.close();
      await database?.drop();
    },
  };
}

/** Makes one call and reads its whole answer. */
export async function callAt(
  url: string,
  who: string,
  method: string,
  path: string,
  body?: object | FormData | string,
): Promise<Answered> {
  const isPlain = body === undefined || body instanceof FormData;
  const answer = await fetch(url + path, {
    method,
    headers: {
      authorization: `Bearer ${who.startsWith('sk-') ? who : `key-${who}`}`,
      ...(isPlain ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: isPlain || typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await answer.text();
  const parsed = text.startsWith('{') ? (JSON.parse(text) as Answered['body']) : {};
  return { status: answer.status, headers: Object.fromEntries(answer.headers), text, body: parsed };
}
