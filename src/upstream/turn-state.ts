/**
 * Provider's own turn state, learned from a handshake header or a `response.metadata` frame.
 *
 * It belongs to one turn of the client and is sent back only within that turn: in the `client_metadata` of later frames, or
 * as a header over HTTP. It is never shown to a client as the bridge's token, and the bridge's token is never sent in its
 * place.
 */
export interface UpstreamTurnState {
  /**
   * Stores a value. The first value of a turn wins; one that is too long to send back is ignored.
   *
   * @param turnId null for a request without a turn id
   */
  learn(turnId: string | null, value: string): void;
  /** Returns the value to send back in that turn; null when there is none, or the stored value is another turn's. */
  for(turnId: string | null): string | null;
}

/**
 * Longest stored value, in characters. A longer one would be repeated in each frame of its turn, and no header of this size
 * is accepted.
 */
const LONGEST_VALUE = 16_384;

/** Turn id of a warm-up. The first real turn inherits its value. */
const WARM_UP = '';

/** Creates the turn state of one session. Its turns run one after the other, so a single value is stored. */
export function createUpstreamTurnState(): UpstreamTurnState {
  let held: { turnId: string; value: string } | null = null;

  const enter = (turnId: string | null): string | null => {
    if (turnId === null || held === null) held = null;
    else if (held.turnId === WARM_UP) held = { turnId, value: held.value };
    else if (held.turnId !== turnId) held = null;
    return held?.value ?? null;
  };

  return {
    learn(turnId, value) {
      // Without a turn id every request is a turn of its own, so its value could never be sent back.
      if (value.length > LONGEST_VALUE) return;
      if (enter(turnId) === null && turnId !== null) held = { turnId, value };
    },
    for: enter,
  };
}
