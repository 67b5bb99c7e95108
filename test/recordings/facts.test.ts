import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type TestBridge, testBridge } from '../../src/testing/index.ts';
import type { Item } from '../../src/transcript/types.ts';
import { keptItems, sentAgain } from '../support/answered.ts';
import { post } from '../support/client.ts';
import {
  answerEvents,
  answeredItems,
  ask,
  type Conversation,
  continued,
  difference,
  lastWord,
  reaction,
  user,
  WAYS,
} from './conversation.ts';
import { type Json, type Player, startPlayer } from './player.ts';

const include = ['reasoning.encrypted_content'];
const base = { model: 'gpt-5.6', stream: true, store: false, include, input: [user('Go.')] };

const reasoning = (encrypted_content: string, id = 'rs_1'): Item => ({
  id,
  type: 'reasoning',
  content: [],
  encrypted_content,
  summary: [],
});
const message = (id: string): Item => ({
  id,
  type: 'message',
  status: 'completed',
  content: [{ type: 'output_text', annotations: [], logprobs: [], text: 'Yes.' }],
  phase: 'final_answer',
  role: 'assistant',
});
const toolList = (id: string): Item => ({ id, type: 'mcp_list_tools', server_label: id, tools: [], error: null });

/** Returns an answer whose items differ between `added`, `done` and the terminal event. */
function inForms(id: string, added: readonly Item[], done: readonly Item[], listed: readonly Item[]): Json[] {
  const events = answerEvents(id, done, listed);
  return events.map((event) =>
    event.type === 'response.output_item.added' ? { ...event, item: added[event.output_index as number] } : event,
  );
}

const sealed = (done: Item, added: Item, completed: Item) => [
  inForms('resp_f', [added, message('msg_1')], [done, message('msg_1')], [completed, message('msg_1')]),
];

/** Behaviours observed at providers, each reproduced by itself in a synthetic answer. */
const facts: { fact: string; events: Json[]; signals?: Json[] }[] = [
  {
    fact: 'three ciphertexts of one reasoning item',
    events: sealed(reasoning('gAAA-done'), reasoning('gAAA-added'), reasoning('gAAA-completed'))[0]!,
  },
  {
    fact: 'three fingerprints of one program',
    events: sealed(
      { id: 'cm_1', type: 'program', call_id: 'call_p', code: 'go()', fingerprint: 'gAAA-done' },
      { id: 'cm_1', type: 'program', call_id: 'call_p', code: '', fingerprint: 'gAAA-added' },
      { id: 'cm_1', type: 'program', call_id: 'call_p', code: 'go()', fingerprint: 'gAAA-completed' },
    )[0]!,
  },
  {
    fact: 'items listed that were never streamed',
    events: answerEvents('resp_f', [message('msg_1')], [toolList('one'), toolList('two'), message('msg_1')]),
  },
  {
    // Recorded with a client that keeps sending the items that the compaction replaces.
    fact: 'a compaction after the message, and a client that drops nothing before it',
    events: inForms(
      'resp_f',
      [message('msg_1'), { id: 'cmp_1', type: 'compaction', encrypted_content: 'gAAA-added' }],
      [message('msg_1'), { id: 'cmp_1', type: 'compaction', encrypted_content: 'gAAA-done' }],
      [message('msg_1'), { id: 'cmp_1', type: 'compaction', encrypted_content: 'gAAA-completed' }],
    ),
  },
  { fact: 'an empty list after streamed items', events: answerEvents('resp_f', [message('msg_1')], []) },
  {
    fact: 'another id in every event of an item',
    events: inForms('resp_f', [message('msg_a')], [message('msg_b')], [message('msg_c')]),
  },
  {
    fact: 'deltas with obfuscation',
    events: answerEvents('resp_f', [message('msg_1')]).flatMap((event) =>
      event.type === 'response.output_item.done'
        ? [{ type: 'response.output_text.delta', delta: 'Yes.', item_id: 'msg_1', obfuscation: 'kHhc1NIlcaiP' }, event]
        : [event],
    ),
  },
  {
    fact: 'signals before the response begins',
    events: answerEvents('resp_f', [message('msg_1')]),
    signals: [
      { type: 'codex.rate_limits', plan_type: 'pro', rate_limits: { allowed: true, limit_reached: false } },
      { type: 'response.metadata', headers: { 'openai-model': 'm' } },
      { type: 'codex.response.metadata', headers: { 'openai-model': 'm' } },
    ],
  },
];

describe.each(facts)('observed behaviour: $fact', ({ events, signals = [] }) => {
  let player: Player;
  let at: TestBridge;
  let named = 0;
  beforeAll(async () => {
    player = await startPlayer({ signals });
    at = await testBridge({ env: { HOLDFAST_UPSTREAM_URL: player.url } });
  });
  afterAll(async () => {
    await at?.close();
    await player?.close();
  });
  const conversation = (keyed: boolean): Conversation => {
    const name = `fact-${++named}`;
    return { url: at.url, player, credential: `Bearer sk-${name}`, thread: keyed ? name : null };
  };

  it('The observed events reach the client unchanged', async () => {
    const here = conversation(true);
    player.program(here.credential, [{ events }]);
    const answer = await ask(here, base);
    const own = answer.events.filter(({ type }) => !signals.some((signal) => signal.type === type));
    expect(difference(events, { ...answer, events: own })).toBeNull();
  });

  it('A JSON answer holds the streamed items', async () => {
    const here = conversation(true);
    player.program(here.credential, [{ events }]);
    const { status, body } = await ask(here, { ...base, stream: false });
    expect(status).toBe(200);
    const streamed = events.filter(({ type }) => type === 'response.output_item.done').map(({ item }) => item as Item);
    expect(body.output.map(({ type }) => type)).toEqual(expect.arrayContaining(streamed.map(({ type }) => type)));
  });

  it.each(WAYS.flatMap((way) => [true, false].map((keyed) => ({ way, keyed }))))(
    'The observed answer is continued by a delta: $way.name, keyed $keyed',
    async ({ way, keyed }) => {
      const run = await continued(conversation(keyed), events, way, base);
      expect(run).toMatchObject({ status: 200, delta: true, sessions: 1, sockets: 1 });
    },
  );

  it('The observed answer is continued by a client whose later requests show its items in another form', async () => {
    const here = conversation(false);
    player.program(here.credential, [{ events }, lastWord('resp_1'), lastWord('resp_2')]);
    const first = answeredItems(await ask(here, base));
    const turns: Item[] = [];
    for (const form of ['done', 'completed'] as const) {
      const kept = keptItems(first, form);
      const added = turns.length === 0 ? reaction(kept) : [user('More.')];
      const answer = await ask(here, { ...base, input: [...base.input, ...kept, ...turns, ...added] });
      turns.push(...added, ...sentAgain(keptItems(answeredItems(answer), form), ['id']));
      const { body, socket } = player.received(here.credential).at(-1)!;
      expect(body.input).toHaveLength(added.length);
      expect(body.previous_response_id).toEqual(expect.any(String));
      expect(socket).toBe(player.received(here.credential)[0]!.socket);
    }
  });
});

describe('values that are not a form of an item', () => {
  it.each(['gAAA-foreign', 'gAAA-added'])(
    'An item with the ciphertext %s is another item, so everything is sent',
    async (other) => {
      const player = await startPlayer();
      const at = await testBridge({ env: { HOLDFAST_UPSTREAM_URL: player.url } });
      const here = { url: at.url, player, credential: 'Bearer sk-other', thread: 'one' };
      player.program(here.credential, [{ events: facts[0]!.events }, lastWord('resp_1')]);
      await ask(here, base);
      const input = [...base.input, reasoning(other), message('msg_1'), user('More.')];
      await ask(here, { ...base, input });
      const sent = player.received(here.credential).at(-1)!.body;
      expect(sent.previous_response_id ?? null).toBeNull();
      expect(sent.input).toEqual(input);
      await at.close();
      await player.close();
    },
  );
});

describe('a rebuild after a loss', () => {
  let at: TestBridge;
  afterEach(() => at?.close());

  it.each(['done', 'completed'] as const)(
    'A rebuild replays reasoning after its original prefix for a client that keeps the %s form',
    async (form) => {
      at = await testBridge({ simulator: { seed: 31, reasoning: true } });
      const { simulator } = at;
      const headers = { 'thread-id': 'one' };
      const items: Item[] = [];
      let anchor: string | null = null;
      for (let turn = 0; turn < 5; turn += 1) {
        if (turn === 2) simulator.dropAll();
        if (turn === 4) simulator.expireCaches();
        const added = user(`Say ${turn}.`);
        items.push(added);
        // The last turns send only the response id: the bridge has to rebuild the context that the provider lost.
        const anchored = turn >= 2 && anchor !== null;
        const input = anchored ? [added] : items;
        const body = { ...base, input, ...(anchored ? { previous_response_id: anchor } : {}) };
        const answer = await post(at.url, body, headers);
        expect(answer.status).toBe(200);
        expect(answer.body).not.toHaveProperty('input_transformations');
        expect(digestOf(answer.body)).toBe(expectedDigest({ items: items as never }));
        items.push(...keptItems(answeredItems(answer), form));
        anchor = answer.body.id;
      }
      const full = simulator.journal.of('create').filter(({ previousResponseId }) => previousResponseId === null);
      expect(full.length).toBeGreaterThanOrEqual(3);
    },
  );
});
