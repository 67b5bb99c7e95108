import type { SimEvent } from './events.ts';
import { chance } from './seeded.ts';

/**
 * Returns headers with information about the provider and the account that clients act on. They are the same on an
 * upgrade and on an HTTP answer, except that the latter also names its model.
 *
 * @param model model of the request; undefined for an upgrade, which precedes all requests
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

/**
 * Returns whether an event is a signal outside the response: it has no sequence number and may precede
 * `response.created`.
 */
export const isSignal = ({ type }: SimEvent): boolean =>
  type.startsWith('codex.') || type.startsWith('responsesapi.') || type === 'response.metadata';

/**
 * Returns the signals before `response.created` of a turn. The metadata event has one of its two names, or is left out.
 */
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
