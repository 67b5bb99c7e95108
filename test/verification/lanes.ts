import { addressed, chooseSocket, type Lane, LaneTable, withLane } from '../../src/upstream/lanes.ts';

/**
 * Explores, breadth first, three sessions on at most two shared sockets: the production rules of `src/upstream/lanes.ts`
 * against a provider that is as strict as its guide. Two sessions have the same credential, the third another one.
 */

/** One omitted rule, which the exploration must find. */
export const weakenings = {
  advancesEarly: 'a lane advances before a fork of its latest response has begun',
  keepsAfterFailure: 'the response that a failed continuation named is still taken for held',
  lendsRunning: 'a response is lent while its lane runs a turn',
  lendsOverCredentials: 'sessions with different credentials share a socket',
  mixesLanes: 'a frame goes to the first session of the socket instead of that of its lane',
} as const;
export type Weakening = keyof typeof weakenings;

/** Result of an exploration. */
export interface Explored {
  states: number;
  /** True when every state within the depth was reached before the limit. */
  complete: boolean;
  /** Steps that lead to the first violation, and what was violated. */
  violation: { steps: readonly string[]; what: string } | null;
}

interface Session {
  readonly credential: string;
  socket: Socket | null;
  lane: Lane | null;
  /** Turns whose text the conversation consists of. */
  context: string;
  /** Response at its end; null before the first turn. */
  response: string | null;
  /** Response that its own lane holds. */
  anchor: string | null;
  /** The turn on the wire, or held. */
  turn: { id: string; context: string; frame: string } | null;
}

interface Socket {
  readonly credential: string;
  readonly retired: boolean;
  readonly proven: true;
  readonly ageMs: 0;
  readonly table: LaneTable;
  /** The provider's side, by the name of the lane. */
  readonly provider: Map<
    string,
    { latest: string | null; turn: { id: string; anchor: string | null; begun: boolean } | null }
  >;
}

class World {
  readonly sessions: Session[] = ['a', 'a', 'b'].map((credential) => ({
    credential,
    socket: null,
    lane: null,
    context: '',
    response: null,
    anchor: null,
    turn: null,
  }));
  sockets: Socket[] = [];
  violated: string | null = null;
  /** What the provider knows as the context of each response. */
  readonly #contexts = new Map<string, string>();
  readonly #weak: Weakening | null;
  #turns = 0;
  #sockets = 0;

  constructor(weak: Weakening | null) {
    this.#weak = weak;
  }

  /** Returns the steps that are possible now. */
  steps(): string[] {
    const found: string[] = [];
    for (const [index, session] of this.sessions.entries()) {
      if (session.turn === null && this.#turns < 5) {
        found.push(`ask ${index}`);
        if (session.response === null)
          for (const [from, source] of this.sessions.entries())
            if (source.response !== null && source.credential === session.credential)
              found.push(`fork ${index} ${from}`);
      }
      if (session.socket) found.push(`leave ${index}`);
    }
    for (const [index, { provider }] of this.sockets.entries()) {
      found.push(`lose ${index}`);
      for (const [name, { turn }] of provider) {
        if (turn?.begun) found.push(`complete ${index} ${name}`);
        else if (turn) found.push(`begin ${index} ${name}`);
        if (turn) found.push(`fail ${index} ${name}`);
      }
    }
    return found;
  }

  take(step: string): void {
    const [what, first, second] = step.split(' ') as [string, string, string];
    const session = this.sessions[Number(first)]!;
    const socket = this.sockets[Number(first)]!;
    if (what === 'ask') this.#ask(session, session.response);
    else if (what === 'fork') {
      const source = this.sessions[Number(second)]!;
      Object.assign(session, { context: source.context, response: source.response });
      this.#ask(session, source.response);
    } else if (what === 'leave') this.#leave(session);
    else if (what === 'lose') this.#lose(socket);
    else if (what === 'begin') this.#begin(socket, second);
    else this.#end(socket, second, what === 'complete');
  }

  /** Returns a text that is equal for equal worlds. */
  key(): string {
    const sockets = this.sockets.map(({ table, provider, credential }) => [
      credential,
      [...table.all()],
      [...provider],
    ]);
    return JSON.stringify([
      sockets,
      this.sessions.map(({ socket, lane, ...rest }) => [rest, socket ? this.sockets.indexOf(socket) : -1, lane?.name]),
    ]);
  }

  #ask(session: Session, continues: string | null): void {
    if (session.socket === null) {
      const open = this.sockets.filter(
        ({ credential }) => credential === session.credential || this.#weak === 'lendsOverCredentials',
      );
      const chosen = chooseSocket(open, { most: 32, oldestMs: 1, continues }) ?? this.#open(session.credential);
      if (chosen.credential !== session.credential) this.violated ??= 'two credentials on one socket';
      session.socket = chosen;
      session.lane = chosen.table.join();
    }
    const { table } = session.socket;
    const lane = session.lane!;
    const running = [...table.all()].some(({ latest, name }) => latest === continues && name !== lane.name);
    const lent = table.lends(continues ?? '', lane.name) || (this.#weak === 'lendsRunning' && running);
    const anchor = session.anchor ?? (continues !== null && lent ? continues : null);
    const borrows = anchor !== null && anchor !== session.anchor ? anchor : null;
    this.#turns += 1;
    const id = `t${this.#turns}`;
    const frame = JSON.stringify({ type: 'response.create', id, ...(anchor && { previous_response_id: anchor }) });
    session.turn = { id, context: session.context, frame };
    const free = table.send(lane, borrows);
    if (free || (this.#weak === 'advancesEarly' && table.release(lane))) this.#receive(session.socket, lane, frame);
  }

  #open(credential: string): Socket {
    this.#sockets += 1;
    const socket: Socket = {
      credential,
      retired: false,
      proven: true,
      ageMs: 0,
      table: new LaneTable(),
      provider: new Map(),
    };
    this.sockets.push(socket);
    return socket;
  }

  /** The provider receives a frame: its lane advances from here on. */
  #receive({ provider }: Socket, lane: Lane, frame: string): void {
    const { stream_id: name, id, previous_response_id: anchor = null } = JSON.parse(withLane(frame, lane));
    provider.set(name, { latest: provider.get(name)?.latest ?? null, turn: { id, anchor, begun: false } });
  }

  #begin(socket: Socket, name: string): void {
    const { turn } = socket.provider.get(name)!;
    const { anchor } = turn!;
    const reachable =
      anchor === null ||
      [...socket.provider].some(([owner, held]) => held.latest === anchor && (owner === name || held.turn === null));
    if (!reachable) {
      // Only a fork whose session has left is not waited for.
      if (this.sessions.some((session) => session.turn?.id === turn!.id))
        this.violated ??= 'an anchor that the provider does not hold';
      return this.#end(socket, name, false);
    }
    turn!.begun = true;
    this.#say(socket, name, { type: 'response.in_progress', response: { id: turn!.id } });
  }

  #end(socket: Socket, name: string, completes: boolean): void {
    const at = socket.provider.get(name)!;
    const { id, anchor } = at.turn!;
    at.turn = null;
    if (completes) {
      at.latest = id;
      const owner = this.sessions.find(({ turn }) => turn?.id === id);
      const before = anchor === null ? (owner?.context ?? '') : this.#contexts.get(anchor)!;
      this.#contexts.set(id, `${before} ${id}`);
      if (owner && owner.context !== before) this.violated ??= 'another context than the client meant';
      this.#say(socket, name, { type: 'response.completed', response: { id, status: 'completed', output: [] } });
    } else {
      if (at.latest === anchor) at.latest = null;
      this.#say(socket, name, { type: 'error', status: 500, error: { code: id, message: 'failed' } });
    }
  }

  #say(socket: Socket, name: string, frame: Record<string, unknown>): void {
    const { name: lane, text } = addressed(JSON.stringify({ ...frame, stream_id: name }));
    const state = socket.table.get(lane!)!;
    const kept = state.latest;
    const released = socket.table.hear(state, text);
    if (this.#weak === 'keepsAfterFailure' && frame.type === 'error')
      (state as { latest: string | null }).latest = kept;
    const session = this.sessions.find(
      ({ socket: used, lane: own }) => used === socket && (own?.name === lane || this.#weak === 'mixesLanes'),
    );
    if (session) this.#hear(session, frame);
    for (const each of released) {
      const held = this.sessions.find(({ socket: used, lane: own }) => used === socket && own?.name === each.name);
      if (held?.turn) this.#receive(socket, each, held.turn.frame);
    }
  }

  #hear(session: Session, frame: Record<string, unknown>): void {
    const { id } = (frame.response ?? {}) as { id?: string };
    const about = id ?? (frame.error as { code: string }).code;
    if (session.turn?.id !== about) {
      this.violated ??= 'a frame of another conversation';
      return;
    }
    if (frame.type === 'response.in_progress') return;
    if (id !== undefined) Object.assign(session, { context: `${session.context} ${id}`, response: id, anchor: id });
    else if (this.#weak !== 'keepsAfterFailure') session.anchor = null;
    session.turn = null;
  }

  #leave(session: Session): void {
    const { socket, lane } = session;
    const released = socket!.table.leave(lane!);
    Object.assign(session, { socket: null, lane: null, anchor: null, turn: null });
    if (socket!.table.used === 0) return this.#drop(socket!);
    for (const each of released) {
      const held = this.sessions.find(({ socket: used, lane: own }) => used === socket && own?.name === each.name);
      if (held?.turn) this.#receive(socket!, each, held.turn.frame);
    }
  }

  #lose(socket: Socket): void {
    for (const session of this.sessions)
      if (session.socket === socket) Object.assign(session, { socket: null, lane: null, anchor: null, turn: null });
    this.#drop(socket);
  }

  #drop(socket: Socket): void {
    this.sockets = this.sockets.filter((each) => each !== socket);
  }

  /** A held frame waits for a fork that is on the wire; otherwise nothing would ever release it. */
  checkHeld(): void {
    for (const { table } of this.sockets) {
      const lanes = [...table.all()];
      const awaited = (id: string | null) =>
        lanes.some(({ borrows, phase, left }) => borrows === id && phase === 'sent' && !left);
      if (lanes.some(({ phase, latest }) => phase === 'held' && !awaited(latest)))
        this.violated ??= 'a frame that waits for nothing';
    }
  }
}

/** Explores every sequence of up to `depth` steps, at most `most` states. */
export function exploreLanes(weak: Weakening | null, depth: number, most = 1_000_000): Explored {
  const replay = (steps: readonly string[]) => {
    const world = new World(weak);
    for (const step of steps) world.take(step);
    return world;
  };
  const seen = new Set<string>();
  let level: string[][] = [[]];
  for (let deep = 0; deep < depth && level.length > 0; deep += 1) {
    const next: string[][] = [];
    for (const path of level) {
      for (const step of replay(path).steps()) {
        const steps = [...path, step];
        const world = replay(steps);
        world.checkHeld();
        if (world.violated) return { states: seen.size, complete: false, violation: { steps, what: world.violated } };
        const key = world.key();
        if (seen.has(key)) continue;
        if (seen.size >= most) return { states: seen.size, complete: false, violation: null };
        seen.add(key);
        next.push(steps);
      }
    }
    level = next;
  }
  return { states: seen.size, complete: true, violation: null };
}
