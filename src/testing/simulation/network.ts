import type { Agenda } from './agenda.ts';
import type { Process } from './process.ts';
import type { Random } from './seeded.ts';

/** One side of a connection. */
export interface End {
  /** Neither side has closed it, as far as this side knows. */
  readonly open: boolean;
  /** Runs at the other side, in order, unless the connection is lost first. */
  post(label: string, act: () => void): void;
  /** Orderly: what was posted before still arrives. */
  close(): void;
  /** Torn down: what is under way is lost, in both directions. */
  reset(): void;
  /** Called once when the other side has closed or is gone; never for an own close. */
  onClosed(listener: (reset: boolean) => void): void;
}

/** Where code runs: a process, or (null) the world outside, which never fails. */
export type Place = Process | null;

export interface Network {
  /** A connection with a latency of its own. */
  connect(a: Place, b: Place, random: Random): [End, End];
  /** Runs something at a place after a while, unless that place is gone. */
  at(place: Place, ms: number, label: string, act: () => void): void;
  /** What is posted between the two waits until then; null heals it. */
  hold(a: Place, b: Place, until: number | null): void;
  /** Milliseconds a message between the two waits now. */
  held(a: Place, b: Place): number;
}

interface Side {
  place: Place;
  open: boolean;
  /** When the last of what was posted from here arrives. */
  arrives: number;
  listener: ((reset: boolean) => void) | null;
  /** Told before anybody listened. */
  closed: boolean | null;
}

export function createNetwork(agenda: Agenda): Network {
  const holds = new Map<string, number>();
  const pair = (a: Place, b: Place) => [a?.name ?? '-', b?.name ?? '-'].sort().join('|');

  const at = (place: Place, ms: number, label: string, act: () => void) => {
    if (place === null) agenda.add(agenda.now + ms, label, act);
    else place.deliver(ms, label, act);
  };
  const held = (a: Place, b: Place) => Math.max(0, (holds.get(pair(a, b)) ?? 0) - agenda.now);

  function connect(a: Place, b: Place, random: Random): [End, End] {
    const latency = random.between(0.1, 3);
    let lost = false;
    const side = (place: Place): Side => ({ place, open: true, arrives: 0, listener: null, closed: null });
    const sides: [Side, Side] = [side(a), side(b)];

    const tell = (to: Side, reset: boolean) => {
      if (!to.open) return;
      to.open = false;
      if (to.listener) to.listener(reset);
      else to.closed = reset;
    };
    /** Milliseconds until what leaves now has arrived, behind all that left before. */
    const way = (from: Side, to: Side) => {
      const arrival = agenda.now + held(from.place, to.place) + latency * (0.5 + random());
      from.arrives = Math.max(arrival, from.arrives + 1e-6);
      return from.arrives - agenda.now;
    };
    const end = (from: Side, to: Side): End => ({
      get open() {
        return from.open;
      },
      post(label, act) {
        if (!from.open) return;
        at(to.place, way(from, to), label, () => {
          if (to.open && !lost) act();
        });
      },
      close() {
        if (!from.open) return;
        from.open = false;
        at(to.place, way(from, to), 'close', () => tell(to, false));
      },
      reset() {
        if (!from.open) return;
        from.open = false;
        lost = true;
        at(to.place, latency, 'reset', () => tell(to, true));
      },
      onClosed(listener) {
        from.listener = listener;
        if (from.closed !== null) listener(from.closed);
      },
    });
    const [near, far] = sides;
    for (const [gone, left] of [
      [near, far],
      [far, near],
    ] as const) {
      gone.place?.onCrash(() => {
        if (!gone.open) return;
        gone.open = false;
        at(left.place, way(gone, left), 'gone', () => tell(left, true));
      });
    }
    return [end(near, far), end(far, near)];
  }

  return {
    connect,
    at,
    held,
    hold(a, b, until) {
      if (until === null) holds.delete(pair(a, b));
      else holds.set(pair(a, b), until);
    },
  };
}
