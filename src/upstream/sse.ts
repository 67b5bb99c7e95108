import { StringDecoder } from 'node:string_decoder';

/** One server-sent event. Its `event:` name is not kept: the JSON in `data` names its own type. */
export type SseListener = (data: string) => void;

export class SseOverflow extends Error {
  override readonly name = 'SseOverflow';
}

export interface SseParser {
  /** Takes the next bytes, cut anywhere. Throws `SseOverflow` when one event grows past the limit. */
  push(chunk: Buffer): void;
  /** The stream ended cleanly: what stands without its closing blank line is given out too. */
  end(): void;
}

/**
 * An incremental parser for `text/event-stream`: lines end with CR, LF or CRLF, `data` lines of one event are joined
 * with LF, comments and all other fields are skipped, and a byte order mark at the start is dropped.
 * Parts of an unfinished line are kept as they came, so a long line costs no repeated copying.
 *
 * @param maxChars longest event, in UTF-16 units
 */
export function createSseParser(listener: SseListener, maxChars: number): SseParser {
  const decoder = new StringDecoder('utf8');
  let open: string[] = [];
  let openChars = 0;
  let data: string[] = [];
  let dataChars = 0;
  let started = false;
  let afterCr = false;

  const dispatch = () => {
    if (data.length === 0) return;
    const event = data.length === 1 ? data[0]! : data.join('\n');
    data = [];
    dataChars = 0;
    listener(event);
  };

  const line = (last: string) => {
    open.push(last);
    const whole = open.length === 1 ? last : open.join('');
    open = [];
    openChars = 0;
    if (whole === '') return dispatch();
    if (whole !== 'data' && !whole.startsWith('data:')) return;
    const value = whole.slice(whole.startsWith('data: ') ? 6 : 5);
    data.push(value);
    dataChars += value.length;
  };

  const text = (given: string) => {
    let chunk = given;
    if (!started && chunk !== '') {
      started = true;
      if (chunk.charCodeAt(0) === 0xfeff) chunk = chunk.slice(1);
    }
    let at = 0;
    if (afterCr && chunk !== '') {
      afterCr = false;
      if (chunk.startsWith('\n')) at = 1;
    }
    let cr = chunk.indexOf('\r', at);
    for (;;) {
      const lf = chunk.indexOf('\n', at);
      if (cr >= 0 && cr < at) cr = chunk.indexOf('\r', at);
      const end = cr < 0 ? lf : lf < 0 ? cr : Math.min(cr, lf);
      if (end < 0) break;
      line(chunk.slice(at, end));
      at = end + 1;
      if (end === cr) {
        if (at === chunk.length) afterCr = true;
        else if (chunk.charCodeAt(at) === 10) at += 1;
      }
    }
    if (at < chunk.length) {
      open.push(chunk.slice(at));
      openChars += chunk.length - at;
    }
    if (openChars + dataChars > maxChars) throw new SseOverflow(`an event is longer than ${maxChars} characters`);
  };

  return {
    push: (chunk) => text(decoder.write(chunk)),
    end() {
      text(decoder.end());
      if (openChars > 0) line('');
      dispatch();
    },
  };
}
