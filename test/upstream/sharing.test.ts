import { describe, expect, it } from 'vitest';
import { createManualClock } from '../../src/testing/index.ts';
import type {
  ConnectionEnd,
  ConnectionHandlers,
  DialRequest,
  DialResult,
  UpstreamConnection,
  UpstreamTransport,
} from '../../src/upstream/port.ts';
import { createSharingTransport } from '../../src/upstream/sharing.ts';

/** One socket of the provider, played by the test. */
interface Peer {
  request: DialRequest;
  /** Frames that were sent, as they were written. */
  sent: Record<string, unknown>[];
  open: boolean;
  throwsOnSend?: boolean;
  say(frame: object | string): void;
  lose(end?: Partial<ConnectionEnd>): void;
}

function world(options: { handshake?: () => Promise<DialResult | null>; endsAtOnce?: () => boolean } = {}) {
  const clock = createManualClock();
  const peers: Peer[] = [];
  const logged: object[] = [];
  const inner: Pick<UpstreamTransport, 'dial'> = {
    async dial(request) {
      const refused = await options.handshake?.();
      if (refused) return refused;
      const ended = options.endsAtOnce?.() ?? false;
      let handlers!: ConnectionHandlers;
      const peer: Peer = {
        request,
        sent: [],
        open: true,
        say: (frame) => handlers.frame(typeof frame === 'string' ? frame : JSON.stringify(frame)),
        lose(end) {
          peer.open = false;
          handlers.closed({ code: 1006, reason: 'lost', ...end });
        },
      };
      peers.push(peer);
      const connection: UpstreamConnection = {
        kind: 'websocket',
        get open() {
          return peer.open;
        },
        attach: (given) => {
          handlers = given;
          if (ended) peer.lose();
        },
        send(frame) {
          if (peer.throwsOnSend) throw new Error('no');
          return peer.open && peer.sent.push(JSON.parse(frame)) > 0;
        },
        pause: () => {},
        resume: () => {},
        close: () => {
          peer.open = false;
        },
      };
      const headers = { 'x-codex-turn-state': 'ts', 'openai-model': 'm', 'x-models-etag': 'e' };
      return { kind: 'open', connection, headers };
    },
  };
  const log = { warn: (fields: object) => void logged.push(fields) };
  const transport = createSharingTransport(inner as UpstreamTransport, { clock, oldestMs: 1_000, log });
  return { clock, peers, logged, transport };
}

interface Reader {
  connection: UpstreamConnection;
  headers: Record<string, string>;
  frames: Record<string, unknown>[];
  ends: ConnectionEnd[];
  stuck: number;
  ask(more?: object, borrows?: string): boolean;
}

const target = { id: 'up', baseUrl: 'http://up.invalid/v1' };

type Given = {
  scope?: string;
  key?: string;
  most?: number;
  continues?: string;
  headers?: Record<string, string>;
  wanted?: () => boolean;
};

/** Opens a session's connection. */
async function join(transport: UpstreamTransport, given: Given = {}): Promise<Reader> {
  const { scope = 'a', key = 'k', most = 32, continues = null, headers = {} } = given;
  const result = await transport.dial({
    target,
    headers: { authorization: `Bearer ${key}`, ...headers },
    timeoutMs: 1_000,
    sharing: { scope, most, continues, isWanted: () => given.wanted?.() ?? true },
  });
  if (result.kind !== 'open') throw new Error(result.kind);
  const { connection } = result;
  const reader: Reader = {
    connection,
    headers: result.headers,
    frames: [],
    ends: [],
    stuck: 0,
    ask: (more, borrows) => connection.send(JSON.stringify({ type: 'response.create', ...more }), borrows ?? null),
  };
  connection.attach({
    frame: (text) => void reader.frames.push(JSON.parse(text)),
    closed: (end) => void reader.ends.push(end),
    stuck: () => void (reader.stuck += 1),
  });
  return reader;
}

const created = (lane: string | null, id: string) => ({
  type: 'response.created',
  response: { id },
  ...(lane && { stream_id: lane }),
});
const progress = (lane: string) => ({ type: 'response.in_progress', response: { id: 'r' }, stream_id: lane });
const completed = (lane: string | null, id: string) => ({
  type: 'response.completed',
  response: { id, status: 'completed', output: [] },
  ...(lane && { stream_id: lane }),
});
const error = (lane: string | null, code: string, status = 400) => ({
  type: 'error',
  status,
  error: { code, message: code },
  ...(lane && { stream_id: lane }),
});

/** Returns a socket with two sessions at rest; the first one holds the response `one`. */
async function pair() {
  const at = world();
  const first = await join(at.transport);
  first.ask();
  at.peers[0]!.say(completed('h1', 'one'));
  const second = await join(at.transport, { continues: 'one' });
  return { ...at, first, second, peer: at.peers[0]! };
}

const handshakesBegin = () => new Promise((go) => setImmediate(go));

describe('who shares a socket', () => {
  it('A session that joins gets a lane of its own, and the headers that concern it', async () => {
    const { peers, first, second } = await pair();
    second.ask({ input: 'x' });
    expect(peers).toHaveLength(1);
    expect(peers[0]!.sent).toEqual([
      { type: 'response.create', stream_id: 'h1' },
      { type: 'response.create', input: 'x', stream_id: 'h2' },
    ]);
    expect(first.headers).toMatchObject({ 'x-codex-turn-state': 'ts', 'openai-model': 'm' });
    expect(second.headers).toEqual({ 'x-models-etag': 'e' });
    expect(second.connection.shared?.openedAt).toBe(first.connection.shared?.openedAt);
  });

  it.each([
    ['another credential', { key: 'other' }],
    ['another scope', { scope: 'b' }],
    ['another handshake', { headers: { 'openai-project': 'p' } }],
  ])('A session with %s gets another socket', async (_, other) => {
    const { transport, peers } = await pair();
    await join(transport, other);
    expect(peers).toHaveLength(2);
  });

  it('Open shared sockets and the sessions on them are counted', async () => {
    const { transport, first, second, peer } = await pair();
    await join(transport, { scope: 'b' });
    expect(transport.shared()).toEqual({ sockets: 2, lanes: 3 });
    first.connection.close();
    expect(transport.shared()).toEqual({ sockets: 2, lanes: 2 });
    second.connection.close();
    expect([peer.open, transport.shared()]).toEqual([false, { sockets: 1, lanes: 1 }]);
  });

  it('The handshake names no conversation, so that those of one client share a socket', async () => {
    const at = world();
    const first = await join(at.transport, { headers: { 'thread-id': '1', 'user-agent': 'u' } });
    first.ask();
    at.peers[0]!.say(completed('h1', 'one'));
    await join(at.transport, { headers: { 'thread-id': '2', 'user-agent': 'u' } });
    expect(at.peers.map(({ request }) => request.headers)).toEqual([{ authorization: 'Bearer k', 'user-agent': 'u' }]);
  });

  it('Until the peer has named a lane, each session has a socket of its own', async () => {
    const { transport, peers } = world();
    await Promise.all([join(transport), join(transport), join(transport)]);
    expect(peers).toHaveLength(3);
  });

  it('Sessions that come during a handshake wait for it, but not for long', async () => {
    let hangs = false;
    const at = world({ handshake: () => (hangs ? new Promise(() => {}) : Promise.resolve(null)) });
    const first = await join(at.transport, { most: 1 });
    first.ask();
    at.peers[0]!.say(completed('h1', 'one'));
    await Promise.all(Array.from({ length: 33 }, () => join(at.transport)));
    expect(at.peers).toHaveLength(2);
    hangs = true;
    void join(at.transport, { most: 1 });
    await handshakesBegin();
    hangs = false;
    const late = join(at.transport, { most: 2 });
    await at.clock.advance(300);
    expect((await late).connection.open).toBe(true);
  });

  it('A session that was given up while it waited for the handshake of another makes none of its own', async () => {
    let hangs = false;
    const at = world({ handshake: () => (hangs ? new Promise(() => {}) : Promise.resolve(null)) });
    const first = await join(at.transport);
    first.ask();
    at.peers[0]!.say(completed('h1', 'one'));
    at.peers[0]!.lose();
    hangs = true;
    void join(at.transport);
    await handshakesBegin();
    hangs = false;
    const left = join(at.transport, { wanted: () => false });
    at.clock.advance(300);
    await expect(left).rejects.toThrow('failed');
    expect(at.peers).toHaveLength(1);
  });

  it('A handshake that throws is not waited for again', async () => {
    let throws = false;
    const broken = () => Promise.reject(new Error('no'));
    const at = world({ handshake: () => (throws ? broken() : Promise.resolve(null)) });
    const first = await join(at.transport);
    first.ask();
    at.peers[0]!.say(completed('h1', 'one'));
    at.peers[0]!.lose();
    throws = true;
    await expect(join(at.transport)).rejects.toThrow('no');
    throws = false;
    expect((await join(at.transport)).connection.open).toBe(true);
  });

  it('An old socket, and one whose session left before anything came, take no further session', async () => {
    const old = await pair();
    await old.clock.advance(1_000);
    await join(old.transport);
    expect(old.peers).toHaveLength(2);
    const silent = await pair();
    silent.second.ask();
    silent.second.connection.close();
    await join(silent.transport);
    expect(silent.peers).toHaveLength(2);
  });
});

describe('frames of a shared socket', () => {
  it('A frame reaches the session of its lane only, without the name', async () => {
    const { peer, first, second } = await pair();
    second.ask();
    peer.say(created('h2', 'two'));
    expect(second.frames).toEqual([created(null, 'two')]);
    expect(first.frames).toEqual([completed(null, 'one')]);
  });

  it('A frame that names no lane in use ends nothing and is logged once', async () => {
    const { peer, first, second, logged } = await pair();
    second.ask();
    for (const frame of ['{', created('h9', 'x'), created(null, 'y'), { type: 'response.metadata', headers: {} }])
      peer.say(frame);
    expect([first.frames.length, second.frames.length]).toEqual([1, 0]);
    expect(first.connection.open && second.connection.open).toBe(true);
    expect(logged).toHaveLength(1);
  });

  it('The quota of the account reaches every session with a running answer', async () => {
    const { peer, first, second } = await pair();
    second.ask();
    peer.say({ type: 'codex.rate_limits', rate_limits: {} });
    expect([first.frames.length, second.frames.length]).toEqual([1, 1]);
  });

  it('The age limit is shown to every session, and ends the socket', async () => {
    const { peer, first, second, transport, peers } = await pair();
    second.ask();
    peer.say(error(null, 'websocket_connection_limit_reached'));
    for (const each of [first, second]) {
      expect(each.frames.at(-1)).toMatchObject({ error: { code: 'websocket_connection_limit_reached' } });
      expect(each.ends).toHaveLength(1);
    }
    expect(peer.open).toBe(false);
    await join(transport);
    expect(peers).toHaveLength(2);
  });

  it('Another error without a lane is shown to the only session that waits, and ends the socket', async () => {
    const { peer, first, second } = await pair();
    second.ask();
    peer.say(error(null, 'server_error', 500));
    expect(second.frames.at(-1)).toMatchObject({ error: { code: 'server_error' } });
    expect(first.frames).toHaveLength(1);
    expect(first.ends).toEqual([{ code: 1011, reason: 'an error of the connection', spoke: true }]);
  });

  it.each(['wait', 'wait, one for the rest of its answer'])(
    'An error without a lane is shown to no session where two %s',
    async (_) => {
      const { peer, first, second } = await pair();
      first.ask();
      second.ask();
      if (_ !== 'wait') peer.say(progress('h1'));
      const before = first.frames.length;
      peer.say(error(null, 'server_error', 500));
      expect([first.frames.length, second.frames.length]).toEqual([before, 0]);
      expect([first.ends.length, second.ends.length]).toEqual([1, 1]);
    },
  );

  it('A close because of a too large frame concerns a session only where it is the only one that waits', async () => {
    const one = await pair();
    one.second.ask();
    one.peer.lose({ code: 1009 });
    expect([one.first.ends[0]!.code, one.second.ends[0]!.code]).toEqual([1006, 1009]);
    const two = await pair();
    two.first.ask();
    two.second.ask();
    two.peer.lose({ code: 1009 });
    expect([two.first.ends[0]!.code, two.second.ends[0]!.code]).toEqual([1006, 1006]);
  });

  it('A reader that stays slow is cut off; the others read on', async () => {
    const { peer, first, second } = await pair();
    second.ask();
    second.connection.pause();
    const delta = { type: 'response.output_text.delta', delta: 'x'.repeat(1024 * 1024), stream_id: 'h2' };
    peer.say(delta);
    expect(second.stuck).toBe(0);
    peer.say(delta);
    peer.say(delta);
    expect([second.stuck, second.frames.length]).toEqual([1, 0]);
    second.connection.resume();
    expect(second.connection.open).toBe(false);
    first.ask();
    peer.say(created('h1', 'two'));
    expect(first.frames.at(-1)).toEqual(created(null, 'two'));
  });
});

describe('the end of a session', () => {
  it('A session that leaves during its answer leaves the socket to the others; the rest of the answer is ignored', async () => {
    const { peer, first, second, transport, peers } = await pair();
    second.ask();
    peer.say(progress('h2'));
    second.connection.close();
    expect([peer.open, first.connection.open, second.connection.open]).toEqual([true, true, false]);
    const third = await join(transport);
    third.ask();
    peer.say(completed('h2', 'two'));
    expect(second.frames).toHaveLength(1);
    expect(third.frames).toEqual([]);
    expect(peer.sent.at(-1)).toMatchObject({ stream_id: 'h3' });
    expect(peers).toHaveLength(1);
  });

  it('The socket is closed with its last session, also while an answer that was given up still runs', async () => {
    const { peer, first, second } = await pair();
    second.ask();
    second.connection.close();
    first.connection.close();
    expect(peer.open).toBe(false);
  });

  it('The loss of the socket reaches every session once, and says nothing against the peer', async () => {
    const { peer, first, second } = await pair();
    peer.lose();
    for (const each of [first, second]) expect(each.ends).toEqual([{ code: 1006, reason: 'lost', spoke: true }]);
    expect(first.ask()).toBe(false);
  });

  it('An answer that never ends after its session has left keeps the socket from taking others', async () => {
    const { peer, second, transport, peers, clock } = await pair();
    second.ask();
    peer.say(progress('h2'));
    second.connection.close();
    await clock.advance(120_000);
    await join(transport);
    expect(peers).toHaveLength(2);
  });
});

describe('forks', () => {
  it('A fork continues the response of another lane, which does not advance before the fork has begun', async () => {
    const { peer, first, second } = await pair();
    expect(second.connection.shared?.lends('one')).toBe(true);
    second.ask({ previous_response_id: 'one' }, 'one');
    expect(first.ask({ previous_response_id: 'one' })).toBe(true);
    expect(peer.sent).toHaveLength(2);
    peer.say(created('h2', 'two'));
    expect(peer.sent).toHaveLength(2);
    peer.say(progress('h2'));
    expect(peer.sent.at(-1)).toMatchObject({ stream_id: 'h1', previous_response_id: 'one' });
  });

  it('The wait for a fork is limited', async () => {
    const { peer, first, second, clock } = await pair();
    second.ask({}, 'one');
    first.ask();
    await clock.advance(750);
    expect(peer.sent.at(-1)).toMatchObject({ stream_id: 'h1' });
  });

  it('A held frame that cannot be written costs its own session only', async () => {
    const { peer, first, second } = await pair();
    second.ask({}, 'one');
    first.ask();
    peer.throwsOnSend = true;
    peer.say(progress('h2'));
    expect([first.ends.length, second.ends.length]).toEqual([1, 0]);
    expect(second.connection.open).toBe(true);
  });

  it('A frame that is held is not sent when its session leaves', async () => {
    const { peer, first, second } = await pair();
    second.ask({}, 'one');
    first.ask();
    first.connection.close();
    peer.say(progress('h2'));
    expect(peer.sent).toHaveLength(2);
  });
});

describe('a peer that knows no lanes', () => {
  it('A refused stream_id is left out, unnoticed by the session', async () => {
    const { transport, peers } = world();
    const first = await join(transport);
    first.ask({ input: 'x' });
    peers[0]!.say({ type: 'error', status: 400, error: { message: "Unknown parameter: 'stream_id'." } });
    expect(peers[0]!.sent.at(-1)).toEqual({ type: 'response.create', input: 'x' });
    expect(first.frames).toEqual([]);
    peers[0]!.say(completed(null, 'one'));
    expect(first.frames).toEqual([completed(null, 'one')]);
    await join(transport);
    expect(peers).toHaveLength(2);
  });

  it('Where answers name no lane, each session keeps a socket of its own', async () => {
    const { transport, peers } = world();
    const first = await join(transport);
    first.ask();
    peers[0]!.say(created(null, 'one'));
    peers[0]!.say(completed(null, 'one'));
    first.ask();
    expect(first.frames).toHaveLength(2);
    expect(peers[0]!.sent.at(-1)).toEqual({ type: 'response.create' });
    const second = await join(transport);
    second.ask();
    expect(peers[1]!.sent).toEqual([{ type: 'response.create' }]);
    expect(second.connection.shared).toBeUndefined();
  });

  it('A socket that has ended before it is read is not used', async () => {
    let dials = 0;
    const at = world({ endsAtOnce: () => dials++ === 0 });
    const first = await join(at.transport);
    expect(first.ask()).toBe(true);
    expect(at.peers.map(({ sent }) => sent.length)).toEqual([0, 1]);
  });

  it('A socket that ends before anything came says so', async () => {
    const { transport, peers } = world();
    const first = await join(transport);
    peers[0]!.lose();
    expect(first.ends).toEqual([{ code: 1006, reason: 'lost', spoke: false }]);
  });
});
