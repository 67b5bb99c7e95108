import { expect, it } from 'vitest';
import { passBodies } from '../../src/transcript/pass-bodies.ts';
import { readPassed, readRequest } from '../../src/transcript/read.ts';

it('Of the metadata of a client what names its turn and its conversation is kept, and nothing else', () => {
  const client_metadata = {
    turn_id: 'turn',
    thread_id: 'thread',
    session_id: 'session',
    'x-codex-turn-metadata': '{}',
    'x-codex-turn-state': 'state',
    other: 'left out',
  };
  const body = { model: 'm', input: 'x', client_metadata };
  const { other: _, ...kept } = client_metadata;
  expect(readRequest(body, JSON.stringify(body), 0).body.client_metadata).toEqual(kept);
});

it('The body of a call that starts no turn is its text, what it names, and whether it is streamed and stored', () => {
  const body = {
    model: 'm',
    messages: [{ role: 'user', content: 'é' }],
    stream: true,
    store: false,
    audio: { voice: 'v_1' },
  };
  const text = JSON.stringify(body);
  const { items, ...read } = readPassed(body, text, passBodies.chat);
  expect(read).toEqual({
    text,
    bytes: Buffer.byteLength(text),
    body: { stream: true, store: false },
    members: [],
    shape: 'fresh',
    hostedTools: false,
    requestFp: '',
    contextFp: '',
    references: [],
    comparison: null,
    names: { owned: new Map([['v_1', 'audio.voice']]), foreign: null },
  });
  expect(items.list).toEqual([]);
});
