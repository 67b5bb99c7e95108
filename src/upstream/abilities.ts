import type { Clock } from '../system.ts';

/** Time without WebSocket after an upstream refused it explicitly, in milliseconds. */
const CERTAIN_MS = 600_000;
/** The same after a failure that may be transient. Doubled with each consecutive one, up to `CERTAIN_MS`. */
const DOUBT_MS = 60_000;
/**
 * Consecutive failures that count as an outage where WebSocket has worked before. The time without it then starts at
 * `OUTAGE_MS` and is doubled likewise.
 */
const OUTAGE = 3;
const OUTAGE_MS = 15_000;
/** Time for which a failure counts before an answer over HTTP has confirmed it, in milliseconds. */
const SUSPECTED_MS = 30_000;
/**
 * Time for which a learned limit holds, in milliseconds. Limits are configuration: a release of the upstream may change
 * them.
 */
const LIMIT_MS = 3_600_000;
/** Most entries remembered per map; the one noted longest ago is dropped first. */
const MOST = 4_096;

/** Upstream and credential that a turn would use. */
export interface Peer {
  targetId: string;
  credentialFp: string;
}

/**
 * Reason why a turn leaves WebSocket. `certain`: the upstream refused it explicitly. `doubtful`: a handshake or a first
 * turn failed for an unknown reason.
 */
export type Doubt = 'certain' | 'doubtful';

/**
 * Learned limitations of upstreams. Consulted when a connection is dialled and when a frame is sent, never when a request
 * is placed: a working socket stays in use, whatever happened to another credential.
 */
export interface Abilities {
  /** A turn may leave WebSocket on its own. With transport `websocket` every failure is final. */
  readonly fallsBack: boolean;
  /** Returns whether WebSocket is currently considered unavailable at that peer. */
  withoutWebSocket(peer: Peer): boolean;
  /**
   * Records a failed handshake. Where WebSocket has worked before, a failure affects only its turn, and the third in a row
   * makes the peer suspect. The answer over HTTP then decides, through `confirm` or `acquit`.
   */
  suspect(peer: Peer, doubt: Doubt): void;
  /** Records that HTTP answered where WebSocket had failed. */
  confirm(peer: Peer): void;
  /** Records that HTTP failed as well, which proves nothing about WebSocket. */
  acquit(peer: Peer): void;
  /** Records that a WebSocket delivered a frame from there. */
  works(peer: Peer): void;
  /**
   * Records that a WebSocket was accepted and ended before it delivered a frame. The second time in a row makes the peer
   * suspect, the third where WebSocket has worked before. If it has never worked and `mute` is true, the first time is
   * enough: gateways accept upgrades that they cannot pass on.
   *
   * @param mute no close frame came or one of an internal error, or no frame had been sent that it could have answered
   */
  dropped(peer: Peer, mute: boolean): void;
  /** Records the size in bytes of a frame that the upstream closed with 1009. */
  tooLarge(targetId: string, bytes: number): void;
  /** Returns whether a frame of that size in bytes is known to be refused. */
  isTooLarge(targetId: string, bytes: number): boolean;
  /** Records that the upstream refuses the parameter `previous_response_id`. */
  refusesAnchors(peer: Peer): void;
  /** Returns false while the upstream is known to refuse `previous_response_id`. */
  takesAnchors(peer: Peer): boolean;
}

interface Failure {
  until: number;
  confirmed: boolean;
  /** Duration once it is confirmed, in milliseconds. */
  confirmedMs: number;
}

/** Map that drops its oldest entry when full, so that credentials invented by clients cost no memory. */
class Bounded<V> extends Map<string, V> {
  override set(key: string, value: V): this {
    this.delete(key);
    super.set(key, value);
    if (this.size > MOST) this.delete(this.keys().next().value!);
    return this;
  }
}

/**
 * Creates the record of learned limitations.
 *
 * @param fallsBack true with transport `auto`
 * @param anchored false if no upstream takes anchors
 */
export function createAbilities(fallsBack: boolean, clock: Pick<Clock, 'now'>, anchored = true): Abilities {
  const failures = new Bounded<Failure>();
  const sockets = new Bounded<{ worked: boolean; drops: number }>();
  const anchors = new Bounded<number>();
  const sizes = new Bounded<{ bytes: number; until: number }>();
  const key = ({ targetId, credentialFp }: Peer) => `${credentialFp} ${targetId}`;

  /**
   * Counts one more consecutive failure.
   *
   * @returns whether the failure says something about the peer, beyond this attempt
   */
  const counts = (peer: Peer, certain: boolean): boolean => {
    const { worked, drops } = sockets.get(key(peer)) ?? { worked: false, drops: 0 };
    sockets.set(key(peer), { worked, drops: drops + 1 });
    return worked ? drops + 1 >= OUTAGE : drops > 0 || certain;
  };

  const note = (peer: Peer, doubt: Doubt) => {
    const first = sockets.get(key(peer))?.worked ? OUTAGE_MS : DOUBT_MS;
    const before = failures.get(key(peer))?.confirmedMs ?? first / 2;
    const confirmedMs = doubt === 'certain' ? CERTAIN_MS : Math.min(CERTAIN_MS, before * 2);
    failures.set(key(peer), { until: clock.now() + SUSPECTED_MS, confirmed: false, confirmedMs });
  };

  return {
    fallsBack,
    suspect(peer, doubt) {
      if (counts(peer, true)) note(peer, doubt);
    },
    withoutWebSocket: (peer) => fallsBack && (failures.get(key(peer))?.until ?? Number.NEGATIVE_INFINITY) > clock.now(),
    confirm(peer) {
      const failure = failures.get(key(peer));
      // Only once: a failure that every turn over HTTP prolonged would never be probed again.
      if (!failure || failure.confirmed) return;
      failure.confirmed = true;
      failure.until = clock.now() + failure.confirmedMs;
    },
    acquit(peer) {
      if (failures.get(key(peer))?.confirmed === false) failures.delete(key(peer));
    },
    works(peer) {
      failures.delete(key(peer));
      sockets.set(key(peer), { worked: true, drops: 0 });
    },
    dropped(peer, mute) {
      if (counts(peer, mute)) note(peer, 'doubtful');
    },
    tooLarge(targetId, bytes) {
      const known = sizes.get(targetId);
      const smallest = known && known.until > clock.now() ? Math.min(known.bytes, bytes) : bytes;
      sizes.set(targetId, { bytes: smallest, until: clock.now() + LIMIT_MS });
    },
    isTooLarge(targetId, bytes) {
      const known = sizes.get(targetId);
      return known !== undefined && known.until > clock.now() && bytes >= known.bytes;
    },
    refusesAnchors: (peer) => anchors.set(key(peer), clock.now() + LIMIT_MS),
    takesAnchors: (peer) => anchored && (anchors.get(key(peer)) ?? Number.NEGATIVE_INFINITY) <= clock.now(),
  };
}
