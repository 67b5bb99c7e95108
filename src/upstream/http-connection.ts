import type { Dispatcher } from 'undici';
import type { Clock } from '../clock.ts';
import { httpAddress } from './address.ts';
import { type AnswerCollector, collectAnswer, flatHeaders, reasonOf } from './answer.ts';
import { refusalFrame } from './error-frame.ts';
import { createFrameFlow } from './flow.ts';
import { answerHeadFrame } from './frames.ts';
import { framesOfAnswer } from './json-answer.ts';
import type { TransportLimits } from './limits.ts';
import type { LiveConnections } from './live.ts';
import type { DialRequest, UpstreamConnection } from './port.ts';
import { createSseParser, type SseParser } from './sse.ts';

const TURN_STATE = 'x-codex-turn-state';

/**
 * A `response.create` frame as the request it stands for. `stream` is always true, except that a background request
 * says itself whether it wants one. The provider's turn state travels in a header here, not in `client_metadata`.
 */
export function requestOfFrame(
  frame: string,
  headers: Readonly<Record<string, string>>,
): { headers: Record<string, string>; body: string } {
  const { type: _type, ...body } = JSON.parse(frame) as Record<string, unknown>;
  body.stream = body.background === true ? body.stream === true : true;
  const sent: Record<string, string> = {
    ...headers,
    'content-type': 'application/json',
    accept: body.stream ? 'text/event-stream' : 'application/json',
  };
  const metadata = body.client_metadata;
  if (typeof metadata === 'object' && metadata !== null && TURN_STATE in metadata) {
    const { [TURN_STATE]: state, ...rest } = metadata as Record<string, unknown>;
    body.client_metadata = rest;
    if (typeof state === 'string' && state !== '') sent[TURN_STATE] = state;
  }
  return { headers: sent, body: JSON.stringify(body) };
}

/**
 * A connection whose single exchange is `POST {base}/responses`: open at once, lost at the end of its answer.
 *
 * An event stream is given out event by event; a JSON answer as the frames a stream would have had. An answer other
 * than 2xx goes whole to the reader's `refused` handler, or else arrives as an `error` frame. A turn state in the
 * answer's headers arrives first, as a `response.metadata` frame, then the headers that concern the client. `closed` says 1000 when the answer ended as HTTP
 * wants it and 1006 when it was cut; neither says that the turn ended well, only its terminal event does.
 *
 * `request.timeoutMs` bounds the way to a connected socket, waiting for a free one included. The answer itself has no
 * limit here: its silence is the turn's to judge.
 */
export function openExchange(
  request: DialRequest,
  dispatcher: Dispatcher,
  clock: Clock,
  limits: TransportLimits,
  live: LiveConnections,
): UpstreamConnection {
  let state: 'open' | 'sent' | 'ended' = 'open';
  let controller: Dispatcher.DispatchController | null = null;
  let cancelTimer = () => {};
  let parser: SseParser | null = null;
  let collector: AnswerCollector | null = null;
  let refusing = false;
  let complete = false;
  let closing = false;
  const flow = createFrameFlow({
    hold: (held) => (held ? controller?.pause() : controller?.resume()),
    refusalFrame,
  });
  const shutDown = () => connection.close(1001, 'shutting down');
  const gone = live.add({ close: shutDown, destroy: shutDown });

  const end = (code: number, reason: string) => {
    if (state === 'ended') return;
    state = 'ended';
    cancelTimer();
    gone();
    flow.close(code, reason);
    if (!complete) controller?.abort(new Error(reason));
  };

  const answered = () => {
    if (!collector || state === 'ended') return;
    const answer = collector.answer(complete);
    if (refusing) flow.refused(answer);
    else if (complete) for (const frame of framesOfAnswer(answer)) flow.frame(frame);
    else return end(1009, 'the answer is too large');
    end(1000, 'answered');
  };

  const started = (status: number, headers: Record<string, string>) => {
    const turnState = headers[TURN_STATE];
    if (turnState) flow.frame(JSON.stringify({ type: 'response.metadata', headers: { [TURN_STATE]: turnState } }));
    refusing = status < 200 || status >= 300;
    const head = refusing ? null : answerHeadFrame(headers);
    if (head !== null) flow.frame(head);
    const type = headers['content-type'] ?? '';
    if (!refusing && (type === '' || type.includes('event-stream'))) {
      parser = createSseParser((data) => data !== '[DONE]' && flow.frame(data), limits.maxIncomingBytes);
      return;
    }
    collector = collectAnswer(status, headers, refusing ? limits.refusalBytes : limits.maxIncomingBytes);
    if (refusing) cancelTimer = clock.after(limits.refusalTimeoutMs, () => answered());
  };

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(given) {
      cancelTimer();
      controller = given;
      if (state === 'ended') given.abort(new Error('not wanted any more'));
      else if (flow.held) given.pause();
    },
    onResponseStart(_given, status, headers) {
      if (status >= 200 && state !== 'ended') started(status, flatHeaders(headers));
    },
    onResponseData(_given, chunk) {
      if (state === 'ended') return;
      if (collector && !collector.push(chunk)) return answered();
      try {
        parser?.push(chunk);
      } catch (error) {
        end(1009, reasonOf(error));
      }
    },
    onResponseEnd() {
      complete = true;
      if (state === 'ended') return;
      parser?.end();
      answered();
      end(1000, 'the answer ended');
    },
    onResponseError(_given, error) {
      if (refusing) answered();
      end(1006, reasonOf(error));
    },
  };

  const connection: UpstreamConnection = {
    kind: 'http',
    get open() {
      return !closing && state !== 'ended';
    },
    attach: flow.attach,
    send(frame) {
      if (closing || state !== 'open') return false;
      const { headers, body } = requestOfFrame(frame, request.headers);
      const address = httpAddress(request.target.baseUrl, '/responses');
      state = 'sent';
      cancelTimer = clock.after(request.timeoutMs, () => end(1006, `not connected within ${request.timeoutMs} ms`));
      const path = address.pathname + address.search;
      dispatcher.dispatch(
        { origin: address.origin, path, method: 'POST', headers, body, headersTimeout: 0, bodyTimeout: 0 },
        handler,
      );
      return true;
    },
    pause: flow.pause,
    resume: flow.resume,
    close(code = 1000, reason = 'closed') {
      if (closing) return;
      closing = true;
      flow.mute();
      // Never within the caller's own call: a reader may close from inside a frame.
      queueMicrotask(() => end(code, reason));
    },
  };
  return connection;
}
