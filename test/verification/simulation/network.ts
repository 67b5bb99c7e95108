import type { Random } from '../../support/random.ts';
import type { Agenda } from './agenda.ts';
import type { Process } from './process.ts';

/** One end of a connection. */
export interface End {
  /** True while the connection is open, as far as this end knows. */
  readonly open: boolean;
  /** Runs `act` at the other end, in order, unless the connection is lost before. */
  post(label: string, act: () => void): void;
  /** Closes in order: what was posted before still arrives. */
  close(): void;
  /** Resets the connection: everything in flight is lost in both directions. */
  reset(): void;
  /** Registers a listener that is called once when the other end has closed or failed, never after an own close. */
  onClosed(listener: (reset: boolean) => void): void;
}

/** Place where code runs: a process, or (null) the outside world, which never fails. */
export type Place = Process | null;

export interface Network {
  /** Connects two places, with a random latency. */
  connect(a: Place, b: Place, random: Random): [End, End];
  /** Runs a function at a place after `ms` milliseconds, unless the place has crashed. */
  at(place: Place, ms: number, label: string, act: () => void): void;
  /** Delays everything posted between two places until a time; null ends the delay. */
  hold(a: Place, b: Place, until: number | null): void;
  /** Returns the current delay of messages between two places, in milliseconds. */
  held(a: Place, b: Place): number;
}

interface Side {
  place: Place;
  open: boolean;
  /** Arrival time of the last message posted from here. */
  arrives: number;
  listener: ((reset: boolean) => void) | null;
  /** Close notification that arrived before a listener was registered. */
  closed: boolean | null;
}

/** Creates a network on the simulation's agenda. */
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
    /** Returns the milliseconds until a message sent now arrives, behind all earlier ones. */
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
