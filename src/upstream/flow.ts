import { reportFault } from '../faults.ts';
import type { ConnectionHandlers, Unreachable, UpstreamAnswer } from './port.ts';

type Step =
  | { kind: 'frame'; text: string }
  | { kind: 'refused'; answer: UpstreamAnswer }
  | { kind: 'closed'; info: { code: number; reason: string; unreachable?: Unreachable } };

/** Receiving side of a connection: order, backpressure and the single `closed` event, the same for every transport. */
export interface FrameFlow {
  readonly held: boolean;
  attach(handlers: ConnectionHandlers): void;
  frame(text: string): void;
  refused(answer: UpstreamAnswer): void;
  /** Reports the end of the connection. Later calls have no effect. */
  close(code: number, reason: string, unreachable?: Unreachable): void;
  pause(): void;
  resume(): void;
  /** Discards all further frames, including waiting ones. `closed` is still delivered. */
  mute(): void;
}

export interface FrameFlowOptions {
  /** Stops or resumes reading from the network. Frames already read wait in the flow. */
  hold(held: boolean): void;
  /** Returns the `error` frame for a refusal, used when the reader has no handler for refusals. */
  refusalFrame(answer: UpstreamAnswer): string;
  /** Ends the connection after the reader threw. The reader gets nothing more except `closed`. */
  broken(): void;
}

/** Creates a flow, held until a reader attaches. */
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

  /** Never throws: an exception of the reader ends this one connection, like its loss. */
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
    // Fast path of nearly every frame.
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
