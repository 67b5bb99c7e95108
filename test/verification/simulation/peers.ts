import { packRequest, unpackRequest } from '../../../src/cluster/forward/envelope.ts';
import {
  applyMessage,
  decodeMessage,
  encodeMessage,
  type ForwardMessage,
  failMessage,
  headMessage,
  served,
} from '../../../src/cluster/forward/protocol.ts';
import type { ForwardSink } from '../../../src/cluster/forward/receiver.ts';
import type { Forwarder } from '../../../src/cluster/forward/sender.ts';
import type { Config } from '../../../src/config.ts';
import { readSource } from '../../../src/intake/read.ts';
import type { ForwardResult } from '../../../src/session/forwarding.ts';
import type { PeerService } from '../../../src/worker.ts';
import type { Agenda } from './agenda.ts';
import type { Luck } from './luck.ts';
import type { End, Network } from './network.ts';
import type { Process } from './process.ts';

/** A worker as its peers reach it. */
export interface Peer {
  process: Process;
  service: PeerService;
  deadlines: Config['deadlines'];
}

export interface PeersOptions {
  agenda: Agenda;
  network: Network;
  luck: Luck;
  /** Returns the worker that listens at a URL, or null when none does any more. */
  at(url: string): Peer | null;
  /** Probability that an accepted hop breaks. */
  broken: number;
}

const PING_MS = 2_000;
/** Identity cipher: simulated workers need no encryption. */
const plain = { seal: (text: string) => text, open: (text: string) => text };

/** Creates the owner's end of a hop: like the production sink, but over a simulated connection. */
function hopSink(
  { process, deadlines }: Peer,
  end: End,
  streaming: boolean,
  say: (line: ForwardMessage) => void,
): ForwardSink {
  let state: 'open' | 'delivered' | 'gone' = 'open';
  let ended: 'terminal' | 'not_owner' | null = null;
  let shown = false;
  let stopPing = () => {};
  const gone: (() => void)[] = [];
  const delivered: (() => void)[] = [];
  const settle = (how: 'delivered' | 'gone') => {
    if (state !== 'open') return;
    state = how;
    stopPing();
    for (const listener of how === 'gone' ? gone : delivered) listener();
  };
  end.onClosed(() => settle('gone'));
  const open = () => state === 'open' && end.open;
  const write = (line: ForwardMessage) => {
    if (open()) say(line);
    return true;
  };
  const finish = (how: 'terminal' | 'not_owner', line: () => ForwardMessage) => {
    if (ended) return;
    ended = how;
    stopPing();
    if (!open()) return;
    write(line());
    process.deliver(0.2, 'hop delivered', () => {
      settle('delivered');
      end.close();
    });
  };
  const ping = () => {
    stopPing = process.clock.after(Math.min(PING_MS, deadlines.forwardSilence / 3), () => {
      if (ended || !open()) return;
      write({ t: 'ping' });
      ping();
    });
  };
  write({ t: 'accepted' });
  ping();
  return {
    head: (head) => void (ended ?? write(headMessage(head))),
    event(type, json, telemetry) {
      if (ended || !open()) return true;
      shown ||= streaming && !telemetry;
      return write({ t: 'event', type, telemetry, json });
    },
    open: () => void (ended ?? write({ t: 'open' })),
    end: (type, json) => {
      shown ||= !ended && streaming && open();
      finish('terminal', () => ({ t: 'end', type, json }));
    },
    fail: (error) => finish('terminal', () => failMessage(error)),
    relay: ({ status, headers, body }) =>
      finish('terminal', () => ({ t: 'relay', status, headers, body: body.toString('base64') })),
    cut: () => finish('terminal', () => ({ t: 'cut' })),
    notOwner: () => finish('not_owner', () => ({ t: 'not_owner' })),
    get attached() {
      return open();
    },
    get shown() {
      return shown;
    },
    get committed() {
      return ended !== null;
    },
    onGone: (listener) => void (state === 'gone' ? listener() : gone.push(listener)),
    onDelivered(listener) {
      const told = () => ended === 'terminal' && listener();
      if (state === 'delivered') told();
      else delivered.push(told);
    },
    onDrain: () => {},
  };
}

/**
 * Creates the sending side of one process's hops, with the rules of the production exchange over simulated connections.
 */
export function createSimulatedForwarder(
  options: PeersOptions,
  process: Process,
  workerId: () => string,
  deadlines: Config['deadlines'],
): Forwarder {
  const { network, luck } = options;
  const { clock } = process;
  let hops = 0;

  return {
    forward(peer, hop, request, sink, { patience, signal, onAccepted }) {
      const name = `hop ${process.name} ${++hops}`;
      const random = luck.random(name);
      const { promise, resolve } = Promise.withResolvers<ForwardResult>();
      let state: 'connecting' | 'sent' | 'accepted' | 'ended' = 'connecting';
      let end: End | null = null;
      let stopTimer = () => {};
      const finish = (result: ForwardResult) => {
        if (state === 'ended') return;
        state = 'ended';
        stopTimer();
        resolve(result);
        end?.reset();
      };
      const lost = (again = true) =>
        finish(
          state === 'accepted' ? { kind: 'broken', again } : { kind: 'unreachable', sent: state === 'sent', again },
        );
      let heard = 0;
      const watch = (ms: number) => {
        stopTimer();
        stopTimer = clock.after(ms, () => void look());
      };
      const look = async () => {
        const [phase, at] = [state, heard];
        const standing = await patience.ask().catch(() => 'slow' as const);
        if (state === 'ended' || state !== phase || heard !== at) return;
        if (standing === 'slow') watch(deadlines.ownerPoll);
        else lost(false);
      };
      const take = (text: string) => {
        if (state === 'ended') return;
        const line = decodeMessage(Buffer.from(text));
        heard += 1;
        patience.heard();
        if (state === 'accepted') watch(deadlines.forwardSilence);
        if (line === null) return;
        if (line.t === 'accepted') {
          state = 'accepted';
          watch(deadlines.forwardSilence);
          return onAccepted?.();
        }
        if (line.t === 'not_owner') return finish({ kind: 'not_owner' });
        if (applyMessage(line, sink) === 'ended') finish(served(line));
      };

      if (!sink.attached) return Promise.resolve({ kind: 'client_gone' });
      sink.onGone(() => finish({ kind: 'client_gone' }));
      signal?.addEventListener('abort', () => finish({ kind: 'client_gone' }), { once: true });
      watch(deadlines.forwardConnect);
      const target = options.at(peer.url);
      const body = packRequest(request, clock.now(), plain);
      const way = network.held(process, target?.process ?? null) + random.between(0.2, 3);
      process.deliver(way, 'hop connects', () => {
        if (state !== 'connecting') return;
        // No process listens at this address any more.
        if (!target?.process.alive) return lost(false);
        const [here, there] = network.connect(process, target.process, random);
        end = here;
        here.onClosed(() => lost());
        state = 'sent';
        watch(deadlines.forwardAccepted);
        const breaks = luck.strikes('hop broken', name, options.broken);
        here.post('hop', () => {
          // The hop was signed for another worker: a restarted process at this address must not accept it.
          if (target.service.workerId() !== peer.workerId) {
            there.post('refusal', () => {
              if (state === 'sent') finish({ kind: 'unreachable', sent: false, again: false });
            });
            return;
          }
          const received = unpackRequest(readSource(body, 'envelope'), target.process.clock.now(), plain);
          const accepted = hopSink(target, there, received.body.stream === true, (line) => {
            const text = encodeMessage(line);
            there.post('line', () => take(text));
          });
          const { requestId } = received;
          target.service.serve({ ...hop, target: peer.workerId, from: workerId(), requestId }, received, accepted);
          if (breaks) target.process.deliver(random.between(1, 200), 'hop breaks', () => there.reset());
        });
      });
      return promise;
    },

    // The simulation makes no operator queries.
    view: async () => null,
    async claimed(peer, notice) {
      const target = options.at(peer.url);
      if (!target) return;
      const way = network.held(process, target.process) + 1;
      target.process.deliver(way, 'claimed', () => {
        if (target.service.workerId() === peer.workerId) target.service.claimed(notice);
      });
    },

    close: async () => {},
  };
}
