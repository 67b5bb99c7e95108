import type { AnswerHead } from '../../../src/session/port.ts';
import { isSignal, type SimEvent } from '../../../src/testing/simulator/events.ts';
import type { OpenRequest, Slot, World } from './world.ts';

export interface ResponseSeen {
  id: string;
  status: string;
  output: Record<string, unknown>[];
  input_transformations?: unknown;
}

/** Answer with its items as they were streamed. */
export interface AnswerSeen extends ResponseSeen {
  done: Record<string, unknown>[];
}

/**
 * Result of one request from the client's point of view. `cut`: the connection ended without an answer. `fault`: the bridge's
 * own code; null for an error of the upstream.
 */
export type Heard = { head: AnswerHead | null } & (
  | { kind: 'answer'; response: AnswerSeen }
  | { kind: 'failed'; code: string; fault: string | null }
  | { kind: 'error'; status: number; code: string; fault: string | null; retryAfterMs: number | null }
  | { kind: 'cut' }
);

export interface Exchange {
  heard: Promise<Heard>;
  /** Disconnects the client; the result is then `cut`. */
  hangUp(): void;
}

const textOf = (output: readonly Record<string, unknown>[]): string =>
  output
    .filter(({ type }) => type === 'message')
    .flatMap(({ content }) => content as { text?: string }[])
    .map(({ text }) => text ?? '')
    .join('');

/** Returns whether a client accepts the value as an item. */
const isItem = (item: unknown): item is Record<string, unknown> =>
  typeof item === 'object' && item !== null && !Array.isArray(item);

/**
 * Performs one request of a client, from its connection to its end. Checks the output as it arrives: exactly one
 * terminal, nothing after it, the same response throughout, and a text equal to the sum of its deltas.
 */
export function exchange(world: World, slot: Slot, request: OpenRequest): Exchange {
  const { promise, resolve } = Promise.withResolvers<Heard>();
  const streaming = request.body.stream === true;
  let head: AnswerHead | null = null;
  let ends = 0;
  let left = false;
  let responseId: string | null = null;
  let text = '';
  const done: Record<string, unknown>[] = [];

  const wrong = (what: string) => world.violate(what, request.requestId);
  const end = (heard: Heard, how: string) => {
    ends += 1;
    if (ends > 1) return wrong('a second terminal');
    world.note(`${request.requestId} hears ${how}`);
    resolve(heard);
  };
  const belongs = (data: Record<string, unknown>) => {
    const named = (data.response as { id?: string } | undefined)?.id;
    if (named !== undefined && responseId !== null && named !== responseId) wrong('an event of another response');
  };

  const hangUp = world.open(
    slot,
    request,
    {
      head(given) {
        head = given;
      },
      event(type, json) {
        if (ends > 0) return wrong('an event after the terminal');
        const data = JSON.parse(json) as Record<string, unknown>;
        if (type === 'response.created') {
          if (responseId !== null) wrong('a second response.created');
          world.note(`${request.requestId} is shown response.created`);
          responseId = (data.response as { id: string }).id;
        } else if (responseId === null && type.startsWith('response.') && !isSignal(data as SimEvent))
          wrong('an event before response.created');
        belongs(data);
        if (type === 'response.output_text.delta') text += String(data.delta);
        if (type === 'response.output_item.done' && isItem(data.item)) done.push(data.item);
      },
      end(type, json) {
        const data = JSON.parse(json) as { response: ResponseSeen & { error?: { code?: string } } };
        belongs(data as never);
        const { response } = data;
        if (type === 'response.failed') {
          const { code = 'none' } = response.error ?? {};
          return end({ head, kind: 'failed', code, fault: null }, `failed ${code}`);
        }
        const output = response.output.filter(isItem);
        if (streaming && text !== textOf(output.length > 0 ? output : done))
          wrong('a text that is not the sum of its deltas');
        if (!streaming && output.length === 0) wrong('a JSON answer without its items');
        end(
          { head, kind: 'answer', response: { ...response, output, done } },
          `${type} ${response.id} ${head?.outcome}`,
        );
      },
      fail(error, committed) {
        const { code } = error.envelope().error;
        if (committed) return end({ head, kind: 'failed', code, fault: error.code }, `failed ${error.code}`);
        const retryAfterMs = error.retryAfterSeconds === null ? null : error.retryAfterSeconds * 1_000;
        const { status } = error.entry;
        end({ head, kind: 'error', status, code, fault: error.code, retryAfterMs }, `error ${error.code}`);
      },
      relay({ status, body }, committed) {
        const { error } = JSON.parse(body.toString('utf8')) as { error?: { code?: string | null } };
        const code = error?.code ?? 'none';
        if (committed) return end({ head, kind: 'failed', code, fault: null }, `relayed ${code}`);
        end({ head, kind: 'error', status, code, fault: null, retryAfterMs: null }, `relayed ${status} ${code}`);
      },
    },
    () => {
      if (ends > 0 || left) return;
      world.note(`${request.requestId} is cut`);
      resolve({ head, kind: 'cut' });
    },
  );
  return {
    heard: promise,
    hangUp() {
      if (ends > 0) return;
      left = true;
      hangUp();
      world.note(`${request.requestId} hangs up`);
      resolve({ head, kind: 'cut' });
    },
  };
}
