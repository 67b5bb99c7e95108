import { type Dispatcher, request } from 'undici';
import { flatHeaders, TURN_STATE_HEADER } from '../headers.ts';
import {
  elementTexts,
  encodeText,
  isFields,
  isLongText,
  membersOf,
  memberText,
  parseBounded,
  scanMembers,
  spansByName,
  textOf,
  withMembers,
} from '../json.ts';
import type { Clock } from '../system.ts';
import { guarded } from '../system.ts';
import { type AnswerCollector, collectAnswer, reasonOf, refusalFrame, unreachable } from './errors.ts';
import { answerHeadFrame } from './frames.ts';
import {
  type DialRequest,
  type Ending,
  type HttpCall,
  httpAddress,
  type LiveConnections,
  MOST_FRAME_LEVELS,
  type TransportLimits,
  type UpstreamAnswer,
  type UpstreamConnection,
  UpstreamUnreachable,
} from './port.ts';
import {
  createSseParser,
  createUnpacker,
  FrameFlow,
  frameOfEvent,
  jsonTexts,
  type SseParser,
  UNPACKED,
  type Unpacker,
  unpackedHeaders,
  unpackStream,
} from './streams.ts';

/**
 * Makes one HTTP call and streams its answer: resolves with status and headers as soon as they arrive. Redirects are
 * returned like other answers, and a body compressed against the request is unpacked. The caller must read or destroy the
 * body, or its connection stays in use.
 *
 * @param silenceMs longest wait in milliseconds for the headers, and between two chunks of the body
 * @param proxy proxy that the dispatcher uses; null for none
 * @throws `UpstreamUnreachable`, whose message names the cause, when no answer came (also when `signal` was aborted first)
 * @throws `TypeError` for a path that leaves the base URL
 */
export async function httpCall(
  call: HttpCall,
  dispatcher: Dispatcher,
  silenceMs: number,
  proxy: URL | null,
): Promise<{ status: number; headers: Record<string, string>; body: NodeJS.ReadableStream }> {
  const address = httpAddress(call.target.baseUrl, call.path);
  try {
    const answer = await request(address, {
      dispatcher,
      method: call.method as Dispatcher.HttpMethod,
      headers: { ...call.headers, ...UNPACKED },
      body: call.body,
      signal: call.signal ?? null,
      headersTimeout: silenceMs,
      bodyTimeout: silenceMs,
    });
    const headers = flatHeaders(answer.headers);
    const body = unpackStream(answer.body, headers['content-encoding']);
    return { status: answer.statusCode, headers: unpackedHeaders(headers), body };
  } catch (error) {
    const { text, kind } = unreachable(error, call.target.baseUrl, proxy);
    throw new UpstreamUnreachable(text, { kind, cause: error });
  }
}

type Fields = Record<string, unknown>;

const ending = new Map([
  ['completed', 'response.completed'],
  ['incomplete', 'response.incomplete'],
  ['failed', 'response.failed'],
  // No event of this name exists. A cancelled response must never be continued, like a failed one.
  ['cancelled', 'response.failed'],
]);

const running = new Map([
  ['queued', 'response.queued'],
  ['in_progress', 'response.in_progress'],
]);

/** Values that turn a finished response back into one that has produced nothing. */
const begun = new Map([
  ['status', '"in_progress"'],
  ['output', '[]'],
  ['usage', 'null'],
  ['error', 'null'],
  ['incomplete_details', 'null'],
]);

function parse(text: string): Fields | null {
  try {
    const value: unknown = parseBounded(text, MOST_FRAME_LEVELS);
    return isFields(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * Converts a 2xx answer that is no event stream to the frames a stream would have had. Values keep their written form.
 *
 * - A finished response: `response.created` (started, nothing generated), its output items, and the terminal event for its
 *   status.
 * - A background response (`queued`, `in_progress`): `response.created` and the event of that name, both with the response
 *   object. No terminal event follows; the end of the connection is the end of the turn.
 * - Events, one per line: those.
 * - Anything else: an `error` frame with status 502, or with the error's own status.
 */
export function framesOfAnswer(answer: UpstreamAnswer): string[] {
  const text = answer.body.toString('utf8');
  const lines = jsonTexts(text);
  if (lines.length > 1 && lines.every((line) => typeof parse(line)?.type === 'string')) return lines;
  const response = parse(text);
  const status = typeof response?.status === 'string' ? response.status : '';
  const terminal = ending.get(status);
  const event = running.get(status);
  if (response === null || typeof response.id !== 'string' || (terminal ?? event) === undefined) {
    const unusable = { message: 'The upstream answered with something other than a response.' };
    const body = response?.error ? answer.body : Buffer.from(JSON.stringify({ error: unusable }));
    return [refusalFrame({ ...answer, status: 0, body })];
  }
  const frames: string[] = [];
  const add = (type: string, members: string) =>
    frames.push(`{"type":${JSON.stringify(type)},${members},"sequence_number":${frames.length}}`);
  if (event !== undefined) {
    add('response.created', `"response":${text}`);
    add(event, `"response":${text}`);
    return frames;
  }
  add('response.created', `"response":${withMembers(text, begun)}`);
  elementTexts(text, membersOf(text).get('output')?.start ?? text.length).forEach((item, index) => {
    add('response.output_item.added', `"output_index":${index},"item":${item}`);
    add('response.output_item.done', `"output_index":${index},"item":${item}`);
  });
  add(terminal!, `"response":${text}`);
  return frames;
}

/** Pause between two look-ups of a name while the resolver does not answer, in milliseconds. */
const LOOK_UP_AGAIN_MS = 500;
/** Close reason of an exchange after an exception while handling its answer, or in its reader. */
const BROKEN = 'what it sent could not be handled';

/** Returns the options of the prompt cache that make a request a warm-up, which has no output. */
const prewarmed = (options: string | null) =>
  withMembers(options?.startsWith('{') ? options : '{}', new Map([['prewarm', 'true']]));

/**
 * Converts a `response.create` frame to the equivalent request, keeping the frame's own text. The exchange must stream,
 * except that a background request decides that itself. The provider's turn state is sent in a header here, not in
 * `client_metadata`. `generate` exists on sockets only; over HTTP a warm-up is an option of the prompt cache.
 */
export function requestOfFrame(
  frame: string,
  headers: Readonly<Record<string, string>>,
): { headers: Record<string, string>; body: string } {
  const scanned = scanMembers(frame);
  const members = spansByName(scanned);
  const changes = new Map<string, string | null>([
    ['type', null],
    ['generate', null],
  ]);
  const streamed = textOf(frame, members.get('stream')) === 'true';
  const background = textOf(frame, members.get('background')) === 'true';
  if (!streamed && !background) changes.set('stream', 'true');
  if (textOf(frame, members.get('generate')) === 'false')
    changes.set('prompt_cache_options', prewarmed(textOf(frame, members.get('prompt_cache_options'))));
  const sent: Record<string, string> = {
    ...headers,
    'content-type': 'application/json',
    accept: streamed || !background ? 'text/event-stream' : 'application/json',
  };
  const metadata = textOf(frame, members.get('client_metadata')) ?? '';
  const state = memberText(metadata, TURN_STATE_HEADER);
  if (state !== null) {
    changes.set('client_metadata', withMembers(metadata, new Map([[TURN_STATE_HEADER, null]])));
    const value: unknown = JSON.parse(state);
    if (typeof value === 'string' && value !== '') sent[TURN_STATE_HEADER] = value;
  }
  return { headers: sent, body: withMembers(frame, changes, scanned) };
}

/** Classifies a body by its start: an event stream, something else, or still undecided. */
function streamOrNot(begun: string): 'stream' | 'other' | 'open' {
  const text = begun.replace(/^[\ufeff\s]+/, '');
  if (text === '') return 'open';
  if (/^(?::|(?:data|event|id|retry) *(?::|[\r\n]))/.test(text)) return 'stream';
  return ['data', 'event', 'id', 'retry'].some((field) => field.startsWith(text.trimEnd())) ? 'open' : 'other';
}

/**
 * Opens a connection whose single exchange is `POST {base}/responses`. It is open at once and closed at the end of the
 * answer.
 *
 * The first bytes of a 2xx answer decide what it is, not its content type: an event stream under any content type is
 * delivered event by event, as it arrives; a JSON answer as the frames that a stream would have had. Any other status goes
 * whole to the reader's `refused` handler, or else arrives as an `error` frame. A turn state in the answer's headers
 * arrives first, as a `response.metadata` frame, then the headers that concern the client. `closed` has code 1000 when the
 * HTTP answer ended properly and 1006 when it was cut. Neither means that the turn ended well; only its terminal event
 * does.
 *
 * `request.timeoutMs` bounds the time to a connected socket, including the wait for a free one. There is no response
 * timeout here; the turn's deadlines apply.
 *
 * @param proxy proxy that the dispatcher uses; null for none
 */
export function openExchange(
  request: DialRequest,
  dispatcher: Dispatcher,
  clock: Clock,
  limits: TransportLimits,
  live: LiveConnections,
  proxy: URL | null,
): UpstreamConnection {
  let state: 'open' | 'sent' | 'ended' = 'open';
  let controller: Dispatcher.DispatchController | null = null;
  let cancelTimer = () => {};
  let cancelRetry = () => {};
  /** Hands the request to the dispatcher, which may fail to connect. Holds the whole body, so it is dropped at the end. */
  let dispatch = () => {};
  /** Error of the last attempt to connect. */
  let failure: Error | null = null;
  let parser: SseParser | null = null;
  let collector: AnswerCollector | null = null;
  let unpacker: Unpacker | null = null;
  /** Start of a 2xx body, until it shows what the body is. */
  let begun: Buffer | null = null;
  let started: { status: number; headers: Record<string, string> } | null = null;
  let connected = false;
  /** Nothing more will arrive from the network. */
  let arrived = false;
  let refusing = false;
  let complete = false;
  let closing = false;
  const flow = new FrameFlow({
    hold(held) {
      unpacker?.hold(held);
      if (held) controller?.pause();
      else controller?.resume();
    },
    broken: () => end(1006, BROKEN),
  });
  /** Guards a listener of the exchange: an exception in it ends this exchange and nothing else. */
  const own = <A extends unknown[]>(listener: (...args: A) => void) =>
    guarded('upstream stream', listener, () => end(1006, BROKEN));
  const shutDown = () => connection.close(1001, 'shutting down');
  const exchange: Ending = { shutDown, destroy: shutDown };
  live.add(exchange);

  const end = (code: number, reason: string, given?: unknown) => {
    if (state === 'ended') return;
    state = 'ended';
    cancelTimer();
    cancelRetry();
    dispatch = () => {};
    unpacker?.destroy();
    live.remove(exchange);
    const why = given === undefined || closing || started ? null : unreachable(given, request.target.baseUrl, proxy);
    flow.close(code, reason, why && (!connected || why.byProxy) ? why : undefined);
    if (!arrived) controller?.abort(new Error(reason));
  };

  const answered = () => {
    if (!collector || state === 'ended') return;
    const answer = collector.answer(complete);
    if (refusing) flow.refused(answer);
    else if (complete) for (const frame of framesOfAnswer(answer)) flow.frame(frame);
    else return end(1009, 'the answer is too large');
    end(1000, 'answered');
  };

  /** Decides what a 2xx answer is, as soon as enough of it has arrived. */
  const judge = (chunk: Buffer, last: boolean) => {
    const { status, headers } = started!;
    begun = begun === null ? chunk : Buffer.concat([begun, chunk]);
    const type = headers['content-type'] ?? '';
    const labelled = type === '' || type.includes('event-stream');
    const seems = streamOrNot(begun.toString('latin1', 0, 256).replace(/^\u00ef\u00bb\u00bf/, ''));
    if (seems === 'open' && !last && begun.length < 256) return;
    const isDocument = /^[\s\u00ef\u00bb\u00bf]*[{[<"]/.test(begun.toString('latin1', 0, 256));
    if (seems === 'stream' || (labelled && !isDocument)) {
      parser = createSseParser((data, name) => {
        const frame = frameOfEvent(data, name);
        if (frame !== null) flow.frame(frame);
      }, limits.maxIncomingBytes);
    } else {
      collector = collectAnswer(status, headers, limits.maxIncomingBytes);
    }
    const first = begun;
    begun = null;
    received(first);
  };

  const received = (chunk: Buffer) => {
    if (state === 'ended') return;
    if (collector) {
      if (!collector.push(chunk)) answered();
    } else if (parser) {
      try {
        parser.push(chunk);
      } catch (error) {
        end(1009, reasonOf(error));
      }
    } else judge(chunk, false);
  };

  const finished = () => {
    if (state === 'ended') return;
    if (!collector && !parser) judge(Buffer.alloc(0), true);
    complete = true;
    parser?.end();
    answered();
    end(1000, 'the answer ended');
  };

  const start = (status: number, given: Record<string, string>) => {
    const turnState = given[TURN_STATE_HEADER];
    if (turnState)
      flow.frame(JSON.stringify({ type: 'response.metadata', headers: { [TURN_STATE_HEADER]: turnState } }));
    const headers = unpackedHeaders(given);
    started = { status, headers };
    refusing = status < 200 || status >= 300;
    const head = refusing ? null : answerHeadFrame(headers);
    if (head !== null) flow.frame(head);
    unpacker = createUnpacker(given['content-encoding'], {
      data: own(received),
      end: own(finished),
      error: own(failed),
    });
    unpacker.hold(flow.held);
    if (!refusing) return;
    collector = collectAnswer(status, headers, limits.refusalBytes);
    cancelTimer = clock.after(limits.refusalTimeoutMs, own(answered));
  };

  const failed = (error: Error) => {
    if (refusing) answered();
    if (!connected && !closing && state === 'sent') {
      const { kind, final } = unreachable(error, request.target.baseUrl, proxy);
      // The resolver does not answer now. Nothing was sent, so retry within the time to connect.
      if (kind === 'dns' && !final) {
        failure = error;
        cancelRetry = clock.after(LOOK_UP_AGAIN_MS, own(dispatch));
        return;
      }
    }
    end(1006, reasonOf(error), error);
  };

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart: own((given: Dispatcher.DispatchController) => {
      cancelTimer();
      connected = true;
      controller = given;
      if (state === 'ended') given.abort(new Error('not wanted any more'));
      else if (flow.held) given.pause();
    }),
    onResponseStart: own((_given, status: number, headers: Parameters<typeof flatHeaders>[0]) => {
      if (status >= 200 && state !== 'ended') start(status, flatHeaders(headers));
    }),
    onResponseData: own((_given, chunk: Buffer) => {
      if (state !== 'ended') unpacker?.push(chunk);
    }),
    onResponseEnd: own(() => {
      arrived = true;
      unpacker?.end();
    }),
    onResponseError: own((_given, error: Error) => failed(error)),
  };

  const connection: UpstreamConnection = {
    kind: 'http',
    get open() {
      return !closing && state !== 'ended';
    },
    attach: (reader) => flow.attach(reader),
    send(frame) {
      if (closing || state !== 'open') return false;
      const { headers, body } = requestOfFrame(frame, request.headers);
      const address = httpAddress(request.target.baseUrl, '/responses');
      state = 'sent';
      cancelTimer = clock.after(request.timeoutMs, () => {
        const reason = `not connected within ${request.timeoutMs} ms`;
        end(1006, reason, failure ?? reason);
      });
      const path = address.pathname + address.search;
      const sent = { ...headers, ...UNPACKED };
      const begin = (bytes: string | Buffer) => {
        if (state === 'ended') return;
        dispatch = () => begin(bytes);
        dispatcher.dispatch(
          {
            origin: address.origin,
            path,
            method: 'POST',
            headers: sent,
            body: bytes,
            headersTimeout: 0,
            bodyTimeout: 0,
          },
          handler,
        );
      };
      if (isLongText(body)) void encodeText(body).then(begin);
      else begin(body);
      return true;
    },
    pause: () => flow.pause(),
    resume: () => flow.resume(),
    close(code = 1000, reason = 'closed') {
      if (closing) return;
      closing = true;
      flow.mute();
      // Not within the caller's own call: a reader may close from inside a frame.
      queueMicrotask(() => end(code, reason));
    },
  };
  return connection;
}
