import { describe, expect, it } from 'vitest';
import { continueLine, deepestMatch } from '../../src/transcript/continuation.ts';
import { contextFingerprint, EMPTY, extend, prefixesOf, requestFingerprint } from '../../src/transcript/fingerprint.ts';
import { planWire } from '../../src/transcript/planner.ts';
import { keptOutput } from '../../src/transcript/replay.ts';
import type { Item, LineEnd, RequestBody } from '../../src/transcript/types.ts';
import compaction from './recorded/codex-compaction.json' with { type: 'json' };
import cut from './recorded/codex-cut.json' with { type: 'json' };
import twoTurns from './recorded/codex-two-turns.json' with { type: 'json' };

/** What Codex 0.169.0 sent over plain HTTP, and what it was answered; long texts are shortened. */
type Exchange = { request: RequestBody; output: Item[]; id?: string };

/** The line as it stands after an exchange that completed. */
function endOf({ request, output, id }: Exchange): LineEnd {
  const kept = keptOutput(output);
  const asked = kept.compacted ? [] : (request.input as Item[]);
  return {
    turnId: id!,
    responseId: id!,
    transcriptFp: extend(extend(EMPTY, asked), kept.items),
    itemCount: asked.length + kept.items.length,
    contextFp: contextFingerprint(request),
  };
}

/** How each request goes out on a socket that holds the last completed answer. */
function forms(exchanges: readonly Exchange[]) {
  const known: LineEnd[] = [];
  let held: string | null = null;
  return exchanges.map((exchange) => {
    const body = exchange.request;
    const match = deepestMatch(prefixesOf(body.input as Item[]), known);
    const wire = planWire({
      body,
      text: JSON.stringify(body),
      continuation: continueLine(body, JSON.stringify(body), match),
      parentResponseId: match?.responseId ?? null,
      socketAnchor: held,
      anchorStored: false,
      history: null,
    });
    if (exchange.id) {
      known.push(endOf(exchange));
      held = exchange.id;
    }
    const items = wire.form === 'impossible' ? [] : (JSON.parse(wire.input ?? '[]') as Item[]);
    return `${wire.form}: ${items.map(({ type }) => type).join(', ')}`;
  });
}

describe('a recorded conversation of the real client', () => {
  it('with tool calls and a second user turn goes out as what is new, also though its metadata changes', () => {
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

  it('that compacts sends its trigger as a delta, and what it made of the compaction in full', () => {
    expect(forms(compaction as Exchange[])).toEqual([
      'full: message, message, message, message',
      'delta: function_call_output',
      'delta: compaction_trigger',
      'full: message, message, message, message, compaction, message',
    ]);
  });

  it('whose answer was cut repeats itself: the same request by its fingerprint, the same delta', () => {
    const [, first, again] = cut as Exchange[];
    expect(requestFingerprint(again!.request)).toBe(requestFingerprint(first!.request));
    expect(forms(cut as Exchange[]).slice(1)).toEqual(['delta: function_call_output', 'delta: function_call_output']);
  });
});
