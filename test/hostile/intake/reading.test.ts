import { hash } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { createReader } from '../../../src/intake/pool.ts';
import { flatten, readSource, unflatten } from '../../../src/intake/read.ts';
import { parseExact } from '../../../src/json.ts';
import { encodeForms, formsOf } from '../../../src/transcript/items.ts';
import { readRequest } from '../../../src/transcript/read.ts';
import type { ReadRequest } from '../../../src/transcript/types.ts';
import { bodies, plainOf, recordedBodies } from './bodies.ts';
import golden from './golden.json' with { type: 'json' };

/** Returns everything by which a request and its turn are found again, in the order used by the golden hashes. */
function printOf(read: ReadRequest): string {
  const { requestFp, contextFp, shape, items, references, comparison } = read;
  const { list, hashes, chain, places } = items;
  const forms = encodeForms(formsOf({ input: list, streamed: [], listed: null }));
  const fromClient = list.map((item) => item.fromClient);
  const exact = list.map((item) => item.exact);
  const all = { requestFp, contextFp, shape, hashes, chain, places, forms, fromClient, exact, references, comparison };
  return hash('sha256', JSON.stringify(all), 'hex');
}

/** Reads without validation: recorded bodies are shortened, and not all of them valid. */
const readUnchecked = (text: string) => readRequest(parseExact(text) as never, text, Buffer.byteLength(text));

const reader = createReader({ logger: { error: () => {} }, inlineBytes: 0 });
afterAll(() => reader.close());

describe('compatibility with earlier versions', () => {
  it.each(bodies())('The body "%s" is read as earlier versions read it', (name, text) => {
    expect(printOf(readUnchecked(text))).toBe((golden as Record<string, string>)[name]);
  });
});

describe('reader threads and the event loop', () => {
  it.each([...bodies(), ...recordedBodies()])(
    'A reader thread reads the body "%s" as the event loop does',
    async (_, text) => {
      const request = readUnchecked(text);
      const there = unflatten(structuredClone(flatten({ request, envelope: '', values: 1 })));
      expect(plainOf(there.request)).toEqual(plainOf(request));
    },
  );

  it('A reader thread gives the same result from bytes, from text, and from a parcel', async () => {
    for (const [name, text] of bodies()) {
      if (name.startsWith('codex')) continue;
      const expected = plainOf(readSource(text, 'body').request);
      const bytes = Buffer.from(text);
      const [one, other] = [bytes.subarray(0, 7), bytes.subarray(7)];
      expect(plainOf((await reader.read([one, other], 'body')).request)).toEqual({ ...expected, bytes: bytes.length });
      const parcel = await reader.read(`{"v":1,"body": ${text} ,"z":[]}`, 'envelope');
      expect(parcel.envelope).toBe('{"v":1,"body": null ,"z":[]}');
      expect(plainOf(parcel.request)).toMatchObject({ text, requestFp: expected.requestFp, items: expected.items });
    }
  });
});
