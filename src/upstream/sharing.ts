import { createHash } from 'node:crypto';
import type { Log } from '../log.ts';
import { type Clock, guarded } from '../system.ts';
import { parseFrame } from './frames.ts';
import { headersOfJoined, sharedHeaders } from './headers.ts';
import { addressed, chooseSocket, type Lane, LaneTable, MOST_NAMED, MOST_RUNNING, withLane } from './lanes.ts';
import type {
  ConnectionEnd,
  ConnectionHandlers,
  DialRequest,
  DialResult,
  ParsedFrame,
  SharedSocketView,
  SharingWish,
  UpstreamConnection,
  UpstreamTransport,
} from './port.ts';
import { FrameFlow } from './streams.ts';

/** Most characters of frames that wait for the paused reader of one lane. The socket itself is always read. */
const MOST_WAITING = 2 * 1024 * 1024;
/**
 * Longest wait of a lane for the beginning of a fork that continues its latest response, in milliseconds. The lease was
 * checked before it, so it is far below the lease margin.
 */
const LONGEST_HOLD_MS = 750;
/**
 * Time for a response to end after its session has left, in milliseconds. No event cancels a response; after this time the
 * socket takes no further sessions.
 */
const LONGEST_REST_MS = 120_000;
/** Time for which it is remembered whether a peer knows lanes, in milliseconds. */
const KNOWN_MS = 3_600_000;
/** Most peers about which that is remembered. */
const MOST_KNOWN = 4_096;
/**
 * Longest wait of a session for the handshake of another, and age from which none waits for it, in milliseconds. It may
 * hang; then each session makes its own.
 */
const LONGEST_WAIT_MS = 300;
/** Most sockets that a session tries to join before it gets one of its own: each was lost while it waited. */
const MOST_TRIES = 3;
/** WebSocket close codes: the connection ended without a close frame; a message is too big; the peer had an error. */
const [NO_CLOSE_FRAME, TOO_LARGE, PEER_ERROR] = [1006, 1009, 1011];

interface SharingOptions {
  clock: Clock;
  /** Age from which a socket takes no further session, in milliseconds. */
  oldestMs: number;
  log: Log<'warn'>;
}

/** What the lanes of one socket share. */
interface SocketHost extends SharingOptions {
  /** Called when the peer has named a lane in an answer, or has shown that it knows none. */
  onProof(knowsLanes: boolean): void;
  onClosed(socket: SharedSocket): void;
}

/** A lane with the connection of its session. Every idle session keeps one, so it has no function of its own. */
class Member implements UpstreamConnection, SharedSocketView, ConnectionHandlers {
  readonly kind = 'websocket';
  readonly lane: Lane;
  /** Frame that has to wait, or that the peer has not answered yet on a socket whose peer may not know lanes. */
  kept: string | null = null;
  cancelHold: (() => void) | null = null;
  /** Number of frames heard on the socket when the lane sent its last one. */
  heardAtSend = 0;
  readonly #socket: SharedSocket;
  readonly #flow: FrameFlow;
  #reader: ConnectionHandlers | null = null;
  /** Characters of the frames that wait for the reader. */
  #waiting = 0;
  #closed = false;

  constructor(socket: SharedSocket, lane: Lane) {
    this.#socket = socket;
    this.lane = lane;
    this.#flow = new FrameFlow(this);
  }

  get open(): boolean {
    return !this.#closed && this.#socket.open;
  }

  attach(reader: ConnectionHandlers): void {
    this.#reader = reader;
    this.#flow.attach(this);
  }

  send(frame: string, borrows: string | null = null): boolean {
    return this.open && this.#socket.send(this, frame, borrows);
  }

  pause(): void {
    this.#flow.pause();
  }

  resume(): void {
    this.#flow.resume();
  }

  close(code = 1000, reason = ''): void {
    if (this.#closed) return;
    this.#flow.mute();
    this.#socket.leave(this);
    this.lose({ code, reason });
  }

  // What the session may know of the socket.

  get shared(): SharedSocketView {
    return this;
  }

  get openedAt(): number {
    return this.#socket.openedAt;
  }

  get crowded(): boolean {
    return this.#socket.table.onWire >= MOST_RUNNING;
  }

  lends(responseId: string): boolean {
    return this.#socket.table.lends(responseId, this.lane.name);
  }

  // What the socket delivers.

  /** Delivers a frame to the session. */
  give(text: string): void {
    this.#flow.frame(text);
    if (!this.#flow.held) return;
    this.#waiting += text.length;
    if (this.#waiting <= MOST_WAITING) return;
    this.#reader?.stuck?.();
    if (!this.#flow.held) return;
    this.#flow.mute();
    this.#socket.leave(this);
    this.lose({ code: NO_CLOSE_FRAME, reason: 'its reader is too slow' });
  }

  /** Ends the connection, as seen by the session. */
  lose({ code, reason }: ConnectionEnd): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#flow.close(code, reason);
  }

  // What the flow asks and delivers.

  hold(held: boolean): void {
    if (!held) this.#waiting = 0;
  }

  broken(): void {
    this.close(PEER_ERROR, 'a frame could not be handled');
  }

  frame(text: string): void {
    this.#reader?.frame(text);
  }

  closed(info: ConnectionEnd): void {
    this.#reader?.closed({ ...info, spoke: this.#socket.heard > 0 });
  }
}

/** Returns whether an answer to the member's last frame is on its way. */
const isWaiting = ({ lane }: Member) => lane.phase === 'sent' || lane.phase === 'running';

/** One WebSocket and the sessions that share it. */
class SharedSocket {
  readonly table = new LaneTable();
  retired = false;
  proven: boolean;
  /** Time at which it opened, in monotonic milliseconds. */
  readonly openedAt: number;
  /** Number of frames received. */
  heard = 0;
  readonly #connection: UpstreamConnection;
  readonly #host: SocketHost;
  readonly #members = new Map<string, Member>();
  readonly #rests = new Set<() => void>();
  /** False once the peer has shown that it knows no lanes: the only session then uses the socket without a name. */
  #named = true;
  #strays = 0;

  constructor(connection: UpstreamConnection, proven: boolean, host: SocketHost) {
    this.#connection = connection;
    this.#host = host;
    this.openedAt = host.clock.now();
    this.proven = proven;
    connection.attach({
      frame: (text) => this.#hear(text),
      closed: (end) => this.#lost(end),
    });
  }

  get open(): boolean {
    return this.#connection.open;
  }

  get ageMs(): number {
    return this.#host.clock.now() - this.openedAt;
  }

  /** Returns the connection of a new lane; null when the socket takes none. */
  join(): UpstreamConnection | null {
    const lane = this.retired || !this.#connection.open ? null : this.table.join();
    if (!lane) return null;
    const member = new Member(this, lane);
    this.#members.set(lane.name, member);
    return member;
  }

  /** Sends a frame of a lane, or keeps it until the lane may advance. Returns false if the socket did not take it. */
  send(member: Member, frame: string, borrows: string | null): boolean {
    member.heardAtSend = this.heard;
    if (this.table.send(member.lane, borrows)) {
      if (!this.proven) member.kept = frame;
      return this.#write(member, frame);
    }
    member.kept = frame;
    member.cancelHold = this.#host.clock.after(LONGEST_HOLD_MS, () => {
      if (this.table.release(member.lane)) this.#writeKept(member);
    });
    return true;
  }

  #write({ lane }: Member, frame: string): boolean {
    return this.#connection.send(this.#named ? withLane(frame, lane) : frame);
  }

  #writeKept(member: Member): void {
    const { kept } = member;
    member.cancelHold?.();
    member.cancelHold = null;
    member.kept = null;
    if (kept === null) return;
    // Called while a frame of another session is handled: a failure concerns this session only.
    const failed = () => {
      this.leave(member);
      member.lose({ code: NO_CLOSE_FRAME, reason: 'its frame could not be sent' });
    };
    guarded('upstream socket', () => this.#write(member, kept), failed)();
  }

  #closeConnection(reason: string): void {
    guarded('upstream socket', () => this.#connection.close(1000, reason))();
  }

  #writeReleased(lanes: readonly Lane[]): void {
    for (const { name } of lanes) {
      const member = this.#members.get(name);
      if (member) this.#writeKept(member);
    }
  }

  /** A session has left. The socket is closed with its last one; until then only an answer that still runs keeps a place. */
  leave(member: Member): void {
    const { lane } = member;
    member.cancelHold?.();
    member.kept = null;
    // Nothing came since its frame was sent: the socket may be dead.
    if (isWaiting(member) && this.heard === member.heardAtSend) this.retired = true;
    this.#members.delete(lane.name);
    this.#writeReleased(this.table.leave(lane));
    if (this.table.used === 0) return this.#close('no session uses it');
    if (!isWaiting(member)) return;
    const stop = this.#host.clock.after(LONGEST_REST_MS, () => {
      this.#rests.delete(stop);
      if (isWaiting(member)) this.retired = true;
    });
    this.#rests.add(stop);
  }

  #close(reason: string): void {
    this.retired = true;
    for (const stop of this.#rests) stop();
    this.#rests.clear();
    this.#host.onClosed(this);
    this.#closeConnection(reason);
  }

  #hear(given: string): void {
    this.heard += 1;
    const { name, text } = addressed(given);
    if (name === null) return this.#hearUnnamed(given);
    const lane = this.table.get(name);
    if (!lane) return this.#stray(given);
    if (!this.proven) {
      this.proven = true;
      this.#host.onProof(true);
    }
    this.#deliver(lane, text);
  }

  #deliver(lane: Lane, text: string): void {
    const member = this.#members.get(lane.name);
    const released = this.table.hear(lane, text);
    if (member) {
      if (lane.phase !== 'held') member.kept = null;
      member.give(text);
    }
    this.#writeReleased(released);
  }

  /** A frame that names no lane. Where only one lane was ever used it can only concern that one. */
  #hearUnnamed(text: string): void {
    const frame = parseFrame(text);
    const [only] = this.table.all();
    if (this.table.named === 1 && only) {
      const member = this.#members.get(only.name);
      if (this.#named && refusesLanes(frame) && member?.kept != null && only.phase === 'sent') {
        this.#withoutLanes();
        this.#write(member, member.kept);
        member.kept = null;
        return;
      }
      if (this.#named && /^response\.(?!metadata$)/.test(frame.type)) this.#withoutLanes();
      if (frame.kind === 'error') this.retired = true;
      return this.#deliver(only, text);
    }
    if (frame.kind === 'error') return this.#fail(frame, text);
    // The quota is the account's, and all lanes use the same account.
    if (frame.type === 'codex.rate_limits') {
      for (const member of [...this.#members.values()]) if (member.lane.phase !== 'resting') member.give(text);
      return;
    }
    this.#stray(text);
  }

  /** The peer knows no lanes, so the socket belongs to the one session that has it. */
  #withoutLanes(): void {
    this.#named = false;
    this.retired = true;
    this.#host.onProof(false);
  }

  /**
   * An error that names no lane concerns the connection, which then ends. Every session learns of the connection's age
   * limit. Any other error is shown to the one session that waits for an answer, if there is only one.
   */
  #fail({ error }: ParsedFrame, text: string): void {
    this.retired = true;
    const members = [...this.#members.values()];
    const waiting = members.filter(isWaiting);
    const toAll = error?.code === 'websocket_connection_limit_reached';
    const concerned = toAll ? members : this.table.onWire === 1 ? waiting : [];
    for (const { lane } of concerned) this.#deliver(lane, text);
    this.#lost({ code: PEER_ERROR, reason: 'an error of the connection' });
    this.#closeConnection('an error of the connection');
  }

  #lost({ code, reason }: ConnectionEnd): void {
    this.retired = true;
    this.#host.onClosed(this);
    for (const stop of this.#rests) stop();
    this.#rests.clear();
    const members = [...this.#members.values()];
    this.#members.clear();
    // Only where one frame is on the wire it is known which message was too large.
    const alone = this.table.onWire === 1;
    for (const member of members) {
      member.cancelHold?.();
      const concerns = code !== TOO_LARGE || (alone && isWaiting(member));
      member.lose({ code: concerns ? code : NO_CLOSE_FRAME, reason });
    }
  }

  /** A frame of no lane that is used here ends nothing: it may belong to any of them, or to none. */
  #stray(text: string): void {
    this.#strays += 1;
    if (this.#strays > 1) return;
    const { type } = parseFrame(text);
    this.#host.log.warn({ type: type.slice(0, 80) }, 'a frame on a shared upstream socket names no lane in use');
  }
}

/** Returns whether an error refuses the `stream_id` itself, as an upstream without lanes does. */
function refusesLanes({ kind, error }: ParsedFrame): boolean {
  if (kind !== 'error' || !error || ![400, 422, 501].includes(error.status)) return false;
  return error.param === 'stream_id' || /\bstream_id\b/.test(`${error.code} ${error.message}`);
}

/** Handshake in progress, and the sessions that will join its socket. */
interface Opening {
  joiners: number;
  readonly since: number;
  /** Resolves to the socket, or to the result of a handshake that failed. */
  socket: Promise<SharedSocket | Exclude<DialResult, { kind: 'open' }>>;
}

/** Sockets of one scope, credential and handshake. */
interface Group {
  sockets: Set<SharedSocket>;
  openings: Set<Opening>;
  /** The answer's headers, by socket. */
  headers: WeakMap<SharedSocket, Record<string, string>>;
}

/** A transport on which sessions may share WebSockets. */
export interface SharingTransport extends UpstreamTransport {
  /** Returns the number of WebSockets that may be shared and are open, and of the sessions that use them. */
  shared(): { sockets: number; lanes: number };
}

/**
 * Wraps a transport so that sessions which wish it share WebSockets, each on a lane of its own. Only sessions of one scope
 * with the same upstream, credential and handshake do: a provider sees one account on a socket, and one tenant's turns never
 * wait for those of another. Everything else passes through.
 */
export function createSharingTransport(inner: UpstreamTransport, options: SharingOptions): SharingTransport {
  const { clock } = options;
  const groups = new Map<string, Group>();
  /** Whether a peer knows lanes, by group. */
  const known = new Map<string, { lanes: boolean; until: number }>();

  const learn = (key: string, lanes: boolean) => {
    known.delete(key);
    known.set(key, { lanes, until: clock.now() + KNOWN_MS });
    if (known.size > MOST_KNOWN) known.delete(known.keys().next().value!);
    // What one socket has shown holds for the others that are open.
    if (lanes) for (const socket of groups.get(key)?.sockets ?? []) socket.proven = true;
  };
  const knows = (key: string): boolean | null => {
    const found = known.get(key);
    return found && found.until > clock.now() ? found.lanes : null;
  };
  const tidy = (key: string, group: Group) => {
    if (group.sockets.size + group.openings.size === 0 && groups.get(key) === group) groups.delete(key);
  };

  function open(key: string, group: Group, request: DialRequest): Opening {
    const dial = async () => {
      try {
        const result = await inner.dial(request);
        if (result.kind !== 'open') return result;
        const socket = new SharedSocket(result.connection, knows(key) === true, {
          ...options,
          onProof: (lanes) => learn(key, lanes),
          onClosed(closed) {
            group.sockets.delete(closed);
            tidy(key, group);
          },
        });
        // It may have ended before it could be read.
        if (socket.retired) return socket;
        group.sockets.add(socket);
        group.headers.set(socket, result.headers);
        return socket;
      } finally {
        group.openings.delete(opening);
        tidy(key, group);
      }
    };
    const opening: Opening = { joiners: 1, since: clock.now(), socket: Promise.resolve().then(dial) };
    group.openings.add(opening);
    groups.set(key, group);
    return opening;
  }

  /** Waits for the handshake of another session, for a limited time. Null when that is over. */
  async function soon(opening: Opening): Promise<Awaited<Opening['socket']> | null> {
    opening.joiners += 1;
    const { promise, resolve } = Promise.withResolvers<null>();
    const stop = clock.after(LONGEST_WAIT_MS, () => {
      opening.joiners -= 1;
      resolve(null);
    });
    return Promise.race([opening.socket, promise]).finally(stop);
  }

  async function share(request: DialRequest, wish: SharingWish): Promise<DialResult> {
    const most = Math.min(wish.most, MOST_NAMED);
    const { sharing: _, ...own } = request;
    const shared = { ...own, headers: sharedHeaders(request.headers) };
    const key = keyOf(shared, wish.scope);
    const isJoinable = ({ joiners, since }: Opening) => joiners < most && clock.now() - since < LONGEST_WAIT_MS;
    let late = false;
    for (let tries = 0; tries < MOST_TRIES && knows(key) !== false; tries += 1) {
      const group = groups.get(key) ?? { sockets: new Set(), openings: new Set(), headers: new WeakMap() };
      const socket = chooseSocket(group.sockets, { most, oldestMs: options.oldestMs, continues: wish.continues });
      const joined = socket?.join();
      if (joined)
        return { kind: 'open', connection: joined, headers: headersOfJoined(group.headers.get(socket!) ?? {}) };
      // A peer that may not know lanes shows it with the first answer; until then a socket has one session.
      const roomy: Opening | undefined = late || !knows(key) ? undefined : [...group.openings].find(isJoinable);
      const opened: Awaited<Opening['socket']> | null = await (roomy ? soon(roomy) : open(key, group, shared).socket);
      late = opened === null;
      if (opened === null && !wish.isWanted()) return { kind: 'failed', reason: 'not wanted any more' };
      if (opened === null) continue;
      if (!(opened instanceof SharedSocket)) return opened;
      const connection = opened.join();
      const headers = group.headers.get(opened) ?? {};
      if (connection) return { kind: 'open', connection, headers: roomy ? headersOfJoined(headers) : headers };
    }
    return inner.dial(own);
  }

  return {
    dial: (request) => (request.sharing ? share(request, request.sharing) : inner.dial(request)),
    exchange: (request) => inner.exchange(request),
    call: (request) => inner.call(request),
    shared() {
      const sockets = [...groups.values()].flatMap((group) => [...group.sockets]);
      return { sockets: sockets.length, lanes: sockets.reduce((sum, { table }) => sum + table.used, 0) };
    },
    shutdown: () => inner.shutdown(),
  };
}

/** Returns a hash of what must be equal for two sessions to share a socket. */
const keyOf = ({ target, headers, hidden = false }: DialRequest, scope: string): string => {
  const sorted = Object.entries(headers).sort(([a], [b]) => (a < b ? -1 : 1));
  const parts = JSON.stringify([scope, target.id, target.baseUrl, hidden, sorted]);
  return createHash('sha256').update(parts).digest('base64');
};
