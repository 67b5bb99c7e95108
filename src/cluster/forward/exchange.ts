import type { Dispatcher } from 'undici';
import type { Clock } from '../../clock.ts';
import type { ForwardResult } from '../../session/peers.ts';
import type { ClientSink } from '../../session/port.ts';
import { applyLine, decodeLine, type Line } from './lines.ts';
import { REFUSED_HEADER, TURN_PATH } from './paths.ts';
import { afterPendingIo } from './pending-io.ts';
import { createSplitter } from './splitter.ts';

export interface ExchangeOptions {
  dispatcher: Dispatcher;
  origin: string;
  headers: Record<string, string>;
  body: Buffer;
  sink: ClientSink;
  clock: Clock;
  deadlines: { forwardConnect: number; forwardAccepted: number; forwardSilence: number };
  /** Longest line taken from the peer, bytes. */
  maxLineBytes: number;
  /** Called once, when the peer says that it took the request. */
  onAccepted?: (() => void) | undefined;
  debug(fields: object, message: string): void;
}

/** A body takes time to arrive and to be read: 32 MiB get a second more than the knob says. */
const BYTES_PER_MS = 32_768;

/** Runs one hop: sends the request and carries the peer's lines out on the client's sink. Never rejects. */
export function runExchange(options: ExchangeOptions): Promise<ForwardResult> {
  const { dispatcher, origin, headers, body, sink, clock, deadlines, debug } = options;
  const { promise, resolve } = Promise.withResolvers<ForwardResult>();
  const splitter = createSplitter(options.maxLineBytes);
  let controller: Dispatcher.DispatchController | null = null;
  let state: 'connecting' | 'sent' | 'accepted' | 'ended' = 'connecting';
  let complete = false;
  let refused = false;
  let paused = false;
  let heardAt = 0;
  let stopTimer = () => {};

  const end = (result: ForwardResult, why: string) => {
    if (state === 'ended') return;
    state = 'ended';
    stopTimer();
    if (result.kind !== 'served') debug({ result: result.kind, why }, 'a hop ended');
    resolve(result);
    // An answer that is being read to its end keeps its connection; everything else would only hold the peer up.
    const answered = result.kind === 'served' || result.kind === 'not_owner' || refused;
    if (answered) controller?.resume();
    else if (!complete) controller?.abort(new Error(why));
  };
  const lost = (why: string) => {
    if (state === 'accepted') end({ kind: 'broken' }, why);
    else end({ kind: 'unreachable', sent: state === 'sent' && !refused }, why);
  };
  /** What waits in our own sockets is read before the peer is given up. */
  const within = (ms: number, phase: typeof state, why: string) => {
    stopTimer();
    stopTimer = clock.after(ms, () => afterPendingIo(() => state === phase && lost(why)));
  };
  const watchSilence = (ms: number) => {
    stopTimer();
    if (paused) return;
    stopTimer = clock.after(ms, () => {
      afterPendingIo(() => {
        if (state !== 'accepted' || paused) return;
        const left = heardAt + deadlines.forwardSilence - clock.now();
        if (left > 0) watchSilence(left);
        else lost('no sign of life');
      });
    });
  };
  const heard = () => {
    heardAt = clock.now();
  };
  const take = (line: Line | null) => {
    if (line === null || state === 'ended') return;
    if (line.t === 'accepted' && state === 'sent') {
      state = 'accepted';
      watchSilence(deadlines.forwardSilence);
      options.onAccepted?.();
      return;
    }
    if (state !== 'accepted') return lost(`${line.t} before it was accepted`);
    if (line.t === 'not_owner') return end({ kind: 'not_owner' }, 'said so');
    const after = applyLine(line, sink);
    if (after === 'ended') end({ kind: 'served' }, 'answered');
    else if (after === 'full' && !paused) {
      paused = true;
      stopTimer();
      controller?.pause();
    }
  };

  sink.onGone(() => end({ kind: 'client_gone' }, 'the client left'));
  sink.onDrain(() => {
    if (!paused) return;
    paused = false;
    if (state !== 'accepted') return;
    heard();
    controller?.resume();
    watchSilence(deadlines.forwardSilence);
  });
  if (!sink.attached) end({ kind: 'client_gone' }, 'the client left');
  if ((state as string) === 'ended') return promise;

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(given) {
      controller = given;
      // Given up while connecting: not a byte may leave any more.
      if (state !== 'connecting') return given.abort(new Error('not wanted any more'));
      state = 'sent';
      within(deadlines.forwardAccepted + Math.ceil(body.length / BYTES_PER_MS), 'sent', 'not accepted in time');
    },
    onResponseStart(_given, status, received) {
      if (status < 200 || status === 200) return;
      refused = received[REFUSED_HEADER] !== undefined;
      lost(`answered ${status}`);
    },
    onResponseData(_given, chunk) {
      if (state === 'ended') return;
      heard();
      try {
        for (const line of splitter.push(chunk)) take(decodeLine(line));
      } catch (error) {
        lost(`a line that is none: ${(error as Error).name}`);
      }
    },
    onResponseEnd() {
      complete = true;
      lost('ended without an answer');
    },
    onResponseError(_given, error) {
      complete = true;
      lost(String((error as { code?: unknown }).code ?? error.name));
    },
  };

  within(deadlines.forwardConnect, 'connecting', 'not connected in time');
  try {
    dispatcher.dispatch(
      { origin, path: TURN_PATH, method: 'POST', headers, body, headersTimeout: 0, bodyTimeout: 0 },
      handler,
    );
  } catch (error) {
    complete = true;
    lost((error as Error).name);
  }
  return promise;
}
