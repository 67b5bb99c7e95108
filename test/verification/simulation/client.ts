import { digestOf, expectedDigest } from '../../../src/testing/simulator/digest.ts';
import { type AnsweredItems, keptItems, sentAgain } from '../../support/answered.ts';
import type { Random } from '../../support/random.ts';
import { checkExpired } from './checks.ts';
import { type AnswerSeen, exchange, type Heard } from './exchange.ts';
import { injectedCodes } from './misfortunes.ts';
import type { Action, ClientPlan } from './plan.ts';
import type { Slot, World } from './world.ts';

type Item = Record<string, unknown>;

interface Point {
  /** Everything the client has up to here, in the form it would send. */
  items: readonly Item[];
  /** Everything the model knows up to here when this point is referred to by its response id. */
  known: readonly Item[];
  responseId: string | null;
}

/** Simulated client that executes its plan. */
export interface SimulatedClient {
  readonly name: string;
  /** Resolves when all planned actions are done, whether they were served or given up. */
  run(): Promise<void>;
  /** Makes one more request. Returns false when the bridge does not serve it although faults have stopped. */
  once(): Promise<boolean>;
  readonly waiting: boolean;
  readonly answered: number;
  /** Response id at the end of its conversation. */
  readonly responseId: string | null;
}

export interface ClientOptions {
  world: World;
  plan: ClientPlan;
  name: string;
  /** Called with every request before it is sent. */
  onAsk(text: string, body: Readonly<Record<string, unknown>>): void;
  onHeard(heard: Heard): void;
}

const answerOf = ({ done, output }: AnswerSeen): AnsweredItems => ({ done, completed: output });
const user = (text: string): Item => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });
/** Maximum number of attempts at one turn, while faults are active and after they have stopped. */
const PATIENCE = { troubled: 6, calm: 6 };

/** Creates a client from its plan. */
export function createClient({ world, plan, name, onAsk, onHeard }: ClientOptions): SimulatedClient {
  const { habits } = plan;
  const random = world.luck.random(`client ${name}`);
  const points: Point[] = [{ items: [], known: [], responseId: null }];
  const home = random.integer(0, world.slots.length - 1);
  let said = 0;
  let asked = 0;
  let waiting = 0;
  let answered = 0;
  let token: string | null = null;
  const here = () => points.at(-1)!;
  const next = () => user(`${name} says ${said++}`);
  const calm = () => world.agenda.now >= world.plan.calmAt;

  const kept = (answer: AnsweredItems): readonly Item[] =>
    keptItems(answer, habits.form === 'mixed' ? (said % 2 === 0 ? 'done' : 'completed') : habits.form);

  const bodyOf = (point: Point, item: Item, anchored: boolean, turnId: string) => ({
    model: 'm',
    stream: habits.streaming,
    store: habits.store,
    include: ['reasoning.encrypted_content'],
    ...(habits.instructions === null ? {} : { instructions: habits.instructions }),
    ...(habits.marks === 'turn_id' ? { client_metadata: { turn_id: turnId } } : {}),
    input: anchored ? [item] : [...point.items, item],
    ...(anchored ? { previous_response_id: point.responseId } : {}),
  });

  const headersOf = (turnId: string): Record<string, string> => ({
    authorization: 'Bearer sk-sim',
    ...(habits.key === 'thread' ? { 'thread-id': name } : habits.key === 'session' ? { 'session-id': 'all' } : {}),
    ...(habits.marks === 'idempotency_key' ? { 'idempotency-key': turnId } : {}),
    ...(habits.token && token !== null ? { 'x-codex-turn-state': token } : {}),
  });

  /** Sends one request to a worker chosen by the balancer. Returns null when no worker is available. */
  function attempt(point: Point, item: Item, anchored: boolean, turnId: string) {
    const slot = balanced(world, random, habits.sticky ? home : null);
    if (!slot) return null;
    const body = bodyOf(point, item, anchored, turnId);
    if (anchored && point.responseId !== null) world.clientAnchors.add(point.responseId);
    const requestId = `${name}/${++asked}`;
    onAsk(textOf(item), body);
    world.note(`${requestId} asks ${slot.process.name} ${textOf(item)}${anchored ? ' anchored' : ''}`);
    const sent = exchange(world, slot, { body, headers: headersOf(turnId), requestId });
    waiting += 1;
    const heard = sent.heard.then((each) => {
      waiting -= 1;
      if (each.head?.token) token = each.head.token;
      onHeard(each);
      return each;
    });
    return { heard, hangUp: sent.hangUp };
  }

  function judge(response: AnswerSeen, before: readonly Item[], item: Item): void {
    const instructions = habits.instructions ?? undefined;
    const expected = expectedDigest({ items: [...before, item] as never, instructions });
    if (response.input_transformations !== undefined)
      world.violate('reasoning out of its place', `${name}: ${textOf(item)}`);
    if (digestOf({ output: keptItems(answerOf(response), 'completed') }) !== expected)
      world.violate('another context than the client meant', `${name}: ${textOf(item)}`);
    answered += 1;
  }

  /** Repeats a request until it is answered. Returns null after the last attempt. */
  async function ask(point: Point, item: Item, wantsAnchor: boolean, turnId: string): Promise<Point | null> {
    let anchored = wantsAnchor && point.responseId !== null;
    const gentle = calm();
    for (let tries = 0; tries < (gentle ? PATIENCE.calm : PATIENCE.troubled); tries += 1) {
      const sent = attempt(point, item, anchored, turnId);
      if (!sent) {
        await world.sleep(1_000);
        continue;
      }
      const heard = await sent.heard;
      if (heard.kind === 'answer') {
        judge(heard.response, anchored ? point.known : point.items, item);
        const output = kept(answerOf(heard.response));
        return {
          items: [...point.items, item, ...sentAgain(output, habits.drops)],
          known: [...(anchored ? point.known : point.items), item, ...output],
          responseId: heard.response.id,
        };
      }
      if (anchored && heard.kind !== 'cut' && heard.fault === 'bridge_session_expired')
        checkExpired(world, point.responseId!, `${name}: ${textOf(item)}`);
      const pause = explain(heard, anchored, gentle);
      if (pause === 'resend') anchored = false;
      else await world.sleep(pause);
    }
    return null;
  }

  /**
   * Decides how the client reacts to an error: a pause in milliseconds, or a full resend. An error without an
   * explanation is a violation.
   */
  function explain(heard: Exclude<Heard, { kind: 'answer' }>, anchored: boolean, gentle: boolean): number | 'resend' {
    const pause = random.between(50, 2_000);
    if (heard.kind === 'cut') return pause;
    const { code } = heard;
    if (code === 'previous_response_not_found' && anchored) return 'resend';
    if (heard.kind === 'error' && heard.status < 500) {
      const known = code.startsWith('bridge_') ? heard.status !== 400 : injectedCodes.has(code) || heard.status === 429;
      if (!known || (gentle && injectedCodes.has(code)))
        world.violate('an unexplained refusal', `${name}: ${heard.status} ${code}`);
    }
    return heard.kind === 'error' && heard.retryAfterMs !== null ? heard.retryAfterMs + pause : pause;
  }

  /** Starts a request and disconnects after `after` milliseconds. */
  async function cutOff(item: Item, after: number, turnId: string): Promise<void> {
    const anchored = habits.style === 'anchor' && here().responseId !== null;
    const sent = attempt(here(), item, anchored, turnId);
    if (!sent) return;
    await Promise.race([world.sleep(after), sent.heard]);
    sent.hangUp();
    await sent.heard;
  }

  async function act(action: Action): Promise<void> {
    const anchors = habits.style === 'anchor';
    const turnId = `${name} turn ${said}`;
    const push = (point: Point | null) => void (point && points.push(point));
    switch (action.do) {
      case 'say':
        return push(await ask(here(), next(), anchors, turnId));
      case 'edit':
        points.splice(Math.max(1, points.length - action.back));
        return push(await ask(here(), next(), false, turnId));
      case 'fork': {
        const from = points[Math.max(0, points.length - 1 - action.back)]!;
        return push(await ask(from, next(), true, turnId));
      }
      case 'compact':
        points.push({ items: [user(`${name} sums up ${said}`)], known: [], responseId: null });
        return push(await ask(here(), next(), false, turnId));
      case 'interrupt':
        await cutOff(next(), action.after, turnId);
        return push(await ask(here(), next(), anchors, `${name} turn ${said}`));
      case 'retry': {
        const item = next();
        await cutOff(item, action.after, turnId);
        return push(await ask(here(), item, anchors, turnId));
      }
      case 'twice': {
        const item = next();
        const anchored = anchors && here().responseId !== null;
        const from = here();
        const first = attempt(from, item, anchored, turnId);
        await world.sleep(action.after);
        push(await ask(from, item, anchors, turnId));
        const heard = await first?.heard;
        if (heard?.kind === 'answer') judge(heard.response, anchored ? from.known : from.items, item);
        return;
      }
      case 'parallel': {
        const from = here();
        const both = [ask(from, next(), anchors, turnId), ask(from, next(), anchors, `${turnId} aside`)];
        const [one] = await Promise.all(both);
        return push(one ?? null);
      }
    }
  }

  return {
    name,
    get waiting() {
      return waiting > 0;
    },
    get answered() {
      return answered;
    },
    get responseId() {
      return here().responseId;
    },
    async run() {
      for (const action of plan.actions) {
        await world.sleep(action.think);
        await act(action);
      }
    },
    async once() {
      const point = await ask(here(), next(), habits.style === 'anchor', `${name} turn ${said}`);
      if (point) points.push(point);
      return point !== null;
    },
  };
}

function textOf(item: Item): string {
  return (item.content as { text: string }[])[0]!.text;
}

/** Returns a worker that looks alive to a balancer. Paused workers do, for a while. */
function balanced(world: World, random: Random, home: number | null): Slot | null {
  const ready = world.slots.filter(
    ({ worker, process }) => process.alive && worker !== null && !worker.shutdown.refusing,
  );
  return ready.find(({ index }) => index === home) ?? (ready.length === 0 ? null : random.pick(ready));
}
