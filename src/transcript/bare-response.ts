/**
 * Returns a response object made by the bridge itself: every member that OpenAI's SDKs declare as required, with nothing
 * generated. Vercel's SDK rejects one without `model` and `created_at`.
 *
 * @param from.model model that the request named; clients reject a response without one
 * @param from.now wall clock in milliseconds
 */
export function bareResponse(from: { id: string; model: unknown; now: number }) {
  return {
    id: from.id,
    object: 'response' as const,
    created_at: Math.floor(from.now / 1000),
    status: 'in_progress' as const,
    access_programs: null,
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: {},
    model: typeof from.model === 'string' && from.model !== '' ? from.model : 'unknown',
    output: [],
    output_text: '',
    parallel_tool_calls: true,
    temperature: null,
    tool_choice: 'auto' as const,
    tools: [],
    top_p: null,
  };
}
