import { describe, expect, it } from 'vitest';
import { nestsDeeperThan, parseBounded } from '../../../src/json.ts';
import { normaliseError } from '../../../src/upstream/errors.ts';
import { parseFrame } from '../../../src/upstream/frames.ts';
import { framesOfAnswer } from '../../../src/upstream/http.ts';
import { MOST_FRAME_LEVELS } from '../../../src/upstream/port.ts';
import { scripted, usual } from '../../field/scripted.ts';

const nested = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`;
const post = (url: string, body: object) =>
  fetch(`${url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk' },
    body: JSON.stringify(body),
  });

/** Frames of the upstream that can be nested too deeply, by the place of the nesting. */
const frames: [string, (deep: string) => string][] = [
  ['an error', (deep) => `{"type":"error","status":400,"error":{"message":"no","code":"x","details":${deep}}}`],
  ['an item', (deep) => `{"type":"response.output_item.done","output_index":0,"item":{"type":"message","x":${deep}}}`],
  [
    'a terminal',
    (deep) => `{"type":"response.completed","response":{"id":"r","status":"completed","output":[${deep}]}}`,
  ],
  ['telemetry', (deep) => `{"type":"codex.rate_limits","x":${deep}}`],
  ['an event of unknown type', (deep) => `{"type":"response.later","x":${deep}}`],
];

describe.each(['websocket', 'http'] as const)('nesting over %s', (transport) => {
  it.each(frames)('Beyond the nesting limit %s ends its own turn and nothing else', async (_, frame) => {
    await using at = await scripted({
      env: { HOLDFAST_UPSTREAM_TRANSPORT: transport },
      turn(turn) {
        if (turn.n > 1) return usual(turn);
        turn.raw(frame(nested(turn.n === 0 ? 9_000 : 100_000)));
        turn.end();
      },
    });
    for (const stream of [false, true]) {
      const answer = await post(at.url, { model: 'm', input: 'x', stream });
      expect(await answer.text()).toMatch(/nested deeper than \d+ levels/);
    }
    const after = await post(at.url, { model: 'm', input: 'x' });
    expect([after.status, ((await after.json()) as { status: string }).status]).toEqual([200, 'completed']);
  });
});

describe('nesting limits', () => {
  it('A parsed value never nests deeper than JSON.stringify can write', () => {
    expect(() => parseBounded(nested(401))).toThrow(SyntaxError);
    expect(parseBounded(nested(400))).toBeInstanceOf(Array);
    expect(nestsDeeperThan(nested(401), 400)).toBe(true);
    expect(nestsDeeperThan('['.repeat(401), 400)).toBe(true);
    expect(nestsDeeperThan(nested(400), 400)).toBe(false);
    expect(nestsDeeperThan(`"${nested(500)}"`, 400)).toBe(false);
  });

  it('A frame that echoes a request of the maximum depth is accepted', () => {
    const frame = `{"type":"response.created","response":{"id":"r","tools":[{"parameters":${nested(400)}}]}}`;
    expect(parseFrame(frame).kind).toBe('created');
    const deepest = (levels: number) => parseFrame(`{"type":"response.x","x":${nested(levels - 1)}}`).kind;
    expect([deepest(MOST_FRAME_LEVELS), deepest(MOST_FRAME_LEVELS + 1)]).toEqual(['event', 'error']);
  });

  it.each([9_000, 100_000])('A refusal and a JSON answer %i levels deep are handled as text', (levels) => {
    const body = Buffer.from(`{"error":{"message":"no","code":"c","details":${nested(levels)}}}`);
    const error = normaliseError({ status: 400, headers: {}, body });
    expect(() => JSON.stringify(error.raw)).not.toThrow();
    expect(error.status).toBe(400);
    expect(framesOfAnswer({ status: 200, headers: {}, body })).toHaveLength(1);
    const response = Buffer.from(`{"id":"r","status":"completed","output":[${nested(levels)}]}`);
    expect(framesOfAnswer({ status: 200, headers: {}, body: response })[0]).toContain('"type":"error"');
  });
});
