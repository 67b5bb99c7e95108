import { type Dispatcher, request } from 'undici';
import { httpAddress } from './address.ts';
import { flatHeaders } from './answer.ts';
import { type HttpCall, UpstreamUnreachable } from './port.ts';
import { UNPACKED, unpackedHeaders, unpackStream } from './unpack.ts';
import { unreachable } from './unreachable.ts';

/**
 * One HTTP call, its answer streamed: the status and headers are returned as soon as they are there. Redirects are
 * answers like any other, and a body that comes compressed although none was asked for is unpacked. The body must be
 * read or destroyed, or its connection stays taken.
 *
 * @param silenceMs longest wait for the headers, and between two pieces of the body
 * @param proxy the proxy that the dispatcher goes through; null for none
 * @throws `UpstreamUnreachable`, whose message names the cause, when no answer came (also when `signal` was aborted first), `TypeError` for a path that
 * leaves the base URL.
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
