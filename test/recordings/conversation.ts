import { isDeepStrictEqual } from 'node:util';
import type { Item } from '../../src/transcript/types.ts';
import { type AnsweredItems, type Dropped, type ItemForm, keptItems, sentAgain } from '../support/answered.ts';
import { type Answer, doneItems, post } from '../support/client.ts';
import type { Json, Play, Player, Received } from './player.ts';

export const user = (text: string): Item => ({
  type: 'message',
  role: 'user',
  content: [{ type: 'input_text', text }],
});

/** A client’s way to continue a conversation. */
export interface Ways {
  name: string;
  form: ItemForm;
  drops: readonly Dropped[];
}

export const WAYS: readonly Ways[] = [
  { name: 'done', form: 'done', drops: [] },
  { name: 'completed', form: 'completed', drops: [] },
  { name: 'without ids', form: 'done', drops: ['id'] },
  { name: 'without status and annotations', form: 'completed', drops: ['status', 'annotations'] },
];

const TERMINALS = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);

/** Returns the index of the first event that ends a stream; -1 when there is none. */
export const endOf = (events: readonly Json[]): number => events.findIndex(({ type }) => TERMINALS.has(String(type)));

/** Returns a small synthetic answer as events. */
export function answerEvents(id: string, output: readonly Item[], listed: readonly Item[] = output): Json[] {
  const response = { id, object: 'response', created_at: 1, status: 'in_progress', model: 'm', output: [] };
  return [
    { type: 'response.created', response },
    { type: 'response.in_progress', response },
    ...output.flatMap((item, output_index) => [
      { type: 'response.output_item.added', item: { ...item, status: 'in_progress' }, output_index },
      { type: 'response.output_item.done', item, output_index },
    ]),
    { type: 'response.completed', response: { ...response, status: 'completed', output: listed } },
  ].map((event, sequence_number) => ({ ...event, sequence_number }));
}

/** Last turn of every conversation here: one more message. */
export const lastWord = (id: string): Play => ({
  events: answerEvents(id, [
    {
      id: `msg_${id}`,
      type: 'message',
      status: 'completed',
      role: 'assistant',
      content: [{ type: 'output_text', text: 'Good.', annotations: [], logprobs: [] }],
    },
  ]),
});

/** Returns an event in comparable form: the anchor is chosen by the bridge. */
function comparable(event: Json): Json {
  const { response } = event;
  if (typeof response !== 'object' || response === null || !('previous_response_id' in response)) return event;
  return { ...event, response: { ...response, previous_response_id: null } };
}

/** Returns the difference between the played events and those that the client received; null when there is none. */
export function difference(played: readonly Json[], answer: Answer): string | null {
  const end = endOf(played);
  const expected = end < 0 ? played : played.slice(0, end + 1);
  const got = answer.events.map(({ data }) => data);
  const at = expected.findIndex((event, n) => !isDeepStrictEqual(comparable(event), comparable(got[n] ?? {})));
  const name = (event: Json | undefined) => String(event?.type ?? 'nothing');
  if (at >= 0) return `event ${at}: ${name(expected[at])} was played, ${name(got[at])} came (status ${answer.status})`;
  const extra = got[expected.length];
  return end >= 0 && extra !== undefined ? `${name(extra)} behind the end` : null;
}

export const answeredItems = (answer: Answer): AnsweredItems => ({
  done: doneItems(answer),
  completed: (answer.body.output ?? []) as Item[],
});

/**
 * Returns what a client adds after these items: the output of each of its own unanswered calls, otherwise a message.
 */
export function reaction(items: readonly Item[]): Item[] {
  const outputs = items.flatMap((item): Item[] =>
    item.type === 'function_call' || item.type === 'custom_tool_call'
      ? [{ type: `${item.type}_output`, call_id: item.call_id, output: 'ok' }]
      : [],
  );
  return outputs.length > 0 ? outputs : [user('And now?')];
}

/** A continued conversation as the bridge and its upstream saw it. */
export interface Continued {
  /** True if the continuing request was sent as a delta, anchored to the response that it continued. */
  delta: boolean;
  /** Number of sessions that the conversation was given. */
  sessions: number;
  /** Number of WebSockets that were opened for it. */
  sockets: number;
  status: number;
}

/** Evaluates a continuation by what reached the upstream. */
export function judge(first: Answer, second: Answer, received: readonly Received[], added: number): Continued {
  const sent = received.at(-1)?.body ?? {};
  const input = Array.isArray(sent.input) ? sent.input : [sent.input];
  return {
    delta: sent.previous_response_id === first.body.id && input.length === added,
    sessions: new Set([first, second].map(({ headers }) => headers['x-holdfast-session'])).size,
    sockets: new Set(received.map(({ socket }) => socket)).size,
    status: second.status,
  };
}

export interface Conversation {
  url: string;
  player: Player;
  /** Identifies the conversation at the player; the bridge passes it through. */
  credential: string;
  /** Null for a client that sends no thread id. */
  thread: string | null;
}

/** Sends one request of a conversation. */
export function ask({ url, credential, thread }: Conversation, body: Json): Promise<Answer> {
  return post(url, body, {
    authorization: credential,
    ...(thread === null ? {} : { 'thread-id': thread }),
  });
}

/** Plays a recorded stream to a client that then continues in its own way. */
export async function continued(at: Conversation, events: readonly Json[], ways: Ways, base: Json) {
  const { player, credential } = at;
  player.program(credential, [{ events }, lastWord(`resp_last_${credential.replaceAll(/\W/g, '_')}`)]);
  const first = await ask(at, base);
  const kept = keptItems(answeredItems(first), ways.form);
  const added = reaction(kept);
  const input = [...(base.input as Item[]), ...sentAgain(kept, ways.drops), ...added];
  const second = await ask(at, { ...base, input });
  return { first, second, ...judge(first, second, player.received(credential), added.length) };
}
