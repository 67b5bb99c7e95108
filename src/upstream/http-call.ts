import { type Dispatcher, request } from 'undici';
import { httpAddress } from './address.ts';
import { flatHeaders, reasonOf } from './answer.ts';
import { type HttpCall, UpstreamUnreachable } from './port.ts';

/**
 * One HTTP call, its answer streamed: the status and headers are returned as soon as they are there. Redirects are
 * answers like any other. The body must be read or destroyed, or its connection stays taken.
 *
 * @param silenceMs longest wait for the headers, and between two pieces of the body
 * Throws `UpstreamUnreachable` when no answer came (also when `signal` was aborted first), `TypeError` for a path that
 * leaves the base URL.
 */
export async function httpCall(
  call: HttpCall,
  dispatcher: Dispatcher,
  silenceMs: number,
): Promise<{ status: number; headers: Record<string, string>; body: NodeJS.ReadableStream }> {
  const address = httpAddress(call.target.baseUrl, call.path);
  try {
    const answer = await request(address, {
      dispatcher,
      method: call.method as Dispatcher.HttpMethod,
      headers: call.headers,
      body: call.body,
      signal: call.signal ?? null,
      headersTimeout: silenceMs,
      bodyTimeout: silenceMs,
    });
    return { status: answer.statusCode, headers: flatHeaders(answer.headers), body: answer.body };
  } catch (error) {
    throw new UpstreamUnreachable(reasonOf(error), { cause: error });
  }
}
