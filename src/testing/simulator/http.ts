import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Item } from '../../transcript/types.ts';
import { createConversations } from './conversations.ts';
import {
  type ErrorSpec,
  errorFrame,
  errorObject,
  invalidRequest,
  missingApiKey,
  notFound,
  Refusal,
  type SimEvent,
  signalHeaders,
  type Wire,
} from './events.ts';
import { estimateTokens, type ResponseRecord, resolveContext } from './provider.ts';
import { isTerminal, openTurn, type TurnHost } from './turn.ts';

/** Sends a JSON answer (a string is sent as plain text), unless the answer has already started. */
export function answer(
  res: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (res.headersSent || res.destroyed) return;
  const text = typeof body === 'string' ? body : JSON.stringify(body ?? {});
  res.writeHead(status, { 'content-type': typeof body === 'string' ? 'text/plain' : 'application/json', ...headers });
  res.end(text);
}

/** Returns a signal that is aborted when the client disconnects before its answer is finished. */
function goneSignal(res: ServerResponse): AbortSignal {
  const gone = new AbortController();
  res.on('close', () => {
    if (!res.writableFinished) gone.abort();
  });
  return gone.signal;
}

const retryAfter = (seconds: number | undefined): Record<string, string> =>
  seconds === undefined ? {} : { 'retry-after': String(seconds) };

const never = () => new Promise<void>(() => undefined);

/** Creates the wire of a turn answered as server-sent events. The status is sent with the first event. */
function sseWire(res: ServerResponse, headers: Readonly<Record<string, string>>): Wire {
  const begin = () => {
    if (!res.headersSent)
      res.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache',
        ...headers,
      });
  };
  const write = (type: string, data: string) => {
    begin();
    res.write(`event: ${type}\ndata: ${data}\n\n`);
  };
  return {
    transport: 'http',
    gone: goneSignal(res),
    send: (event) => write(event.type, JSON.stringify(event)),
    raw: (text) => write('message', text),
    refuse(error, shape, sequence) {
      if (!res.headersSent)
        return answer(
          res,
          error.status,
          { error: errorObject(error) },
          { ...headers, ...retryAfter(error.retryAfter) },
        );
      write('error', JSON.stringify(errorFrame(error, shape, sequence)));
    },
    respond: (status, extra, body) => answer(res, status, body, { ...headers, ...extra }),
    close() {
      begin();
      res.end();
    },
    reset: () => void res.socket?.resetAndDestroy(),
    finish() {
      if (!res.writableEnded) {
        begin();
        res.end();
      }
    },
    next: never,
  };
}

/**
 * Creates the wire of a turn answered as one JSON body. With `queued`, for `background`, the answer is the response as
 * queued.
 */
function jsonWire(res: ServerResponse, headers: Readonly<Record<string, string>>, queued: boolean): Wire {
  let result: Record<string, unknown> | null = null;
  return {
    transport: 'http',
    gone: goneSignal(res),
    send(event: SimEvent) {
      const response = event.response as Record<string, unknown> | undefined;
      if (queued && event.type === 'response.queued') result = response!;
      if (!queued && isTerminal(event)) result = response!;
    },
    raw: () => undefined,
    refuse: (error) =>
      answer(res, error.status, { error: errorObject(error) }, { ...headers, ...retryAfter(error.retryAfter) }),
    respond: (status, extra, body) => answer(res, status, body, { ...headers, ...extra }),
    close: () => void res.destroy(),
    reset: () => void res.socket?.resetAndDestroy(),
    finish() {
      if (result) answer(res, 200, result, headers);
      else if (!res.writableEnded) res.destroy();
    },
    next: never,
  };
}

const MAX_BODY_BYTES = 64 * 1024 * 1024;
const BASE = /^\/(?:v1|backend-api\/codex)(?=\/)/;

export function flatHeaders(req: IncomingMessage): Record<string, string> {
  const flat: Record<string, string> = {};
  for (const [name, value] of Object.entries(req.headers))
    flat[name] = Array.isArray(value) ? value.join(', ') : value!;
  return flat;
}

/** Returns the caller's credential, or null when the simulator refuses it. */
export function credentialOf(host: TurnHost, headers: Readonly<Record<string, string>>): string | null {
  const { requireAuthorization = true, credentials } = host.options;
  const given = headers.authorization;
  if (!given) return requireAuthorization ? null : 'anonymous';
  return credentials && !credentials.includes(given) ? null : given;
}

/**
 * Reads a request body of at most 64 MiB.
 *
 * @throws {Refusal} with status 413 for a larger one
 */
export async function readBody(req: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of req) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Refusal({ status: 413, message: 'Request body too large.' });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function parseBody(text: string): Record<string, unknown> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Refusal(invalidRequest('We could not parse the JSON body of your request.'));
  }
  if (body === null || typeof body !== 'object' || Array.isArray(body))
    throw new Refusal(invalidRequest('The request body must be a JSON object.'));
  return body as Record<string, unknown>;
}

/** Returns a background response as a poll sees it: queued first, then in progress once, then its result. */
function asPolled(record: ResponseRecord): Record<string, unknown> {
  const { response } = record;
  if (response.background !== true || record.polled >= 2 || response.status === 'cancelled') return response;
  return { ...response, status: record.polled === 0 ? 'queued' : 'in_progress', output: [], usage: null };
}

function compact(host: TurnHost, credential: string, body: Record<string, unknown>): Record<string, unknown> {
  const { provider } = host;
  const context = resolveContext({ provider, credential, cache: null, body, checkToolPairs: false });
  const users = context.input.filter((item) => (item.type ?? 'message') === 'message' && item.role === 'user');
  const compaction: Item = {
    id: provider.id('cmp'),
    type: 'compaction',
    encrypted_content: provider.sealer.seal(credential, { nonce: provider.id('cmpn'), prefixes: [] }, 'completed'),
  };
  const output = [...users, compaction];
  const out = estimateTokens(output);
  return {
    id: provider.id('resp'),
    object: 'response.compaction',
    created_at: 1_760_000_000,
    output,
    usage: {
      input_tokens: context.tokens,
      input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
      output_tokens: out,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: context.tokens + out,
    },
  };
}

/** Creates the provider's HTTP API. */
export function createHttpApi(host: TurnHost): (req: IncomingMessage, res: ServerResponse) => Promise<void> {
  const { provider, journal, options } = host;
  const conversations = createConversations(provider);

  function create(res: ServerResponse, headers: Record<string, string>, credential: string, text: string): void {
    const body = parseBody(text);
    if ('generate' in body) throw new Refusal(invalidRequest("Unknown parameter: 'generate'.", 'generate'));
    if ('stream_id' in body) throw new Refusal(invalidRequest("Unknown parameter: 'stream_id'.", 'stream_id'));
    const number = provider.id('req');
    const extra: Record<string, string> = {
      ...signalHeaders(body.model),
      'x-request-id': number,
      'openai-processing-ms': '12',
    };
    if ((options.turnState ?? 'off') !== 'off') extra['x-codex-turn-state'] = `ts-${number.slice(4, 16)}`;
    const background = body.background === true;
    if (background && body.store === false)
      throw new Refusal(invalidRequest("background requires 'store' to be true.", 'background'));
    const wire = body.stream === true ? sseWire(res, extra) : jsonWire(res, extra, background);
    const turn = openTurn(host, {
      wire,
      body,
      bytes: Buffer.byteLength(text),
      headers,
      credential,
      connection: null,
      nthOnConnection: 1,
      lane: null,
      cache: null,
      queuedBehind: 0,
    });
    void turn.run(() => undefined);
  }

  function one(res: ServerResponse, method: string, credential: string, id: string, action: string | undefined): void {
    const record = provider.stored(credential, id);
    if (!record) throw new Refusal(notFound(`Response with id '${id}' not found.`));
    if (method === 'GET' && action === undefined) {
      answer(res, 200, asPolled(record));
      record.polled += 1;
    } else if (method === 'GET' && action === 'input_items') {
      const data = record.input.map((item) => ({ type: 'message', ...item }));
      const [first, last] = [data.at(0), data.at(-1)] as (Item | undefined)[];
      answer(res, 200, {
        object: 'list',
        data,
        first_id: first?.id ?? null,
        last_id: last?.id ?? null,
        has_more: false,
      });
    } else if (method === 'DELETE' && action === undefined) {
      provider.remove(credential, id);
      answer(res, 200, { id, object: 'response', deleted: true });
    } else if (method === 'POST' && action === 'cancel') {
      if (record.response.background !== true)
        throw new Refusal(invalidRequest('Cannot cancel a synchronous response.'));
      if (record.polled < 2) record.response = { ...record.response, status: 'cancelled', output: [], usage: null };
      answer(res, 200, record.response);
    } else throw new Refusal({ status: 405, message: 'Method not allowed.' });
  }

  async function route(req: IncomingMessage, res: ServerResponse, headers: Record<string, string>, path: string) {
    const credential = credentialOf(host, headers);
    if (credential === null) throw new Refusal(missingApiKey);
    const [, resource, id, action, ...rest] = path.replace(BASE, '').split('/');
    const method = req.method ?? 'GET';
    if (resource === 'models' && method === 'GET' && id === undefined) {
      const models = options.models ?? ['gpt-sim', 'gpt-5.5'];
      const data = models.map((model) => ({
        id: model,
        object: 'model',
        created: 1_760_000_000,
        owned_by: 'simulator',
      }));
      return answer(res, 200, { object: 'list', data });
    }
    if (resource === 'conversations' && BASE.test(path)) {
      const { searchParams: query } = new URL(req.url!, 'http://simulator');
      const text = await readBody(req);
      const body = text === '' ? {} : parseBody(text);
      const below = path.replace(BASE, '').split('/').slice(2);
      return answer(res, 200, conversations({ method, credential, path: below, query, body }));
    }
    if (resource !== 'responses' || rest.length > 0 || !BASE.test(path))
      throw new Refusal(notFound(`Invalid URL (${method} ${path})`));
    if (id === undefined) {
      if (method !== 'POST') throw new Refusal({ status: 405, message: 'Method not allowed.' });
      return create(res, headers, credential, await readBody(req));
    }
    if (id === 'compact' && method === 'POST')
      return answer(res, 200, compact(host, credential, parseBody(await readBody(req))));
    await readBody(req);
    one(res, method, credential, id, action);
  }

  return async (req, res) => {
    const headers = flatHeaders(req);
    const path = new URL(req.url ?? '/', 'http://simulator').pathname;
    const method = req.method ?? 'GET';
    res.on('error', () => undefined);
    res.on('close', () =>
      journal.record('request', {
        method,
        path,
        headers,
        bytes: Number(headers['content-length'] ?? 0),
        status: res.headersSent ? res.statusCode : 0,
      }),
    );
    const scripted = host.rules.forRequest({ method, path, headers });
    if (scripted) {
      const { rule, fault } = scripted;
      journal.record('fault', { rule, turn: null, connection: null, fault });
      if (fault.kind === 'reset') return void req.socket.resetAndDestroy();
      if (fault.kind === 'respond') answer(res, fault.status, fault.body, fault.headers);
      return;
    }
    const refuse = (error: ErrorSpec) => answer(res, error.status, { error: errorObject(error) });
    try {
      await route(req, res, headers, path);
    } catch (error) {
      if (error instanceof Refusal) refuse(error.error);
      else if (!req.destroyed) refuse({ status: 500, message: String(error) });
    }
  };
}
