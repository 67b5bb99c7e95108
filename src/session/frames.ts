import type { SessionEvent } from '../../machines/session.ts';
import { TURN_STATE_HEADER, UPSTREAM_REQUEST_ID_HEADER } from '../headers.ts';
import {
  arrayText,
  elementTexts,
  MOST_LEVELS,
  membersOf,
  memberText,
  nestsDeeperThan,
  type Written,
  withMembers,
} from '../json.ts';
import { bareResponse, rewriteForClient } from '../transcript/client-view.ts';
import type { Item } from '../transcript/types.ts';
import { refusesAnchor, upstreamAnswerOf } from '../upstream/errors.ts';
import { headersIn, isBeginning, parseFrame } from '../upstream/frames.ts';
import { headersOfRateLimits, livingHeaders } from '../upstream/headers.ts';
import type { ParsedFrame, UpstreamError } from '../upstream/port.ts';
import { keptId, keptItem, keptUsage, saysNothing } from './commits.ts';
import type { SessionSocket } from './connection.ts';
import type { Turn, TurnEnding } from './turn.ts';

/** Collects the provider's headers and telemetry that clients act on, for a session's answers. */
export interface AnswerSignals {
  /** Starts from the headers of a new connection. Values from the previous connection are discarded. */
  opened(headers: Readonly<Record<string, string>>): void;
  /**
   * Applies a frame that may carry headers or telemetry.
   *
   * @returns true if the headers of the running turn's answer have changed
   */
  take(frame: ParsedFrame): boolean;
  /**
   * Returns the current headers of a turn's answer. Headers that belong to one answer only are not repeated for the
   * next turn.
   */
  forTurn(turn: Turn): Readonly<Record<string, string>>;
}

/** Creates the collector of a session. */
export function createAnswerSignals(): AnswerSignals {
  let connection = new Map<string, string>();
  let quota = new Map<string, string>();
  let answer = new Map<string, string>();
  let answering: string | null = null;
  let model: unknown;

  /** Applies telemetry about one rate limit. It replaces all known values of that limit. */
  const replaceQuota = (event: Record<string, unknown>): boolean => {
    const said = headersOfRateLimits(event);
    if (!said) return false;
    const { prefix, headers } = said;
    const stale = (name: string) => ['primary', 'secondary'].some((part) => name.startsWith(`${prefix}-${part}-`));
    for (const name of [...quota.keys()]) {
      if (stale(name)) quota.delete(name);
      else if (name.startsWith(`${prefix}-credits-`) && headers.has(`${prefix}-credits-has-credits`))
        quota.delete(name);
    }
    for (const [name, value] of headers) quota.set(name, value);
    return true;
  };

  return {
    opened(headers) {
      [connection, quota, answer, answering] = [new Map(), new Map(), new Map(), null];
      const lives = new Map([
        ['connection', connection],
        ['quota', quota],
        ['answer', answer],
      ]);
      for (const { name, value, life } of livingHeaders(headers)) lives.get(life)?.set(name, value);
    },
    take(frame) {
      if (frame.type === 'codex.rate_limits' && frame.data) return replaceQuota(frame.data);
      if (!frame.headers) return false;
      const said = livingHeaders(frame.headers).filter(({ life }) => life !== 'relayed');
      for (const { name, value, life } of said) (life === 'quota' ? quota : answer).set(name, value);
      return said.length > 0;
    },
    forTurn(turn) {
      if (answering !== null && answering !== turn.id) answer.clear();
      if (answering === null) model = turn.request.body.model;
      // Codex interprets a model name other than the requested one as a reroute.
      else if (model !== turn.request.body.model) connection.delete('openai-model');
      answering = turn.id;
      const headers = Object.fromEntries([...connection, ...quota, ...answer]);
      turn.upstreamRequest = headers[UPSTREAM_REQUEST_ID_HEADER] ?? null;
      return headers;
    },
  };
}

export interface FrameReaderOptions {
  socket: SessionSocket;
  /** Maximum number of bytes of one response's streamed items that are kept; items after that are only relayed. */
  mostBytes: number;
  now(): number;
  /** Wall clock, in milliseconds. */
  wall(): number;
  send(event: SessionEvent): void;
  /** Restarts the silence deadline, because the upstream made progress. */
  touchSilence(): void;
  /** Called with the provider's own turn state, which applies to the same client turn. */
  learnTurnState(turn: Turn, value: string): void;
  /** Called with headers and telemetry that become answer headers: of the running turn or, without one, of the next one. */
  signal(frame: ParsedFrame, turn: Turn | null): void;
  /** Returns whether the turn may be sent once more after the loss of its socket. */
  mayResend(turn: Turn): boolean;
  /** Called when the provider refused an anchor that the bridge chose: drop the anchor and prepare a full send. */
  anchorRefused(turn: Turn, relayed: TurnEnding): void;
  /**
   * Like `anchorRefused`, after the response was announced.
   *
   * @returns false if the turn cannot be sent again; it then ends with the provider's error
   */
  anchorRefusedLate(turn: Turn, error: UpstreamError): boolean;
}

/** The response to the turn on the wire, from its first frame on. */
interface Running {
  readonly turn: Turn;
  readonly generation: number;
  /** True if it began with a frame that announces a response; otherwise such a frame may still arrive. */
  announced: boolean;
  /**
   * True if another response began on the same socket during this one: frames with a response id may belong to that
   * one.
   */
  joined: boolean;
  /** Output items in the form shown to the client, kept for a client that gets one JSON answer. */
  readonly shownItems: string[];
  /** The `output_index` of each streamed item of this response. */
  readonly indexes: number[];
  /** Number of bytes of its streamed items so far, counted against `mostBytes`. */
  bytes: number;
}

/** Number of ended responses whose late frames are recognised by their id. */
const REMEMBERED = 64;

/**
 * Creates the reader that applies the frames of a session's sockets to the turn on the wire.
 *
 * - Over HTTP, one exchange carries one turn, and every frame belongs to it.
 * - A WebSocket outlives its turns. A turn begins with the frame that announces its response. If the provider announced
 *   no response on this connection so far, the turn begins with any event.
 * - After that every frame belongs to the turn, except frames with the id of an ended response or of a response that
 *   was announced in between.
 * - Some providers change the response id between events. An unknown id is therefore no reason to drop a frame, and the
 *   id in the terminal event counts as the response's id.
 * - Telemetry never counts as progress.
 */
export function createFrameReader(options: FrameReaderOptions): (text: string, turn: Turn | null) => void {
  const { socket, send } = options;
  const ended = new Set<string>();
  let running: Running | null = null;
  /** Generation of the most recent connection on which a response was announced. */
  let announcedOn = -1;

  const remember = (id: string | null) => {
    if (id === null) return;
    ended.delete(id);
    ended.add(id);
    if (ended.size > REMEMBERED) ended.delete(ended.values().next().value!);
  };

  const show = (turn: Turn, frame: ParsedFrame, text: string) => {
    const anchor = turn.evidence.anchor;
    const hideEncrypted = turn.hideEncrypted;
    const json = frame.data ? rewriteForClient(text, frame.data, { previousResponseId: anchor, hideEncrypted }) : text;
    return { type: frame.type, json };
  };

  /**
   * Returns an output item in the form in which it is kept, or null. An item that has content and cannot be kept makes
   * the turn inexact.
   */
  const keep = (turn: Turn, json: string): Written<Item> | null => {
    const item = keptItem(json);
    if (item === null && !saysNothing(json)) turn.inexact = true;
    return item;
  };

  const runningFor = (turn: Turn) =>
    running?.turn === turn && running.generation === socket.generation ? running : null;

  /** Returns whether a frame that arrives before any response of this turn is the first frame of one. */
  const opensTurn = (frame: ParsedFrame): boolean => {
    if (socket.kind === 'http') return true;
    if (frame.responseId !== null && ended.has(frame.responseId)) return false;
    return frame.end === 'failed' || isBeginning(frame) || announcedOn !== socket.generation;
  };

  /** Returns whether a frame that arrives during the turn belongs to another response. */
  const isForeign = (frame: ParsedFrame, { turn, joined }: Running): boolean => {
    const id = frame.responseId;
    if (socket.kind === 'http' || id === null || id === turn.responseId) return false;
    return joined || ended.has(id);
  };

  const begin = (turn: Turn, frame: ParsedFrame): Running => {
    const announced = isBeginning(frame);
    running = {
      turn,
      generation: socket.generation,
      announced,
      joined: false,
      shownItems: [],
      indexes: [],
      bytes: 0,
    };
    if (announced) announcedOn = socket.generation;
    turn.responseId = keptId(frame.responseId);
    turn.times.firstEvent ??= options.now();
    turn.note({ type: 'acknowledge' });
    options.touchSilence();
    send({ type: 'upstream.progress' });
    return running;
  };

  /**
   * Begins the turn and holds the announcement of its response back until a second frame shows that the turn is under
   * way.
   */
  const announce = (turn: Turn, frame: ParsedFrame, text: string) => {
    begin(turn, frame);
    turn.showCreated();
    turn.heldCreated = show(turn, frame, text);
  };

  const created = (turn: Turn, frame: ParsedFrame, text: string) => {
    const own = runningFor(turn);
    if (!own) return announce(turn, frame, text);
    if (!own.announced) {
      // The turn began with another frame; this frame announces its response.
      own.announced = true;
      announcedOn = socket.generation;
      turn.responseId = keptId(frame.responseId) ?? turn.responseId;
      return event(turn, frame, text);
    }
    const id = keptId(frame.responseId);
    if (id !== null && id !== turn.responseId) own.joined = true;
  };

  /**
   * Returns the position of a finished item among the items of its response. Streaming clients get the items in the
   * order of completion; a JSON answer lists them by `output_index`.
   */
  const placeOf = (turn: Turn, frame: ParsedFrame, { indexes }: Running): number => {
    const given = frame.data?.output_index;
    const index = typeof given === 'number' ? given : Number.POSITIVE_INFINITY;
    let at = indexes.length;
    if (turn.request.body.stream !== true) while (at > 0 && indexes[at - 1]! > index) at -= 1;
    indexes.splice(at, 0, index);
    return at;
  };

  const event = (turn: Turn, frame: ParsedFrame, text: string) => {
    let own = runningFor(turn);
    if (!own) {
      if (!opensTurn(frame)) return;
      if (isBeginning(frame)) return announce(turn, frame, text);
      own = begin(turn, frame);
    } else if (isForeign(frame, own)) return;
    if (!turn.sawOutput) {
      turn.sawOutput = true;
      turn.note({ type: 'stream' });
    }
    options.touchSilence();
    turn.showCreated();
    const { type, json } = show(turn, frame, text);
    if (frame.type === 'response.output_item.done') {
      const item = memberText(text, 'item');
      own.bytes += item?.length ?? 0;
      const tooMuch = own.bytes > options.mostBytes;
      if (tooMuch) turn.inexact = true;
      const kept = item === null || tooMuch ? null : keep(turn, item);
      if (kept !== null && item !== null) {
        const at = placeOf(turn, frame, own);
        turn.streamed.splice(turn.steered + at, 0, kept);
        const shown = json === text ? item : memberText(json, 'item');
        if (turn.request.body.stream !== true && shown !== null) own.shownItems.splice(at, 0, shown);
      }
    }
    if (turn.evidence.passThrough === 'background' && frame.data?.response) turn.standing = json;
    turn.stream.push(type, json, false);
    if (frame.type === 'response.incomplete') {
      // Steered: the successor response follows with its own `response.created`, without another create of the bridge.
      running = null;
      turn.responseId = null;
      turn.steered = turn.streamed.length;
      turn.note({ type: 'steer' });
    }
  };

  /**
   * Returns the terminal event with a type that clients know: the SDKs end a stream only at completed, incomplete or
   * failed. The JSON answer of a non-streaming client gets the streamed items if the terminal event lists fewer.
   */
  const terminalJson = (turn: Turn, frame: ParsedFrame, text: string, own: Running, listed: number): string => {
    const { json } = show(turn, frame, text);
    const end = frame.end ?? 'failed';
    const changes = new Map<string, string>();
    if (frame.type !== `response.${end}`) changes.set('type', JSON.stringify(`response.${end}`));
    const response = memberText(json, 'response');
    const inResponse = new Map<string, string>();
    const { error } = (frame.data?.response ?? {}) as { error?: unknown };
    if (end === 'failed' && frame.error && !error && !frame.data?.error) {
      const { code, message } = frame.error;
      inResponse.set('error', JSON.stringify({ code: code ?? 'server_error', message }));
    }
    if (turn.request.body.stream !== true && own.shownItems.length > listed)
      inResponse.set('output', arrayText(own.shownItems));
    if (response === null || !response.startsWith('{')) {
      const id = turn.responseId ?? `resp_holdfast_${turn.id.replaceAll('-', '')}`;
      const bare = bareResponse({ id, model: turn.request.body.model, now: options.wall() });
      changes.set('response', withMembers(JSON.stringify({ ...bare, status: end }), inResponse));
    } else if (inResponse.size > 0) changes.set('response', withMembers(response, inResponse));
    return changes.size === 0 ? json : withMembers(json, changes);
  };

  const terminal = (turn: Turn, frame: ParsedFrame, text: string) => {
    let own = runningFor(turn);
    if (!own) {
      if (!opensTurn(frame)) return;
      own = begin(turn, frame);
    } else if (isForeign(frame, own)) return;
    if (frame.error && refusesOurAnchor(turn, frame.error) && options.anchorRefusedLate(turn, frame.error)) return;
    turn.showCreated();
    remember(turn.responseId);
    turn.responseId = keptId(frame.responseId) ?? turn.responseId;
    remember(turn.responseId);
    const response = frame.data?.response as { output?: unknown; usage?: unknown } | null | undefined;
    let listedCount = 0;
    if (Array.isArray(response?.output)) {
      const place = membersOf(text, membersOf(text).get('response')?.start).get('output');
      const listed = elementTexts(text, place?.start);
      const kept = listed.map((json) => keep(turn, json)).filter((item) => item !== null);
      turn.listed = [...turn.streamed.slice(0, turn.steered), ...kept];
      listedCount = kept.length;
    }
    turn.usage = keptUsage(response?.usage);
    const end = frame.end ?? 'failed';
    turn.ending = {
      state: end,
      terminal: { type: `response.${end}`, json: terminalJson(turn, frame, text, own, listedCount) },
      fault: null,
      answer: null,
      error: frame.error,
    };
    socket.anchor = end === 'failed' ? null : turn.responseId;
    send({ type: 'upstream.ended', keepSocket: end !== 'failed' && socket.kind === 'websocket' });
  };

  /** Returns whether an error refuses an anchor that the bridge chose, or whose content it may know. */
  const refusesOurAnchor = (turn: Turn, error: UpstreamError): boolean =>
    turn.wire?.form === 'delta' && turn.parent !== null && refusesAnchor(error);

  const failed = (turn: Turn, frame: ParsedFrame, text: string) => {
    const whole = frame.error!;
    const error = nestsDeeperThan(text, MOST_LEVELS) ? { ...whole, raw: null } : whole;
    const unanswered = runningFor(turn) === null;
    socket.anchor = null;
    if (error.code === 'websocket_connection_limit_reached' && options.mayResend(turn)) {
      const { generation } = socket;
      socket.close(1000, 'connection limit');
      send({ type: 'socket.lost', generation, resendable: true });
      return;
    }
    const plain = upstreamAnswerOf(error);
    // An error frame carries in its `headers` member what an HTTP answer carries in its headers.
    const answer = { ...plain, headers: { ...headersIn(frame.data), ...plain.headers } };
    const ending: TurnEnding = { state: 'failed', terminal: null, fault: null, answer, error };
    if (refusesOurAnchor(turn, error)) {
      if (unanswered) return options.anchorRefused(turn, ending);
      if (options.anchorRefusedLate(turn, error)) return;
    }
    turn.showCreated();
    turn.ending = ending;
    const plainRefusal = unanswered && error.status < 500;
    send({ type: 'upstream.ended', keepSocket: plainRefusal && socket.kind === 'websocket' });
  };

  /** Handles a metadata frame: the provider's turn state is kept here, the other headers are shown to the client. */
  const metadata = (turn: Turn, frame: ParsedFrame, text: string) => {
    if (frame.turnState) options.learnTurnState(turn, frame.turnState);
    const headers = memberText(text, 'headers') ?? '';
    const names = [...membersOf(headers).keys()];
    const ours = names.filter((name) => name.toLowerCase() === TURN_STATE_HEADER);
    if (ours.length === names.length) return;
    const shown = withMembers(headers, new Map(ours.map((name) => [name, null])));
    turn.stream.push(frame.type, withMembers(text, new Map([['headers', shown]])), true);
  };

  return (text, turn) => {
    const frame = parseFrame(text);
    const current = turn?.ending ? null : turn;
    if (frame.kind === 'head' || frame.kind === 'turn_state' || frame.kind === 'telemetry') {
      try {
        options.signal(frame, current);
      } catch {
        // Ignore telemetry of an unknown shape: it must not end the turn that it came with.
      }
    }
    if (!current) {
      if (frame.kind === 'error') {
        // An error without a turn concerns the connection: close it, so that it does not carry another turn.
        const { generation } = socket;
        socket.close(1000, 'error frame without a turn');
        send({ type: 'socket.lost', generation, resendable: false });
      }
      return;
    }
    switch (frame.kind) {
      case 'malformed':
      case 'head':
        return;
      case 'telemetry':
        current.stream.push(frame.type, text, true);
        return;
      case 'turn_state':
        return metadata(current, frame, text);
      case 'created':
        return created(current, frame, text);
      case 'event':
        return event(current, frame, text);
      case 'terminal':
        return terminal(current, frame, text);
      case 'error':
        return failed(current, frame, text);
    }
  };
}
