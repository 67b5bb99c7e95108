import { StringDecoder } from 'node:string_decoder';
import { membersOf, withMembers } from '../json.ts';

/** One server-sent event; the name is empty without an `event:` line. */
export type SseListener = (data: string, name: string) => void;

/** A longer `event:` name is none of the API's. */
const LONGEST_NAME = 128;

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
 * with LF, comments and all fields but `event` are skipped, and a byte order mark at the start is dropped.
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

/** Names that the API gives to events; any other, above all `message`, says nothing about the data. */
const apiName = /^(?:response|codex|responsesapi)\.[a-z_.]+$|^error$/;

/**
 * An event as the frame it would be on a WebSocket, or null for the mark at the end of a stream. The JSON names its own
 * type; where it does not, as with some gateways, the event's name is its type.
 */
export function frameOfEvent(data: string, name: string): string | null {
  if (data === '[DONE]') return null;
  if (data.startsWith(`{"type":"${name}"`) || !apiName.test(name) || !data.trimStart().startsWith('{')) return data;
  return membersOf(data).has('type') ? data : withMembers(data, new Map([['type', JSON.stringify(name)]]));
}

/**
 * The JSON texts in a text that holds one on each line; the text itself when it is a single one. Between the tokens of
 * one JSON text an object never follows another without a comma.
 */
export function jsonTexts(text: string): string[] {
  return text.includes('}\n{') || text.includes('}\r\n{') ? text.trim().split(/(?<=\})\r?\n(?=\{)/) : [text];
}

/**
 * The frames in one WebSocket message: nearly always the message itself. Gateways that translate an event stream send its
 * text on as it is, several events in a message or a byte order mark included.
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
