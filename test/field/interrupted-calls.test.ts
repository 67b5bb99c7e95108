import { describe, expect, it } from 'vitest';
import { type Asked, bodyOf, endsOf, type Item, startBoth, user } from './support.ts';

const call = (n: number, type: string): Item => ({
  id: `call-item-${n}`,
  type,
  call_id: `call_${n}`,
  name: 'probe',
  status: 'completed',
  ...(type === 'function_call' ? { arguments: '{}' } : { input: 'x' }),
});
const outputOf = ({ call_id, type }: Item, output = 'done'): Item => ({ type: `${type}_output`, call_id, output });

/** A provider that refuses a context in which a call has no output, and then also drops the anchor. */
function provider(replies: (n: number) => Item[]) {
  const contexts = new Map<string, Item[]>();
  const seen: Item[][] = [];
  const turn = (asked: Asked) => {
    const { body, n } = asked;
    const anchor = body.previous_response_id;
    const past = anchor === undefined ? [] : contexts.get(anchor);
    const refuse = (error: object) =>
      asked.send({ type: 'error', status: 400, error: { type: 'invalid_request_error', param: 'input', ...error } });
    if (!past) return refuse({ code: 'previous_response_not_found', message: `Response ${anchor} not found.` });
    const context = [...past, ...body.input];
    const open = new Set<unknown>();
    for (const { type, call_id } of context) {
      if (String(type).endsWith('_call')) open.add(call_id);
      if (String(type).endsWith('_call_output')) open.delete(call_id);
    }
    if (open.size > 0) {
      contexts.delete(anchor ?? '');
      return refuse({ code: null, message: `No tool output found for function call ${[...open][0]}.` });
    }
    seen.push(context);
    const output = replies(n);
    asked.answer(...output);
    contexts.set(`resp_${n}`, [...context, ...(output.length > 0 ? output : [])]);
  };
  return { turn, seen };
}

const bare = (items: readonly Item[]) => items.map(({ id: _id, status: _status, ...rest }) => rest);

describe.each(['function_call', 'custom_tool_call'])('parallel calls (%s)', (type) => {
  const calls = [call(1, type), call(2, type), call(3, type)];
  const answer = (n: number): Item => ({ type: 'message', id: `m${n}`, role: 'assistant', content: [] });

  it.each([true, false])(
    'Parallel calls of which one has no output get the provider’s own error, and the line stays usable (stream: %s)',
    async (stream) => {
      const { turn, seen } = provider((n) => (n === 1 ? calls : [answer(n)]));
      const { ask } = await startBoth(turn);
      const headers = { 'thread-id': 't' };
      const first = await ask(bodyOf([user('go')], { stream }), headers);
      const anchored = { stream, previous_response_id: 'resp_1' };
      const partly = await ask(bodyOf([outputOf(calls[0]!), outputOf(calls[2]!)], anchored), headers);
      expect([partly.status, partly.body.error?.message]).toEqual([
        400,
        'No tool output found for function call call_2.',
      ]);
      expect(partly.body.error).not.toHaveProperty('bridge_code');
      // The provider has dropped the anchor; the bridge still has the content.
      const outputs = calls.map((one) => outputOf(one));
      const whole = await ask(bodyOf(outputs, anchored), headers);
      expect(whole.status).toBe(200);
      expect(bare(seen.at(-1)!)).toEqual(bare([user('go'), ...first.body.output, ...outputs]));
      const resent = [user('go'), ...first.body.output, ...outputs, ...whole.body.output, user('next')];
      expect((await ask(bodyOf(resent, { stream }), headers)).status).toBe(200);
      expect(bare(seen.at(-1)!)).toEqual(bare(resent));
    },
  );

  it('Parallel calls interrupted by the client continue from those it received', async () => {
    const begun: Asked[] = [];
    const { turn, seen } = provider((n) => [answer(n)]);
    const { at, ask } = await startBoth((asked) => {
      if (asked.n > 1) return turn(asked);
      begun.push(asked);
      asked.send({ type: 'response.created', response: { id: 'resp_1', status: 'in_progress', output: [] } });
      asked.send({ type: 'response.output_item.done', output_index: 0, item: calls[0] });
    });
    const headers = { 'thread-id': 't' };
    const leave = new AbortController();
    const answered = await fetch(`${at.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer sk-test', ...headers },
      body: JSON.stringify(bodyOf([user('go')])),
      signal: leave.signal,
    });
    let text = '';
    for await (const chunk of answered.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      if (text.includes('output_item.done')) break;
    }
    leave.abort();
    expect(begun).toHaveLength(1);
    const kept = [user('go'), calls[0]!, outputOf(calls[0]!, 'aborted'), user('changed my mind')];
    const next = await ask(bodyOf(kept), headers);
    expect(endsOf(next)).toEqual(['response.completed']);
    expect(bare(seen.at(-1)!)).toEqual(bare(kept));
  });
});
