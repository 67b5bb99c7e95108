import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { request } from 'undici';
import type { AskOptions } from '../command-line.ts';
import { isLoopback, withSecretFiles } from '../config.ts';
import { adminTokenOf } from '../http/access.ts';
import { ADMIN_TOKEN_FILE } from '../store/embedded/index.ts';
import { parseSecrets } from '../token/keyring.ts';
import { CommandFailed, EXIT } from './output.ts';

/** A running Holdfast whose admin API is asked. */
export interface Asked {
  readonly url: string;
  /** Headers that show the admin token; empty without one. */
  readonly headers: Readonly<Record<string, string>>;
  /** Where the token is from; null without one. */
  readonly tokenFrom: string | null;
  /**
   * Fetches JSON.
   *
   * @param path below the base URL, with query
   * @param method default: GET
   * @throws `CommandFailed` with the error of the answer, or the reason why there is none
   */
  json<T>(path: string, method?: 'GET' | 'POST'): Promise<T>;
  /** Fetches text; throws the same. */
  text(path: string): Promise<string>;
}

/** Time for an answer, in milliseconds: a worker asks others, each with a limit of its own. */
const ANSWER_MS = 30_000;
/** Most bytes of an answer. */
const MOST_BYTES = 64 * 1024 * 1024;

/** Returns the base URL of the Holdfast that the options or the environment name. */
export function baseUrl({ url, port }: AskOptions, env: NodeJS.ProcessEnv = process.env): string {
  if (url !== undefined) return url.replace(/\/+$/, '');
  const host = env.HOST?.trim() ?? '';
  const own = ['', '0.0.0.0', '::'].includes(host) ? '127.0.0.1' : host;
  return `http://${own.includes(':') ? `[${own}]` : own}:${port ?? (env.PORT?.trim() || 8787)}`;
}

/**
 * Returns the admin token for a server: the configured one; for a server on this machine also the one that its data
 * directory or its secrets give. Another machine gets only what was set for it.
 */
async function tokenFor(url: string, given: NodeJS.ProcessEnv): Promise<{ token: string; from: string } | null> {
  const env = withSecretFiles(given, []);
  const configured = env.HOLDFAST_ADMIN_TOKEN?.trim();
  if (configured) return { token: configured, from: 'HOLDFAST_ADMIN_TOKEN' };
  if (!isLoopback(new URL(url).hostname.replace(/^\[|\]$/g, ''))) return null;
  const secrets = env.HOLDFAST_SECRETS?.trim();
  try {
    if (env.DATABASE_URL?.trim() && secrets) {
      return { token: adminTokenOf(parseSecrets(secrets)), from: 'HOLDFAST_SECRETS' };
    }
    const dataDir = env.HOLDFAST_DATA_DIR?.trim() || '.holdfast';
    const file = join(dataDir, ADMIN_TOKEN_FILE);
    return { token: (await readFile(file, 'utf8')).trim(), from: file };
  } catch {
    return null;
  }
}

/** Returns the Holdfast that the options or the environment name. */
export async function asked(options: AskOptions, env: NodeJS.ProcessEnv = process.env): Promise<Asked> {
  const url = baseUrl(options, env);
  const known = await tokenFor(url, env);
  const headers: Record<string, string> = known === null ? {} : { authorization: `Bearer ${known.token}` };

  async function text(path: string, method: 'GET' | 'POST' = 'GET'): Promise<string> {
    const { statusCode, body } = await request(url + path, {
      method,
      headers,
      headersTimeout: ANSWER_MS,
      bodyTimeout: ANSWER_MS,
    }).catch((error: Error & { code?: string }) => {
      const hint = options.url === undefined ? 'start it, or name another address with --url or --port' : 'check --url';
      throw new CommandFailed(
        `No Holdfast answers at ${url} (${error.code ?? error.name}): ${hint}.`,
        EXIT.unreachable,
      );
    });
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body) {
      size += chunk.length;
      if (size > MOST_BYTES) throw new CommandFailed(`The answer of ${url} is larger than ${MOST_BYTES} bytes.`);
      chunks.push(chunk);
    }
    const answer = Buffer.concat(chunks).toString('utf8');
    if (statusCode === 200) return answer;
    if (statusCode === 401) {
      throw new CommandFailed(
        `${url} asks for its admin token: set HOLDFAST_ADMIN_TOKEN. The banner of its first start holds the token, or names its file.`,
      );
    }
    throw new CommandFailed(errorOf(answer) ?? `What answers at ${url} (${statusCode}) is no Holdfast: check --url.`);
  }

  return {
    url,
    headers,
    tokenFrom: known?.from ?? null,
    text,
    async json<T>(path: string, method?: 'GET' | 'POST') {
      const answer = await text(path, method);
      try {
        return JSON.parse(answer) as T;
      } catch {
        throw new CommandFailed(`What answers at ${url} is no Holdfast: check --url.`);
      }
    },
  };
}

/** Returns the message of an error envelope; null for anything else. */
function errorOf(answer: string): string | null {
  try {
    const { error } = JSON.parse(answer) as { error?: { message?: unknown; bridge_code?: unknown } };
    return typeof error?.message === 'string' && typeof error.bridge_code === 'string' ? error.message : null;
  } catch {
    return null;
  }
}
