import { elementTexts, isFields, membersOf, parseBounded, withMembers } from '../json.ts';
import { refusalFrame } from './error-frame.ts';
import { MOST_FRAME_LEVELS } from './limits.ts';
import type { UpstreamAnswer } from './port.ts';
import { jsonTexts } from './sse.ts';

type Fields = Record<string, unknown>;

const ending = new Map([
  ['completed', 'response.completed'],
  ['incomplete', 'response.incomplete'],
  ['failed', 'response.failed'],
  // No event of this name exists. A cancelled response must never be continued, like a failed one.
  ['cancelled', 'response.failed'],
]);

const running = new Map([
  ['queued', 'response.queued'],
  ['in_progress', 'response.in_progress'],
]);

/** Values that turn a finished response back into one that has produced nothing. */
const begun = new Map([
  ['status', '"in_progress"'],
  ['output', '[]'],
  ['usage', 'null'],
  ['error', 'null'],
  ['incomplete_details', 'null'],
]);

function parse(text: string): Fields | null {
  try {
    const value: unknown = parseBounded(text, MOST_FRAME_LEVELS);
    return isFields(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * Converts a 2xx answer that is no event stream to the frames a stream would have had. Values keep their written form.
 *
 * - A finished response: `response.created` (started, nothing generated), its output items, and the terminal event for its
 *   status.
 * - A background response (`queued`, `in_progress`): `response.created` and the event of that name, both with the response
 *   object. No terminal event follows; the end of the connection is the end of the turn.
 * - Events, one per line: those.
 * - Anything else: an `error` frame with status 502, or with the error's own status.
 */
export function framesOfAnswer(answer: UpstreamAnswer): string[] {
  const text = answer.body.toString('utf8');
  const lines = jsonTexts(text);
  if (lines.length > 1 && lines.every((line) => typeof parse(line)?.type === 'string')) return lines;
  const response = parse(text);
  const status = typeof response?.status === 'string' ? response.status : '';
  const terminal = ending.get(status);
  const event = running.get(status);
  if (response === null || typeof response.id !== 'string' || (terminal ?? event) === undefined) {
    const unusable = { message: 'The upstream answered with something other than a response.' };
    const body = response?.error ? answer.body : Buffer.from(JSON.stringify({ error: unusable }));
    return [refusalFrame({ ...answer, status: 0, body })];
  }
  const frames: string[] = [];
  const add = (type: string, members: string) =>
    frames.push(`{"type":${JSON.stringify(type)},${members},"sequence_number":${frames.length}}`);
  if (event !== undefined) {
    add('response.created', `"response":${text}`);
    add(event, `"response":${text}`);
    return frames;
  }
  add('response.created', `"response":${withMembers(text, begun)}`);
  elementTexts(text, membersOf(text).get('output')?.start ?? text.length).forEach((item, index) => {
    add('response.output_item.added', `"output_index":${index},"item":${item}`);
    add('response.output_item.done', `"output_index":${index},"item":${item}`);
  });
  add(terminal!, `"response":${text}`);
  return frames;
}
