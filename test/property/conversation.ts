import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { digestOf, expectedDigest, type Point as Place } from '../../src/testing/index.ts';
import { type AnsweredItems, type Dropped, type ItemForm, keptItems, sentAgain } from '../support/answered.ts';
import { doneItems, post, type ResponseObject, terminalsOf } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { type PropertyWorld, SOFT_IDLE_MS } from './world.ts';

type Item = Record<string, unknown>;

/** Behaviour of a client over a whole conversation. */
export interface Habits {
  keyed: boolean;
  /** `resend`: everything, every time; `anchor`: the last response and the new items. */
  style: 'resend' | 'anchor';
  store: boolean;
  /** Parts that the client drops from the model's items when it resends them. */
  drops: readonly Dropped[];
  /** Event from which the client takes the model's items; `mixed` changes from turn to turn. */
  form: ItemForm | 'mixed';
  instructions: string | null;
}

/** One action of a client, or one fault. */
export type Action =
  | { do: 'say'; socket?: 'lost' | 'forgets' | 'lost_before_created' | 'lost_midway' }
  /** Goes back some turns and continues differently there. */
  | { do: 'edit'; back: number }
  /** Anchors to an older response. */
  | { do: 'fork'; back: number }
  /** Replaces everything by the client's own summary. */
  | { do: 'compact' }
  /** Disconnects during the answer, then sends something new while the model still generates. */
  | { do: 'interrupt' }
  /** Disconnects during the answer, then repeats the identical request. */
  | { do: 'retry' }
  /**
   * Disconnects during the answer, then repeats the request with the part of the answer that it already had, as Codex
   * does.
   */
  | { do: 'retry_grown' }
  /** Sends two concurrent requests from the same place. */
  | { do: 'parallel' }
  | { do: 'restart' };

export const habits: fc.Arbitrary<Habits> = fc.record({
  keyed: fc.boolean(),
  style: fc.constantFrom('resend', 'anchor'),
  store: fc.boolean(),
  drops: fc.subarray(['id', 'status', 'reasoning', 'annotations'] as const),
  form: fc.constantFrom('done', 'completed', 'mixed'),
  instructions: fc.constantFrom(null, 'Be brief.'),
});

const back = fc.integer({ min: 1, max: 3 });
export const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 8, arbitrary: fc.constant<Action>({ do: 'say' }) },
  {
    weight: 3,
    arbitrary: fc
      .constantFrom('lost', 'forgets', 'lost_before_created', 'lost_midway')
      .map((socket) => ({ do: 'say', socket }) as Action),
  },
  { weight: 2, arbitrary: back.map((n) => ({ do: 'edit', back: n }) as Action) },
  { weight: 2, arbitrary: back.map((n) => ({ do: 'fork', back: n }) as Action) },
  { weight: 1, arbitrary: fc.constant<Action>({ do: 'compact' }) },
  { weight: 1, arbitrary: fc.constant<Action>({ do: 'interrupt' }) },
  { weight: 1, arbitrary: fc.constant<Action>({ do: 'retry' }) },
  { weight: 1, arbitrary: fc.constant<Action>({ do: 'retry_grown' }) },
  { weight: 1, arbitrary: fc.constant<Action>({ do: 'parallel' }) },
  { weight: 1, arbitrary: fc.constant<Action>({ do: 'restart' }) },
);

/** Counts of what happened in a conversation. */
export interface Counts {
  turns: number;
  outcomes: Record<string, number>;
  /** Requests that only extend the previous answer, on an undisturbed socket: each must be sent as a delta. */
  eligible: number;
  /** Those that were not, with the actions before them. */
  inFull: string[];
}

/** Outcomes after which the client's next request finds the session that answered it. */
const keepsTheLine = new Set(['created', 'live_reuse', 'stale_recovery', 'superseded']);

interface Point {
  /** Everything the client has so far, as it would send it. */
  items: Item[];
  /** Everything the model knows so far when it is referred to by id. */
  known: Item[];
  responseId: string | null;
}

/**
 * Runs a plan against the bridge.
 *
 * @throws Error at the first completed answer whose context was not what the client meant, at an answer without exactly
 * one terminal, and at an unexplained failure
 */
export async function converse(
  world: PropertyWorld,
  { style, ...ways }: Habits,
  plan: readonly Action[],
  counts: Counts,
) {
  const thread = randomUUID();
  const headers: Record<string, string> = ways.keyed ? { 'thread-id': thread } : {};
  const points: Point[] = [{ items: [], known: [], responseId: null }];
  let said = 0;
  /** True while the socket of the last answer holds the conversation and has not been disturbed. */
  let warm = false;
  let answeredAt = 0;
  const here = () => points.at(-1)!;
  const next = () => user(`${thread} says ${said++}`);

  const kept = (answer: AnsweredItems): readonly Item[] =>
    keptItems(answer, ways.form === 'mixed' ? (said % 2 === 0 ? 'done' : 'completed') : ways.form);

  const bodyOf = (point: Point, added: Item[], anchored: boolean) => ({
    model: 'm',
    stream: true,
    store: ways.store,
    include: ['reasoning.encrypted_content'],
    ...(ways.instructions === null ? {} : { instructions: ways.instructions }),
    input: anchored ? added : [...point.items, ...added],
    ...(anchored ? { previous_response_id: point.responseId } : {}),
  });

  async function ask(point: Point, added: Item[], wantsAnchor: boolean): Promise<Point> {
    let anchored = wantsAnchor && point.responseId !== null;
    warm = false;
    for (let attempt = 0; attempt < 4; attempt += 1) {
      const answer = await post(world.url, bodyOf(point, added, anchored), headers);
      const outcome = answer.headers['x-holdfast-outcome'] ?? 'none';
      counts.outcomes[outcome] = (counts.outcomes[outcome] ?? 0) + 1;
      if (answer.status === 200) {
        const ends = terminalsOf(answer);
        if (ends.length !== 1) throw new Error(`${ends.length} terminals`);
        if (answer.body.status === 'completed') {
          const answered = { done: doneItems(answer), completed: answer.body.output };
          judge(answer.body, keptItems(answered, 'completed'), [...(anchored ? point.known : point.items), ...added]);
          const output = kept(answered);
          counts.turns += 1;
          warm = keepsTheLine.has(outcome);
          answeredAt = performance.now();
          return {
            items: [...point.items, ...added, ...sentAgain(output, ways.drops)],
            known: [...(anchored ? point.known : point.items), ...added, ...output],
            responseId: answer.body.id,
          };
        }
        continue;
      }
      if (answer.body.error?.code === 'previous_response_not_found' && anchored) {
        anchored = false;
        continue;
      }
      // Only faults explain a request that has to be repeated, because no other client moves this conversation.
      if (answer.status < 500 || answer.body.error?.bridge_code === 'bridge_conflict')
        throw new Error(`unexplained: ${answer.status} ${answer.text}`);
    }
    throw new Error('the turn never completed');
  }

  function judge(response: ResponseObject, output: readonly Item[], meant: Item[]): void {
    if (response.input_transformations !== undefined) throw new Error('reasoning was replayed out of its place');
    const expected = expectedDigest({ items: meant as never, instructions: ways.instructions ?? undefined });
    if (digestOf({ output }) !== expected) throw new Error(`the model saw another context than the client meant`);
  }

  /**
   * Disconnects during the first item, or right after it; returns the items that were finished by then. The model
   * continues at once, or only after the step.
   */
  async function cutOff(item: Item, at: 'first_delta' | 'item_done', goesOn: boolean): Promise<Item[]> {
    const hold: Place = at === 'first_delta' ? { deltas: 1 } : 'after_item_done';
    const held = world.simulator.script.onTurn({}, { kind: 'hold', at: hold });
    const client = await openLive(
      world.url,
      bodyOf(here(), [item], style === 'anchor' && here().responseId !== null),
      headers,
    );
    const sign = at === 'first_delta' ? 'response.output_item.added' : 'response.output_item.done';
    if (client.status === 200) await client.until(sign).catch(() => undefined);
    const done = client.events.filter(({ type }) => type === 'response.output_item.done');
    client.hangUp();
    await client.rest();
    held.remove();
    if (goesOn) held.release();
    return done.map(({ data }) => data.item as Item);
  }

  let played = 0;
  for (const step of plan) {
    played += 1;
    const { simulator } = world;
    const anchors = style === 'anchor';
    switch (step.do) {
      case 'say': {
        const eligible = warm && step.socket === undefined && (anchors || !ways.drops.includes('reasoning'));
        if (step.socket === 'lost') simulator.dropAll();
        if (step.socket === 'forgets') simulator.expireCaches();
        if (step.socket === 'lost_before_created') simulator.script.onTurn({}, { kind: 'reset', at: 'before_created' });
        if (step.socket === 'lost_midway') simulator.script.onTurn({}, { kind: 'reset', at: { deltas: 1 } });
        const idleSince = answeredAt;
        points.push(await ask(here(), [next()], anchors));
        // After a stall of this process the bridge may have closed the idle socket.
        if (!eligible || performance.now() - idleSince > SOFT_IDLE_MS / 2) break;
        counts.eligible += 1;
        if (simulator.journal.of('create').at(-1)!.previousResponseId !== null) break;
        counts.inFull.push(JSON.stringify([ways, style, plan.slice(0, played)]));
        break;
      }
      case 'edit':
        points.splice(Math.max(1, points.length - step.back));
        points.push(await ask(here(), [next()], false));
        break;
      case 'fork': {
        const from = points[Math.max(0, points.length - 1 - step.back)]!;
        points.push(await ask(from, [next()], true));
        // The key still names the line that was left.
        warm = false;
        break;
      }
      case 'compact':
        points.push({ items: [user(`summary of ${points.length} turns`)], known: [], responseId: null });
        points.push(await ask(here(), [next()], false));
        break;
      case 'interrupt':
        await cutOff(next(), 'first_delta', false);
        points.push(await ask(here(), [next()], anchors));
        break;
      case 'retry': {
        const item = next();
        await cutOff(item, 'first_delta', true);
        points.push(await ask(here(), [item], anchors));
        break;
      }
      case 'retry_grown': {
        const item = next();
        const had = await cutOff(item, 'item_done', true);
        points.push(await ask(here(), [item, ...sentAgain(had, ways.drops)], anchors));
        break;
      }
      case 'parallel': {
        const from = here();
        const [one] = await Promise.all([ask(from, [next()], anchors), ask(from, [next()], anchors)]);
        points.push(one);
        warm = false;
        break;
      }
      case 'restart':
        warm = false;
        await world.restart();
    }
    simulator.script.clear();
  }
}
