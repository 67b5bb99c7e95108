import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { packRequest } from '../../../src/cluster/forward/envelope.ts';
import { createManualClock } from '../../../src/testing/manual-clock.ts';
import { createTokens } from '../../../src/token/token.ts';
import { CREDENTIAL, secrets, startOwner, startSender, TURN, turnRequest } from './support.ts';

let owner: Awaited<ReturnType<typeof startOwner>>;
let sender: ReturnType<typeof startSender>;
const clock = createManualClock(Date.now());

beforeEach(async () => {
  owner = await startOwner({ clock });
  sender = startSender({}, clock);
});
afterEach(async () => {
  await sender.close();
  await owner.close();
});

const HOP = 'x-holdfast-internal-hop';
const parcel = (request = turnRequest()) => Buffer.from(packRequest(request, clock.now(), sender.forwardTokens));
const token = (body: Buffer, target = 'worker-a') =>
  sender.forwardTokens.issue({ ...TURN, target, from: 'worker-b', requestId: 'req-1' }, body);
const post = (headers: Record<string, string>, body: Buffer) =>
  fetch(`${owner.server.url}/internal/turn`, { method: 'POST', headers, body: new Uint8Array(body) });

describe('hops that are refused', () => {
  const refused = async (answer: Response, reason: string) => {
    expect([answer.status, await answer.json()]).toEqual([403, { error: reason }]);
    expect(answer.headers.get('x-holdfast-internal-refused')).toBe(reason);
    const line = owner.log.lines.at(-1);
    expect(line).toMatchObject({ level: 'warn', fields: { reason } });
    expect(owner.arrived).toHaveLength(0);
  };

  it('A hop is refused without a token, with noise, and with a token of another kind', async () => {
    const body = parcel();
    await refused(await post({}, body), 'missing');
    await refused(await post({ [HOP]: 'noise' }, body), 'not_a_hop');
    const state = createTokens({ secrets: secrets(), clock }).issue({
      sessionId: 's1',
      epoch: 3,
      scope: 'local',
      scopeKind: 'local',
    });
    await refused(await post({ [HOP]: state }, body), 'not_a_hop');
    const news = sender.forwardTokens.issueClaimed(
      { target: 'worker-a', from: 'worker-b', sessionId: 's1', epoch: 3, news: 'claimed' as const },
      body,
    );
    await refused(await post({ [HOP]: news }, body), 'not_a_hop');
  });

  it('A hop is refused when it was altered, is for another worker, or has expired', async () => {
    const body = parcel();
    await refused(await post({ [HOP]: token(body) }, Buffer.concat([body, Buffer.from(' ')])), 'altered');
    await refused(await post({ [HOP]: token(body, 'worker-c') }, body), 'wrong_target');
    const late = token(body);
    clock.advance(10_000);
    await refused(await post({ [HOP]: late }, body), 'expired');
  });

  it('A hop is served the first time and refused the second', async () => {
    const body = parcel();
    const once = token(body);
    const first = post({ [HOP]: once }, body);
    (await owner.next()).sink.end('response.completed', '{}');
    expect((await first).status).toBe(200);
    await refused(await post({ [HOP]: once }, body), 'replayed');
  });

  it('A hop whose signed bytes are no request is refused', async () => {
    const body = Buffer.from('{"v":99}');
    const answer = await post({ [HOP]: token(body) }, body);
    expect([answer.status, answer.headers.get('x-holdfast-internal-refused')]).toEqual([400, 'unreadable']);
    expect(owner.arrived).toHaveLength(0);
  });

  it('The log of a refused hop holds no token, credential or prompt', async () => {
    const body = parcel();
    const once = token(body);
    await post({ [HOP]: once }, Buffer.concat([body, body]));
    await post({ [HOP]: token(body, 'worker-c') }, body);
    const written = JSON.stringify([...owner.log.lines, ...sender.log.lines]);
    expect(owner.log.lines).toHaveLength(2);
    for (const secret of [CREDENTIAL, once, once.split('.')[2]!, '"input"']) expect(written).not.toContain(secret);
  });

  it('A hop whose announced size exceeds the limit is refused with 413', async () => {
    const announced = connect(owner.server.port, '127.0.0.1');
    announced.write(
      `POST /internal/turn HTTP/1.1\r\nhost: x\r\n${HOP}: ${token(parcel())}\r\ncontent-length: 99999999999\r\n\r\n`,
    );
    const [head] = await new Promise<string[]>((done) => announced.once('data', (data) => done([data.toString()])));
    announced.destroy();
    expect(head).toContain('413');
  });

  it('A hop whose sender left before it was read does not begin, whatever its size', async () => {
    for (const size of [10, 3_000_000]) {
      const body = parcel(turnRequest({ input: 'x'.repeat(size) }));
      const socket = connect(owner.server.port, '127.0.0.1');
      await new Promise<void>((done) => socket.once('connect', done));
      const head = `POST /internal/turn HTTP/1.1\r\nhost: x\r\n${HOP}: ${token(body)}\r\ncontent-length: ${body.length}\r\n\r\n`;
      socket.end(Buffer.concat([Buffer.from(head), body]));
      await new Promise<void>((done) => socket.resume().once('close', done));
    }
    while (owner.log.lines.length < 2) await new Promise((done) => setImmediate(done));
    expect(owner.arrived).toHaveLength(0);
    expect(owner.log.lines.map(({ message }) => message)).toEqual([
      'a sender had left before its request was accepted',
      'a sender had left before its request was accepted',
    ]);
  });

  it('A hop whose sender leaves in the middle of the body leaves nothing behind', async () => {
    const body = parcel();
    const socket = connect(owner.server.port, '127.0.0.1');
    socket.write(
      `POST /internal/turn HTTP/1.1\r\nhost: x\r\n${HOP}: ${token(body)}\r\ncontent-length: ${body.length}\r\n\r\n{`,
      () => socket.destroy(),
    );
    while (owner.log.lines.length < 1) await new Promise((done) => setImmediate(done));
    expect(owner.log.lines).toMatchObject([{ level: 'debug', message: 'a sender left in the middle of its request' }]);
    expect(owner.arrived).toHaveLength(0);
  });
});

describe('tokens of internal calls', () => {
  it('A token of one internal call is refused for every other', async () => {
    const body = Buffer.from(JSON.stringify({ sessionIds: [], recordOf: null }));
    const ask = async (path: string, issued: string) =>
      (await fetch(owner.server.url + path, { method: 'POST', headers: { [HOP]: issued }, body })).status;
    const between = { target: 'worker-a', from: 'worker-b' };
    expect(await ask('/internal/view', owner.forwardTokens.issueView(between, body))).toBe(200);
    const claimed = owner.forwardTokens.issueClaimed(
      { ...between, sessionId: 's1', epoch: 2, news: 'claimed' as const },
      body,
    );
    expect(await ask('/internal/view', claimed)).toBe(403);
    expect(await ask('/internal/claimed', owner.forwardTokens.issueView(between, body))).toBe(403);
    expect(await ask('/internal/turn', owner.forwardTokens.issueView(between, body))).toBe(403);
  });
});

describe('internal listener', () => {
  it('The internal listener reports the id of its worker', async () => {
    expect(await (await fetch(`${owner.server.url}/internal/worker`)).json()).toEqual({ id: 'worker-a' });
  });

  it('The internal listener serves no other path, in particular none of the public API', async () => {
    const ask = async (method: string, path: string) =>
      (await fetch(owner.server.url + path, { method, ...(method === 'POST' ? { body: '{}' } : {}) })).status;
    for (const path of ['/', '/v1/responses', '/v1/models', '/health', '/metrics', '/internal', '/internal/turn/x']) {
      expect([path, await ask('GET', path), await ask('POST', path)]).toEqual([path, 404, 404]);
    }
    for (const path of ['/constructor', '/__proto__', '/internal/worker?x=1']) expect(await ask('GET', path)).toBe(404);
    expect(await ask('GET', '/internal/turn')).toBe(405);
    expect(await ask('POST', '/internal/worker')).toBe(405);
    expect(await ask('POST', '/internal/claimed')).toBe(403);
    expect(await ask('POST', '/internal/view')).toBe(403);
  });
});
