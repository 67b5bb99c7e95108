import { createHash, randomUUID, timingSafeEqual } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import type { Clock } from '../../clock.ts';
import type { KeyRing } from '../../token/keyring.ts';
import { createSealer, keysFor, type PurposeKeys, type Sealer } from './keys.ts';
import { createSpent, type Spent } from './spent.ts';

/** Claims of a hop: one request sent by the worker that holds the client to the worker that owns the session. */
export interface Hop {
  /** Worker that serves the request. */
  target: string;
  /** Worker that holds the client. */
  from: string;
  sessionId: string | null;
  epoch: number | null;
  /** Assigned by the sender, so that it can find out whether a turn was started by a hop that broke. */
  turnId: string;
  /** `run`: serve it at that session and epoch or not at all. `resolve`: place it like a request from a client. */
  mode: 'run' | 'resolve';
  /**
   * Number of earlier hops of this turn, to any worker. A hop above 0 resumes what an earlier one may have begun at the
   * target.
   */
  attempt: number;
  requestId: string;
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
export interface ViewAsked {
  target: string;
  from: string;
}

export type HopRefusal =
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
export class HopRefused extends Error {
  override readonly name = 'HopRefused';
  readonly reason: HopRefusal;

  constructor(reason: HopRefusal) {
    super(`The hop is refused: ${reason}.`);
    this.reason = reason;
  }
}

export interface Hops extends Sealer {
  /** Issues a token that allows the target worker to serve exactly these bytes once, within 10 s. */
  issue(hop: Hop, body: Buffer): string;
  /**
   * Verifies a token and marks it as used.
   *
   * @param me id of this worker, which must be the target
   * @throws HopRefused with the reason
   */
  verify(token: string, body: Buffer, me: string): Hop;
  /**
   * Verifies a token in two steps: first everything that does not need the body, then, in the returned function, the
   * rest.
   *
   * @throws HopRefused with the reason, in both steps
   */
  admit(token: string, me: string): (body: Buffer) => Hop;
  issueClaimed(notice: ClaimedNotice, body: Buffer): string;
  admitClaimed(token: string, me: string): (body: Buffer) => ClaimedNotice;
  issueView(asked: ViewAsked, body: Buffer): string;
  admitView(token: string, me: string): (body: Buffer) => ViewAsked;
}

export interface HopsOptions {
  secrets: KeyRing;
  clock: Pick<Clock, 'wall'>;
  /** Capacity of the replay cache in tokens; when it is full, hops are refused. Default 100,000. */
  remembered?: number;
}

/** Lifetime of a token, in milliseconds. */
const LIFE_MS = 10_000;
/** Maximum clock skew between two workers, in milliseconds: a token issued further in the future is refused. */
const SKEW_MS = 10_000;
/** Maximum length of a token, in characters. */
const MAX_LENGTH = 4096;
const VERSION = 1;

const id = z.string().min(1).max(200);
const epoch = z.int().nonnegative();
const envelope = z.object({
  v: z.literal(VERSION),
  jti: id,
  iat: z.number().positive(),
  exp: z.number().positive(),
  sha: z.string().length(43),
  hop: z.unknown(),
});
const hopSchema = z.object({
  target: id,
  from: id,
  sessionId: id.nullable(),
  epoch: epoch.nullable(),
  turnId: id,
  mode: z.enum(['run', 'resolve']),
  attempt: z.int().nonnegative().default(0),
  requestId: id,
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
const hopKind: Kind<Hop> = { typ: 'holdfast-hop+jwt', schema: hopSchema };
const claimedKind: Kind<ClaimedNotice> = { typ: 'holdfast-claimed+jwt', schema: claimedSchema };
const viewKind: Kind<ViewAsked> = { typ: 'holdfast-view+jwt', schema: viewSchema };

const digest = (body: Buffer) => createHash('sha256').update(body).digest();

/**
 * Creates the issuer and verifier of hop tokens. HS256 with a purpose-specific key; bound to target, session, epoch and
 * the exact bytes sent, which contain caller and request. Single use: a receiver keeps every token in a replay cache
 * until it has expired.
 */
export function createHops({ secrets, clock, remembered = 100_000 }: HopsOptions): Hops {
  const means = { keys: keysFor('hop', secrets), clock, spent: createSpent(remembered) };
  const admit = (token: string, me: string) => admitted(means, hopKind, token, me);
  return {
    ...createSealer(secrets),
    issue: (hop, body) => issued(means, hopKind, hop, body),
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
  spent: Spent;
}

function issued<T extends { target: string }>({ keys, clock }: Means, kind: Kind<T>, hop: T, body: Buffer): string {
  const now = clock.wall();
  const claims = {
    v: VERSION,
    jti: randomUUID(),
    iat: now / 1000,
    exp: (now + LIFE_MS) / 1000,
    sha: digest(body).toString('base64url'),
    hop: kind.schema.parse(hop),
  };
  const { kid, key } = keys.signing;
  return jwt.sign(claims, key, { algorithm: 'HS256', header: { alg: 'HS256', typ: kind.typ, kid } });
}

function admitted<T extends { target: string }>(
  { keys, clock, spent }: Means,
  kind: Kind<T>,
  token: string,
  me: string,
): (body: Buffer) => T {
  if (token === '') throw new HopRefused('missing');
  const header = headerOf(token);
  if (header?.typ !== kind.typ) throw new HopRefused('not_a_hop');
  const key = typeof header.kid === 'string' ? keys.find(header.kid) : undefined;
  if (!key) throw new HopRefused('unknown_key');
  const parsed = envelope.safeParse(signedPayload(token, key));
  if (!parsed.success) throw new HopRefused('claims');
  const hop = kind.schema.safeParse(parsed.data.hop);
  if (!hop.success) throw new HopRefused('claims');
  const { jti, iat, exp, sha } = parsed.data;
  const expiresAt = Math.min(exp * 1000, iat * 1000 + LIFE_MS);
  const inTime = () => {
    if (clock.wall() >= expiresAt) throw new HopRefused('expired');
  };
  inTime();
  if (iat * 1000 > clock.wall() + SKEW_MS) throw new HopRefused('from_the_future');
  if (hop.data.target !== me) throw new HopRefused('wrong_target');

  return (body) => {
    inTime();
    const named = Buffer.from(sha, 'base64url');
    const own = digest(body);
    if (named.length !== own.length || !timingSafeEqual(named, own)) throw new HopRefused('altered');
    const use = spent.spend(jti, expiresAt, clock.wall());
    if (use !== 'first') throw new HopRefused(use === 'again' ? 'replayed' : 'too_many');
    return hop.data;
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
    throw new HopRefused('signature');
  }
}
