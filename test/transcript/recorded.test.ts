import { describe, expect, it } from 'vitest';
import { continuedBy, formsOf, type Line } from '../../src/transcript/items.ts';
import { continueLine, planWire } from '../../src/transcript/planner.ts';
import { readRequest } from '../../src/transcript/read.ts';
import type { Item, KnownEnd, ReadItems, RequestBody } from '../../src/transcript/types.ts';
import compaction from './recorded/codex-compaction.json' with { type: 'json' };
import cut from './recorded/codex-cut.json' with { type: 'json' };
import twoTurns from './recorded/codex-two-turns.json' with { type: 'json' };

/** Requests of Codex 0.169.0 over plain HTTP, and their answers; long texts are shortened. */
type Exchange = { request: RequestBody; output: Item[]; id?: string };

const reading = (body: RequestBody) => readRequest(body, JSON.stringify(body), 0);

interface Known extends KnownEnd {
  line: Line;
}

/** Returns the deepest of the known turns that the items continue, and the length of the match. */
function deepest(items: ReadItems, known: readonly Known[]) {
  const found = known.map((end) => ({ end, count: continuedBy(end.line, items) ?? 0 }));
  return found.filter(({ count }) => count > 0).sort((a, b) => b.count - a.count)[0] ?? null;
}

/** Returns the form in which each request is sent on a socket that holds the last completed answer. */
function forms(exchanges: readonly Exchange[]) {
  const known: Known[] = [];
  let held: string | null = null;
  return exchanges.map(({ request: body, output, id }) => {
    const read = reading(body);
    const match = deepest(read.items, known);
    const continuation = continueLine(read.contextFp, read.items.list, match);
    const wire = planWire({
      request: read,
      continuation,
      parentResponseId: match?.end.responseId ?? null,
      socketAnchor: held,
      anchorStored: false,
      history: null,
      contents: new Map(),
    });
    if (id) {
      const line = {
        turnId: id,
        forms: formsOf({ input: continuation.items, streamed: output, listed: null }),
        parent: match?.end.line ?? null,
      };
      known.push({ responseId: id, contextFp: read.contextFp, line });
      held = id;
    }
    const items = wire.form === 'impossible' ? [] : (JSON.parse(wire.input ?? '[]') as Item[]);
    return `${wire.form}: ${items.map(({ type }) => type).join(', ')}`;
  });
}

describe('recorded conversations of Codex', () => {
  it('A recorded conversation with tool calls and a second user turn goes out as deltas, also though its metadata changes', () => {
    expect(forms(twoTurns as Exchange[])).toEqual([
      'full: message, message, message, message',
      'delta: function_call_output',
      'delta: function_call_output',
      'delta: message',
      'delta: function_call_output',
    ]);
    const metadata = (twoTurns as Exchange[]).map(({ request }) => JSON.stringify(request.client_metadata));
    expect(new Set(metadata).size).toBeGreaterThan(1);
  });

  it('A recorded conversation that compacts sends its trigger as a delta, and the compacted context in full', () => {
    expect(forms(compaction as Exchange[])).toEqual([
      'full: message, message, message, message',
      'delta: function_call_output',
      'delta: compaction_trigger',
      'full: message, message, message, message, compaction, message',
    ]);
  });

  it('A recorded conversation whose answer was cut repeats its request with the same fingerprint and the same delta', () => {
    const [, first, again] = cut as Exchange[];
    expect(reading(again!.request).requestFp).toBe(reading(first!.request).requestFp);
    expect(forms(cut as Exchange[]).slice(1)).toEqual(['delta: function_call_output', 'delta: function_call_output']);
  });
});
