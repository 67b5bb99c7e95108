import { errorFrame, errorObject, signalHeaders, type Wire } from '../../../src/testing/simulator/events.ts';
import {
  type ChaosSource,
  createRules,
  type TurnFault,
  type UpgradeFault,
} from '../../../src/testing/simulator/faults.ts';
import { createJournal } from '../../../src/testing/simulator/journal.ts';
import { createProvider } from '../../../src/testing/simulator/provider.ts';
import { openTurn, type TurnHost } from '../../../src/testing/simulator/turn.ts';
import { requestOfFrame } from '../../../src/upstream/http.ts';
import type { DialRequest, DialResult, UpstreamConnection, UpstreamTransport } from '../../../src/upstream/port.ts';
import { UpstreamUnreachable } from '../../../src/upstream/port.ts';
import { FrameFlow } from '../../../src/upstream/streams.ts';
import type { Agenda } from './agenda.ts';
import type { Luck } from './luck.ts';
import { Planted } from './misfortunes.ts';
import type { End, Network } from './network.ts';
import type { Process } from './process.ts';
import { createPace, createSocketService, type Served } from './socket-service.ts';

/** In production such an error costs a connection; in the simulation it is a failure. */
const readerThrew = () => {
  throw new Error('the reader of a simulated connection threw');
};

/** A `response.create` frame sent by a worker. */
export interface Create {
  process: Process;
  body: Record<string, unknown>;
  /**
   * True when the provider can resolve the anchor: on this connection or from its own storage. Null without an anchor.
   */
  anchorKnown: boolean | null;
}

export interface SimulatedUpstream {
  /** Returns the transport of one process. */
  transport(process: Process): UpstreamTransport;
  /** Resets every connection. */
  dropAll(): void;
  /** Empties the response cache of every connection. */
  expireCaches(): void;
  /** While true, no connection is accepted. */
  down: boolean;
}

export interface UpstreamOptions {
  agenda: Agenda;
  network: Network;
  luck: Luck;
  faults: { turn: number; upgrade: number; hostile: number; throws: number };
  turnFaults: readonly TurnFault[];
  upgradeFaults: readonly UpgradeFault[];
  onCreate(create: Create): void;
}

/** Creates the simulator's provider and model on the simulated network, without real sockets. */
export function createSimulatedUpstream(options: UpstreamOptions): SimulatedUpstream {
  const { agenda, network, luck } = options;
  const served = new Set<Served>();
  const struck = <T extends { kind: string }>(faults: readonly T[], what: string, nth: number, rate: number) => {
    const name = `${what} ${nth}`;
    const fault = luck.random(`upstream ${name}`).pick(faults);
    return luck.strikes(`upstream ${fault.kind}`, name, rate) ? fault : null;
  };
  const chaos: ChaosSource = {
    handle: { seed: luck.seed, injected: [], stop: () => {} },
    forTurn: (nth) =>
      struck(options.turnFaults, 'turn', nth, options.faults.turn) ??
      (luck.strikes('upstream hostile items', `turn ${nth}`, options.faults.hostile)
        ? { kind: 'hostile_items' }
        : null),
    forUpgrade: (nth) => struck(options.upgradeFaults, 'upgrade', nth, options.faults.upgrade),
  };
  const host: TurnHost = {
    options: {
      reasoning: true,
      deltaCount: 2,
      journalBodies: false,
      dialects: { listed: 0.1, empty: 0.1, ids: 0.1 },
    },
    provider: createProvider(luck.seed),
    rules: createRules([]),
    journal: createJournal(1_000),
    chaos: () => chaos,
  };
  let connections = 0;
  const nextId = () => ++connections;
  let upgrades = 0;

  let chances = 0;
  /** Makes an effect throw in the worker, with the planned probability. */
  const mayThrow = (what: string) => {
    if (luck.strikes('an effect throws', `${what} ${++chances}`, options.faults.throws)) throw new Planted(what);
  };

  const pace = createPace(agenda);
  const serve = createSocketService({ host, served, luck, pace, nextId });

  function transport(process: Process): UpstreamTransport {
    const told = (frame: string, held: (anchor: string) => boolean, credential: string) => {
      const body = JSON.parse(frame) as Record<string, unknown>;
      const anchor = typeof body.previous_response_id === 'string' ? body.previous_response_id : null;
      const anchorKnown =
        anchor === null ? null : held(anchor) || host.provider.stored(credential, anchor) !== undefined;
      options.onCreate({ process, body, anchorKnown });
    };

    function connectionOf(end: End, flow: FrameFlow, take: (text: string) => void) {
      let closing = false;
      end.onClosed((reset) => flow.close(reset ? 1006 : 1000, 'gone'));
      const connection: UpstreamConnection = {
        kind: 'websocket',
        get open() {
          return !closing && end.open;
        },
        attach: (reader) => flow.attach(reader),
        send(frame) {
          if (closing || !end.open) return false;
          mayThrow('a frame that is sent');
          take(frame);
          return true;
        },
        pause: () => flow.pause(),
        resume: () => flow.resume(),
        close() {
          if (closing) return;
          closing = true;
          flow.mute();
          end.close();
          process.deliver(1, 'socket closed', () => flow.close(1000, ''));
          mayThrow('a connection that is closed');
        },
      };
      return connection;
    }

    async function dial(request: DialRequest): Promise<DialResult> {
      const upgrade = ++upgrades;
      mayThrow('a dial');
      const random = luck.random(`upgrade ${upgrade}`);
      const credential = request.headers.authorization ?? '';
      const { promise, resolve } = Promise.withResolvers<DialResult>();
      let settled = false;
      const settle = (result: DialResult) => {
        if (settled) return;
        settled = true;
        stop();
        resolve(result);
      };
      const stop = process.clock.after(request.timeoutMs, () => settle({ kind: 'failed', reason: 'timeout' }));
      const fault = options.upgradeFaults.length > 0 ? chaos.forUpgrade(upgrade) : null;
      const failed = () =>
        process.deliver(random.between(1, 30), 'dial failed', () => settle({ kind: 'failed', reason: 'reset' }));
      if (fault?.kind === 'hang') return promise;
      if (upstream.down || fault?.kind === 'reset') {
        failed();
        return promise;
      }
      if (fault?.kind === 'refuse') {
        const { status } = fault;
        const body = Buffer.from(JSON.stringify({ error: errorObject({ status, message: 'refused' }) }));
        const answer = { status, headers: { 'content-type': 'application/json' }, body };
        process.deliver(random.between(1, 30), 'dial refused', () => settle({ kind: 'refused', answer }));
        return promise;
      }
      const [here, there] = network.connect(process, null, random);
      const flow = new FrameFlow({ hold: () => {}, broken: readerThrew });
      const server = serve(there, credential, (text) => flow.frame(text));
      const connection = connectionOf(here, flow, (frame) => {
        told(frame, server.holds, credential);
        here.post('create', () => server.take(frame));
      });
      process.deliver(random.between(1, random.chance(0.05) ? 2_000 : 20), 'dial opened', () => {
        if (settled) return here.close();
        settle({ kind: 'open', connection, headers: signalHeaders() });
      });
      if (fault?.kind === 'accept_then_close')
        agenda.add(agenda.now + random.between(5, 60), 'upstream closes', () => there.reset());
      return promise;
    }

    /** Performs `POST /responses` as a single exchange, open immediately and closed at the end of its answer. */
    function exchange(request: DialRequest): UpstreamConnection {
      const random = luck.random(`exchange ${nextId()}`);
      const credential = request.headers.authorization ?? '';
      const [here, there] = network.connect(process, null, random);
      const flow = new FrameFlow({ hold: () => {}, broken: readerThrew });
      const gone = new AbortController();
      let begun = false;
      there.onClosed(() => gone.abort());
      const frame = (value: unknown) => {
        begun = true;
        there.post('event', () => flow.frame(typeof value === 'string' ? value : JSON.stringify(value)));
      };
      const refuse = (status: number, body: unknown) => {
        begun = true;
        const answer = {
          status,
          headers: { 'content-type': 'application/json' },
          body: Buffer.from(JSON.stringify(body)),
        };
        there.post('refused', () => flow.refused(answer));
      };
      const wire: Wire = {
        transport: 'http',
        gone: gone.signal,
        send(event) {
          frame(event);
          return pace(random, 'upstream http event');
        },
        raw: frame,
        refuse: (error, shape, sequence) =>
          begun ? frame(errorFrame(error, shape, sequence)) : refuse(error.status, { error: errorObject(error) }),
        respond: (status, _headers, body) => refuse(status, body),
        close: () => there.close(),
        reset: () => there.reset(),
        finish: () => there.close(),
        next: () => new Promise(() => undefined),
      };
      const connection = connectionOf(here, flow, (text) => {
        told(text, () => false, credential);
        const body = JSON.parse(requestOfFrame(text, request.headers).body) as Record<string, unknown>;
        if (upstream.down) return there.reset();
        here.post('create', () => {
          const turn = openTurn(host, {
            wire,
            body,
            bytes: text.length,
            headers: {},
            credential,
            connection: null,
            nthOnConnection: 1,
            lane: null,
            cache: null,
            queuedBehind: 0,
          });
          void turn.run(() => {});
        });
      });
      return {
        ...connection,
        kind: 'http',
        get open() {
          return connection.open;
        },
      };
    }

    return {
      dial,
      exchange,
      call: async () => {
        throw new UpstreamUnreachable('not simulated', { kind: 'other' });
      },
      shutdown: async () => {},
    };
  }

  const upstream: SimulatedUpstream = {
    transport,
    down: false,
    dropAll() {
      for (const { end } of [...served]) end.reset();
    },
    expireCaches() {
      for (const { cache } of served) cache.clear();
    },
  };
  return upstream;
}
