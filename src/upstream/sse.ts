import { StringDecoder } from 'node:string_decoder';
import { membersOf, withMembers } from '../json.ts';

/** Receives one server-sent event. The name is empty without an `event:` line. */
export type SseListener = (data: string, name: string) => void;

/** Longest `event:` name kept, in characters; the API has no longer ones. */
const LONGEST_NAME = 128;

/** One event exceeds the parser's limit. */
export class SseOverflow extends Error {
  override readonly name = 'SseOverflow';
}

export interface SseParser {
  /**
   * Parses the next bytes, however they are cut.
   *
   * @throws `SseOverflow` when one event exceeds the limit
   */
  push(chunk: Buffer): void;
  /** Ends the stream. A last event without its closing blank line is delivered. */
  end(): void;
}

/**
 * Creates an incremental parser for `text/event-stream`: lines end with CR, LF or CRLF, `data` lines of one event are
 * joined with LF, comments and all fields but `event` are skipped, and a byte order mark at the start is dropped. Chunks of
 * an unfinished line are joined only at its end, so a long line is not copied repeatedly.
 *
 * @param maxChars longest event, in UTF-16 units
 */
export function createSseParser(listener: SseListener, maxChars: number): SseParser {
  const decoder = new StringDecoder('utf8');
  let open: string[] = [];
  let openChars = 0;
  let data: string[] = [];
  let dataChars = 0;
  let name = '';
  let started = false;
  let afterCr = false;

  const dispatch = () => {
    const named = name;
    name = '';
    if (data.length === 0) return;
    const event = data.length === 1 ? data[0]! : data.join('\n');
    data = [];
    dataChars = 0;
    listener(event, named);
  };

  const line = (last: string) => {
    open.push(last);
    const whole = open.length === 1 ? last : open.join('');
    open = [];
    openChars = 0;
    if (whole === '') return dispatch();
    if (whole.startsWith('event:')) name = whole.slice(6, 6 + LONGEST_NAME).trim();
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

/** Event names of the API. Any other name, above all `message`, says nothing about the data. */
const apiName = /^(?:response|codex|responsesapi)\.[a-z_.]+$|^error$/;

/**
 * Converts an event to the frame that a WebSocket would have carried; null for the end marker of a stream. If the JSON
 * lacks a `type`, as with some gateways, the event's name is used.
 */
export function frameOfEvent(data: string, name: string): string | null {
  if (data === '[DONE]') return null;
  if (data.startsWith(`{"type":"${name}"`) || !apiName.test(name) || !data.trimStart().startsWith('{')) return data;
  return membersOf(data).has('type') ? data : withMembers(data, new Map([['type', JSON.stringify(name)]]));
}

/**
 * Splits a text with one JSON text per line; a single JSON text is returned as it is. A split between `}` and `{` is safe:
 * within one JSON text a comma stands between two objects.
 */
export function jsonTexts(text: string): string[] {
  return text.includes('}\n{') || text.includes('}\r\n{') ? text.trim().split(/(?<=\})\r?\n(?=\{)/) : [text];
}

/**
 * Returns the frames in one WebSocket message: nearly always the message itself. Gateways that translate an event stream
 * forward its text unchanged, possibly with several events per message or a byte order mark.
 */
export function framesOfMessage(message: string): string[] {
  const text = message.charCodeAt(0) === 0xfeff ? message.slice(1) : message;
  if (text.startsWith('{')) return jsonTexts(text);
  if (!/^(?:(?:data|event|id|retry) *:|:)/.test(text)) return [text];
  const frames: string[] = [];
  const parser = createSseParser((data, name) => {
    const frame = frameOfEvent(data, name);
    if (frame !== null) frames.push(frame);
  }, text.length);
  parser.push(Buffer.from(text, 'utf8'));
  parser.end();
  return frames;
}
