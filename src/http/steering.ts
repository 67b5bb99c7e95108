import { arrayText, elementTexts, isFields, memberText, withMembers } from '../json.ts';
import type { Caller } from '../session/port.ts';
import type { Lease } from '../session/quota.ts';
import { bareItem } from '../transcript/items.ts';
import type { ReadRequest } from '../transcript/types.ts';

/** Accepted steering inputs of one response that may wait at the same time. */
const MOST_STEERS = 16;
/** Ended responses of a connection whose ids are remembered. */
const MOST_ENDED = 64;

const EVENT_MEMBERS = new Set(['type', 'previous_response_id', 'input']);
const MESSAGE_MEMBERS = new Set(['type', 'role', 'content']);
const PARTS = new Set(['input_text', 'input_image', 'input_file']);

/** Items of an output whose results only the client has, with the type and the reference of the result. */
const RESULTS: ReadonlyMap<string, readonly [type: string, reference: string, from: string]> = new Map([
  ['function_call', ['function_call_output', 'call_id', 'call_id']],
  ['custom_tool_call', ['custom_tool_call_output', 'call_id', 'call_id']],
  ['computer_call', ['computer_call_output', 'call_id', 'call_id']],
  ['shell_call', ['shell_call_output', 'call_id', 'call_id']],
  ['local_shell_call', ['local_shell_call_output', 'call_id', 'call_id']],
  ['apply_patch_call', ['apply_patch_call_output', 'call_id', 'call_id']],
  ['mcp_approval_request', ['mcp_approval_response', 'approval_request_id', 'id']],
]);

/** Input that was accepted, and that no response has taken yet. */
export interface Steer {
  readonly id: string;
  /** Response that it steers. */
  readonly previous: string;
  readonly lane: string | null;
  /** Its input as it was sent. */
  readonly input: string;
  /** Its input as items. */
  readonly items: readonly string[];
  readonly lease: Lease | null;
}

/** A turn that runs on the connection. */
export interface Steerable {
  readonly lane: string | null;
  readonly request: ReadRequest;
  readonly caller: Caller;
  /** Id of its response; null before its first event. */
  responseId: string | null;
  readonly steers: Steer[];
  /** Finished items of its output whose results may be needed before the next turn. */
  readonly calls: Record<string, unknown>[];
}

/** The turn that follows a steered response without another `response.create`. */
export interface Successor {
  /** Text of the `response.create` in whose place it stands. */
  readonly text: string;
  readonly steers: readonly Steer[];
}

const member = (name: string, json: string | null) => (json === null ? '' : `,${JSON.stringify(name)}:${json}`);

function event(type: string, members: string, lane: string | null): string {
  const inLane = member('stream_id', lane === null ? null : JSON.stringify(lane));
  return `{"type":"response.steer.${type}","sequence_number":0${members}${inLane}}`;
}

function failed(
  code: string,
  message: string,
  steer: Omit<Steer, 'id' | 'items' | 'lease'> & { id: string | null },
): string {
  const { id, previous, input, lane } = steer;
  const error = JSON.stringify({ code, message, type: 'invalid_request_error' });
  const of = `"input":${input},"previous_response_id":${JSON.stringify(previous)}`;
  return event('failed', `,"error":${error},"steer":{${of}${member('id', id && JSON.stringify(id))}}`, lane);
}

const naming = ({ id, previous }: Steer) => `,"steer":${JSON.stringify({ id, previous_response_id: previous })}`;

/** Returns why this cannot be the content of a steering message; null when it can. */
function faultOfItem(item: unknown): string | null {
  if (!isFields(item)) return 'Each item must be a message.';
  const other = Object.keys(item).find((name) => !MESSAGE_MEMBERS.has(name));
  if (other !== undefined) return 'A message may have only type, role and content.';
  if ((item.type ?? 'message') !== 'message' || item.role !== 'user') return 'Only messages of the user can steer.';
  const { content } = item;
  if (typeof content === 'string') return null;
  const isPart = (part: unknown) => isFields(part) && PARTS.has(String(part.type));
  return Array.isArray(content) && content.every(isPart) ? null : 'The content must be texts, images and files.';
}

function faultOfInput(input: unknown): string | null {
  if (typeof input === 'string') return input === '' ? 'The input must not be empty.' : null;
  if (!Array.isArray(input) || input.length === 0) return 'The input must be a text or a list of messages.';
  return input.map(faultOfItem).find((fault) => fault !== null) ?? null;
}

/** Returns the items of an input's JSON text. */
const itemsOf = (input: string): string[] => (input.startsWith('"') ? [bareItem(input)] : elementTexts(input));

/** Returns whether a response of this request can be steered: its successor must be able to continue from its id alone. */
function canBeSteered({ text, body }: ReadRequest): boolean {
  const given = (name: string) => (memberText(text, name) ?? 'null') !== 'null';
  const begins = memberText(text, 'generate') !== 'false' && body.background !== true;
  return begins && body.conversation == null && !given('context_management');
}

/** Returns what the client has to supply before the conversation can go on: stubs of results, one for each call without one. */
function requiredInput(output: readonly Record<string, unknown>[]): object[] {
  const stubs = new Map<unknown, object>();
  for (const item of output) {
    const result = RESULTS.get(String(item.type));
    if (result) stubs.set(item[result[2]], { type: result[0], [result[1]]: item[result[2]] });
    const isSearch = item.type === 'tool_search_call' && item.execution === 'client';
    if (isSearch) stubs.set(item.call_id, { type: 'tool_search_output', execution: 'client', call_id: item.call_id });
  }
  // What the provider ran itself has its result beside it.
  for (const { type, call_id: call } of output) if (String(type).endsWith('_output')) stubs.delete(call);
  return [...stubs.values()];
}

/**
 * Steering on one connection: input for a response that runs. The bridge keeps it until the response has ended, and then
 * continues from that response with it, so that it is part of the conversation like the input of any other turn. Nothing of
 * it depends on the upstream.
 */
export class Steering {
  readonly #newId: () => string;
  readonly #running = new Map<string, Steerable>();
  /** Accepted input that waits for results of the client, by response. */
  readonly #pending = new Map<string, Steer[]>();
  /** Ended responses, and whether they were completed. */
  readonly #ended = new Map<string, boolean>();

  /** @param newId returns a unique id */
  constructor(newId: () => string) {
    this.#newId = newId;
  }

  /** Returns a turn that is about to run. */
  run(lane: string | null, request: ReadRequest, caller: Caller): Steerable {
    return { lane, request, caller, responseId: null, steers: [], calls: [] };
  }

  /** Notes an event of a turn that runs. */
  note(turn: Steerable, responseId: string | null, type: string, json: string): void {
    if (turn.responseId === null && responseId !== null) {
      turn.responseId = responseId;
      this.#running.set(responseId, turn);
    }
    if (type !== 'response.output_item.done' || !/_call"|_output"|mcp_approval_request/.test(json)) return;
    const { item } = JSON.parse(json) as { item?: unknown };
    if (isFields(item)) turn.calls.push(item);
  }

  /**
   * Handles a `response.steer`.
   *
   * @param text the event; null if it is too long
   * @param lease the admission that counts it: kept if the input is accepted, ended otherwise
   * @returns the event that answers it
   */
  accept(text: string | null, lease: Lease | null): string {
    const given = JSON.parse(text ?? '{}') as Record<string, unknown>;
    const previous = typeof given.previous_response_id === 'string' ? given.previous_response_id : '';
    const input = (text && memberText(text, 'input')) ?? 'null';
    const turn = this.#running.get(previous);
    const refuse = (code: string, message: string) => {
      lease?.end();
      return failed(code, message, { id: null, previous, input, lane: turn?.lane ?? null });
    };
    if (text === null) return refuse('invalid_input', 'The event is too long.');
    const other = Object.keys(given).find((name) => !EVENT_MEMBERS.has(name));
    const fault = other ? 'The event may have only type, previous_response_id and input.' : faultOfInput(given.input);
    if (fault !== null) return refuse('invalid_input', fault);
    if (!turn) {
      const ended = this.#ended.get(previous);
      if (ended === undefined) return refuse('response_not_found', 'No such response runs on this connection.');
      const code = ended ? 'response_already_completed' : 'response_not_active';
      return refuse(code, 'The response has ended.');
    }
    if (!canBeSteered(turn.request)) return refuse('steering_not_supported', 'This response cannot be steered.');
    if (turn.steers.length >= MOST_STEERS) return refuse('too_many_pending_steers', 'Too much input waits already.');
    const steer = { id: `steer_${this.#newId()}`, previous, lane: turn.lane, input, items: itemsOf(input), lease };
    turn.steers.push(steer);
    return event('accepted', naming(steer), turn.lane);
  }

  /**
   * Handles the end of a turn.
   *
   * @param terminal its last event; null if it ended without one
   * @returns events for the client, and the turn that follows by itself
   */
  ended(
    turn: Steerable,
    terminal: { type: string; json: string } | null,
  ): { events: string[]; successor: Successor | null } {
    const { responseId, steers, request, calls } = turn;
    if (responseId !== null) {
      this.#running.delete(responseId);
      this.#ended.set(responseId, terminal?.type === 'response.completed');
      for (const id of this.#ended.keys()) if (this.#ended.size > MOST_ENDED) this.#ended.delete(id);
    }
    if (steers.length === 0) return { events: [], successor: null };
    if (terminal?.type !== 'response.completed' || responseId === null) {
      return { events: this.giveBack(steers, 'The response did not complete.'), successor: null };
    }
    const { response } = JSON.parse(terminal.json) as { response?: { output?: unknown } };
    const listed = Array.isArray(response?.output) ? response.output.filter(isFields) : [];
    const required = requiredInput([...calls, ...listed]);
    if (required.length > 0) {
      this.#pending.set(responseId, steers);
      const why = `,"reason":"waiting_for_required_input","required_input":${JSON.stringify(required)}`;
      return { events: steers.map((steer) => event('pending', `${why}${naming(steer)}`, steer.lane)), successor: null };
    }
    const changes = new Map([
      ['type', '"response.create"'],
      ['previous_response_id', JSON.stringify(responseId)],
      ['input', arrayText(steers.flatMap(({ items }) => items))],
    ]);
    return { events: [], successor: { text: withMembers(request.text, changes), steers } };
  }

  /** Returns the request together with the input that waits for it, in front of its own; null if none waits. */
  joined(lane: string | null, { text, body }: ReadRequest): Successor | null {
    const previous = String(body.previous_response_id);
    const steers = this.#pending.get(previous);
    if (!steers || steers[0]!.lane !== lane) return null;
    this.#pending.delete(previous);
    const items = [...steers.flatMap((steer) => steer.items), ...itemsOf(memberText(text, 'input') ?? '[]')];
    const changes = new Map([
      ['type', '"response.create"'],
      ['input', arrayText(items)],
    ]);
    return { text: withMembers(text, changes), steers };
  }

  /** Notes that a response has taken the input: it is part of the conversation now. */
  commit(steers: readonly Steer[]): void {
    for (const { lease } of steers) lease?.end();
  }

  /** Returns the events that give accepted input back to the client, because no response can take it. */
  giveBack(steers: readonly Steer[], message: string): string[] {
    this.commit(steers);
    return steers.map((steer) => failed('successor_creation_failed', message, steer));
  }

  /** Gives everything back that waits for results of the client, because the connection is about to be closed. */
  leave(): string[] {
    const steers = [...this.#pending.values()].flat();
    this.#pending.clear();
    return this.giveBack(steers, 'The connection is closed.');
  }

  /** Ends the admissions of everything that waits: the connection is closed. */
  end(): void {
    for (const { steers } of this.#running.values()) this.commit(steers);
    this.leave();
  }
}
