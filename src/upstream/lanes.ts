import { memberText, withMembers } from '../json.ts';
import { parseFrame } from './frames.ts';

/**
 * The rules of a WebSocket that several conversations share: the provider runs the frames of one `stream_id` one after the
 * other, and those of different ones at the same time. Pure: `sharing.ts` has the sockets.
 */

/** Most named lanes of a connection, over its whole life: the provider never frees a name. */
export const MOST_NAMED = 32;
/** Most responses that the provider runs on a connection at the same time. It queues further ones. */
export const MOST_RUNNING = 16;

/**
 * - `resting`: nothing of it is on the wire.
 * - `held`: its frame waits, because it would advance past a response that a fork is about to continue.
 * - `sent`: its frame is on the wire, and its response has not begun.
 * - `running`: its response has begun.
 */
type Phase = 'resting' | 'held' | 'sent' | 'running';

/** One upstream lane: a name on one connection, used by one session until that session leaves. */
export interface Lane {
  readonly name: string;
  readonly phase: Phase;
  /** Response from which the provider can continue on this connection; null when there is none. */
  readonly latest: string | null;
  /** Response of another lane that the frame on the wire continues. */
  readonly borrows: string | null;
  /** Its session has left. The provider may still be answering its last frame. */
  readonly left: boolean;
}

type State = { -readonly [K in keyof Lane]: Lane[K] };

/** The lanes of one connection. */
export class LaneTable {
  readonly #lanes = new Map<string, State>();

  /** Number of names used so far. */
  get named(): number {
    return this.#lanes.size;
  }

  /** Number of lanes whose sessions have not left. */
  get used(): number {
    return this.#count(({ left }) => !left);
  }

  /** Number of frames on the wire whose response has not ended. */
  get onWire(): number {
    return this.#count(onWire);
  }

  all(): Iterable<Lane> {
    return this.#lanes.values();
  }

  get(name: string): Lane | undefined {
    return this.#lanes.get(name);
  }

  /** Adds a lane under a new name. Null when all names are used. */
  join(): Lane | null {
    if (this.named >= MOST_NAMED) return null;
    const name = `h${this.named + 1}`;
    const lane: State = { name, phase: 'resting', latest: null, borrows: null, left: false };
    this.#lanes.set(name, lane);
    return lane;
  }

  /**
   * Returns whether a new lane can continue from that response: it is the latest of a lane that rests. A lane with a frame
   * on the wire may advance at any moment.
   *
   * @param to lane that would continue it; null for one that has yet to join
   */
  lends(id: string, to: string | null): boolean {
    for (const { name, latest, phase } of this.#lanes.values())
      if (latest === id && phase === 'resting' && name !== to) return true;
    return false;
  }

  /**
   * Notes that a lane has a frame to send.
   *
   * @param borrows response of another lane that the frame continues; null when there is none
   * @returns false if the frame has to wait until `hear`, `leave` or `release` returns the lane
   */
  send({ name }: Lane, borrows: string | null): boolean {
    const lane = this.#lanes.get(name)!;
    lane.borrows = borrows;
    lane.phase = this.#isAwaited(lane) ? 'held' : 'sent';
    return lane.phase === 'sent';
  }

  /**
   * Applies a frame of the provider for a lane.
   *
   * @returns lanes whose held frames may be sent now
   */
  hear({ name }: Lane, text: string): readonly Lane[] {
    const lane = this.#lanes.get(name)!;
    if (!onWire(lane)) return [];
    const progress = progressOf(text);
    if (progress === null) return [];
    if (progress === 'begun') lane.phase = 'running';
    else {
      lane.phase = 'resting';
      // A failed continuation evicts the response that it named from its own lane. That of another lane stays.
      lane.latest = progress.holds;
      lane.borrows = null;
    }
    return this.#released();
  }

  /**
   * Notes that a lane's session has left. A response that runs is still the provider's: `hear` notices its end.
   *
   * @returns lanes whose held frames may be sent now
   */
  leave({ name }: Lane): readonly Lane[] {
    const lane = this.#lanes.get(name)!;
    lane.left = true;
    if (lane.phase === 'held') lane.phase = 'resting';
    return this.#released();
  }

  /** Ends the wait of a held frame. Returns false if the lane has none. */
  release({ name }: Lane): boolean {
    const lane = this.#lanes.get(name)!;
    if (lane.phase !== 'held') return false;
    lane.phase = 'sent';
    return true;
  }

  /** Returns whether a fork is about to continue the lane's latest response, so that the lane may not advance yet. */
  #isAwaited({ name, latest }: Lane): boolean {
    if (latest === null) return false;
    for (const fork of this.#lanes.values())
      if (fork.name !== name && fork.phase === 'sent' && fork.borrows === latest && !fork.left) return true;
    return false;
  }

  #released(): readonly Lane[] {
    const free = [...this.#lanes.values()].filter((lane) => lane.phase === 'held' && !this.#isAwaited(lane));
    for (const lane of free) lane.phase = 'sent';
    return free;
  }

  #count(counts: (lane: Lane) => boolean): number {
    let count = 0;
    for (const lane of this.#lanes.values()) if (counts(lane)) count += 1;
    return count;
  }
}

const onWire = ({ phase }: Lane) => phase === 'sent' || phase === 'running';

/** Type of most frames, without parsing them. */
const TYPE = /^\{(?:"sequence_number":\d{1,15},)?"type":"([a-z_.]{1,80})"/;
/** Events about a part of a response: they never end it. */
const OF_A_PART = /^response\.[a-z_]+\../;

/**
 * Returns what a frame says about its lane's response: that it runs, or that it has ended and whether it can be continued.
 * Null when it says neither.
 */
function progressOf(text: string): 'begun' | { holds: string | null } | null {
  const type = TYPE.exec(text)?.[1];
  if (type !== undefined && OF_A_PART.test(type)) return 'begun';
  const frame = parseFrame(text);
  if (frame.kind === 'error') return { holds: null };
  if (frame.kind === 'terminal') return { holds: frame.end === 'failed' ? null : frame.responseId };
  return frame.kind === 'event' && frame.type !== 'response.queued' ? 'begun' : null;
}

const MEMBER = ',"stream_id":"';
const NAME = /^[A-Za-z0-9_.-]{1,256}$/;

/** Returns a frame for the provider with the name of its lane. */
export const withLane = (frame: string, { name }: Lane): string =>
  `${frame.slice(0, frame.lastIndexOf('}'))}${MEMBER}${name}"}`;

/**
 * Returns the lane that a frame of the provider names, and the frame without the name. Null for a frame without a valid one:
 * it belongs to no lane.
 */
export function addressed(text: string): { name: string | null; text: string } {
  // Usually the last member. Text in a string cannot look like this: its quotes are escaped.
  const at = text.lastIndexOf(MEMBER);
  if (at > 0 && text.endsWith('"}')) {
    const name = text.slice(at + MEMBER.length, -2);
    if (NAME.test(name)) return { name, text: `${text.slice(0, at)}}` };
  }
  const written = text.includes('"stream_id"') ? memberText(text, 'stream_id') : null;
  const name = /^"([A-Za-z0-9_.-]{1,256})"$/.exec(written ?? '')?.[1];
  if (name === undefined) return { name: null, text };
  return { name, text: withMembers(text, new Map([['stream_id', null]])) };
}

/** A shared socket, as the choice of one sees it. */
export interface SocketView {
  /** It takes no further sessions: it is old, has failed, or its peer has no lanes. */
  readonly retired: boolean;
  /** The provider has named a lane in an answer on it, or on an earlier socket of the same sessions. */
  readonly proven: boolean;
  readonly ageMs: number;
  readonly table: Pick<LaneTable, 'named' | 'used' | 'onWire' | 'lends'>;
}

/**
 * Returns the socket that a session joins: one that holds the response which it continues, else the one with the most
 * sessions, so that few sockets are needed. Null when it needs a new one.
 *
 * @param most sessions on a socket at the same time
 * @param oldestMs age from which a socket takes no further session: it would soon have to be replaced
 */
export function chooseSocket<S extends SocketView>(
  sockets: Iterable<S>,
  { most, oldestMs, continues }: { most: number; oldestMs: number; continues: string | null },
): S | null {
  let best: S | null = null;
  let bestRank = -1;
  for (const socket of sockets) {
    const { retired, proven, ageMs, table } = socket;
    if (retired || !proven || ageMs >= oldestMs) continue;
    if (table.named >= MOST_NAMED || table.used >= most || table.onWire >= MOST_RUNNING) continue;
    const rank = (continues !== null && table.lends(continues, null) ? MOST_NAMED : 0) + table.used;
    if (rank > bestRank) [best, bestRank] = [socket, rank];
  }
  return best;
}
