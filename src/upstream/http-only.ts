import type { Clock } from '../clock.ts';

/** How long an upstream that refused the upgrade is taken to speak HTTP only, milliseconds. */
const REMEMBERED_MS = 600_000;

/** Which upstreams have turned out to speak no WebSocket, and whether that may be worked around. */
export interface HttpOnlyMemory {
  /** With transport `auto` a refused upgrade falls back to HTTP; with `websocket` it is relayed. */
  readonly fallback: boolean;
  has(targetId: string): boolean;
  add(targetId: string): void;
}

/** @param transport the configured transport; `http` means no upgrade is ever tried */
export function createHttpOnlyMemory(transport: 'auto' | 'websocket' | 'http', clock: Clock): HttpOnlyMemory {
  const until = new Map<string, number>();
  return {
    fallback: transport === 'auto',
    has: (targetId) => transport === 'http' || (until.get(targetId) ?? Number.NEGATIVE_INFINITY) > clock.now(),
    add: (targetId) => until.set(targetId, clock.now() + REMEMBERED_MS),
  };
}
