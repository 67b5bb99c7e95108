import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { elementTexts, memberText } from '../../src/json.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { type Provider, startProvider } from '../upstream/servers.ts';

/**
 * JSON that a double, a parsed object or a JSON writer would alter: digits, signs, zeros, exponents, order, escapes.
 */
const odd = String.raw`"10":9223372036854775807, "9":[1.0,-0 ,1E400] ,"b":0.10,"\u0061" : "\/\u00e9😀\ud800"`;
const asked = (text: string) =>
  String.raw`{ "type":"message","role":"user", "content":[{"text":"${text} \u0041","type":"input_text"}], ${odd} }`;
const answered = (n: number, own = `,"status":"completed", "id":"msg_${n}"`) =>
  String.raw`{"role":"assistant","type":"message"${own} ,"content":[ {"type":"output_text","text":"answer ${n} \u0042","annotations":[],"logprobs":[-1.50e-06]}],${odd}}`;
const responseOf = (n: number, anchor: string | null) =>
  `{${odd}, "id":"resp_${n}" ,"object":"response","status":"completed","previous_response_id" : ${JSON.stringify(anchor)},` +
  `"output":[ ${answered(n)} ],"usage":{"input_tokens":1.0} }`;
const bodyOf = (input: string, more = '"stream":true') =>
  String.raw`{"2":1.0, "1" : -0,"model":"m",  "input" :${input}, "store":false,${more} ,"metadata":{"k":"\u0061"},"novelty":{${odd}} }`;
const frameOf = (body: string) => `{"type":"response.create",${body.slice(1)}`;
/** Returns the same body with an anchor, as it is sent as a delta. */
const anchoredAt = (body: string, id: string) => body.replace(/ }$/, `,"previous_response_id":"${id}" }`);

let received: string[] = [];
let sockets = 0;
let upstream: Provider;
const open: TestBridge[] = [];

/** Returns events in a form that no JSON writer would produce. */
function eventsFor(request: string): string[] {
  received.push(request);
  const n = received.length;
  const anchor = JSON.parse(memberText(request, 'previous_response_id') ?? 'null') as string | null;
  return [
    `{"type":"response.created", "response":{"id":"resp_${n}","status":"in_progress"},"n":1.0}`,
    `{"n":-0, "type":"response.output_item.done","output_index":0,"item": ${answered(n)} }`,
    `{"type":"response.completed", "n":1E400,"response": ${responseOf(n, anchor)} }`,
  ];
}

beforeEach(async () => {
  received = [];
  sockets = 0;
  upstream = await startProvider({
    websocket(socket) {
      sockets += 1;
      socket.on('message', (data) => {
        for (const event of eventsFor(String(data))) socket.send(event);
      });
    },
    async http(request, response) {
      let text = '';
      for await (const chunk of request.setEncoding('utf8')) text += chunk;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.end(
        eventsFor(text)
          .map((data) => `data: ${data}\n\n`)
          .join(''),
      );
    },
  });
});
afterEach(async () => {
  for (const bridge of open.splice(0).reverse()) await bridge.close();
  await upstream.close();
});

async function start(env: Record<string, string> = {}, beside?: TestBridge) {
  const bridge = await startTestBridge({ env: { HOLDFAST_UPSTREAM_URL: upstream.url, ...env }, beside });
  open.push(bridge);
  return bridge;
}
const list = (...items: string[]) => `[ ${items.join(' ,')} ]`;
const headers = { 'thread-id': 't' };

describe('a request reaches the provider byte for byte', () => {
  it('A full send is forwarded as written, and becomes a delta when the repeated part was written identically', async () => {
    const { url } = await start();
    const first = bodyOf(list(asked('one')));
    await post(url, first, headers);
    const second = bodyOf(list(asked('one'), answered(1), asked('two'), asked('three')));
    await post(url, second, headers);
    const delta = bodyOf(`[${asked('two')},${asked('three')}]`);
    expect(received).toEqual([frameOf(first), frameOf(anchoredAt(delta, 'resp_1'))]);
    expect(sockets).toBe(1);
  });

  it('A request whose digits differ from a known item only beyond double precision starts another conversation', async () => {
    const { url } = await start();
    await post(url, bodyOf(list(asked('one'))), headers);
    const other = bodyOf(list(asked('one').replace('775807', '775806'), answered(1), asked('two')));
    await post(url, other, headers);
    expect(received[1]).toBe(frameOf(other));
  });

  it('A request is forwarded without any member that the client did not write', async () => {
    const { url } = await start();
    await post(url, '{"model":"m"}');
    await post(url, '{"model":"m","input": "caf\\u00e9" ,"stream":false}');
    expect(received).toEqual([
      '{"type":"response.create","model":"m"}',
      '{"type":"response.create","model":"m","input": "caf\\u00e9" ,"stream":true}',
    ]);
  });

  it('A context that is rebuilt after a restart is sent as the client wrote it', async () => {
    const bridge = await start();
    await post(bridge.url, bodyOf(list(asked('one'))), headers);
    await post(bridge.url, bodyOf('"two \\u0041"', '"previous_response_id":"resp_1"'), headers);
    await bridge.restart();
    const third = bodyOf(list(asked('three')), '"previous_response_id":"resp_2","stream":true');
    expect((await post(bridge.url, third, headers)).status).toBe(200);
    const input = memberText(received[2]!, 'input')!;
    const [one, answer, two, ...rest] = elementTexts(input);
    expect([one, answer, ...rest]).toEqual([asked('one'), answered(1, ''), answered(2, ''), asked('three')]);
    expect(JSON.parse(two!)).toMatchObject({ role: 'user', content: [{ text: 'two A' }] });
    expect(received[2]).toBe(frameOf(bodyOf(input)));
  });

  it('A request over HTTP is forwarded as written, plus `stream: true` if the client did not ask for a stream', async () => {
    const { url } = await start({ HOLDFAST_UPSTREAM_TRANSPORT: 'http' });
    const bodies = [bodyOf(list(asked('one'))), bodyOf('"one"', '"stream":false'), '{"model":"m" ,"input":"\\u0041"}'];
    for (const body of bodies) expect((await post(url, body)).status).toBe(200);
    expect(received).toEqual([
      bodies[0],
      bodies[1]!.replace('"stream":false', '"stream":true'),
      '{"model":"m" ,"input":"\\u0041","stream":true}',
    ]);
  });

  it('A request that is nested too deeply to parse is refused, not altered', async () => {
    const { url } = await start();
    const nested = (levels: number) =>
      bodyOf(`[{"role":"user","content":"x","n":${'['.repeat(levels)}1e400${']'.repeat(levels)}}]`);
    for (const body of [nested(398), nested(100_000), nested(100_000).slice(0, -50_000)]) {
      const refused = await post(url, body);
      expect(refused.status).toBe(400);
      expect(refused.body.error?.bridge_code).toBe('bridge_invalid_request');
    }
    expect((await post(url, nested(397))).status).toBe(200);
    expect(received).toEqual([frameOf(nested(397))]);
  });

  it('A request that another worker forwards reaches the provider as written', async () => {
    const owner = await start();
    const other = await start({}, owner);
    await post(owner.url, bodyOf(list(asked('one'))), headers);
    await post(other.url, bodyOf(list(asked('one'), answered(1), asked('two'))), headers);
    expect(received[1]).toBe(frameOf(anchoredAt(bodyOf(`[${asked('two')}]`), 'resp_1')));
    // It was forwarded to the worker that holds the socket.
    expect(sockets).toBe(1);
    expect(other.bridge.sessions()).toEqual([]);
  });
});

describe('an answer reaches the client byte for byte', () => {
  it('A JSON answer reaches the client as the provider wrote it', async () => {
    const { url } = await start();
    const answer = await post(url, bodyOf(list(asked('one')), '"stream":false'));
    expect(answer.headers['content-type']).toContain('application/json');
    expect(answer.text).toBe(responseOf(1, null));
  });

  it('An answer omits an anchor that only the bridge used, and is otherwise unchanged', async () => {
    const { url } = await start();
    await post(url, bodyOf(list(asked('one')), '"stream":false'), headers);
    const input = list(asked('one'), answered(1), asked('two'));
    const answer = await post(url, bodyOf(input, '"stream":false'), headers);
    expect(memberText(received[1]!, 'previous_response_id')).toBe('"resp_1"');
    expect(answer.text).toBe(responseOf(2, null));
  });

  it('Streamed events reach the client as the provider wrote them', async () => {
    const { url } = await start();
    const { text } = await post(url, bodyOf(list(asked('one'))));
    for (const event of eventsFor('{}').map((made) => made.replaceAll('resp_2', 'resp_1').replaceAll('_2"', '_1"'))) {
      expect(text).toContain(`data: ${event.replaceAll('answer 2', 'answer 1')}\n`);
    }
  });
});
