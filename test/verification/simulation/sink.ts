import type { BridgeError } from '../../../src/errors.ts';
import type { AnswerHead, ClientSink } from '../../../src/session/port.ts';
import type { UpstreamAnswer } from '../../../src/upstream/port.ts';
import type { End } from './network.ts';
import type { Process } from './process.ts';

/** Receiver of everything that a client is sent, in order. */
export interface ClientEars {
  head(head: AnswerHead): void;
  event(type: string, json: string): void;
  end(type: string, json: string): void;
  fail(error: BridgeError, committed: boolean): void;
  relay(answer: UpstreamAnswer, committed: boolean): void;
}

/** Creates the worker's end of a client connection. Behaves like the sinks in `src/http`. */
export function createSimulatedSink(options: {
  process: Process;
  end: End;
  streaming: boolean;
  ears: ClientEars;
  /** Called when an end is sent after another one. */
  onSecondEnd(): void;
}): ClientSink {
  const { process, end, streaming, ears } = options;
  let state: 'open' | 'delivered' | 'gone' = 'open';
  let head: AnswerHead | null = null;
  let ended = false;
  let opened = false;
  let shown = false;
  const gone: (() => void)[] = [];
  const delivered: (() => void)[] = [];

  const settle = (how: 'delivered' | 'gone') => {
    if (state !== 'open') return;
    state = how;
    for (const listener of how === 'gone' ? gone : delivered) listener();
  };
  end.onClosed(() => settle('gone'));
  const attached = () => state === 'open' && end.open;
  const open = () => {
    if (opened || !attached() || !streaming) return;
    opened = true;
    const said = head;
    if (said) end.post('head', () => ears.head(said));
  };
  const finish = (say: () => void) => {
    if (ended) return options.onSecondEnd();
    ended = true;
    if (!attached()) return;
    const said = head;
    if (!opened && said) end.post('head', () => ears.head(said));
    end.post('end', say);
    shown ||= streaming && opened;
    process.deliver(0.2, 'delivered', () => {
      settle('delivered');
      end.close();
    });
  };

  return {
    head(given) {
      head = given;
    },
    event(type, json, telemetry) {
      if (ended || !attached() || !streaming) return true;
      if (!telemetry) {
        open();
        shown = true;
      }
      end.post('event', () => ears.event(type, json));
      return true;
    },
    open,
    end: (type, json) => finish(() => ears.end(type, json)),
    fail(error) {
      const committed = opened;
      finish(() => ears.fail(error, committed));
    },
    relay(answer) {
      const committed = opened;
      finish(() => ears.relay(answer, committed));
    },
    cut() {
      ended = true;
      if (attached()) end.reset();
      process.deliver(0.2, 'cut', () => settle('gone'));
    },
    get attached() {
      return attached();
    },
    get shown() {
      return shown;
    },
    get committed() {
      return ended || opened;
    },
    onGone: (listener) => void (state === 'gone' ? listener() : gone.push(listener)),
    onDelivered: (listener) => void (state === 'delivered' ? listener() : delivered.push(listener)),
    onDrain: () => {},
  };
}
