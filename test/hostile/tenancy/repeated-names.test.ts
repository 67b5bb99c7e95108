import { expect, it } from 'vitest';
import { repeatsNames } from '../../../src/json.ts';
import { testBridge } from '../../../src/testing/index.ts';
import { post } from '../../support/client.ts';

const bodies = [
  '{"model":"m","previous_response_id":"resp_of_another1234","input":"x","previous_response_id":null}',
  '{"model":"m","previous_response_\\u0069d":"resp_of_another1234","input":"x","previous_response_id":null}',
  '{"model":"m","input":[{"type":"item_reference","id":"msg_of_another1234"}],"input":"x"}',
  '{"model":"m","input":[{"role":"user","content":[{"type":"input_file","file_id":"file-of-another1234","file_id":null,"file_data":"d"}]}]}',
];

it('a name that is given twice hides nothing from the admission of a shared credential', async () => {
  const at = await testBridge({ env: { HOLDFAST_UPSTREAM_KEY: 'sk', HOLDFAST_API_KEYS: 'ann:ka' } });
  const ask = async (path: string, body: string) => {
    const headers = { authorization: 'Bearer ka', 'content-type': 'application/json' };
    const answer = await fetch(`${at.url}${path}`, { method: 'POST', headers, body });
    const { error } = (await answer.json()) as { error?: { bridge_code?: string } };
    return [answer.status, error?.bridge_code];
  };
  for (const path of ['/v1/responses', '/v1/responses/compact', '/v1/responses/input_tokens'])
    for (const body of bodies)
      expect([path, body, await ask(path, body)]).toEqual([path, body, [400, 'bridge_foreign_object']]);
  expect(at.simulator.journal.of('create')).toHaveLength(0);
  expect((await post(at.url, { model: 'm', input: 'x' }, { authorization: 'Bearer ka' })).status).toBe(200);
  await at.close();
});

it('is found whatever the text holds beside it, and in no text that has none', () => {
  const found = (text: string) => repeatsNames(text, JSON.parse(text));
  for (const body of bodies) expect(found(body)).toBe(true);
  expect(found('{"__proto__":1,"__proto__":2}')).toBe(true);
  expect(found('[{"a":[{"b":1,"c":{"d":1,"d":1}}]}]')).toBe(true);
  for (const text of [
    '{}',
    '[]',
    '":"',
    '{"a:b":":","c":"\\":\\"","__proto__":{"a:b":1}}',
    '[{"a":1},{"a":1}]',
    '{"":null}',
  ])
    expect(found(text)).toBe(false);
});
