import { type Dispatcher, request } from 'undici';
import { httpAddress } from './address.ts';
import { flatHeaders } from './answer.ts';
import { type HttpCall, UpstreamUnreachable } from './port.ts';
import { UNPACKED, unpackedHeaders, unpackStream } from './unpack.ts';
import { unreachable } from './unreachable.ts';

/**
 * Makes one HTTP call and streams its answer: resolves with status and headers as soon as they arrive. Redirects are
 * returned like other answers, and a body compressed against the request is unpacked. The caller must read or destroy the
 * body, or its connection stays in use.
 *
 * @param silenceMs longest wait in milliseconds for the headers, and between two chunks of the body
 * @param proxy proxy that the dispatcher uses; null for none
 * @throws `UpstreamUnreachable`, whose message names the cause, when no answer came (also when `signal` was aborted first)
 * @throws `TypeError` for a path that leaves the base URL
 */
export async function httpCall(
  call: HttpCall,
  dispatcher: Dispatcher,
  silenceMs: number,
  proxy: URL | null,
): Promise<{ status: number; headers: Record<string, string>; body: NodeJS.ReadableStream }> {
  const address = httpAddress(call.target.baseUrl, call.path);
  try {
    const answer = await request(address, {
      dispatcher,
      method: call.method as Dispatcher.HttpMethod,
      headers: { ...call.headers, ...UNPACKED },
      body: call.body,
      signal: call.signal ?? null,
      headersTimeout: silenceMs,
      bodyTimeout: silenceMs,
    });
    const headers = flatHeaders(answer.headers);
    const body = unpackStream(answer.body, headers['content-encoding']);
    return { status: answer.statusCode, headers: unpackedHeaders(headers), body };
  } catch (error) {
    const { text, kind } = unreachable(error, call.target.baseUrl, proxy);
    throw new UpstreamUnreachable(text, { kind, cause: error });
  }
}
