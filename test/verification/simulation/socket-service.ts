import { errorFrame, Refusal, type Wire } from '../../../src/testing/simulator/events.ts';
import { type ConnectionCache, createConnectionCache } from '../../../src/testing/simulator/provider.ts';
import { openTurn, type TurnHost } from '../../../src/testing/simulator/turn.ts';
import { createLanes } from '../../../src/testing/simulator/websocket.ts';
import type { Random } from '../../support/random.ts';
import type { Agenda } from './agenda.ts';
import type { Luck } from './luck.ts';
import type { End } from './network.ts';

/** WebSocket that the provider currently serves. */
export interface Served {
  end: End;
  cache: ConnectionCache;
}

export interface SocketService {
  /**
   * Returns whether this connection ever held the anchor. The bridge cannot know what the provider has evicted since.
   */
  holds(anchor: string): boolean;
  /** Handles one `response.create` frame. */
  take(text: string): void;
}

type Pace = (random: Random, label: string) => void | Promise<void>;

/** Creates random delays between a turn's events, in which other events may happen. */
export const createPace =
  (agenda: Agenda): Pace =>
  (random, label) => {
    if (random.chance(0.5)) return;
    const ms = random.chance(0.05) ? random.between(100, 1_500) : random.between(0.1, 20);
    return new Promise<void>((go) => agenda.add(agenda.now + ms, label, go));
  };

export interface SocketServiceOptions {
  host: TurnHost;
  /** Set of the currently open connections. */
  served: Set<Served>;
  luck: Luck;
  pace: Pace;
  nextId(): number;
}

const tagged = (lane: string | null, frame: object) => (lane === null ? frame : { ...frame, stream_id: lane });

/** Creates the service of accepted WebSockets, which behaves like the simulator's service over real ones. */
export function createSocketService({ host, served, luck, pace, nextId }: SocketServiceOptions) {
  return (end: End, credential: string, give: (text: string) => void): SocketService => {
    const id = nextId();
    const random = luck.random(`connection ${id}`);
    const ever = new Set<string>();
    const made = createConnectionCache();
    const cache: ConnectionCache = {
      ...made,
      put(lane, record) {
        ever.add(record.id);
        made.put(lane, record);
      },
    };
    const lanes = createLanes();
    const gone = new AbortController();
    const waiting = { create: new Set<() => void>(), created: new Set<() => void>() };
    const entry: Served = { end, cache };
    let creates = 0;
    served.add(entry);
    end.onClosed(() => leave());
    const leave = () => {
      served.delete(entry);
      gone.abort();
      cache.clear();
    };
    const write = (frame: unknown) => {
      const text = typeof frame === 'string' ? frame : JSON.stringify(frame);
      end.post('frame', () => give(text));
    };
    const wake = (what: 'create' | 'created') => {
      const woken = [...waiting[what]];
      waiting[what].clear();
      for (const go of woken) go();
    };
    const wireOf = (lane: string | null): Wire => ({
      transport: 'websocket',
      gone: gone.signal,
      send(event) {
        write(tagged(lane, event));
        if (event.type === 'response.created') wake('created');
        return pace(random, `upstream ${id} event`);
      },
      raw: write,
      refuse: (error, shape, sequence) => write(tagged(lane, errorFrame(error, shape, sequence))),
      respond: (status, headers, body) => write(tagged(lane, { type: 'error', status, headers, ...(body as object) })),
      close() {
        end.close();
        leave();
      },
      reset() {
        end.reset();
        leave();
      },
      finish: () => undefined,
      next: (what) => new Promise((resolve) => void waiting[what].add(resolve)),
    });
    return {
      holds: (anchor: string) => ever.has(anchor),
      take(text: string) {
        const {
          type: _,
          stream_id: lane = null,
          ...body
        } = JSON.parse(text) as { stream_id?: string } & Record<string, unknown>;
        if (!lanes.admits(lane)) throw new Error('more lanes than a connection has');
        const intake = {
          wire: wireOf(lane),
          body,
          bytes: text.length,
          headers: {},
          credential,
          connection: id,
          nthOnConnection: ++creates,
          lane,
          cache,
          queuedBehind: lanes.waitingIn(lane),
        };
        try {
          if (body.background === true) throw new Error('background came over a WebSocket');
          const turn = openTurn(host, intake);
          lanes.push(lane, (free) => void turn.run(free));
          wake('create');
        } catch (error) {
          if (!(error instanceof Refusal)) throw error;
          write(errorFrame(error.error, 'nested', 0));
        }
      },
    };
  };
}
