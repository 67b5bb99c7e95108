import { MOST_LEVELS } from '../json.ts';

/** Deepest nesting of what a provider says. It repeats parts of a request some levels further down than they were sent. */
export const MOST_FRAME_LEVELS = MOST_LEVELS + 16;

/** What one transport takes from a peer, and how long it waits for it. */
export interface TransportLimits {
  /** Longest incoming message, event or JSON answer, bytes; a longer one ends the connection with 1009. */
  maxIncomingBytes: number;
  /** How long the peer may take to answer a close frame, ms. */
  closeTimeoutMs: number;
  /** Most that is read of a refusal's body, bytes. */
  refusalBytes: number;
  /** How long after its status line a refusal's body may take, ms. */
  refusalTimeoutMs: number;
  /** TCP keepalive probes start after this much silence, ms. */
  tcpKeepAliveMs: number;
}
