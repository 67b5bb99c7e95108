import { describe, expect, it } from 'vitest';
import { MOST_LEVELS } from '../../src/json.ts';
import { keptError, keptId, keptItem, keptUsage, saysNothing, turnResult } from '../../src/session/commits.ts';
import type { SessionCore } from '../../src/session/core.ts';
import type { Turn } from '../../src/session/turn.ts';

describe('stored output of an answer', () => {
  it('Stored items are objects, as they were written', () => {
    const json = '{"type":"message", "n":1}';
    expect(keptItem(json)).toEqual({ value: { type: 'message', n: 1 }, json });
    for (const other of ['null', '7', '"x"', '[]', '[{}]', 'true']) expect(keptItem(other)).toBeNull();
  });

  it('Stored items are nested no deeper than a client could send back', () => {
    const nested = (levels: number) => `${'{"a":'.repeat(levels - 1)}{}${'}'.repeat(levels - 1)}`;
    expect(keptItem(nested(MOST_LEVELS))).not.toBeNull();
    expect(keptItem(nested(MOST_LEVELS + 1))).toBeNull();
  });

  it('Only a null item counts as empty', () => {
    expect([' null\n', 'null', '{}', '"null"', '7', ''].map(saysNothing)).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ]);
  });

  it('Stored ids have a bounded length', () => {
    const longest = 'x'.repeat(8_192);
    expect([keptId('r'), keptId(longest)]).toEqual(['r', longest]);
    expect([keptId(null), keptId(''), keptId(`${longest}x`)]).toEqual([null, null, null]);
  });
});

describe('stored usage', () => {
  it('Stored usage consists of counters and flags in objects, and has no texts', () => {
    const usage = { input_tokens: 7, cached: false, none: null, details: { reasoning_tokens: 3 } };
    expect(keptUsage(usage)).toEqual(usage);
    expect(keptUsage({ n: 1, text: 'word', list: [1], more: { list: [2], text: 'written by a model' } })).toEqual({
      n: 1,
      more: {},
    });
  });

  it('Stored usage has no names of omitted values', () => {
    expect(Object.keys(keptUsage({ text: 'written by a model', n: 1, list: [1] })!)).toEqual(['n']);
  });

  it('Usage that is no object is stored as none', () => {
    expect([undefined, null, 7, 'x', [1], true].map(keptUsage)).toEqual([null, null, null, null, null, null]);
  });

  it('Stored usage has at most three levels', () => {
    expect(keptUsage({ a: { b: { c: 1, d: { e: 1 } } } })).toEqual({ a: { b: { c: 1 } } });
  });

  it('Stored usage has short names without content', () => {
    const longest = 'n'.repeat(100);
    expect(keptUsage({ [longest]: 1, [`${longest}n`]: 2, 'two words': 3, '': 4 })).toEqual({ [longest]: 1 });
  });

  it('Stored usage has at most 64 counters, including those of inner objects', () => {
    const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, nth) => [`n${nth}`, nth]));
    expect(keptUsage(many(70))).toEqual(many(64));
    const inner = keptUsage({ details: many(60), ...many(10) });
    expect(inner).toEqual({ details: many(60), ...many(3) });
  });
});

describe('stored errors', () => {
  const error = {
    status: 400,
    type: 'invalid_request_error',
    code: 'x.y',
    param: 'input[0].id',
    message: 'secret',
    raw: 'secret',
  };

  it('A stored error has its status and its names', () => {
    expect(keptError(error as never)).toEqual({ status: 400, type: error.type, code: error.code, param: error.param });
  });

  it('A stored error has no text that a client or a model may have written', () => {
    const odd = { ...error, type: 'some words', code: 'c'.repeat(101), param: ['a'] };
    expect(keptError(odd as never)).toEqual({ status: 400, type: null, code: null, param: null });
  });
});

describe('the result of a turn whose past is unknown here', () => {
  it.each([
    ['behind an anchor that is not in the store', 'resp_elsewhere', {}],
    ['in a conversation of the provider', null, { conversation: 'conv_1' }],
  ])('It can be continued by its own id only: %s', (_, anchor, body) => {
    const item = { value: { type: 'message', role: 'user', content: 'x' }, json: '{"role":"user","content":"x"}' };
    const turn = {
      id: 't1',
      responseId: 'resp_1',
      request: { body: { model: 'm', ...body } },
      evidence: { anchor, passThrough: null, store: true },
      parent: null,
      continuation: { kind: 'begins', items: [item] },
      output: [item],
      ending: { state: 'completed' },
      kept: null,
    } as unknown as Turn;
    const turns = { storedBytes: 0, line: null };
    const session = {
      id: 's1',
      turns,
      env: { config: { limits: { transcriptBytes: 1e6 } } },
    } as unknown as SessionCore;
    const { result, head } = turnResult(turn, session);
    expect(result).toMatchObject({ replay: 'anchor_only', transcriptFp: null, forms: null });
    expect(head).toMatchObject({ line: null, places: [], row: { replay: 'anchor_only' } });
  });
});
