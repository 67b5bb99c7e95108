import { describe, expect, it } from 'vitest';
import { createHops } from '../../src/cluster/forward/hop.ts';
import { packRequest, travels, UnreadableParcel, unpackRequest } from '../../src/cluster/forward/parcel.ts';
import { parseExact, rawNumber } from '../../src/json.ts';
import { classify } from '../../src/resolve/classify.ts';
import { credentialOf } from '../../src/session/port.ts';
import { createManualClock } from '../../src/testing/manual-clock.ts';
import { upstreamHeaders } from '../../src/upstream/headers.ts';
import { CREDENTIAL, secrets, turnRequest } from './support.ts';

const sealer = createHops({ secrets: secrets(), clock: createManualClock() });
const travel = (request: ReturnType<typeof turnRequest>) => unpackRequest(packRequest(request, 0, sealer), 0, sealer);

describe('a request between workers', () => {
  it('arrives as it was', () => {
    const request = { ...turnRequest(), receivedAt: 0 };
    expect(travel(request)).toEqual(request);
  });

  it('brings its body as it was written', () => {
    const text =
      '{"model":"m" ,"10": 9223372036854775807, "9":[1.0,-0 ,1E400],\n "input":"\\u0041\\/ é \\ud800", "body":{"v":2}}';
    const arrived = travel({ ...turnRequest(parseExact(text) as never), text: `\n${text} `, receivedAt: 0 });
    expect(arrived.text).toBe(text);
    expect(rawNumber(arrived.body['10'])).toBe('9223372036854775807');
    const deep = `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`;
    expect(travel({ ...turnRequest(), text: deep }).text).toBe(deep);
  });

  it('is read by workers that parse the whole of it, and theirs here', () => {
    const text = '{"model":"m" ,"input": "hi"}';
    const parcel = packRequest({ ...turnRequest(JSON.parse(text)), text }, 0, sealer).toString();
    expect(JSON.parse(parcel)).toMatchObject({ v: 1, body: { model: 'm', input: 'hi' } });
    const { body, ...rest } = JSON.parse(parcel) as Record<string, unknown>;
    const older = Buffer.from(JSON.stringify({ v: 1, body, ...rest }));
    expect(unpackRequest(older, 0, sealer)).toMatchObject({ body, text: JSON.stringify(body) });
  });

  it('keeps text that is hard to carry, and names that are special', () => {
    const body = JSON.parse('{"input":"\\u0000 \\ud800 é\\u2028 \\n","__proto__":{"x":1},"10":1,"9":[]}');
    const arrived = travel({ ...turnRequest(body), receivedAt: 0 });
    expect(JSON.stringify(arrived.body)).toBe(JSON.stringify(body));
    expect(Object.hasOwn(arrived.body, '__proto__')).toBe(true);
  });

  it('is as old as it was, on the clock of the other worker', () => {
    const request = { ...turnRequest(), receivedAt: 1_000 };
    expect(unpackRequest(packRequest(request, 1_250, sealer), 90_000, sealer).receivedAt).toBe(89_750);
  });

  it('shows its credential to nobody on the way', () => {
    expect(packRequest(turnRequest(), 0, sealer).toString()).not.toContain('sk-very');
    expect(CREDENTIAL).toContain('sk-very');
  });

  it('leaves behind a key of the bridge that a shared upstream key replaces, but not that there was one', () => {
    const request = turnRequest();
    const caller = { ...request.caller, credentialIsClients: false, upstreamAuthorization: 'Bearer shared' };
    const headers = { ...request.headers, authorization: 'Bearer tenants-own', 'chatgpt-account-id': 'acc' };
    const arrived = travel({ ...request, caller, headers });
    expect(JSON.stringify(arrived)).not.toContain('tenants-own');
    expect(arrived.caller.upstreamAuthorization).toBe('Bearer shared');
    const sent = upstreamHeaders({
      client: arrived.headers,
      credential: credentialOf(arrived.caller),
      transport: 'http',
    });
    expect(sent).not.toHaveProperty('chatgpt-account-id');
  });

  it('has no credential where there was none', () => {
    const request = turnRequest();
    const { authorization: _none, ...headers } = request.headers;
    const arrived = travel({ ...request, headers, caller: { ...request.caller, upstreamAuthorization: null } });
    expect(arrived.headers).not.toHaveProperty('authorization');
    expect(arrived.caller.upstreamAuthorization).toBeNull();
  });

  it('brings no header of a connection and none of the bridge’s own', () => {
    const planted = {
      connection: 'close',
      host: 'x',
      'content-length': '1',
      'transfer-encoding': 'chunked',
      cookie: 'c',
      'x-forwarded-for': '1.2.3.4',
      'x-holdfast-internal-hop': 'forged',
      'x-holdfast-internal-anything': 'forged',
    };
    const request = turnRequest();
    const arrived = travel({ ...request, headers: { ...request.headers, ...planted } });
    expect(arrived.headers).toEqual(request.headers);
  });

  it('brings every header that any part of a turn reads', () => {
    const read = new Set<string>();
    const headers = new Proxy<Record<string, string>>(
      {},
      {
        get: (_target, name) => void read.add(String(name)),
      },
    );
    const tokens = { verify: () => ({ kind: 'none' }) as const };
    const limits = { frameBytes: 1_000, webSocket: true };
    classify({ request: { ...turnRequest(), headers }, tokens, limits });
    read.delete('authorization');
    expect(read.size).toBeGreaterThan(5);
    const families = [
      'user-agent',
      'traceparent',
      'x-codex-x',
      'x-openai-x',
      'x-oai-x',
      'x-responsesapi-x',
      'openai-x',
    ];
    const client = Object.fromEntries([...families, 'x-by-a-setting'].map((name) => [name, 'v']));
    const credential = { authorization: null, keys: {}, isClients: true };
    const sent = Object.keys(upstreamHeaders({ client, credential, transport: 'http', also: ['x-by-a-setting'] }));
    expect(sent).toHaveLength(8);
    for (const name of sent) read.add(name);
    expect([...read].filter((name) => !travels(name))).toEqual([]);
  });

  it('is refused when it is none, or its credential cannot be opened', () => {
    const good = JSON.parse(packRequest(turnRequest(), 0, sealer).toString());
    const { body: _none, ...bodiless } = good;
    const broken = [
      { ...good, v: 2 },
      { ...good, body: [] },
      { ...good, body: null },
      bodiless,
      { ...good, authorization: 'k1:AAAA' },
      null,
      'text',
    ];
    for (const parcel of broken) {
      expect(() => unpackRequest(Buffer.from(JSON.stringify(parcel)), 0, sealer)).toThrow(UnreadableParcel);
    }
    const parcel = packRequest(turnRequest(), 0, sealer).toString();
    for (const text of [
      '{',
      parcel.slice(0, -1),
      parcel.replace('"hi"', '"hi'),
      parcel.replace('"hi"', 'hi'),
      `${parcel}x`,
    ]) {
      expect(() => unpackRequest(Buffer.from(text), 0, sealer)).toThrow(UnreadableParcel);
    }
  });
});
