import { request } from 'undici';
import { parseStream, type StreamEvent } from './client.ts';

/** A client that reads its answer event by event and may disconnect in the middle. */
export interface LiveClient {
  status: number;
  headers: Record<string, string>;
  /** Events read so far. */
  events: StreamEvent[];
  /** Reads until an event of this type has arrived; rejects when the stream ends before. */
  until(type: string): Promise<StreamEvent>;
  /** Reads to the end; `cut` is true when the connection broke. */
  rest(): Promise<{ events: StreamEvent[]; cut: boolean }>;
  hangUp(): void;
}

/** Posts a streamed request; resolves when its status line has arrived. */
export async function openLive(
  url: string,
  body: Record<string, unknown>,
  headers: Record<string, string> = {},
): Promise<LiveClient> {
  const control = new AbortController();
  const answer = await request(`${url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-test', ...headers },
    body: JSON.stringify({ ...body, stream: true }),
    signal: control.signal,
    headersTimeout: 60_000,
  });
  const chunks = answer.body.setEncoding('utf8')[Symbol.asyncIterator]();
  const events: StreamEvent[] = [];
  let text = '';
  let cut = false;
  const read = async (): Promise<boolean> => {
    const { done, value } = await chunks.next().catch(() => {
      cut = true;
      return { done: true, value: undefined };
    });
    if (done) return false;
    text += value;
    const last = text.lastIndexOf('\n\n');
    const end = last < 0 ? 0 : last + 2;
    events.push(...parseStream(text.slice(0, end)));
    text = text.slice(end);
    return true;
  };
  return {
    status: answer.statusCode,
    headers: Object.fromEntries(Object.entries(answer.headers).map(([name, value]) => [name, String(value)])),
    events,
    async until(type) {
      for (let seen = 0; ; ) {
        const found = events.slice(seen).find((event) => event.type === type);
        if (found) return found;
        seen = events.length;
        if (!(await read())) throw new Error(`the stream ended before ${type}`);
      }
    },
    async rest() {
      while (await read());
      return { events, cut };
    },
    hangUp: () => control.abort(),
  };
}
