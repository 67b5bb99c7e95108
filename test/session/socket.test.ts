import { beforeEach, describe, expect, it } from 'vitest';
import { createSessionSocket, type FirstSign, type SessionSocket } from '../../src/session/socket.ts';
import { createManualClock, type ManualClock } from '../../src/testing/index.ts';
import type {
  ConnectionHandlers,
  DialResult,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamTransport,
} from '../../src/upstream/port.ts';

/** A connection that does nothing of itself and notes what is done to it. */
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
  socket = createSessionSocket({
    transport: {
      dial: () => new Promise<DialResult>((resolve) => (answer = resolve)),
      exchange: () => exchanges,
    } as unknown as UpstreamTransport,
    clock,
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

describe('a connection that comes too late', () => {
  it('is closed when its call was given up meanwhile, and is heard no more', async () => {
    const late = connectionOf(log, 'late');
    const outcome = dial(1);
    socket.close(1000, 'given up');
    answer({ kind: 'open', connection: late.connection, headers: {} } as DialResult);
    expect(await outcome).toEqual({ kind: 'superseded' });
    expect(log).toEqual(['late closes 1000']);
    expect(late.attached).toBe(false);
    expect(socket.open).toBe(false);
  });

  it('does not take the place of the one that was wanted after it', async () => {
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

  it('that failed is no news either', async () => {
    const outcome = dial(1);
    socket.close();
    answer({ kind: 'failed', reason: 'no' } as DialResult);
    expect(await outcome).toEqual({ kind: 'superseded' });
    const wanted = dial(2);
    answer({ kind: 'failed', reason: 'no' } as DialResult);
    expect(await wanted).toEqual({ kind: 'failed', reason: 'no' });
  });
});

describe('what an older connection still says', () => {
  it('reaches no other turn: not its frames, not its refusal, not its end', async () => {
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

  it('is not heard after this end closed it', async () => {
    const one = await opened(1, 'one');
    socket.close(1000, 'done');
    one.frame('late');
    one.closed(1000);
    expect(log).toEqual(['one closes 1000']);
    expect([socket.open, socket.kind, socket.anchor]).toEqual([false, null, null]);
  });
});

describe('the present connection', () => {
  it('tells of its end once, with its generation, and holds nothing any more', async () => {
    const one = await opened(7, 'one');
    socket.anchor = 'resp_1';
    one.closed(1006);
    one.closed(1006);
    expect(log).toEqual(['lost 7 1006']);
    expect([socket.open, socket.kind, socket.anchor]).toEqual([false, null, null]);
  });

  it('begins without an anchor, and holds none where the upstream takes none', async () => {
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

  it('is unheard from the first frame it is sent until it says something', async () => {
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

  it('sends nothing when there is none', () => {
    expect(socket.send('x', turn)).toBe(false);
  });

  it('gives its first sign once: what it says, what it refuses with, or that it ended, asked or not', async () => {
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

  it('over HTTP babbles when its first frame is a bare error', async () => {
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

  it('over HTTP may be held back for as long as it takes', async () => {
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

  it('is held back by the turn whose frame it carries, by no other, and not beyond its end', async () => {
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

  it('knows when it was opened', async () => {
    clock.advance(1_234);
    const before = clock.now();
    await opened(1, 'one');
    clock.advance(50);
    expect(socket.openedAt).toBe(before);
  });
});
