import { headersOfRateLimits, livingHeaders, UPSTREAM_REQUEST_ID } from '../upstream/answer-headers.ts';
import type { ParsedFrame } from '../upstream/port.ts';
import type { Turn } from './turn.ts';

/** Collects the provider's headers and telemetry that clients act on, for a session's answers. */
export interface AnswerSignals {
  /** Starts from the headers of a new connection. Values from the previous connection are discarded. */
  opened(headers: Readonly<Record<string, string>>): void;
  /**
   * Applies a frame that may carry headers or telemetry.
   *
   * @returns true if the headers of the running turn's answer have changed
   */
  take(frame: ParsedFrame): boolean;
  /**
   * Returns the current headers of a turn's answer. Headers that belong to one answer only are not repeated for the
   * next turn.
   */
  forTurn(turn: Turn): Readonly<Record<string, string>>;
}

/** Creates the collector of a session. */
export function createAnswerSignals(): AnswerSignals {
  let connection = new Map<string, string>();
  let quota = new Map<string, string>();
  let answer = new Map<string, string>();
  let answering: string | null = null;
  let model: unknown;

  /** Applies telemetry about one rate limit. It replaces all known values of that limit. */
  const replaceQuota = (event: Record<string, unknown>): boolean => {
    const said = headersOfRateLimits(event);
    if (!said) return false;
    const { prefix, headers } = said;
    const stale = (name: string) => ['primary', 'secondary'].some((part) => name.startsWith(`${prefix}-${part}-`));
    for (const name of [...quota.keys()]) {
      if (stale(name)) quota.delete(name);
      else if (name.startsWith(`${prefix}-credits-`) && headers.has(`${prefix}-credits-has-credits`))
        quota.delete(name);
    }
    for (const [name, value] of headers) quota.set(name, value);
    return true;
  };

  return {
    opened(headers) {
      [connection, quota, answer, answering] = [new Map(), new Map(), new Map(), null];
      const lives = new Map([
        ['connection', connection],
        ['quota', quota],
        ['answer', answer],
      ]);
      for (const { name, value, life } of livingHeaders(headers)) lives.get(life)?.set(name, value);
    },
    take(frame) {
      if (frame.type === 'codex.rate_limits' && frame.data) return replaceQuota(frame.data);
      if (!frame.headers) return false;
      const said = livingHeaders(frame.headers).filter(({ life }) => life !== 'relayed');
      for (const { name, value, life } of said) (life === 'quota' ? quota : answer).set(name, value);
      return said.length > 0;
    },
    forTurn(turn) {
      if (answering !== null && answering !== turn.id) answer.clear();
      if (answering === null) model = turn.request.body.model;
      // Codex interprets a model name other than the requested one as a reroute.
      else if (model !== turn.request.body.model) connection.delete('openai-model');
      answering = turn.id;
      const headers = Object.fromEntries([...connection, ...quota, ...answer]);
      turn.upstreamRequest = headers[UPSTREAM_REQUEST_ID] ?? null;
      return headers;
    },
  };
}
