import { beforeEach, describe, expect, it } from 'vitest';
import { exchangeRefused } from '../../src/session/connection.ts';
import { type FirstSign, SessionSocket } from '../../src/session/core.ts';
import { createManualClock, type ManualClock } from '../../src/testing/index.ts';
import type {
  ConnectionHandlers,
  DialResult,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamTransport,
} from '../../src/upstream/port.ts';

/** Returns a passive connection that logs the calls it receives. */
function connectionOf(log: string[], name: string, kind: UpstreamConnection['kind'] = 'websocket') {
  let handlers: ConnectionHandlers | null = null;
  const connection = {
    kind,
    open: true,
    attach: (given: ConnectionHandlers) => {
      handlers = given;
    },
    send: (frame: string) => {
      log.push(`${name} sends ${frame}`);
      return true;
    },
    pause: () => void log.push(`${name} pauses`),
    resume: () => void log.push(`${name} resumes`),
    close: (code: number) => void log.push(`${name} closes ${code}`),
  } as unknown as UpstreamConnection;
  return {
    connection,
    get attached() {
      return handlers !== null;
    },
    frame: (text: string) => handlers!.frame(text),
    closed: (code: number) => handlers!.closed({ code } as Parameters<ConnectionHandlers['closed']>[0]),
    refused: (status: number) =>
      handlers!.refused?.({ status, headers: {}, body: Buffer.from('no') } as unknown as UpstreamAnswer),
  };
}

const turn = { name: 'turn' };

let log: string[];
let clock: ManualClock;
let answer: (result: DialResult) => void;
let socket: SessionSocket;
let takesAnchors: boolean;
let signs: FirstSign[];
let exchanges: UpstreamConnection;

beforeEach(() => {
  log = [];
  signs = [];
  takesAnchors = true;
  clock = createManualClock();
  const transport = {
    dial: () => new Promise<DialResult>((resolve) => (answer = resolve)),
    exchange: () => exchanges,
  } as unknown as UpstreamTransport;
  socket = new SessionSocket(transport, clock, {
    onFrame: (text) => void log.push(`frame ${text}`),
    onLost: (generation, { code }) => void log.push(`lost ${generation} ${code}`),
    onRefused: ({ status }) => void log.push(`refused ${status}`),
    onStuck: () => void log.push('stuck'),
    takesAnchors: () => takesAnchors,
  });
});

const dial = (generation: number, how: 'websocket' | 'http' = 'websocket') =>
  socket.dial(generation, how, { target: { id: 't', baseUrl: 'http://h' }, headers: {}, timeoutMs: 1 }, (sign) =>
    signs.push(sign),
  );

async function opened(generation: number, name: string) {
  const one = connectionOf(log, name);
  const outcome = dial(generation);
  answer({ kind: 'open', connection: one.connection, headers: { a: 'b' } } as DialResult);
  expect(await outcome).toEqual({ kind: 'opened', headers: { a: 'b' } });
  return one;
}

describe('a connection that opens too late', () => {
  it('A connection that opens after its dial was given up is closed and not listened to', async () => {
    const late = connectionOf(log, 'late');
    const outcome = dial(1);
    socket.close(1000, 'given up');
    answer({ kind: 'open', connection: late.connection, headers: {} } as DialResult);
    expect(await outcome).toEqual({ kind: 'superseded' });
    expect(log).toEqual(['late closes 1000']);
    expect(late.attached).toBe(false);
    expect(socket.open).toBe(false);
  });

  it('A connection that opens late does not replace the one that was dialled after it', async () => {
    const late = connectionOf(log, 'late');
    const first = dial(1);
    const answerFirst = answer;
    const second = await opened(2, 'second');
    answerFirst({ kind: 'open', connection: late.connection, headers: {} } as DialResult);
    expect(await first).toEqual({ kind: 'superseded' });
    expect(log).toEqual(['late closes 1000']);
    second.frame('f');
    expect(log).toEqual(['late closes 1000', 'frame f']);
    expect(socket.generation).toBe(2);
  });

  it('A late failure of an abandoned dial is not reported', async () => {
    const outcome = dial(1);
    socket.close();
    answer({ kind: 'failed', reason: 'no' } as DialResult);
    expect(await outcome).toEqual({ kind: 'superseded' });
    const wanted = dial(2);
    answer({ kind: 'failed', reason: 'no' } as DialResult);
    expect(await wanted).toEqual({ kind: 'failed', reason: 'no' });
  });
});

describe('late input of an older connection', () => {
  it('Frames, refusals and the end of an older connection reach no other turn', async () => {
    const old = await opened(1, 'old');
    await opened(2, 'new');
    socket.anchor = 'resp_2';
    log.length = 0;
    old.frame('late');
    old.refused(429);
    old.closed(1006);
    expect(log).toEqual([]);
    expect(signs).toEqual([]);
    expect(socket.anchor).toBe('resp_2');
    expect(socket.open).toBe(true);
  });

  it('A connection is not listened to after this end closed it', async () => {
    const one = await opened(1, 'one');
    socket.close(1000, 'done');
    one.frame('late');
    one.closed(1000);
    expect(log).toEqual(['one closes 1000']);
    expect([socket.open, socket.kind, socket.anchor]).toEqual([false, null, null]);
  });
});

describe('the current connection', () => {
  it('The current connection reports its end once, with its generation, and then holds no anchor', async () => {
    const one = await opened(7, 'one');
    socket.anchor = 'resp_1';
    one.closed(1006);
    one.closed(1006);
    expect(log).toEqual(['lost 7 1006']);
    expect([socket.open, socket.kind, socket.anchor]).toEqual([false, null, null]);
  });

  it('The current connection starts without an anchor, and holds none if the upstream refuses anchors', async () => {
    await opened(1, 'one');
    socket.anchor = 'resp_1';
    expect(socket.anchor).toBe('resp_1');
    takesAnchors = false;
    socket.anchor = 'resp_2';
    expect(socket.anchor).toBeNull();
    takesAnchors = true;
    socket.anchor = 'resp_3';
    await opened(2, 'two');
    expect(socket.anchor).toBeNull();
  });

  it('The current connection is unheard from the first sent frame until it receives one', async () => {
    expect(socket.unheard).toBe(false);
    const one = await opened(1, 'one');
    expect(socket.unheard).toBe(false);
    expect(socket.send('x', turn)).toBe(true);
    expect(socket.unheard).toBe(true);
    one.frame('f');
    expect(socket.unheard).toBe(false);
    await opened(2, 'two');
    expect(socket.unheard).toBe(false);
  });

  it('A send without a connection returns false', () => {
    expect(socket.send('x', turn)).toBe(false);
  });

  it('The current connection reports its first sign once: a frame, a refusal, or its end before or after a send', async () => {
    const speaks = await opened(1, 'a');
    speaks.frame('f');
    speaks.frame('g');
    speaks.closed(1006);
    expect(signs.splice(0)).toEqual([{ kind: 'spoke' }]);
    (await opened(2, 'b')).closed(1001);
    expect(signs.splice(0)).toEqual([{ kind: 'ended', code: 1001, asked: false }]);
    const asked = await opened(3, 'c');
    socket.send('x', turn);
    asked.closed(1006);
    expect(signs.splice(0)).toEqual([{ kind: 'ended', code: 1006, asked: true }]);
    (await opened(4, 'd')).refused(502);
    expect(signs.splice(0)).toEqual([{ kind: 'babbled' }]);
  });

  it('Over HTTP a bare error as the first frame is reported as babbled', async () => {
    for (const [frame, kind] of [
      ['{"type":"error"}', 'babbled'],
      ['{"type":"response.created"}', 'spoke'],
    ]) {
      const one = connectionOf(log, 'one', 'http');
      exchanges = one.connection;
      expect(await dial(1, 'http')).toEqual({ kind: 'opened', headers: {} });
      one.frame(frame!);
      expect(signs.splice(0)).toEqual([{ kind }]);
    }
    const overWebSocket = await opened(2, 'two');
    overWebSocket.frame('{"type":"error"}');
    expect(signs).toEqual([{ kind: 'spoke' }]);
  });

  it('Over HTTP a connection may be paused without a time limit', async () => {
    exchanges = connectionOf(log, 'one', 'http').connection;
    await dial(1, 'http');
    socket.send('x', turn);
    log.length = 0;
    socket.pause(turn, true);
    clock.advance(600_000);
    expect(log).toEqual(['one pauses']);
    socket.pause(turn, false);
    expect(log).toEqual(['one pauses', 'one resumes']);
  });

  it('The current connection is paused only by the turn whose frame it carries, and not after that turn ended', async () => {
    await opened(1, 'one');
    const later = { name: 'later' };
    const heldAfter = (act: () => void) => {
      log.length = 0;
      act();
      return log.filter((line) => line.endsWith('pauses') || line.endsWith('resumes')).at(-1) ?? 'as before';
    };
    expect(heldAfter(() => socket.pause(turn, true))).toBe('as before');
    socket.send('x', turn);
    expect(heldAfter(() => socket.pause(later, true))).toBe('as before');
    expect(heldAfter(() => socket.pause(turn, true))).toBe('one pauses');
    expect(heldAfter(() => socket.pause(later, false))).toBe('as before');
    expect(heldAfter(() => socket.free())).toBe('one resumes');
    expect(heldAfter(() => socket.pause(turn, true))).toBe('as before');
    socket.send('y', turn);
    socket.pause(turn, true);
    expect(heldAfter(() => socket.send('z', later))).toBe('one resumes');
    expect(heldAfter(() => socket.pause(turn, true))).toBe('as before');
    clock.advance(60_000);
    expect(log).not.toContain('stuck');
  });

  it('The current connection has the time at which it was opened', async () => {
    clock.advance(1_234);
    const before = clock.now();
    await opened(1, 'one');
    clock.advance(50);
    expect(socket.openedAt).toBe(before);
  });
});

describe('a refusal of the anchor over HTTP', () => {
  const refusal = {
    status: 400,
    headers: {},
    body: Buffer.from('{"error":{"code":"previous_response_not_found"}}'),
  };
  const refuse = (creates: number, form: 'delta' | 'full' = 'delta') => {
    const refused = { ending: null, untaken: false, anchorRefused: false, wire: { form }, parent: { replay: 'exact' } };
    const session = {
      actor: { context: { creates } },
      env: { abilities: { refusesAnchors: () => {} } },
      upstreamOf: () => 'u',
      send: ({ type }: { type: string }) => void log.push(type),
    };
    exchangeRefused(session as never, refused as never, refusal as never);
    return refused;
  };

  it('The whole context is sent in its place, once in a turn', () => {
    expect(refuse(1)).toMatchObject({ untaken: true, anchorRefused: true, ending: null });
    expect(log).toEqual([]);
    for (const relayed of [refuse(2), refuse(1, 'full')]) {
      expect(relayed).toMatchObject({ untaken: false, ending: { state: 'failed', answer: refusal } });
    }
    expect(log).toEqual(['upstream.ended', 'upstream.ended']);
  });
});
