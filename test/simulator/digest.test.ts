import { describe, expect, it } from 'vitest';
import { contextDigest, digestOf, expectedDigest } from '../../src/testing/index.ts';
import { fold, sealLine } from '../../src/testing/simulator/digest.ts';
import { user } from './client.ts';

const answer = {
  type: 'message',
  role: 'assistant',
  id: 'msg_1',
  status: 'completed',
  content: [{ type: 'output_text', text: 'yes', annotations: [] }],
};
const call = { type: 'function_call', id: 'fc_1', call_id: 'call_1', name: 'shell', arguments: '{}' };
const result = { type: 'function_call_output', id: 'fco_1', call_id: 'call_1', output: 'ok' };
const reasoning = { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'sealed' };
const items = [user('hi'), reasoning, call, result, answer];

describe('the context digest', () => {
  it('The digest treats a string input as one user message, whatever the form of the message', () => {
    const digest = expectedDigest({ items: 'hi' });
    expect(expectedDigest({ items: [user('hi')] })).toBe(digest);
    expect(expectedDigest({ items: [{ role: 'user', content: 'hi' }] })).toBe(digest);
    expect(expectedDigest({ items: ['hi'] })).toBe(digest);
  });

  it('The digest ignores server-made parts of an item: ids, status, annotations', () => {
    const bare = items.map(({ id: _id, ...item }: Record<string, unknown>) => ({ ...item, status: 'in_progress' }));
    const annotated = { ...answer, content: [{ ...answer.content[0]!, annotations: [{ type: 'x' }] }] };
    expect(contextDigest({ items: bare })).toBe(contextDigest({ items }));
    expect(contextDigest({ items: [annotated] })).toBe(contextDigest({ items: [answer] }));
  });

  it.each([
    ['role', [{ ...user('hi'), role: 'developer' }, ...items.slice(1)]],
    ['text', [user('ho'), ...items.slice(1)]],
    ['arguments', items.map((item) => (item === call ? { ...call, arguments: '{"a":1}' } : item))],
    ['call id', items.map((item) => (item === result ? { ...result, call_id: 'call_2' } : item))],
    ['encrypted content', items.map((item) => (item === reasoning ? { ...reasoning, encrypted_content: 'no' } : item))],
    ['order', items.toReversed()],
    ['a lost item', items.slice(1)],
    ['a repeated item', [...items, answer]],
  ])('The digest depends on %s', (_what, changed) => {
    expect(contextDigest({ items: changed })).not.toBe(contextDigest({ items }));
  });

  it('The digest covers instructions, tools and reasoning, and treats missing tools like an empty list', () => {
    const plain = contextDigest({ items });
    expect(contextDigest({ items, tools: [], instructions: null })).toBe(plain);
    for (const context of [{ instructions: 'x' }, { tools: [{ type: 'function' }] }, { reasoning: { effort: 'low' } }])
      expect(contextDigest({ items, ...context })).not.toBe(plain);
    const tools = (parameters: unknown) => contextDigest({ items, tools: [{ name: 'f', parameters }] });
    expect(tools({ a: 1, b: 2 })).toBe(tools({ b: 2, a: 1 }));
  });

  it('The digest is the same when folded at once or turn by turn', () => {
    const { line } = fold(fold('', items.slice(0, 2)).line, items.slice(2));
    expect(sealLine(line, {})).toBe(contextDigest({ items }));
  });

  it('The digest is parsed from a text, a message or a tool call', () => {
    const digest = expectedDigest({ items: 'hi' });
    const text = `Sure. digest=${digest} items=1`;
    expect(digestOf(text)).toBe(digest);
    expect(digestOf({ output: [{ ...answer, content: [{ type: 'output_text', text }] }] })).toBe(digest);
    expect(digestOf({ output: [{ ...call, call_id: `call_${digest}_1` }] })).toBe(digest);
    expect(digestOf({ output: [answer] })).toBeNull();
  });
});
