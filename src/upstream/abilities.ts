import type { Clock } from '../clock.ts';

/** How long an upstream that says itself that it speaks no WebSocket is believed, milliseconds. */
const CERTAIN_MS = 600_000;
/** The same after a failure that may pass, doubled with each one in a row up to `CERTAIN_MS`. */
const DOUBT_MS = 60_000;
/** Where WebSocket has worked, so many failures in a row are an outage. It is believed for this long, and doubled too. */
const OUTAGE = 3;
const OUTAGE_MS = 15_000;
/** How long a failure counts before any answer over HTTP has confirmed it. */
const SUSPECTED_MS = 30_000;
/** Limits that an upstream enforces are configuration: they change with a release of it. */
const LIMIT_MS = 3_600_000;
/** Credentials remembered; the one that was noted first is forgotten first. */
const MOST = 4_096;

/** Where a turn would go, and under whose name. */
export interface Peer {
  targetId: string;
  credentialFp: string;
}

/** Why a turn leaves WebSocket: the upstream said so, or a handshake or a first turn failed for a reason unknown. */
export type Doubt = 'certain' | 'doubtful';

/**
 * What upstreams have turned out to be unable to do. Consulted when a connection is dialled and when a frame is sent,
 * never when a request is placed: a socket that works stays in use, whatever happened to another credential.
 */
export interface Abilities {
  /** Whether a turn may leave WebSocket by itself; with transport `websocket` every failure is final. */
  readonly fallsBack: boolean;
  /** A dial to that peer would be in vain, as far as is known. */
  withoutWebSocket(peer: Peer): boolean;
  /**
   * A handshake failed there. Where WebSocket has worked a failure concerns only its turn, and three in a row are suspect.
   * Then the answer over HTTP decides, through `confirm` or `acquit`.
   */
  suspect(peer: Peer, doubt: Doubt): void;
  /** HTTP answered where WebSocket had failed. */
  confirm(peer: Peer): void;
  /** HTTP failed as well: nothing was learned about WebSocket. */
  acquit(peer: Peer): void;
  /** A WebSocket brought a frame from there. */
  works(peer: Peer): void;
  /**
   * A WebSocket was accepted there and ended before it brought a frame. That is suspect the second time in a row, the third where WebSocket has worked, and at
   * once where none has ever worked if nothing at all was said: gateways accept upgrades that they cannot pass on.
   *
   * @param mute neither a close frame came, nor was there any frame of ours that it could have been the answer to
   */
  dropped(peer: Peer, mute: boolean): void;
  /** Bytes of a frame that the upstream closed with 1009. */
  tooLarge(targetId: string, bytes: number): void;
  /** Whether a frame of that size is known to be refused. */
  isTooLarge(targetId: string, bytes: number): boolean;
  /** The upstream refuses `previous_response_id` as a parameter. */
  refusesAnchors(peer: Peer): void;
  takesAnchors(peer: Peer): boolean;
}

interface Failure {
  until: number;
  confirmed: boolean;
  /** What a confirmation makes of it, milliseconds. */
  confirmedMs: number;
}

/** A map that forgets its oldest entry, so that credentials made up by clients cost no memory. */
function bounded<V>() {
  const entries = new Map<string, V>();
  return {
    get: (key: string) => entries.get(key),
    delete: (key: string) => entries.delete(key),
    set(key: string, value: V) {
      entries.delete(key);
      entries.set(key, value);
      if (entries.size > MOST) entries.delete(entries.keys().next().value!);
    },
  };
}

/** @param fallsBack transport `auto` */
export function createAbilities(fallsBack: boolean, clock: Pick<Clock, 'now'>): Abilities {
  const failures = bounded<Failure>();
  const sockets = bounded<{ worked: boolean; drops: number }>();
  const anchors = bounded<number>();
  const sizes = bounded<{ bytes: number; until: number }>();
  const key = ({ targetId, credentialFp }: Peer) => `${credentialFp} ${targetId}`;

  /** One failure more in a row; whether it says something of the peer, and not only of this attempt. */
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
      // Once only: what every turn over HTTP prolonged would never be probed again.
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
    takesAnchors: (peer) => (anchors.get(key(peer)) ?? Number.NEGATIVE_INFINITY) <= clock.now(),
  };
}
