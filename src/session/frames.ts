import { TURN_STATE_HEADER } from '../headers.ts';
import {
  arrayText,
  elementTexts,
  isFields,
  MOST_LEVELS,
  membersOf,
  memberText,
  nestsDeeperThan,
  type Written,
  withMembers,
} from '../json.ts';
import { bareResponse, membersOfResponse, rewriteForClient } from '../transcript/items.ts';
import type { Item } from '../transcript/types.ts';
import { refusesAnchor, upstreamAnswerOf } from '../upstream/errors.ts';
import { headersIn, isBeginning, parseFrame } from '../upstream/frames.ts';
import type { ParsedFrame, UpstreamError } from '../upstream/port.ts';
import { keptId, keptItem, keptResponse, saysNothing } from './commits.ts';
import { anchorIgnored, resendOnNewConnection, resendWithoutAnchor } from './connection.ts';
import type { SessionCore, SessionSocket } from './core.ts';
import { mayResend } from './planning.ts';
import type { Turn, TurnEnding } from './turn.ts';

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
  /** Number of bytes of its streamed items so far, counted against `limits.transcriptBytes`. */
  bytes: number;
}

/** Number of ended responses whose late frames are recognised by their id. */
const REMEMBERED = 16;

/**
 * Applies the frames of a session's sockets to the turn on the wire.
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
export class FrameReader {
  readonly #session: SessionCore;
  readonly #socket: SessionSocket;
  readonly #ended = new Set<string>();
  #running: Running | null = null;
  /** True after the first frame of several that arrived together: the deadline of silence was restarted. */
  #touched = false;
  /** Generation of the most recent connection on which a response was announced. */
  #announcedOn = -1;

  constructor(session: SessionCore) {
    this.#session = session;
    this.#socket = session.socket;
  }

  /**
   * Applies a frame.
   *
   * @param turn the turn on the wire, if any
   */
  read(text: string, turn: Turn | null): void {
    const frame = parseFrame(text);
    const current = turn?.ending ? null : turn;
    if (frame.kind === 'head' || frame.kind === 'turn_state' || frame.kind === 'telemetry') {
      try {
        this.#session.signals.take(frame, current);
      } catch {
        // Ignore telemetry of an unknown shape: it must not end the turn that it came with.
      }
    }
    if (!current) {
      if (frame.kind === 'error') {
        // An error without a turn concerns the connection: close it, so that it does not carry another turn.
        const { generation } = this.#socket;
        this.#socket.close(1000, 'error frame without a turn');
        this.#session.send({ type: 'socket.lost', generation, resendable: false });
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
        return this.#metadata(current, frame, text);
      case 'created':
        return this.#created(current, frame, text);
      case 'event':
        return this.#event(current, frame, text);
      case 'terminal':
        return this.#terminal(current, frame, text);
      case 'error':
        return this.#failed(current, frame, text);
    }
  }

  /** Drops what is known of the last response: its turn, with the client's whole request, is no longer current. */
  rest(): void {
    this.#running = null;
  }

  /** Restarts the deadline of silence, once for all frames that arrived together. */
  #touch(): void {
    if (this.#touched) return;
    this.#touched = true;
    queueMicrotask(() => {
      this.#touched = false;
    });
    this.#session.actor.touch('silence');
  }

  #remember(id: string | null): void {
    if (id === null) return;
    this.#ended.delete(id);
    this.#ended.add(id);
    if (this.#ended.size > REMEMBERED) this.#ended.delete(this.#ended.values().next().value!);
  }

  /** Returns the frame in the form that the turn's client gets. */
  #clientForm(turn: Turn, frame: ParsedFrame, text: string): { type: string; json: string } {
    const anchor = turn.evidence.anchor;
    const hideEncrypted = turn.hideEncrypted;
    const json = frame.data ? rewriteForClient(text, frame.data, { previousResponseId: anchor, hideEncrypted }) : text;
    return { type: frame.type, json };
  }

  /**
   * Returns an output item in the form in which it is kept, or null. An item that has content and cannot be kept makes
   * the turn inexact.
   */
  #keep(turn: Turn, json: string): Written<Item> | null {
    const item = keptItem(json);
    if (item === null && !saysNothing(json)) turn.inexact = true;
    return item;
  }

  /** Returns the response to this turn on the current connection; null before its first frame. */
  #runningFor(turn: Turn): Running | null {
    const running = this.#running;
    return running?.turn === turn && running.generation === this.#socket.generation ? running : null;
  }

  /** Returns whether a frame that arrives before any response of this turn is the first frame of one. */
  #opensTurn(frame: ParsedFrame): boolean {
    if (this.#socket.kind === 'http') return true;
    if (frame.responseId !== null && this.#ended.has(frame.responseId)) return false;
    return frame.end === 'failed' || isBeginning(frame) || this.#announcedOn !== this.#socket.generation;
  }

  /** Returns whether a frame that arrives during the turn belongs to another response. */
  #isForeign(frame: ParsedFrame, { turn, joined }: Running): boolean {
    const id = frame.responseId;
    if (this.#socket.kind === 'http' || id === null || id === turn.responseId) return false;
    return joined || this.#ended.has(id);
  }

  #begin(turn: Turn, frame: ParsedFrame): Running {
    const announced = isBeginning(frame);
    const running: Running = {
      turn,
      generation: this.#socket.generation,
      announced,
      joined: false,
      shownItems: [],
      indexes: [],
      bytes: 0,
    };
    this.#running = running;
    if (announced) this.#announcedOn = this.#socket.generation;
    turn.responseId = keptId(frame.responseId);
    turn.times.firstEvent ??= this.#session.env.clock.now();
    turn.note({ type: 'acknowledge' });
    this.#session.actor.touch('silence');
    this.#session.send({ type: 'upstream.progress' });
    return running;
  }

  /**
   * Begins the turn and holds the announcement of its response back until a second frame shows that the turn is under
   * way.
   */
  #announce(turn: Turn, frame: ParsedFrame, text: string): void {
    const response = frame.data?.response;
    // A response names what it continues. Other names than the frame's are those of a gateway that translates ids.
    if (turn.wire?.form === 'delta' && isFields(response) && response.previous_response_id === null) {
      return anchorIgnored(this.#session, turn);
    }
    this.#begin(turn, frame);
    turn.showCreated();
    turn.heldCreated = this.#clientForm(turn, frame, text);
  }

  #created(turn: Turn, frame: ParsedFrame, text: string): void {
    const own = this.#runningFor(turn);
    if (!own) return this.#announce(turn, frame, text);
    if (!own.announced) {
      // The turn began with another frame; this frame announces its response.
      own.announced = true;
      this.#announcedOn = this.#socket.generation;
      turn.responseId = keptId(frame.responseId) ?? turn.responseId;
      return this.#event(turn, frame, text);
    }
    const id = keptId(frame.responseId);
    if (id !== null && id !== turn.responseId) own.joined = true;
  }

  /**
   * Returns the position of a finished item among the items of its response. Streaming clients get the items in the
   * order of completion; a JSON answer lists them by `output_index`.
   */
  #placeOf(turn: Turn, frame: ParsedFrame, { indexes }: Running): number {
    const given = frame.data?.output_index;
    const index = typeof given === 'number' ? given : Number.POSITIVE_INFINITY;
    let at = indexes.length;
    if (turn.request.body.stream !== true) while (at > 0 && indexes[at - 1]! > index) at -= 1;
    indexes.splice(at, 0, index);
    return at;
  }

  #event(turn: Turn, frame: ParsedFrame, text: string): void {
    let own = this.#runningFor(turn);
    if (!own) {
      if (!this.#opensTurn(frame)) return;
      if (isBeginning(frame)) return this.#announce(turn, frame, text);
      own = this.#begin(turn, frame);
    } else if (this.#isForeign(frame, own)) return;
    if (!turn.sawOutput) {
      turn.sawOutput = true;
      turn.note({ type: 'stream' });
    }
    this.#touch();
    turn.showCreated();
    const { type, json } = this.#clientForm(turn, frame, text);
    if (frame.type === 'response.output_item.done') {
      const item = memberText(text, 'item');
      own.bytes += item?.length ?? 0;
      const tooMuch = own.bytes > this.#session.env.config.limits.transcriptBytes;
      if (tooMuch) turn.inexact = true;
      const kept = item === null || tooMuch ? null : this.#keep(turn, item);
      if (kept !== null && item !== null) {
        const at = this.#placeOf(turn, frame, own);
        turn.streamed.splice(turn.steered + at, 0, kept);
        const shown = json === text ? item : memberText(json, 'item');
        if (turn.request.body.stream !== true && shown !== null) own.shownItems.splice(at, 0, shown);
      }
    }
    if (turn.evidence.passThrough === 'background' && frame.data?.response) turn.standing = json;
    turn.stream.push(type, json, false);
    if (frame.type === 'response.incomplete') {
      // Steered: the successor response follows with its own `response.created`, without another create of the bridge.
      this.#running = null;
      turn.responseId = null;
      turn.steered = turn.streamed.length;
      turn.note({ type: 'steer' });
    }
  }

  /**
   * Returns the terminal event with a type that clients know: the SDKs end a stream only at completed, incomplete or
   * failed. The JSON answer of a non-streaming client gets the streamed items if the terminal event lists fewer.
   */
  #terminalJson(turn: Turn, frame: ParsedFrame, text: string, own: Running, listed: number): string {
    const { json } = this.#clientForm(turn, frame, text);
    const end = frame.end ?? 'failed';
    const changes = new Map<string, string>();
    if (frame.type !== `response.${end}`) changes.set('type', JSON.stringify(`response.${end}`));
    const inResponse = new Map<string, string>();
    const response = frame.data?.response ?? null;
    const { error } = (response ?? {}) as { error?: unknown };
    if (end === 'failed' && frame.error && !error && !frame.data?.error) {
      const { code, message } = frame.error;
      inResponse.set('error', JSON.stringify({ code: code ?? 'server_error', message }));
    }
    if (turn.request.body.stream !== true && own.shownItems.length > listed)
      inResponse.set('output', arrayText(own.shownItems));
    if (!isFields(response)) {
      const id = turn.responseId ?? `resp_holdfast_${turn.id.replaceAll('-', '')}`;
      const bare = bareResponse({ id, model: turn.request.body.model, now: this.#session.env.clock.wall() });
      changes.set('response', withMembers(JSON.stringify({ ...bare, status: end }), inResponse));
    } else if (inResponse.size > 0) changes.set('response', withMembers(memberText(json, 'response')!, inResponse));
    return changes.size === 0 ? json : withMembers(json, changes);
  }

  #terminal(turn: Turn, frame: ParsedFrame, text: string): void {
    let own = this.#runningFor(turn);
    if (!own) {
      if (!this.#opensTurn(frame)) return;
      own = this.#begin(turn, frame);
    } else if (this.#isForeign(frame, own)) return;
    const { error } = frame;
    if (error && this.#refusesOurAnchor(turn, error)) {
      if (resendOnNewConnection(this.#session, turn, error)) return;
    }
    turn.showCreated();
    this.#remember(turn.responseId);
    turn.responseId = keptId(frame.responseId) ?? turn.responseId;
    this.#remember(turn.responseId);
    const response = frame.data?.response as { output?: unknown; usage?: unknown } | null | undefined;
    let listedCount = 0;
    if (Array.isArray(response?.output)) {
      const streamed = turn.streamed.slice(turn.steered);
      const kept = elementTexts(text, membersOfResponse(text).get('output')?.start)
        .map((json, nth) => (streamed[nth]?.json === json ? streamed[nth]! : this.#keep(turn, json)))
        .filter((item) => item !== null);
      turn.listed = [...turn.streamed.slice(0, turn.steered), ...kept];
      listedCount = kept.length;
    }
    turn.kept = keptResponse(response);
    const end = frame.end ?? 'failed';
    const ending: TurnEnding = { state: end, terminal: null, fault: null, answer: null, error };
    turn.ending = ending;
    this.#socket.anchor = end === 'failed' ? null : turn.responseId;
    this.#session.send({
      type: 'upstream.ended',
      keepSocket: end !== 'failed' && this.#socket.kind === 'websocket',
    });
    // The store has been asked and answers later: what only the client needs is made in the meantime.
    ending.terminal = { type: `response.${end}`, json: this.#terminalJson(turn, frame, text, own, listedCount) };
  }

  /** Returns whether an error refuses an anchor that the bridge chose, or whose content it may know. */
  #refusesOurAnchor(turn: Turn, error: UpstreamError): boolean {
    return turn.wire?.form === 'delta' && turn.parent !== null && refusesAnchor(error);
  }

  #failed(turn: Turn, frame: ParsedFrame, text: string): void {
    const whole = frame.error!;
    const error = nestsDeeperThan(text, MOST_LEVELS) ? { ...whole, raw: null } : whole;
    const unanswered = this.#runningFor(turn) === null;
    this.#socket.anchor = null;
    // A frame beyond the number of lanes was not taken; one that met the age limit may have been.
    const untaken = error.code === 'websocket_stream_limit_reached';
    if ((untaken || error.code === 'websocket_connection_limit_reached') && mayResend(turn, untaken)) {
      const { generation } = this.#socket;
      this.#socket.close(1000, 'connection limit');
      this.#session.send({ type: 'socket.lost', generation, resendable: true });
      return;
    }
    const plain = upstreamAnswerOf(error);
    // An error frame carries in its `headers` member what an HTTP answer carries in its headers.
    const answer = { ...plain, headers: { ...headersIn(frame.data), ...plain.headers } };
    const ending: TurnEnding = { state: 'failed', terminal: null, fault: null, answer, error };
    if (this.#refusesOurAnchor(turn, error)) {
      if (unanswered) return void resendWithoutAnchor(this.#session, turn, ending);
      if (resendOnNewConnection(this.#session, turn, error)) return;
    }
    turn.showCreated();
    turn.ending = ending;
    const plainRefusal = unanswered && error.status < 500;
    this.#session.send({
      type: 'upstream.ended',
      keepSocket: plainRefusal && this.#socket.kind === 'websocket',
    });
  }

  /** Handles a metadata frame: the provider's turn state is kept here, the other headers are shown to the client. */
  #metadata(turn: Turn, frame: ParsedFrame, text: string): void {
    if (frame.turnState) this.#session.learnTurnState(turn, frame.turnState);
    const headers = memberText(text, 'headers') ?? '';
    const names = [...membersOf(headers).keys()];
    const ours = names.filter((name) => name.toLowerCase() === TURN_STATE_HEADER);
    if (ours.length === names.length) return;
    const shown = withMembers(headers, new Map(ours.map((name) => [name, null])));
    turn.stream.push(frame.type, withMembers(text, new Map([['headers', shown]])), true);
  }
}
