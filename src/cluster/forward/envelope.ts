import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createSecretKey,
  type KeyObject,
  randomBytes,
  randomUUID,
  timingSafeEqual,
} from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import { BridgeError } from '../../errors.ts';
import { IDEMPOTENCY_HEADER, TURN_STATE_HEADER } from '../../headers.ts';
import type { Read } from '../../intake/read.ts';
import { withMembers } from '../../json.ts';
import type { TurnRequest } from '../../session/port.ts';
import type { Clock } from '../../system.ts';
import type { KeyRing } from '../../token/keyring.ts';
import { isForwardable, keyHeaders } from '../../upstream/headers.ts';

/** Claims of a forwarded request: one attempt, sent by the worker that holds the client to the worker that owns the session. */
export interface ForwardClaims {
  /** Worker that serves the request. */
  target: string;
  /** Worker that holds the client. */
  from: string;
  sessionId: string | null;
  epoch: number | null;
  /** Assigned by the sender, so that it can find out whether a turn was started by an attempt that broke. */
  turnId: string;
  /** `run`: serve it at that session and epoch or not at all. `resolve`: place it like a request from a client. */
  mode: 'run' | 'resolve';
  /**
   * Number of earlier attempts for this turn, at any worker. An attempt above 0 resumes what an earlier one may have begun
   * at the target.
   */
  attempt: number;
  requestId: string;
  /** Place of this attempt in a distributed trace, as the header `traceparent` names it. */
  trace?: string | undefined;
}

/**
 * Notice to the current or former owner of a session. `claimed`: the session was claimed at this epoch, as recorded in
 * the store. `close`: an operator has requested to close the session, and only the owner of that epoch can end its
 * running turn.
 */
export interface ClaimedNotice {
  target: string;
  from: string;
  sessionId: string;
  epoch: number;
  news: 'claimed' | 'close';
}

/** Claims of a request for a worker's view of its sessions; the body names the sessions. */
interface ViewAsked {
  target: string;
  from: string;
}

type ForwardRefusal =
  | 'missing'
  | 'not_a_hop'
  | 'unknown_key'
  | 'signature'
  | 'claims'
  | 'expired'
  | 'from_the_future'
  | 'wrong_target'
  | 'altered'
  | 'replayed'
  | 'too_many';

/** Error for a token that was not accepted. The message never contains the token. */
export class ForwardRefused extends Error {
  override readonly name = 'ForwardRefused';
  readonly reason: ForwardRefusal;

  constructor(reason: ForwardRefusal) {
    super(`The forwarded request is refused: ${reason}.`);
    this.reason = reason;
  }
}

export interface ForwardTokens extends Sealer {
  /** Issues a token that allows the target worker to serve exactly these bytes once, within 10 s. */
  issue(claims: ForwardClaims, body: Buffer): string;
  /**
   * Verifies a token and marks it as used.
   *
   * @param me id of this worker, which must be the target
   * @throws ForwardRefused with the reason
   */
  verify(token: string, body: Buffer, me: string): ForwardClaims;
  /**
   * Verifies a token in two steps: first everything that does not need the body, then, in the returned function, the
   * rest.
   *
   * @throws ForwardRefused with the reason, in both steps
   */
  admit(token: string, me: string): (body: Buffer) => ForwardClaims;
  issueClaimed(notice: ClaimedNotice, body: Buffer): string;
  admitClaimed(token: string, me: string): (body: Buffer) => ClaimedNotice;
  issueView(asked: ViewAsked, body: Buffer): string;
  admitView(token: string, me: string): (body: Buffer) => ViewAsked;
}

interface ForwardTokensOptions {
  secrets: KeyRing;
  clock: Pick<Clock, 'wall'>;
  /** Capacity of the replay cache in tokens; when it is full, forwarded requests are refused. Default 100,000. */
  remembered?: number;
}

/** Lifetime of a token, in milliseconds. */
const LIFE_MS = 10_000;
/** Maximum clock skew between two workers, in milliseconds: a token issued further in the future is refused. */
export const SKEW_MS = 10_000;
/** Maximum length of a token, in characters. */
const MAX_LENGTH = 4096;
const VERSION = 1;

const id = z.string().min(1).max(200);
const epoch = z.int().nonnegative();
const tokenSchema = z.object({
  v: z.literal(VERSION),
  jti: id,
  iat: z.number().positive(),
  exp: z.number().positive(),
  sha: z.string().length(43),
  hop: z.unknown(),
});
const forwardSchema = z.object({
  target: id,
  from: id,
  sessionId: id.nullable(),
  epoch: epoch.nullable(),
  turnId: id,
  mode: z.enum(['run', 'resolve']),
  attempt: z.int().nonnegative().default(0),
  requestId: id,
  trace: z
    .string()
    .regex(/^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/)
    .optional(),
});
const claimedSchema = z.object({
  target: id,
  from: id,
  sessionId: id,
  epoch,
  news: z.enum(['claimed', 'close']).default('claimed'),
});
const viewSchema = z.object({ target: id, from: id });

interface Kind<T extends { target: string }> {
  /** Value of the header's `typ`. It prevents a token of one kind from being accepted as another kind. */
  typ: string;
  schema: z.ZodType<T>;
}
const forwardKind: Kind<ForwardClaims> = { typ: 'holdfast-hop+jwt', schema: forwardSchema };
const claimedKind: Kind<ClaimedNotice> = { typ: 'holdfast-claimed+jwt', schema: claimedSchema };
const viewKind: Kind<ViewAsked> = { typ: 'holdfast-view+jwt', schema: viewSchema };

const digest = (body: Buffer) => createHash('sha256').update(body).digest();

/**
 * Creates the issuer and verifier of forwarding tokens. HS256 with a purpose-specific key; bound to target, session, epoch and
 * the exact bytes sent, which contain caller and request. Single use: a receiver keeps every token in a replay cache
 * until it has expired.
 */
export function createForwardTokens({ secrets, clock, remembered = 100_000 }: ForwardTokensOptions): ForwardTokens {
  const means = { keys: keysFor('hop', secrets), clock, replayCache: createReplayCache(remembered) };
  const admit = (token: string, me: string) => admitted(means, forwardKind, token, me);
  return {
    ...createSealer(secrets),
    issue: (claims, body) => issued(means, forwardKind, claims, body),
    admit,
    verify: (token, body, me) => admit(token, me)(body),
    issueClaimed: (notice, body) => issued(means, claimedKind, notice, body),
    admitClaimed: (token, me) => admitted(means, claimedKind, token, me),
    issueView: (asked, body) => issued(means, viewKind, asked, body),
    admitView: (token, me) => admitted(means, viewKind, token, me),
  };
}

interface Means {
  keys: PurposeKeys;
  clock: Pick<Clock, 'wall'>;
  replayCache: ReplayCache;
}

function issued<T extends { target: string }>({ keys, clock }: Means, kind: Kind<T>, claims: T, body: Buffer): string {
  const now = clock.wall();
  const payload = {
    v: VERSION,
    jti: randomUUID(),
    iat: now / 1000,
    exp: (now + LIFE_MS) / 1000,
    sha: digest(body).toString('base64url'),
    hop: kind.schema.parse(claims),
  };
  const { kid, key } = keys.signing;
  return jwt.sign(payload, key, { algorithm: 'HS256', header: { alg: 'HS256', typ: kind.typ, kid } });
}

function admitted<T extends { target: string }>(
  { keys, clock, replayCache }: Means,
  kind: Kind<T>,
  token: string,
  me: string,
): (body: Buffer) => T {
  if (token === '') throw new ForwardRefused('missing');
  const header = headerOf(token);
  if (header?.typ !== kind.typ) throw new ForwardRefused('not_a_hop');
  const key = typeof header.kid === 'string' ? keys.find(header.kid) : undefined;
  if (!key) throw new ForwardRefused('unknown_key');
  const parsed = tokenSchema.safeParse(signedPayload(token, key));
  if (!parsed.success) throw new ForwardRefused('claims');
  const claims = kind.schema.safeParse(parsed.data.hop);
  if (!claims.success) throw new ForwardRefused('claims');
  const { jti, iat, exp, sha } = parsed.data;
  const expiresAt = Math.min(exp * 1000, iat * 1000 + LIFE_MS);
  const inTime = () => {
    if (clock.wall() >= expiresAt) throw new ForwardRefused('expired');
  };
  inTime();
  if (iat * 1000 > clock.wall() + SKEW_MS) throw new ForwardRefused('from_the_future');
  if (claims.data.target !== me) throw new ForwardRefused('wrong_target');

  return (body) => {
    inTime();
    const named = Buffer.from(sha, 'base64url');
    const own = digest(body);
    if (named.length !== own.length || !timingSafeEqual(named, own)) throw new ForwardRefused('altered');
    const use = replayCache.use(jti, expiresAt, clock.wall());
    if (use !== 'first') throw new ForwardRefused(use === 'again' ? 'replayed' : 'too_many');
    return claims.data;
  };
}

function headerOf(token: string): jwt.JwtHeader | undefined {
  if (token.length > MAX_LENGTH) return undefined;
  try {
    return jwt.decode(token, { complete: true })?.header;
  } catch {
    return undefined;
  }
}

function signedPayload(token: string, key: PurposeKeys['signing']['key']): unknown {
  try {
    return jwt.verify(token, key, { algorithms: ['HS256'], ignoreExpiration: true, ignoreNotBefore: true });
  } catch {
    throw new ForwardRefused('signature');
  }
}

/**
 * Returns whether a client's header is forwarded: headers that identify a turn, and all headers that a setting could
 * send upstream, because the serving worker applies its own settings. Headers of the connection and internal ones are
 * not forwarded, so that a client cannot forge them. Credentials are sealed separately.
 *
 * @param name in lower case
 */
export const travels = (name: string): boolean =>
  name === TURN_STATE_HEADER || name === IDEMPOTENCY_HEADER || isForwardable(name);

/** Placeholder for a credential that was replaced by the shared upstream key: only its presence matters. */
const WITHHELD = 'withheld';

const envelopeSchema = z
  .object({
    /** 2: `upstream` is set. A version that does not know that member must not serve the request at another upstream. */
    v: z.literal([1, 2]),
    requestId: z.string(),
    scope: z.string(),
    credentialFp: z.string(),
    credentialIsClients: z.boolean(),
    /** Sealed `authorization` value; null if none is sent upstream. */
    authorization: z.string().nullable(),
    credentialGiven: z.boolean(),
    /** Sealed keys from separate key headers, by header name. */
    keys: z.record(z.string(), z.string()).default({}),
    /** Upstream that the embedding application has chosen. Its address is sealed: it may contain a secret. */
    upstream: z
      .object({
        id: z.string(),
        address: z.string(),
        forwardHeaders: z.array(z.string()),
        lanes: z.int().nonnegative().optional(),
      })
      .optional(),
    headers: z.record(z.string(), z.string()),
    bytes: z.int().nonnegative(),
    /** Time since the request was read, in milliseconds. */
    age: z.number().nonnegative(),
    clientTransport: z.literal('websocket').optional(),
  })
  .refine(({ v, upstream }) => (v === 2) === (upstream !== undefined));

/** Error for a forwarded request that this version cannot read. The message contains no part of it. */
export class UnreadableEnvelope extends Error {
  override readonly name = 'UnreadableEnvelope';
}

/**
 * Packs a request into the text of one JSON object. Its `body` member is the request's own text, so that the other
 * worker gets exactly what this one got. Workers that parse the whole object read the same request.
 *
 * @param now this worker's monotonic milliseconds
 */
export function packRequest(request: TurnRequest, now: number, sealer: Pick<Sealer, 'seal'>): string {
  const { caller, headers } = request;
  const kept = Object.entries(headers).filter(([name]) => travels(name.toLowerCase()));
  const keys = Object.entries(caller.upstreamKeys ?? {}).map(([name, key]) => [name, sealer.seal(key)]);
  const { target } = caller;
  const envelope: z.infer<typeof envelopeSchema> = {
    v: target ? 2 : 1,
    requestId: request.requestId,
    scope: caller.scope,
    credentialFp: caller.credentialFp,
    credentialIsClients: caller.credentialIsClients,
    authorization: caller.upstreamAuthorization === null ? null : sealer.seal(caller.upstreamAuthorization),
    credentialGiven: headers.authorization !== undefined,
    keys: Object.fromEntries(keys),
    ...(target && {
      upstream: {
        id: target.id,
        address: sealer.seal(target.baseUrl),
        forwardHeaders: [...(target.forwardHeaders ?? [])],
        lanes: target.lanes || undefined,
      },
    }),
    headers: Object.fromEntries(kept),
    bytes: request.bytes,
    age: Math.max(0, now - request.receivedAt),
    clientTransport: request.clientTransport,
  };
  return withMembers(JSON.stringify(envelope), new Map([['body', String(request.text).trim()]]));
}

/**
 * Unpacks a forwarded request, with its times converted to this worker's clock.
 *
 * @param read the parsed envelope, or the error of one that could not be parsed
 * @param now this worker's monotonic milliseconds
 * @throws UnreadableEnvelope if the envelope or a sealed credential cannot be read
 */
export function unpackRequest(read: Read | BridgeError, now: number, sealer: Pick<Sealer, 'open'>): TurnRequest {
  const parsed = read instanceof BridgeError ? null : envelopeSchema.safeParse(jsonOf(read.envelope));
  if (read instanceof BridgeError || !parsed?.success) {
    throw new UnreadableEnvelope('The forwarded request cannot be read.');
  }
  const { scope, credentialFp, credentialIsClients, credentialGiven, ...envelope } = parsed.data;
  const upstreamAuthorization = envelope.authorization === null ? null : sealer.open(envelope.authorization);
  if (envelope.authorization !== null && upstreamAuthorization === null) {
    throw new UnreadableEnvelope('The forwarded credential cannot be opened.');
  }
  const keys = keyHeaders.flatMap((name) => {
    const sealed = envelope.keys[name];
    if (sealed === undefined) return [];
    const key = sealer.open(sealed);
    if (key === null) throw new UnreadableEnvelope('The forwarded credential cannot be opened.');
    return [[name, key]];
  });
  const { upstream } = envelope;
  const baseUrl = upstream ? sealer.open(upstream.address) : null;
  if (upstream && baseUrl === null) throw new UnreadableEnvelope('The forwarded upstream cannot be opened.');
  const authorization = credentialIsClients ? upstreamAuthorization : WITHHELD;
  const headers = Object.entries(envelope.headers).filter(([name]) => travels(name.toLowerCase()));
  return {
    ...read.request,
    requestId: envelope.requestId,
    caller: {
      scope,
      credentialFp,
      credentialIsClients,
      upstreamAuthorization,
      ...(keys.length > 0 ? { upstreamKeys: Object.fromEntries(keys) } : {}),
      ...(upstream && {
        target: {
          id: upstream.id,
          baseUrl: baseUrl!,
          forwardHeaders: upstream.forwardHeaders,
          ...(upstream.lanes !== undefined && { lanes: upstream.lanes }),
        },
      }),
    },
    headers: {
      ...Object.fromEntries(headers),
      ...(credentialGiven && authorization !== null ? { authorization } : {}),
    },
    bytes: envelope.bytes,
    receivedAt: now - envelope.age,
    clientTransport: envelope.clientTransport,
  };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Replay cache: used ids, each kept until a token with that id has expired. */
interface ReplayCache {
  /**
   * Marks an id as used.
   *
   * @param untilMs expiry of the id, in wall-clock milliseconds
   * @param nowMs current wall-clock milliseconds
   * @returns `again` for an id that was used before; `full` if the cache has no room, so that nothing more may be
   *   accepted
   */
  use(id: string, untilMs: number, nowMs: number): 'first' | 'again' | 'full';
}

/**
 * Creates a replay cache.
 *
 * @param capacity maximum number of ids; only holders of a secret can fill it
 */
function createReplayCache(capacity: number): ReplayCache {
  const until = new Map<string, number>();
  const forget = (nowMs: number, all: boolean) => {
    for (const [id, end] of until) {
      if (end <= nowMs) until.delete(id);
      else if (!all) return;
    }
  };
  return {
    use(id, untilMs, nowMs) {
      // Ids arrive roughly in the order of their expiry: checking the front is enough, unless the cache is full.
      forget(nowMs, until.size >= capacity);
      if (until.has(id)) return 'again';
      if (until.size >= capacity) return 'full';
      until.set(id, untilMs);
      return 'first';
    },
  };
}

/**
 * Keys derived from the installation's secrets for one purpose. They do not verify or open anything made for another
 * purpose.
 */
interface PurposeKeys {
  readonly signing: { kid: string; key: KeyObject };
  find(kid: string): KeyObject | undefined;
}

/** Derives one key per secret with HMAC-SHA-256 (the expand step of RFC 5869). */
export function keysFor(purpose: string, secrets: KeyRing): PurposeKeys {
  const made = new Map<string, KeyObject>();
  const find = (kid: string): KeyObject | undefined => {
    const key = made.get(kid);
    if (key) return key;
    const secret = secrets.find(kid)?.key;
    if (!secret) return undefined;
    const derived = createSecretKey(createHmac('sha256', secret).update(`holdfast-${purpose}\u0001`).digest());
    made.set(kid, derived);
    return derived;
  };
  const { kid } = secrets.signing;
  return { signing: { kid, key: find(kid)! }, find };
}

/** Encrypts text so that only workers of this installation can read it. */
export interface Sealer {
  seal(text: string): string;
  /** Returns the text, or null if it was not sealed by this installation or was altered. */
  open(sealed: string): string | null;
}

const IV_BYTES = 12;
const TAG_BYTES = 16;

/** Creates the sealer (AES-256-GCM). It protects credentials in case another program has taken over a peer's port. */
export function createSealer(secrets: KeyRing): Sealer {
  const keys = keysFor('credential', secrets);
  return {
    seal(text) {
      const iv = randomBytes(IV_BYTES);
      const cipher = createCipheriv('aes-256-gcm', keys.signing.key, iv);
      const data = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
      return `${keys.signing.kid}:${Buffer.concat([iv, cipher.getAuthTag(), data]).toString('base64url')}`;
    },
    open(sealed) {
      const at = sealed.indexOf(':');
      const key = keys.find(sealed.slice(0, Math.max(0, at)));
      const bytes = Buffer.from(sealed.slice(at + 1), 'base64url');
      if (!key || bytes.length < IV_BYTES + TAG_BYTES) return null;
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, IV_BYTES), {
          authTagLength: TAG_BYTES,
        });
        decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES));
        const data = decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES));
        return Buffer.concat([data, decipher.final()]).toString('utf8');
      } catch {
        return null;
      }
    },
  };
}
