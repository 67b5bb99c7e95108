import { describe, expect, it } from 'vitest';
import { contextFingerprint, fieldTexts, rewriteForClient } from '../../src/transcript/items.ts';
import {
  buildReplay,
  continueAnchor,
  continueLine,
  createFrame,
  type PlanInput,
  planWire,
  replayClassOf,
} from '../../src/transcript/planner.ts';
import { readItem, readRequest } from '../../src/transcript/read.ts';
import type { Item, RequestBody } from '../../src/transcript/types.ts';

const contextOf = (body: object) => contextFingerprint(fieldTexts(body as never));

const user = (text: string): Item => ({ type: 'message', role: 'user', content: text });
const model = (text: string): Item => ({ type: 'message', role: 'assistant', content: text, id: `msg_${text}` });
const reasoning: Item = { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'sealed' };
const past = [user('one'), model('1')];
const bodyOf = (input: readonly Item[], more: object = {}): RequestBody => ({
  model: 'm',
  store: false,
  input,
  ...more,
});
/** Returns the text in which a body arrived. */
const textOf = (body: unknown) => JSON.stringify(body);
const texts = (items: unknown) => (items as readonly Item[]).map((item) => JSON.stringify(item));
const written = (items: readonly Item[]) => items.map((value) => readItem({ value, json: JSON.stringify(value) }));
const reading = (body: object, text = textOf(body)) => readRequest(body as RequestBody, text, text.length);
/** Returns the expected frame input for these items. */
const sent = (items: unknown) => ({ input: JSON.stringify(items), items: (items as readonly Item[]).length });
const match = { end: { responseId: 'resp_1', contextFp: contextOf(bodyOf([])) }, count: past.length };
const plan = (body: RequestBody, more: Partial<PlanInput> = {}) =>
  planWire({
    request: reading(body),
    continuation: continueLine(contextOf(body), written(body.input as Item[]), match),
    parentResponseId: 'resp_1',
    socketAnchor: 'resp_1',
    anchorStored: false,
    history: null,
    contents: new Map(),
    ...more,
  });

describe('a full resend', () => {
  const resend = bodyOf([...past, user('two')]);

  it('A full resend is a delta on the socket that holds the head, and only there', () => {
    expect(plan(resend)).toEqual({ form: 'delta', previousResponseId: 'resp_1', ...sent([user('two')]) });
    expect(plan(resend, { socketAnchor: null })).toEqual({ form: 'full', ...sent(resend.input) });
    expect(plan(resend, { socketAnchor: 'resp_0' })).toEqual({ form: 'full', ...sent(resend.input) });
    // The provider could resolve the id, but the client has sent everything, so the anchor would be an unnecessary
    // risk.
    expect(plan(resend, { socketAnchor: null, anchorStored: true })).toEqual({ form: 'full', ...sent(resend.input) });
  });

  it.each<[string, RequestBody]>([
    ['a context field changed', bodyOf([...past, user('two')], { instructions: 'Be brief.' })],
    ['the include list changed', bodyOf([...past, user('two')], { include: ['reasoning.encrypted_content'] })],
    ['the store flag changed', bodyOf([...past, user('two')], { store: true })],
    ['there is no new item', bodyOf(past)],
  ])('A full resend stays full when %s', (_, body) => {
    expect(plan(body)).toEqual({ form: 'full', ...sent(body.input) });
  });

  it('A full resend without a known line is a root', () => {
    const items = written(resend.input as Item[]);
    expect(continueLine(contextOf(resend), items, null)).toEqual({ kind: 'root', items });
  });

  it.each<[string | null, object, number]>([
    [null, {}, 2],
    ['nothing new is left', {}, 3],
    ['the line has no response id', { responseId: null }, 2],
    ['a context field changed', { contextFp: 'another' }, 2],
  ])('A full resend is not a delta of its line: %s', (reason, end, count) => {
    const contextFp = contextOf(resend);
    const items = written(resend.input as Item[]);
    const known = { end: { responseId: 'resp_1', contextFp, ...end }, count };
    expect(continueLine(contextFp, items, known)).toEqual({
      kind: 'extends',
      items: items.slice(count),
      deltaAllowed: reason === null,
      reason,
    });
  });

  it('A full resend is sent as it was written', () => {
    const text = `{"model":"m","store":false,"input":[ ${texts([...past, user('two')]).join(' ,\n')} ]}`;
    const wire = plan(resend, { request: reading(JSON.parse(text), text), socketAnchor: null });
    expect(wire).toMatchObject({ form: 'full', input: text.slice(text.indexOf('['), -1) });
  });

  it('A full resend after a response without an id stays full', () => {
    expect(plan(resend, { parentResponseId: null, socketAnchor: null })).toMatchObject({ form: 'full' });
  });

  it('A full resend keeps references, except those that the provider cannot resolve', () => {
    const pointing = bodyOf([
      past[0]!,
      { type: 'item_reference', id: 'msg_1' },
      { type: 'item_reference', id: 'msg_9' },
    ]);
    const contents = new Map([['msg_1', '{"type":"message","role":"assistant","content":"1"}']]);
    expect(plan(pointing)).toEqual({
      form: 'delta',
      previousResponseId: 'resp_1',
      ...sent([{ type: 'item_reference', id: 'msg_9' }]),
    });
    expect(plan(pointing, { socketAnchor: null })).toEqual({ form: 'full', ...sent(pointing.input) });
    expect(plan(pointing, { socketAnchor: null, contents })).toEqual({
      form: 'full',
      ...sent([past[0], { type: 'message', role: 'assistant', content: '1' }, { type: 'item_reference', id: 'msg_9' }]),
    });
  });
});

describe('an anchored request', () => {
  const anchored = bodyOf([user('two')], { previous_response_id: 'resp_1' });
  const at = (more: Partial<PlanInput>) =>
    plan(anchored, { continuation: continueAnchor(written(anchored.input as Item[])), ...more });

  it.each<[string, Partial<PlanInput>, string]>([
    ['the socket holds it', {}, 'delta'],
    ['the provider stores it', { socketAnchor: null, anchorStored: true }, 'delta'],
    ['its context is known exactly', { socketAnchor: null, history: texts(past) }, 'full'],
    ['none of these holds', { socketAnchor: null }, 'impossible'],
  ])('An anchored request is sent as its case requires when %s: %s', (_, more, form) => {
    expect(at(more).form).toBe(form);
  });

  it('An anchored request after a response without an id has nothing to be anchored to', () => {
    const none = { parentResponseId: null, socketAnchor: null, anchorStored: true };
    expect(at(none)).toMatchObject({ form: 'impossible' });
    expect(at({ ...none, history: texts(past) })).toMatchObject({ form: 'full' });
  });

  it('An anchored request has the contents of items that the provider cannot look up', () => {
    const pointing = bodyOf([{ type: 'item_reference', id: 'msg_1' }, user('two')], { previous_response_id: 'resp_1' });
    const contents = new Map([['msg_1', '{"type":"message","role":"assistant","content":"1"}']]);
    const whole = [{ type: 'message', role: 'assistant', content: '1' }, user('two')];
    const continuation = continueAnchor(written(pointing.input as Item[]));
    expect(plan(pointing, { continuation, contents })).toEqual({
      form: 'delta',
      previousResponseId: 'resp_1',
      ...sent(whole),
    });
    expect(plan(pointing, { continuation, contents, socketAnchor: null, history: [] })).toEqual({
      form: 'full',
      ...sent(whole),
    });
  });

  it('An anchored request that is sent in full has all items and no anchor', () => {
    const wire = at({ socketAnchor: null, history: texts(past) });
    expect(wire).toEqual({ form: 'full', ...sent([...past, user('two')]) });
    const frame = JSON.parse(
      createFrame({
        request: reading(anchored),
        wire: wire as never,
        addEncryptedReasoning: false,
        turnState: null,
      }),
    );
    expect('previous_response_id' in frame).toBe(false);
  });
});

describe('the frame', () => {
  const wire = { form: 'full', ...sent([user('one')]) } as const;
  const frame = (body: object, more: object = {}) =>
    JSON.parse(
      createFrame({
        request: reading(body),
        wire,
        addEncryptedReasoning: false,
        turnState: null,
        ...more,
      }),
    ) as Record<string, unknown>;

  it('A frame is the client’s own request, including unknown fields', () => {
    expect(frame({ model: 'm', novelty: { deep: [1] }, input: 'x' })).toEqual({
      type: 'response.create',
      model: 'm',
      novelty: { deep: [1] },
      input: JSON.parse(wire.input),
    });
  });

  it('A frame is the body byte for byte where nothing of it is replaced', () => {
    const text =
      '{ "9" : 9223372036854775807, "model":"m",\n "n":[1.0, -0,1E400], "\\u0061":"\\/", "type":"x","background":false }';
    const sentAs = { form: 'full', input: null, items: 0 } as const;
    const made = createFrame({
      request: reading(JSON.parse(text), text),
      wire: sentAs,
      addEncryptedReasoning: false,
      turnState: null,
    });
    expect(made).toBe(
      '{"type":"response.create", "9" : 9223372036854775807, "model":"m",\n "n":[1.0, -0,1E400], "\\u0061":"\\/" }',
    );
  });

  it('A frame has no white space around it, and keeps a member that is null', () => {
    const made = (text: string) =>
      createFrame({
        request: reading(JSON.parse(text), text),
        wire: { form: 'full', input: null, items: 0 },
        addEncryptedReasoning: false,
        turnState: null,
      });
    expect(made(' \n{"model":"m", "previous_response_id":null} \n')).toBe(
      '{"type":"response.create","model":"m", "previous_response_id":null}',
    );
    expect(made('{"client_metadata":{ "turn_id" : "t" }, "stream" : true}')).toBe(
      '{"type":"response.create","client_metadata":{ "turn_id" : "t" }, "stream" : true}',
    );
  });

  it('The frame of an empty body has its type', () => {
    const none = { form: 'full', input: null, items: 0 } as const;
    expect(frame({}, { wire: none })).toEqual({ type: 'response.create' });
    expect(frame({ type: 'x' }, { wire: none })).toEqual({ type: 'response.create' });
  });

  it('A frame adds no field that the client did not send, and has `stream: true` where the client set another value', () => {
    expect(frame({ model: 'm', stream: false })).toMatchObject({ stream: true });
    expect(frame({ model: 'm', stream: null })).toMatchObject({ stream: true });
    expect(frame({ model: 'm' })).not.toHaveProperty('stream');
    expect(frame({ background: true, stream: false })).toMatchObject({ background: true, stream: false });
    const wireless = { form: 'delta', previousResponseId: 'r', input: null, items: 0 } as const;
    expect(frame({ model: 'm' }, { wire: wireless })).toEqual({
      type: 'response.create',
      model: 'm',
      previous_response_id: 'r',
    });
  });

  it('A frame requests encrypted reasoning beside what the client requested', () => {
    const { include } = frame({ include: ['x'], input: [] }, { addEncryptedReasoning: true });
    expect(include).toEqual(['x', 'reasoning.encrypted_content']);
    for (const body of [{}, { include: null }, { include: [] }]) {
      expect(frame(body, { addEncryptedReasoning: true }).include).toEqual(['reasoning.encrypted_content']);
    }
  });

  it('A frame carries the provider’s turn state, and never a token under that name', () => {
    const client_metadata = { turn_id: 't', 'x-codex-turn-state': 'a token of ours' };
    expect(frame({ client_metadata }).client_metadata).toEqual({ turn_id: 't' });
    expect(frame({ client_metadata }, { turnState: 'theirs' }).client_metadata).toEqual({
      turn_id: 't',
      'x-codex-turn-state': 'theirs',
    });
    for (const body of [{}, { client_metadata: null }]) {
      expect(frame(body, { turnState: 'theirs' }).client_metadata).toEqual({ 'x-codex-turn-state': 'theirs' });
    }
  });
});

describe('exactness of a turn', () => {
  const classOf = (input: Item[], output: Item[], more: object = {}) =>
    replayClassOf({ input: written(input), output, body: bodyOf(input), parent: null, ...more });

  it.each<[string, Item]>([
    [
      'a picture by its address',
      { type: 'message', role: 'user', content: [{ type: 'input_image', image_url: 'https://x' }] },
    ],
    ['a file by its id', { type: 'message', role: 'user', content: [{ type: 'input_file', file_id: 'file_1' }] }],
    ['a reference', { type: 'item_reference', id: 'msg_1' }],
    ['reasoning without its content', { type: 'reasoning', summary: [] }],
    ['a hosted tool’s call', { type: 'code_interpreter_call', id: 'ci_1', container_id: 'cntr_1' }],
    ['an unknown type', { type: 'novel' }],
  ])('A turn cannot be resent exactly with %s', (_, item) => {
    expect(classOf([item], [])).toBe('anchor_only');
    expect(classOf([user('one')], [item])).toBe('anchor_only');
  });

  it.each<[string, Item]>([
    ['text', user('one')],
    [
      'a picture in the item',
      { type: 'message', role: 'user', content: [{ type: 'input_image', image_url: 'data:x' }] },
    ],
    ['a file in the item', { type: 'message', role: 'user', content: [{ type: 'input_file', file_data: 'data:x' }] }],
    ['calls and their outputs', { type: 'function_call_output', call_id: 'c', output: 'x' }],
    ['encrypted reasoning', reasoning],
  ])('A turn can be resent exactly with %s', (_, item) => {
    expect(classOf([item], [])).toBe('exact');
  });

  it('A turn is not more exact than its past, unless a compaction replaces all of it', () => {
    expect(classOf([user('one')], [], { parent: 'anchor_only' })).toBe('anchor_only');
    const compacted = { type: 'compaction', encrypted_content: 'sealed' };
    expect(classOf([user('one')], [compacted], { parent: 'anchor_only' })).toBe('exact');
    expect(classOf([compacted], [], { parent: 'anchor_only' })).toBe('anchor_only');
    expect(classOf([{ type: 'item_reference', id: 'msg_1' }], [compacted])).toBe('exact');
    expect(replayClassOf({ input: [], output: [], body: { conversation: 'c' }, parent: 'exact' })).toBe('never');
  });
});

describe('a replay', () => {
  const turn = (input: Item[], output: Item[], replay: 'exact' | 'anchor_only' = 'exact') => ({
    input: texts(input),
    output: written(output),
    replay,
  });

  it('A replay sends the line from its root, without ids that are unknown there', () => {
    const replay = buildReplay([turn([user('one')], [reasoning, model('1')]), turn([user('two')], [])]);
    const { id: _r, ...thought } = reasoning;
    const { id: _m, ...answer } = model('1');
    expect(replay).toEqual({ kind: 'exact', items: texts([user('one'), thought, answer, user('two')]) });
  });

  it('A replay begins at the last compaction', () => {
    const compaction = { type: 'compaction', encrypted_content: 'sealed' };
    const replay = buildReplay([
      turn([user('one')], [model('1')]),
      turn([user('two')], [model('2'), compaction, model('3')]),
      turn([user('four')], []),
    ]);
    const { id: _, ...after } = model('3');
    expect(replay).toEqual({ kind: 'exact', items: texts([compaction, after, user('four')]) });
  });

  it('A replay of no turns is empty', () => {
    expect(buildReplay([])).toEqual({ kind: 'exact', items: [] });
  });

  it('A replay of a line that is not exact is refused', () => {
    expect(buildReplay([turn([user('one')], [], 'anchor_only')]).kind).toBe('not_exact');
  });
});

describe('events as the client sees them', () => {
  const event = (response: object) => ({ type: 'response.completed', response });
  const show = (data: Record<string, unknown>, previousResponseId: string | null, hideEncrypted = false) => {
    const text = JSON.stringify(data);
    return rewriteForClient(text, data, { previousResponseId, hideEncrypted });
  };

  it('An event is the provider’s text byte for byte where nothing has to be changed', () => {
    const text = '{"type":"response.novel","n": 1.0}';
    expect(rewriteForClient(text, JSON.parse(text), { previousResponseId: null, hideEncrypted: true })).toBe(text);
  });

  it('An event is the provider’s text except for the bridge’s own changes', () => {
    const text =
      '{"type":"response.completed", "response":{"output":[ {"type":"reasoning","encrypted_content":"s","n":1.0},{"type":"novel","encrypted_content":"kept"}, 7 ],"10":-0, "previous_response_id" : "resp_1", "top_p":1E0}}';
    expect(rewriteForClient(text, JSON.parse(text), { previousResponseId: null, hideEncrypted: true })).toBe(
      text.replace('"resp_1"', 'null').replace('"encrypted_content":"s",', ''),
    );
    const item = '{"item":{"id":"rs", "encrypted_content":"s" ,"type":"reasoning"},"n": 1.0}';
    expect(rewriteForClient(item, JSON.parse(item), { previousResponseId: null, hideEncrypted: true })).toBe(
      '{"item":{"id":"rs" ,"type":"reasoning"},"n": 1.0}',
    );
  });

  it('An event names the client’s own anchor, never one that only the bridge used', () => {
    expect(JSON.parse(show(event({ previous_response_id: 'resp_1' }), null)).response.previous_response_id).toBeNull();
    const own = event({ previous_response_id: 'resp_1' });
    expect(show(own, 'resp_1')).toBe(JSON.stringify(own));
  });

  it.each<[string, object]>([
    ['a response that is no object', { response: 'x' }],
    ['a response that is a list', { response: [reasoning] }],
    ['a response that is null', { response: null, item: 7 }],
    ['an item that is null', { item: null }],
    ['an item that is a text', { item: 'reasoning' }],
    ['a response without an anchor', event({ output: [model('1')] })],
    ['an output that is no list', event({ output: { 0: reasoning } })],
    ['items without encrypted content', event({ output: [null, 7, 'x', [], { type: 'reasoning' }] })],
  ])('An event of any other shape is passed on unchanged: %s', (_, data) => {
    expect(show(data as never, 'resp_1', true)).toBe(JSON.stringify(data));
  });

  it('An event names no anchor of the bridge also when it lists no output', () => {
    const text = '{"type":"response.created","response":{"previous_response_id":"resp_1"}}';
    expect(rewriteForClient(text, JSON.parse(text), { previousResponseId: 'own', hideEncrypted: true })).toBe(
      text.replace('resp_1', 'own'),
    );
  });

  it('An event omits encrypted reasoning that the client did not request, in items and in the whole response', () => {
    expect(show({ type: 'response.output_item.done', item: reasoning }, null, true)).not.toContain('sealed');
    expect(show(event({ output: [reasoning, model('1')] }), null, true)).not.toContain('sealed');
    expect(show(event({ output: [reasoning] }), null, false)).toContain('sealed');
  });
});
