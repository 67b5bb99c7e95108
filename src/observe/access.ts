import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { BridgeError } from '../errors.ts';

/** Says who may look inside: throws the error that anybody else shall see. */
export type AccessRule = (req: {
  headers: IncomingHttpHeaders;
  socket: { remoteAddress?: string | undefined };
}) => void;

const loopbackName = /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i;
const loopbackAddress = /^(::1|(::ffff:)?127(\.\d{1,3}){3})$/i;
const digest = (text: string) => createHash('sha256').update(text).digest();

/**
 * With an admin token: its bearer. Without one: whoever comes from the loopback address, asked for it by a loopback
 * name, and was not sent on by a proxy; a foreign name that was made to point here comes with that name in `Host`.
 * The rule throws `bridge_unauthorized`.
 */
export function createOperatorAccess(adminToken: string | null): AccessRule {
  const expected = adminToken === null ? null : digest(adminToken);
  return ({ headers, socket }) => {
    if (expected) {
      const bearer = /^Bearer\s+(\S+)\s*$/i.exec(headers.authorization ?? '')?.[1];
      if (bearer !== undefined && timingSafeEqual(digest(bearer), expected)) return;
    } else if (
      loopbackAddress.test(socket.remoteAddress ?? '') &&
      loopbackName.test(headers.host ?? '') &&
      headers.forwarded === undefined &&
      headers['x-forwarded-for'] === undefined
    ) {
      return;
    }
    throw new BridgeError('bridge_unauthorized');
  };
}

/**
 * Whether a WebSocket may be opened from where the request comes from. Browsers name the page in `Origin` and let any
 * page connect anywhere, so a page must be of this very host. Programs that are no browsers send no `Origin`.
 */
export function isSameOrigin({ origin, host }: IncomingHttpHeaders): boolean {
  if (origin === undefined) return true;
  return host !== undefined && URL.canParse(origin) && new URL(origin).host === host.toLowerCase();
}
