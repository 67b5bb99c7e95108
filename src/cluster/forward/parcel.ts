import { z } from 'zod';
import { BridgeError } from '../../errors.ts';
import type { Read } from '../../intake/read.ts';
import { withMembers } from '../../json.ts';
import type { TurnRequest } from '../../session/port.ts';
import { isForwardable, keyHeaders } from '../../upstream/headers.ts';
import type { Sealer } from './keys.ts';

/**
 * Returns whether a client's header is forwarded: headers that identify a turn, and all headers that a setting could
 * send upstream, because the serving worker applies its own settings. Headers of the connection and internal ones are
 * not forwarded, so that a client cannot forge them. Credentials are sealed separately.
 *
 * @param name in lower case
 */
export const travels = (name: string): boolean =>
  name === 'x-codex-turn-state' || name === 'idempotency-key' || isForwardable(name);

/** Placeholder for a credential that was replaced by the shared upstream key: only its presence matters. */
const WITHHELD = 'withheld';

const parcelSchema = z.object({
  v: z.literal(1),
  requestId: z.string(),
  scope: z.string(),
  credentialFp: z.string(),
  credentialIsClients: z.boolean(),
  /** Sealed `authorization` value; null if none is sent upstream. */
  authorization: z.string().nullable(),
  credentialGiven: z.boolean(),
  /** Sealed keys from separate key headers, by header name. */
  keys: z.record(z.string(), z.string()).default({}),
  headers: z.record(z.string(), z.string()),
  bytes: z.int().nonnegative(),
  /** Time since the request was read, in milliseconds. */
  age: z.number().nonnegative(),
});

/** Error for a forwarded request that this version cannot read. The message contains no part of it. */
export class UnreadableParcel extends Error {
  override readonly name = 'UnreadableParcel';
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
 * Unpacks a forwarded request, with its times converted to this worker's clock.
 *
 * @param read the parsed parcel, or the error of one that could not be parsed
 * @param now this worker's monotonic milliseconds
 * @throws UnreadableParcel if the parcel or a sealed credential cannot be read
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
