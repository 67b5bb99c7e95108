import { PassThrough, Readable } from 'node:stream';
import { createParser } from 'eventsource-parser';
import type { Request, RequestHandler, Response, Router } from 'express';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { Kind } from '../intake/read.ts';
import { encodeText, isFields } from '../json.ts';
import { type Caller, isHidden } from '../session/port.ts';
import type { Lease } from '../session/quota.ts';
import type { ProviderObjects } from '../store/port.ts';
import { passBodies } from '../transcript/pass-bodies.ts';
import { namedInQuery, namesIn } from '../transcript/provider-ids.ts';
import type { Names, ReadRequest } from '../transcript/types.ts';
import { passFamilies, realtimeFamilies } from '../upstream/families.ts';
import { UpstreamUnreachable } from '../upstream/port.ts';
import { hasBody } from './envelope.ts';
import { rewriteForm } from './multipart.ts';
import { type Family, type Operation, operationOf, reasonOf } from './operations.ts';
import {
  type Answer,
  bytesTaken,
  CURSORS,
  collected,
  foreignObject,
  headersFor,
  pass,
  queryOf,
  segment,
  unreachableError,
  type Way,
} from './relay.ts';

/** Services of the bridge that calls other than turns use. */
export interface ObjectService extends Pick<ProviderObjects, 'keepObjects' | 'listObjects' | 'dropObject'> {
  /** See `TurnService`. */
  notMade(scope: string, ids: readonly string[]): Promise<string | null>;
}

export interface PassingOptions {
  service: ObjectService;
  /** Returns how calls of that caller reach their upstream. */
  wayOf(caller: Caller): Way;
  config: Pick<Config, 'limits' | 'upstream'>;
  /** Returns a new id. */
  uuid(): string;
  /**
   * Authenticates a request, takes its quota lease and chooses its upstream.
   *
   * @param held false for a body that is not held in memory
   */
  enter(req: Request, res: Response, held?: boolean): Promise<{ caller: Caller; lease: Lease }>;
  /** Reads and parses a JSON body within the limits. */
  read(req: Request, res: Response, entered: { caller: Caller; lease: Lease }, kind: Kind): Promise<ReadRequest>;
  /** Returns the query parameters that are verified to name entries of the list at a path. */
  ownCursors(req: Request, caller: Caller, path: string): Promise<readonly string[]>;
}

/** Largest answer that is held until the objects in it are recorded, in bytes. */
const HELD_BYTES = 16 * 1024 * 1024;
/** Most bytes of an event stream that are held until its first event is recorded. */
const FIRST_EVENT_BYTES = 256 * 1024;

/** Objects of one list that are requested at the same time. */
const AT_ONCE = 8;
const DEFAULT_LIMIT = 20;
const MOST_LISTED = 100;

/**
 * Mounts the calls that are passed on to the provider: every family of `HOLDFAST_PASS`, and the conversations.
 *
 * With the client's own credential, bodies and answers are streamed in both directions and the provider decides. Under a
 * credential shared by several tenants only the calls of `operations.ts` pass: their bodies name only objects that the
 * caller's scope made, the path names one too, made objects are recorded before their ids are shown, and lists show only what
 * the scope made.
 */
export function mountPassing(router: Router, prefix: string, options: PassingOptions): void {
  const allowed = new Set<string>(options.config.upstream.pass);
  const mount = (family: string, handler: RequestHandler) => {
    router.all(`${prefix}/${family}`, handler);
    router.all(`${prefix}/${family}/*rest`, handler);
  };
  for (const family of ['conversations', ...passFamilies] as const) {
    const handler = family === 'conversations' || allowed.has(family) ? serve(family, options) : refuseFamily;
    mount(family, handler);
  }
  for (const family of realtimeFamilies) {
    mount(family, refuseRealtime);
  }
}

const refuseFamily: RequestHandler = () => {
  throw new BridgeError('bridge_family_not_passed');
};

const refuseRealtime: RequestHandler = () => {
  throw new BridgeError('bridge_realtime_unsupported');
};

/** Returns the decoded segments of the path below the family. A slash at the end is not one of them. */
function piecesOf({ params }: Request): string[] {
  const rest = params.rest as readonly string[] | string | undefined;
  const pieces = [rest ?? []].flat();
  return pieces.at(-1) === '' ? pieces.slice(0, -1) : pieces;
}

function serve(family: Family, options: PassingOptions): RequestHandler {
  const { enter } = options;
  return async (req, res) => {
    const { caller, lease } = await enter(req, res, false);
    if (!['GET', 'POST', 'DELETE', 'HEAD'].includes(req.method)) {
      res.set('allow', 'GET, POST, DELETE');
      throw new BridgeError('bridge_method_not_allowed');
    }
    const pieces = piecesOf(req);
    const path = [`/${family}`, ...pieces.map(segment)].join('/');
    if (caller.credentialIsClients) return passFreely(req, res, caller, path, options);
    const found = operationOf(family, req.method, pieces);
    if (found === null) throw new BridgeError('bridge_shared_credential', { detail: reasonOf(family) });
    await passChecked(req, res, { caller, lease, path, ...found }, options);
  };
}

/** Passes a call with the client's own credential on as it is. */
async function passFreely(
  req: Request,
  res: Response,
  caller: Caller,
  path: string,
  { wayOf, config }: PassingOptions,
): Promise<void> {
  const query = queryOf(req);
  const { body, bodyHeaders } = streamed(req, config.limits.passBytes);
  await pass(req, res, {
    ...wayOf(caller),
    path: query.size === 0 ? path : `${path}?${query}`,
    body,
    bodyHeaders: { ...bodyHeaders, ...acceptOf(req) },
    requestId: res.locals.requestId as string,
  });
}

const acceptOf = ({ headers: { accept } }: Request): Record<string, string> =>
  accept === undefined || accept.length > 256 ? {} : { accept };

/**
 * Returns the body of a request as a stream for the provider, with its headers. Its memory stays flat.
 *
 * @param most largest size in bytes
 * @throws {BridgeError} `bridge_body_too_large` when the announced length is above it
 */
function streamed(req: Request, most: number): { body: Buffer | Readable | null; bodyHeaders: Record<string, string> } {
  const bodyHeaders: Record<string, string> = {};
  const { 'content-type': type, 'content-encoding': encoding, 'content-length': length } = req.headers;
  if (type !== undefined) bodyHeaders['content-type'] = type;
  if (req.readableDidRead) {
    const taken = bytesTaken(req);
    if (taken.length > most) throw new BridgeError('bridge_body_too_large');
    return { body: taken, bodyHeaders };
  }
  if (!hasBody(req)) return { body: null, bodyHeaders: {} };
  if (encoding !== undefined) bodyHeaders['content-encoding'] = encoding;
  const count = counter(most);
  // Node refuses a request with both a Content-Length and a Transfer-Encoding.
  if (length !== undefined) {
    count.announced(Number(length));
    bodyHeaders['content-length'] = length;
  }
  const body = new PassThrough();
  const counted = (chunk: Buffer) => {
    try {
      count.add(chunk.length);
    } catch (error) {
      body.destroy(error as Error);
    }
  };
  req.on('data', counted);
  req.pipe(body);
  // The call ends with the client's connection, and its body with the call.
  body.once('close', () => {
    req.off('data', counted);
    req.unpipe(body);
  });
  return { body, bodyHeaders };
}

function counter(most: number) {
  let size = 0;
  const check = (bytes: number) => {
    if (bytes > most) {
      throw new BridgeError('bridge_body_too_large', { detail: 'The limit is HOLDFAST_MAX_PASS_BYTES.' });
    }
  };
  return {
    announced: check,
    add(bytes: number) {
      size += bytes;
      check(size);
    },
  };
}

interface Checked {
  caller: Caller;
  lease: Lease;
  path: string;
  operation: Operation;
  own: string | null;
  /** The path ends with the id of the scope's object. */
  ends: boolean;
}

/** Passes a call under a shared credential on, after every check. */
async function passChecked(req: Request, res: Response, call: Checked, options: PassingOptions): Promise<void> {
  const { service, wayOf } = options;
  const { caller, path, operation, own, ends } = call;
  if (own !== null && (await service.notMade(caller.scope, [own])) !== null) {
    throw new BridgeError('bridge_not_found', { detail: 'There is no such object.' });
  }
  if (operation.lists !== undefined) return listOwn(req, res, caller, operation.lists, options);
  const query = queryOf(req);
  const isList = req.method === 'GET' && !ends && own !== null;
  const foreign = namedInQuery(query, isList ? CURSORS : []);
  if (foreign !== null) throw foreignObject(foreign);
  if (isList) await options.ownCursors(req, caller, path);
  const { body, bodyHeaders, stored } = await checkedBody(req, res, call, options);
  const { makes } = operation;
  const drops = req.method === 'DELETE' && ends ? own : null;
  await pass(req, res, {
    ...wayOf(caller),
    path: query.size === 0 ? path : `${path}?${query}`,
    body,
    bodyHeaders: { ...bodyHeaders, ...acceptOf(req) },
    requestId: res.locals.requestId as string,
    // Before the client has the answer: its next call, through any worker, finds the object recorded or gone.
    inspect: async (answer) => {
      if (drops !== null) await service.dropObject(caller.scope, drops);
      if (makes === undefined || !stored) return answer;
      return recorded(answer, caller.scope, makes, operation.at, service);
    },
  });
}

/**
 * Returns the body of a call under a shared credential, all names in it checked. `stored`: the provider keeps what the call
 * makes.
 *
 * @throws {BridgeError} `bridge_foreign_object`, `bridge_unsupported_media_type`, or an error of reading
 */
async function checkedBody(
  req: Request,
  res: Response,
  { caller, lease, operation }: Checked,
  { service, config, read, uuid }: PassingOptions,
): Promise<{ body: Buffer | Readable | null; bodyHeaders: Record<string, string>; stored: boolean }> {
  const { body: allowed, as = 'json' } = operation;
  const admit = async ({ owned, foreign }: Names) => {
    if (foreign !== null) throw foreignObject(foreign);
    const unknown = await service.notMade(caller.scope, [...owned.keys()]);
    if (unknown !== null) throw foreignObject(owned.get(unknown)!);
  };
  if (allowed === undefined || (!hasBody(req) && req.body === undefined)) {
    return { body: null, bodyHeaders: {}, stored: true };
  }
  const isForm = /^multipart\/form-data\b/i.test(req.headers['content-type'] ?? '');
  if (isForm && as !== 'json') {
    if (req.headers['content-encoding'] !== undefined) throw new BridgeError('bridge_unsupported_media_type');
    const count = counter(config.limits.passBytes);
    count.announced(Number(req.headers['content-length'] ?? 0));
    const boundary = `holdfast-${uuid()}`;
    const body = rewriteForm(req, {
      boundary,
      count: count.add,
      check: (fields) => admit(namesIn(fields, passBodies[allowed])),
    });
    return { body, bodyHeaders: { 'content-type': `multipart/form-data; boundary=${boundary}` }, stored: true };
  }
  if (as === 'form') {
    throw new BridgeError('bridge_unsupported_media_type', { detail: 'This call takes multipart/form-data.' });
  }
  const request = await read(req, res, { caller, lease }, `pass:${allowed}`);
  await admit(request.names);
  return {
    body: await encodeText(String(request.text)),
    bodyHeaders: { 'content-type': 'application/json' },
    stored: operation.onlyStored === undefined || request.body.store === true,
  };
}

/**
 * Records the object in an answer before any of the answer is sent: its client may name it at once, through any worker.
 *
 * @throws {BridgeError} `bridge_internal` for an answer that is too large or names no object
 * @throws {StoreUnavailable} when the object could not be recorded
 */
async function recorded(
  answer: Answer,
  scope: string,
  kind: string,
  at: string | undefined,
  service: Pick<ObjectService, 'keepObjects'>,
): Promise<Answer> {
  const idIn = (value: unknown): string | null => {
    const object = at === undefined || !isFields(value) ? value : value[at];
    return isFields(object) && typeof object.id === 'string' && object.id !== '' ? object.id : null;
  };
  if ((answer.headers['content-type'] ?? '').includes('event-stream')) {
    return {
      ...answer,
      body: await afterFirstEvent(answer.body, async (value) => {
        const id = idIn(value);
        if (id !== null) await service.keepObjects(scope, kind, [id]);
      }),
    };
  }
  const body = await collected(answer, HELD_BYTES);
  if (body === null) throw new BridgeError('bridge_internal', { detail: 'The answer is too large to be recorded.' });
  const id = idIn(parsed(body.toString('utf8')));
  if (id !== null) await service.keepObjects(scope, kind, [id]);
  return { ...answer, body: Readable.from([body]) };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * Returns the stream from its beginning, after its first event was handled.
 *
 * @throws {BridgeError} `bridge_internal` when the event is too large
 */
async function afterFirstEvent(
  stream: NodeJS.ReadableStream,
  handle: (value: unknown) => Promise<void>,
): Promise<Readable> {
  const source = (stream as Readable).iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>;
  const held: Buffer[] = [];
  const decoder = new TextDecoder();
  let size = 0;
  let first: { data: string } | null = null;
  const parser = createParser({ onEvent: (event) => (first ??= { data: event.data }) });
  while (first === null) {
    const { value, done } = await source.next();
    if (done) break;
    held.push(value);
    size += value.length;
    if (size > FIRST_EVENT_BYTES) {
      (stream as Readable).destroy();
      throw new BridgeError('bridge_internal', { detail: 'The first event is too large.' });
    }
    parser.feed(decoder.decode(value, { stream: true }));
  }
  if (first !== null) await handle(parsed((first as { data: string }).data));
  return Readable.from(
    (async function* () {
      yield* held;
      for (let next = await source.next(); !next.done; next = await source.next()) yield next.value;
    })(),
    { objectMode: false },
  );
}

/**
 * Answers a list with the objects that the scope made, each as the provider shows it now. Its cost depends on this scope
 * alone, not on what others made under the credential.
 *
 * @throws {BridgeError} `bridge_shared_credential` for a parameter that only the provider could apply
 */
async function listOwn(
  req: Request,
  res: Response,
  caller: Caller,
  kind: string,
  { service, wayOf }: PassingOptions,
): Promise<void> {
  const { transport, target } = wayOf(caller);
  const query = queryOf(req);
  for (const name of query.keys()) {
    if (!['limit', 'order', 'after'].includes(name)) {
      const detail = `The parameter ${JSON.stringify(name.slice(0, 64))} cannot be applied to the list of one tenant.`;
      throw new BridgeError('bridge_shared_credential', { detail });
    }
  }
  const wanted = Number(query.get('limit') ?? DEFAULT_LIMIT);
  const limit = Number.isSafeInteger(wanted) && wanted > 0 ? Math.min(wanted, MOST_LISTED) : DEFAULT_LIMIT;
  const order = query.get('order') === 'asc' ? 'asc' : 'desc';
  const after = query.get('after');
  const page = await service.listObjects({ scope: caller.scope, kind, limit, order, after });
  if (page === null) throw foreignObject('after');
  const gone = new AbortController();
  res.once('close', () => gone.abort());
  const headers = headersFor(req, { caller, target });
  const shown: (string | null)[] = page.ids.map(() => null);
  const left = [...page.ids.keys()];
  const one = async (id: string): Promise<string | null> => {
    const path = `/${kind}/${segment(id)}`;
    const call = { target, hidden: isHidden(caller), method: 'GET', path, headers, body: null, signal: gone.signal };
    const answer = await transport.call(call).catch((error) => {
      throw error instanceof UpstreamUnreachable ? unreachableError(error) : error;
    });
    const body = await collected(answer, HELD_BYTES);
    if (answer.status === 404) await service.dropObject(caller.scope, id);
    if (answer.status === 404 || body === null) return null;
    if (answer.status !== 200) throw new BridgeError('bridge_upstream_unreachable', { detail: 'It refused the list.' });
    return body.toString('utf8');
  };
  const worker = async () => {
    for (let at = left.shift(); at !== undefined; at = left.shift()) shown[at] = await one(page.ids[at]!);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const data = shown.filter((text) => text !== null && isFields(parsed(text)));
  const [first, last] = [page.ids[0], page.ids.at(-1)].map((id) => JSON.stringify(id ?? null));
  res
    .status(200)
    .set('content-type', 'application/json')
    .send(`{"object":"list","data":[${data.join(',')}],"first_id":${first},"last_id":${last},"has_more":${page.more}}`);
}
