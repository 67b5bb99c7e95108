import { MOST_LEVELS } from '../json.ts';

/**
 * Deepest nesting accepted from a provider. A provider repeats parts of a request a few levels deeper than they were sent.
 */
export const MOST_FRAME_LEVELS = MOST_LEVELS + 16;

/** Limits of one transport on data from a peer, and on the time to wait for it. */
export interface TransportLimits {
  /** Longest incoming message, event or JSON answer, bytes; a longer one ends the connection with 1009. */
  maxIncomingBytes: number;
  /** Time for the peer to answer a close frame, in milliseconds. */
  closeTimeoutMs: number;
  /** Most bytes read of a refusal's body. */
  refusalBytes: number;
  /** Time for a refusal's body after its status line, in milliseconds. */
  refusalTimeoutMs: number;
  /** Silence before TCP keepalive probes start, in milliseconds. */
  tcpKeepAliveMs: number;
}
