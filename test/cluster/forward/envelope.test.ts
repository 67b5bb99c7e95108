import { describe, expect, it } from 'vitest';
import {
  createForwardTokens,
  packRequest,
  travels,
  UnreadableEnvelope,
  unpackRequest,
} from '../../../src/cluster/forward/envelope.ts';
import type { BridgeError } from '../../../src/errors.ts';
import { type Read, readSource } from '../../../src/intake/read.ts';
import { classify } from '../../../src/session/decide.ts';
import { credentialOf } from '../../../src/session/port.ts';
import { createManualClock } from '../../../src/testing/manual-clock.ts';
import { upstreamHeaders } from '../../../src/upstream/headers.ts';
import { CREDENTIAL, secrets, turnRequest } from './support.ts';

const sealer = createForwardTokens({ secrets: secrets(), clock: createManualClock() });
/** Reads a parcel as a worker does. */
const opened = (parcel: string, now = 0) => {
  let read: Read | BridgeError;
  try {
    read = readSource(parcel, 'envelope');
  } catch (error) {
    read = error as BridgeError;
  }
  return unpackRequest(read, now, sealer);
};
const travel = (request: ReturnType<typeof turnRequest>) => opened(packRequest(request, 0, sealer));

/** Returns a request without its lazily computed parts. */
const plain = ({ items, ...request }: ReturnType<typeof turnRequest>) => ({
  ...request,
  items: items.list.map(({ hash, json }) => ({ hash, json })),
});

describe('a request between workers', () => {
  it('A parcel restores the request unchanged', () => {
    const request = { ...turnRequest(), receivedAt: 0 };
    expect(plain(travel(request))).toEqual(plain(request));
  });

  it('A parcel restores a chosen upstream, hides its address, and is refused by a worker that knows only version 1', () => {
    const target = { id: 'local', baseUrl: 'http://of-ann:secret@upstream.test/v1', forwardHeaders: ['x-team'] };
    const request = { ...turnRequest(), receivedAt: 0 };
    const parcel = packRequest({ ...request, caller: { ...request.caller, target } }, 0, sealer);
    expect(opened(parcel).caller).toEqual({ ...request.caller, target });
    expect(parcel).not.toContain('upstream.test');
    const packed = JSON.parse(parcel);
    expect(packed.v).toBe(2);
    expect(JSON.parse(packRequest(request, 0, sealer)).v).toBe(1);
    const { upstream, ...without } = packed;
    for (const broken of [without, { ...packed, v: 1 }, { ...packed, upstream: { ...upstream, address: 'k1:AAAA' } }]) {
      expect(() => opened(JSON.stringify(broken))).toThrow(UnreadableEnvelope);
    }
  });

  it('A parcel keeps the body as it was written', () => {
    const text =
      '{"model":"m" ,"10": 9223372036854775807, "9":[1.0,-0 ,1E400],\n "input":"\\u0041\\/ é \\ud800", "body":{"v":2}}';
    const sent = turnRequest({}, `\n${text} `);
    const arrived = travel(sent);
    expect(arrived.text).toBe(text);
    expect([arrived.requestFp, arrived.contextFp]).toEqual([sent.requestFp, sent.contextFp]);
  });

  it('A parcel that is nested deeper than a client may nest is refused', () => {
    const deep = `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`;
    expect(() => travel({ ...turnRequest(), text: deep })).toThrow(UnreadableEnvelope);
  });

  it('Parcels are compatible in both directions with workers that parse the whole parcel', () => {
    const text = '{"model":"m" ,"input": "hi"}';
    const parcel = packRequest(turnRequest({}, text), 0, sealer);
    expect(JSON.parse(parcel)).toMatchObject({ v: 1, body: { model: 'm', input: 'hi' } });
    const { body, ...rest } = JSON.parse(parcel) as Record<string, unknown>;
    const older = opened(JSON.stringify({ v: 1, body, ...rest }));
    expect(older).toMatchObject({ body: { model: 'm' }, text: JSON.stringify(body) });
    expect(older.items.list.map(({ value }) => value.role)).toEqual(['user']);
  });

  it('A parcel keeps control characters, lone surrogates and special member names', () => {
    const body = JSON.parse('{"input":"\\u0000 \\ud800 é\\u2028 \\n","__proto__":{"x":1},"10":1,"9":[]}');
    const arrived = travel({ ...turnRequest(body), receivedAt: 0 });
    expect(arrived.text).toBe(JSON.stringify(body));
    expect(arrived.members.map(({ name }) => name)).toContain('__proto__');
  });

  it('The age of a request is kept on the clock of the other worker', () => {
    const request = { ...turnRequest(), receivedAt: 1_000 };
    expect(opened(packRequest(request, 1_250, sealer), 90_000).receivedAt).toBe(89_750);
  });

  it('A parcel contains its credential only in sealed form', () => {
    expect(packRequest(turnRequest(), 0, sealer)).not.toContain('sk-very');
    expect(CREDENTIAL).toContain('sk-very');
  });

  it('A parcel omits a bridge key that a shared upstream key replaces, but keeps that a key was used', () => {
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

  it('A parcel without a credential restores none', () => {
    const request = turnRequest();
    const { authorization: _none, ...headers } = request.headers;
    const arrived = travel({ ...request, headers, caller: { ...request.caller, upstreamAuthorization: null } });
    expect(arrived.headers).not.toHaveProperty('authorization');
    expect(arrived.caller.upstreamAuthorization).toBeNull();
  });

  it('A parcel carries neither connection headers nor the bridge’s own', () => {
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

  it('A parcel carries every header that any part of a turn reads', () => {
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

  it('An invalid parcel, or one whose credential cannot be opened, is refused', () => {
    const good = JSON.parse(packRequest(turnRequest(), 0, sealer));
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
      expect(() => opened(JSON.stringify(parcel))).toThrow(UnreadableEnvelope);
    }
    const parcel = packRequest(turnRequest(), 0, sealer);
    for (const text of [
      '{',
      parcel.slice(0, -1),
      parcel.replace('"hi"', '"hi'),
      parcel.replace('"hi"', 'hi'),
      `${parcel}x`,
    ]) {
      expect(() => opened(text)).toThrow(UnreadableEnvelope);
    }
  });
});
