import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';

export interface ComposeService {
  image?: string;
  read_only?: boolean;
  user?: string;
  environment?: Record<string, string>;
  stop_grace_period?: string;
  healthcheck?: { test: string[] };
  depends_on?: Record<string, { condition: string }>;
  ports?: string[];
}

export const COMPOSE = 'deploy/compose/compose.yaml';

/** Replaces `${NAME}`, `${NAME:-default}` and `${NAME:?message}` as Docker Compose does. */
function interpolate(text: string, values: Record<string, string>): string {
  return text.replace(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (_, name: string, how?: string, rest = '') => {
    const value = values[name];
    if (value) return value;
    if (how === '?') throw new Error(`${name} is not set: ${rest}`);
    return how === '-' ? rest : '';
  });
}

/** Reads the services of `deploy/compose/compose.yaml`, with these values for its variables. */
export async function readCompose(values: Record<string, string>): Promise<Record<string, ComposeService>> {
  const source = await readFile(COMPOSE, 'utf8');
  const visit = (value: unknown): unknown => {
    if (typeof value === 'string') return interpolate(value, values);
    if (Array.isArray(value)) return value.map(visit);
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, visit(each)]));
  };
  return (visit(parse(source, { merge: true })) as { services: Record<string, ComposeService> }).services;
}

/** Values that `deploy/compose/up` writes to `.env`. */
export const secrets = {
  OPENAI_API_KEY: 'sk-upstream',
  POSTGRES_PASSWORD: 'database-password',
  HOLDFAST_SECRETS: `k1:${'5'.repeat(64)}`,
  HOLDFAST_API_KEYS: 'me:hf-client-key',
  HOLDFAST_ADMIN_TOKEN: 'admin-token',
};
