import type { SimEvent } from './events.ts';
import { chance } from './seeded.ts';

/**
 * What the provider says of itself and of the account beside an answer, and clients act on. The same on an upgrade and on
 * an HTTP answer, but that the latter names its model too.
 *
 * @param model of the request; undefined on an upgrade, which comes before any
 */
export const signalHeaders = (model?: unknown): Record<string, string> => ({
  'openai-version': '2020-10-01',
  ...(model === undefined ? {} : { 'openai-model': String(model) }),
  'x-reasoning-included': 'true',
  'x-models-etag': 'W/"sim-models-1"',
  'x-codex-active-limit': 'primary',
  'x-codex-primary-used-percent': '1',
  'x-codex-primary-window-minutes': '300',
  'x-codex-primary-reset-after-seconds': '3600',
});

export const rateLimitsEvent = (): SimEvent => ({
  type: 'codex.rate_limits',
  plan_type: 'pro',
  rate_limits: {
    allowed: true,
    limit_reached: false,
    primary: { used_percent: 1, window_minutes: 300, reset_after_seconds: 3_600 },
    secondary: null,
  },
});

/** True for events that belong to no place in a response: they are not numbered and may come before it begins. */
export const isSignal = ({ type }: SimEvent): boolean =>
  type.startsWith('codex.') || type.startsWith('responsesapi.') || type === 'response.metadata';

/** The signals before `response.created` of a turn; the metadata goes by either of its names, or is not sent. */
export function signalsBefore(seed: number, turn: number, model: unknown, timing: boolean): SimEvent[] {
  const events = [rateLimitsEvent()];
  const name = ['response.metadata', 'codex.response.metadata'][Math.floor(chance(seed, 'metadata', turn) * 3)];
  if (name) events.push({ type: name, headers: { 'openai-model': model } });
  if (timing)
    events.push({
      type: 'responsesapi.websocket_timing',
      timing_metrics: { responses_duration_excl_engine_and_client_tool_time_ms: 1 },
    });
  return events;
}
