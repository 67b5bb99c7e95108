/** Token counts of one turn. `cached` is part of `input`, `reasoning` is part of `output`. */
export interface TokenCounts {
  input: number;
  cached: number;
  output: number;
  reasoning: number;
}

const count = (value: unknown): number =>
  typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0;
const object = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};

/** Reads the provider's `usage`. Missing or non-numeric values count as 0. */
export function tokensOf(usage: unknown): TokenCounts {
  const { input_tokens, input_tokens_details, output_tokens, output_tokens_details } = object(usage);
  return {
    input: count(input_tokens),
    cached: count(object(input_tokens_details).cached_tokens),
    output: count(output_tokens),
    reasoning: count(object(output_tokens_details).reasoning_tokens),
  };
}
