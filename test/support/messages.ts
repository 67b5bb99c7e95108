/** Builds a user message with one text, as clients of the Responses API send it. */
export const user = (text: string) => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });
