import { createOpenAI } from '@ai-sdk/openai';
import { streamText } from 'ai';
import OpenAI from 'openai';
import type {
  Response,
  ResponseCreatedEvent,
  ResponseErrorEvent,
  ResponseFailedEvent,
} from 'openai/resources/responses/responses';
import { describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { failedEvent } from '../../src/http/envelope.ts';
import { bareResponse } from '../../src/transcript/items.ts';
import { responseIdOf } from '../../src/upstream/frames.ts';
import { responsesApi } from '../support/declarations.ts';
import { startProvider } from '../upstream/servers.ts';

/** Fails to compile when the SDK's type requires a member that the bridge does not write. */
const typed = bareResponse({ id: 'resp_1', model: 'm', now: 0 }) satisfies Response;

const requiredOf = (name: string) => {
  const type = responsesApi().resolve(name);
  if (type?.kind !== 'object') throw new Error(`no interface ${name}`);
  return type.members.filter(({ optional }) => !optional).map((member) => member.name);
};
const { message, code } = new BridgeError('bridge_upstream_lost').envelope().error;
const events = (over: object = {}) =>
  failedEvent({
    error: { code, message, bridge_code: 'bridge_upstream_lost' },
    requestId: '123e4567-e89b-12d3-a456-426614174000',
    model: 'gpt-x',
    responseId: null,
    now: 1_700_000_000_500,
    begun: false,
    sequence: -1,
    ...over,
  }).map(({ json }) => JSON.parse(json) as ResponseCreatedEvent | ResponseFailedEvent);

describe('events with which the bridge ends a stream', () => {
  it('A response.failed of the bridge has every member that the openai package declares as required', () => {
    const required = requiredOf('Response');
    expect(required).toEqual(expect.arrayContaining(['id', 'model', 'created_at', 'output', 'access_programs']));
    for (const event of events()) {
      expect(Object.keys(event)).toEqual(expect.arrayContaining(requiredOf('ResponseFailedEvent')));
      expect(Object.keys(event.response)).toEqual(expect.arrayContaining(required));
      expect(event.response).toMatchObject({ model: 'gpt-x', created_at: 1_700_000_000, object: 'response' });
    }
    const [created, failed] = events();
    expect([created!.response.error, failed!.response.error]).toEqual([
      null,
      expect.objectContaining({ code, message }),
    ]);
    expect(requiredOf('ResponseError')).toEqual(['code', 'message']);
    expect(events({ model: null }).map(({ response }) => response.model)).toEqual(['unknown', 'unknown']);
    expect(typed.status).toBe('in_progress');
  });

  it('A response.failed of the bridge continues the sequence numbers of the shown events', () => {
    expect(events({ begun: true, sequence: 4 })).toMatchObject([{ type: 'response.failed', sequence_number: 5 }]);
    expect(events({ begun: false }).map(({ sequence_number: n }) => n)).toEqual([0, 1]);
  });

  it('A response.failed of the bridge has the same error as the envelope, with every member of the SDK’s error event', () => {
    const { error } = new BridgeError('bridge_upstream_lost').envelope();
    const wanted = requiredOf('ResponseErrorEvent').filter((name) => name !== 'sequence_number');
    expect(Object.keys(error)).toEqual(expect.arrayContaining(wanted));
    const event = { ...error, type: 'error', sequence_number: 0 } satisfies ResponseErrorEvent;
    expect(event.code).toBe(code);
  });
});

/** Starts an upstream for the SDKs that streams events as the bridge writes them. */
const streaming = (begun: object[]) =>
  startProvider({
    http(incoming, response) {
      incoming.resume();
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const all = [
        ...begun,
        ...events(
          begun.length > 0
            ? { begun: true, sequence: 0, responseId: responseIdOf('response.created', JSON.stringify(begun[0])) }
            : {},
        ),
      ];
      response.end(all.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(''));
    },
  });
const begun = [{ type: 'response.created', sequence_number: 0, response: { ...typed, id: 'resp_begun' } }];

describe.each([
  ['from its beginning', []],
  ['after a response had begun', begun],
])('a stream that the bridge ends %s', (_, before) => {
  it('A stream that the bridge ends is readable by the openai package', async () => {
    const provider = await streaming(before);
    const client = new OpenAI({ apiKey: 'sk', baseURL: provider.url, maxRetries: 0 });
    const seen: string[] = [];
    let last: Response | null = null;
    const stream = client.responses.stream({ model: 'm', input: 'hi' });
    for await (const event of stream) {
      seen.push(event.type);
      if (event.type === 'response.failed') last = event.response;
    }
    expect(seen).toEqual(['response.created', 'response.failed']);
    expect(last).toMatchObject({ status: 'failed', error: { code, message } });
    await provider.close();
  });

  it('A stream that the bridge ends is reported by @ai-sdk/openai as that failure', async () => {
    const provider = await streaming(before);
    const model = createOpenAI({ apiKey: 'sk', baseURL: provider.url })('m');
    const errors: unknown[] = [];
    const run = streamText({ model, prompt: 'hi', maxRetries: 0, onError: ({ error }) => void errors.push(error) });
    for await (const _part of run.fullStream);
    expect(errors).toHaveLength(1);
    // A response that does not parse would be a validation error without the bridge's message.
    expect(JSON.stringify(errors[0]) + String(errors[0])).toContain(message);
    expect(String((errors[0] as Error).name)).not.toContain('TypeValidation');
    await provider.close();
  });
});
