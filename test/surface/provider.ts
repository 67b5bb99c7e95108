import { createHash, randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { type Provider, startProvider } from '../upstream/servers.ts';

type Fields = Record<string, unknown>;

/** A call that reached the provider. */
export interface Call {
  method: string;
  /** Path with query, below the base path. */
  path: string;
  headers: IncomingHttpHeaders;
  /** SHA-256 and size of the body, and its text up to 64 KiB. */
  sha256: string;
  bytes: number;
  text: string;
}

/** A provider of everything but turns: it keeps what is made, for everyone who has its credential. */
export interface ObjectProvider extends Provider {
  calls: Call[];
  /** Everything that was made, by its path. */
  objects: Map<string, Fields>;
  /** Answers some calls in place of the provider. Returns false for a call that is not its own. */
  answer: (req: IncomingMessage, res: ServerResponse, path: string) => boolean;
  /** Resolves with the next call that breaks off before its body or its answer is complete. */
  aborted(): Promise<string>;
}

/** Prefix of the ids of each collection. */
const prefixes: [collection: RegExp, prefix: string][] = [
  [/^\/conversations$/, 'conv'],
  [/^\/conversations\/[^/]+\/items$/, 'msg'],
  [/^\/files$/, 'file'],
  [/^\/uploads$/, 'upload'],
  [/^\/uploads\/[^/]+\/parts$/, 'part'],
  [/^\/vector_stores$/, 'vs'],
  [/^\/vector_stores\/[^/]+\/file_batches$/, 'vsfb'],
  [/^\/containers$/, 'cntr'],
  [/^\/containers\/[^/]+\/files$/, 'cfile'],
  [/^\/chat\/completions$/, 'chatcmpl'],
  [/^\/videos(?:\/(?:edits|extensions|[^/]+\/remix))?$/, 'video'],
  [/^\/videos\/characters$/, 'char'],
  [/^\/skills$/, 'skill'],
  [/^\/skills\/[^/]+\/versions$/, 'skillver'],
  [/^\/assistants$/, 'asst'],
  [/^\/threads(?:\/runs)?$/, 'thread'],
  [/^\/threads\/[^/]+\/messages$/, 'msg'],
  [/^\/threads\/[^/]+\/runs$/, 'run'],
  [/^\/audio\/voices$/, 'voice'],
  [/^\/audio\/voice_consents$/, 'cons'],
];

const collectionOf = (path: string) => path.replace(/\/(?:edits|extensions|[^/]+\/remix|runs)$/, '');

/**
 * Starts the provider. Like the real one it shows any object to any caller with the credential, keeps completions only with
 * `store: true`, and answers 404 in OpenAI's envelope for what does not exist.
 */
export async function startObjects(): Promise<ObjectProvider> {
  const calls: Call[] = [];
  const objects = new Map<string, Fields>();
  let broken: (() => void)[] = [];
  const breaks: string[] = [];
  const give = (res: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}) => {
    res.writeHead(status, { 'content-type': 'application/json', ...headers });
    res.end(JSON.stringify(body));
  };

  const provider: ObjectProvider = {
    ...(await startProvider({ http: (req, res) => void serve(req, res) })),
    calls,
    objects,
    answer: () => false,
    async aborted() {
      while (breaks.length === 0) await new Promise<void>((done) => broken.push(done));
      return breaks.shift()!;
    },
  };

  async function serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const path = (req.url ?? '').replace(/^\/v1/, '');
    const noteBreak = () => {
      breaks.push(path);
      const waiting = broken;
      broken = [];
      for (const each of waiting) each();
    };
    res.once('close', () => {
      if (!res.writableFinished) noteBreak();
    });
    if (provider.answer(req, res, path)) return;
    const hash = createHash('sha256');
    let bytes = 0;
    let text = '';
    try {
      for await (const chunk of req as AsyncIterable<Buffer>) {
        hash.update(chunk);
        bytes += chunk.length;
        if (text.length < 65_536) text += chunk.toString('latin1');
      }
    } catch {
      return;
    }
    const call = { method: req.method ?? '', path, headers: req.headers, sha256: hash.digest('hex'), bytes, text };
    calls.push(call);
    route(call, res);
  }

  function route({ method, path, text, headers }: Call, res: ServerResponse): void {
    const [place = '', query = ''] = path.split(/\?(.*)/s);
    const isJson = headers['content-type']?.startsWith('application/json') ?? false;
    const given = isJson && text !== '' ? (JSON.parse(text) as Fields) : {};
    const prefix = prefixes.find(([of]) => of.test(place))?.[1];
    if (method === 'POST' && prefix !== undefined) {
      const made = { ...given, id: `${prefix}_${randomUUID().replaceAll('-', '')}`, created_at: 1_760_000_000 };
      const isKept = !place.startsWith('/chat') || given.store === true;
      if (isKept) objects.set(`${collectionOf(place)}/${made.id}`, made);
      if (given.stream === true) {
        res.writeHead(200, { 'content-type': 'text/event-stream' });
        const delta = { ...made, object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content: 'hi' } }] };
        res.end(`data: ${JSON.stringify(delta)}\n\ndata: ${JSON.stringify(delta)}\n\ndata: [DONE]\n\n`);
        return;
      }
      return give(res, 200, made, { 'x-request-id': 'req_1', 'set-cookie': 'a=b' });
    }
    const complete = /^\/uploads\/[^/]+\/complete$/.test(place);
    if (method === 'POST' && complete) {
      const file = { id: `file_${randomUUID().replaceAll('-', '')}`, object: 'file' };
      objects.set(`/files/${file.id}`, file);
      return give(res, 200, { id: place.split('/')[2], object: 'upload', status: 'completed', file });
    }
    const base = /^(\/[^/]+(?:\/completions|\/voices|\/voice_consents|\/characters)?\/[^/]+)/.exec(place)?.[1] ?? place;
    if (method === 'GET' && prefix !== undefined) {
      const all = [...objects].filter(
        ([at]) => at.startsWith(`${place}/`) && !at.slice(place.length + 1).includes('/'),
      );
      const after = new URLSearchParams(query).get('after');
      const from = after === null ? 0 : all.findIndex(([, { id }]) => id === after) + 1;
      const data = all.slice(from).map(([, object]) => object);
      return give(res, 200, { object: 'list', data, has_more: false });
    }
    if (['/embeddings', '/moderations', '/completions', '/images/generations'].includes(place))
      return give(res, 200, { object: 'list', data: [] });
    if (
      !objects.has(base) &&
      !place.startsWith('/models') &&
      !/^\/(?:audio\/(?:speech|trans)|images|responses)/.test(place)
    ) {
      const message = `No such object: ${place}`;
      return give(res, 404, { error: { message, type: 'invalid_request_error', param: null, code: null } });
    }
    if (method === 'DELETE') {
      objects.delete(place);
      return give(res, 200, { id: place.split('/').at(-1), deleted: true });
    }
    if (place.endsWith('/content')) {
      res.writeHead(200, { 'content-type': 'application/octet-stream' });
      res.end(Buffer.from([0, 255, 128, 10, 13]));
      return;
    }
    give(res, 200, objects.get(place) ?? { ok: true });
  }
  return provider;
}
