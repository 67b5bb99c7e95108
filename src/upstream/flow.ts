import { reportFault } from '../faults.ts';
import type { ConnectionHandlers, Unreachable, UpstreamAnswer } from './port.ts';

type Step =
  | { kind: 'frame'; text: string }
  | { kind: 'refused'; answer: UpstreamAnswer }
  | { kind: 'closed'; info: { code: number; reason: string; unreachable?: Unreachable } };

/** The receiving side of a connection: order, backpressure and the single `closed`, the same for every transport. */
export interface FrameFlow {
  readonly held: boolean;
  attach(handlers: ConnectionHandlers): void;
  frame(text: string): void;
  refused(answer: UpstreamAnswer): void;
  /** The connection is gone. Later calls change nothing. */
  close(code: number, reason: string, unreachable?: Unreachable): void;
  pause(): void;
  resume(): void;
  /** Frames are of no interest any more, waiting ones included; `closed` will still be told. */
  mute(): void;
}

export interface FrameFlowOptions {
  /** Stop or go on reading from the network. Frames that were already read wait here. */
  hold(held: boolean): void;
  /** The `error` frame that stands for a refusal when the reader has no handler for one. */
  refusalFrame(answer: UpstreamAnswer): string;
  /** The reader threw: end the connection. It is given nothing more but `closed`. */
  broken(): void;
}

/** A flow, held until a reader attaches. */
export function createFrameFlow(options: FrameFlowOptions): FrameFlow {
  let handlers: ConnectionHandlers | null = null;
  let paused = false;
  let muted = false;
  let ended = false;
  let draining = false;
  let held = true;
  let waiting: Step[] = [];

  const hand = (reader: ConnectionHandlers, step: Step) => {
    if (step.kind === 'frame') {
      if (!muted) reader.frame(step.text);
    } else if (step.kind === 'refused') {
      if (muted) return;
      if (reader.refused) reader.refused(step.answer);
      else reader.frame(options.refusalFrame(step.answer));
    } else {
      reader.closed(step.info);
    }
  };

  /** Never throws: what a reader throws ends this one connection, as the loss of it would. */
  const give = (reader: ConnectionHandlers, step: Step) => {
    try {
      hand(reader, step);
    } catch (error) {
      reportFault(error, 'upstream reader');
      if (step.kind === 'closed') return;
      muted = true;
      options.broken();
    }
  };

  const drain = () => {
    if (draining || !handlers) return;
    draining = true;
    let next = 0;
    while (next < waiting.length && (!paused || muted)) give(handlers, waiting[next++]!);
    draining = false;
    waiting = waiting.slice(next);
  };

  const settle = () => {
    drain();
    const hold = !muted && (handlers === null || paused || waiting.length > 0);
    if (hold === held) return;
    held = hold;
    options.hold(hold);
  };

  const arrive = (step: Step) => {
    if (ended) return;
    // The way nearly every frame takes.
    if (handlers && !paused && !draining && waiting.length === 0) return give(handlers, step);
    waiting.push(step);
    settle();
  };

  return {
    get held() {
      return held;
    },
    attach(reader) {
      handlers = reader;
      settle();
    },
    frame(text) {
      if (!muted) arrive({ kind: 'frame', text });
    },
    refused: (answer) => arrive({ kind: 'refused', answer }),
    close(code, reason, unreachable) {
      arrive({ kind: 'closed', info: { code, reason, ...(unreachable && { unreachable }) } });
      ended = true;
    },
    pause() {
      paused = true;
      settle();
    },
    resume() {
      paused = false;
      settle();
    },
    mute() {
      muted = true;
      settle();
    },
  };
}
