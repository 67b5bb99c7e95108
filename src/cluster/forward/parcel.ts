import { z } from 'zod';
import { BridgeError } from '../../errors.ts';
import type { Read } from '../../intake/read.ts';
import { withMembers } from '../../json.ts';
import type { TurnRequest } from '../../session/port.ts';
import { isForwardable, keyHeaders } from '../../upstream/headers.ts';
import type { Sealer } from './keys.ts';

/**
 * Whether a header of a client travels: those that identify a turn, and all that a setting could send upstream, because
 * the worker that serves the turn applies its own. Neither the connection's headers nor the bridge's internal ones do,
 * so that a client cannot plant them; credentials travel sealed.
 *
 * @param name in lower case
 */
export const travels = (name: string): boolean =>
  name === 'x-codex-turn-state' || name === 'idempotency-key' || isForwardable(name);

/** Stands for a credential that was replaced by the shared upstream key: that there was one matters, not which. */
const WITHHELD = 'withheld';

const parcelSchema = z.object({
  v: z.literal(1),
  requestId: z.string(),
  scope: z.string(),
  credentialFp: z.string(),
  credentialIsClients: z.boolean(),
  /** Sealed; null when nothing is sent upstream. */
  authorization: z.string().nullable(),
  credentialGiven: z.boolean(),
  /** Keys in headers of their own, by name, each sealed. */
  keys: z.record(z.string(), z.string()).default({}),
  headers: z.record(z.string(), z.string()),
  bytes: z.int().nonnegative(),
  /** Milliseconds since the request was read. */
  age: z.number().nonnegative(),
});

/** What was sent is not a request this version can read. The message holds nothing of it. */
export class UnreadableParcel extends Error {
  override readonly name = 'UnreadableParcel';
}

/**
 * A request as the text of one JSON object whose `body` is the request's own text, so that the other worker has what this
 * one got. Workers that parse the whole of it read the same request.
 */
export function packRequest(request: TurnRequest, now: number, sealer: Pick<Sealer, 'seal'>): string {
  const { caller, headers } = request;
  const kept = Object.entries(headers).filter(([name]) => travels(name.toLowerCase()));
  const keys = Object.entries(caller.upstreamKeys ?? {}).map(([name, key]) => [name, sealer.seal(key)]);
  const parcel: z.infer<typeof parcelSchema> = {
    v: 1,
    requestId: request.requestId,
    scope: caller.scope,
    credentialFp: caller.credentialFp,
    credentialIsClients: caller.credentialIsClients,
    authorization: caller.upstreamAuthorization === null ? null : sealer.seal(caller.upstreamAuthorization),
    credentialGiven: headers.authorization !== undefined,
    keys: Object.fromEntries(keys),
    headers: Object.fromEntries(kept),
    bytes: request.bytes,
    age: Math.max(0, now - request.receivedAt),
  };
  return withMembers(JSON.stringify(parcel), new Map([['body', request.text.trim()]]));
}

/**
 * The request again, its times on this worker's clock. Throws `UnreadableParcel`.
 *
 * @param read the parcel as it was read, or the error of one that could not be
 * @param now this worker's monotonic milliseconds
 */
export function unpackRequest(read: Read | BridgeError, now: number, sealer: Pick<Sealer, 'open'>): TurnRequest {
  const parsed = read instanceof BridgeError ? null : parcelSchema.safeParse(jsonOf(read.envelope));
  if (read instanceof BridgeError || !parsed?.success) {
    throw new UnreadableParcel('The forwarded request cannot be read.');
  }
  const { scope, credentialFp, credentialIsClients, credentialGiven, ...parcel } = parsed.data;
  const upstreamAuthorization = parcel.authorization === null ? null : sealer.open(parcel.authorization);
  if (parcel.authorization !== null && upstreamAuthorization === null) {
    throw new UnreadableParcel('The forwarded credential cannot be opened.');
  }
  const keys = keyHeaders.flatMap((name) => {
    const sealed = parcel.keys[name];
    if (sealed === undefined) return [];
    const key = sealer.open(sealed);
    if (key === null) throw new UnreadableParcel('The forwarded credential cannot be opened.');
    return [[name, key]];
  });
  const authorization = credentialIsClients ? upstreamAuthorization : WITHHELD;
  const headers = Object.entries(parcel.headers).filter(([name]) => travels(name.toLowerCase()));
  return {
    ...read.request,
    requestId: parcel.requestId,
    caller: {
      scope,
      credentialFp,
      credentialIsClients,
      upstreamAuthorization,
      ...(keys.length > 0 ? { upstreamKeys: Object.fromEntries(keys) } : {}),
    },
    headers: {
      ...Object.fromEntries(headers),
      ...(credentialGiven && authorization !== null ? { authorization } : {}),
    },
    bytes: parcel.bytes,
    receivedAt: now - parcel.age,
  };
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
