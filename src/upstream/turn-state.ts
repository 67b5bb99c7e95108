/**
 * The provider's own turn state, as learned from a handshake header or a `response.metadata` frame.
 *
 * It belongs to one turn of the client and goes back only within that turn: in the `client_metadata` of later frames,
 * or as a header over HTTP. It is never shown to a client as the bridge's token, and the bridge's token never goes
 * where this one does.
 */
export interface UpstreamTurnState {
  /**
   * Notes a value. The first one of a turn wins; one that is too long to go back counts as none.
   *
   * @param turnId null for a request without a turn id
   */
  learn(turnId: string | null, value: string): void;
  /** What to send back in that turn; null when there is nothing, or the value is another turn's. */
  for(turnId: string | null): string | null;
}

/** A longer value is not kept, characters: it would go into each frame of its turn, and no header of this size passes. */
const LONGEST_VALUE = 16_384;

/** A warm-up names its turn with the empty string; the first real turn takes its value over. */
const WARM_UP = '';

/** A holder for one session. Its turns run one after the other, so it keeps the value of one. */
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
      // Without a turn id every request is a turn of its own, and nothing of it can ever be asked for.
      if (value.length > LONGEST_VALUE) return;
      if (enter(turnId) === null && turnId !== null) held = { turnId, value };
    },
    for: enter,
  };
}
