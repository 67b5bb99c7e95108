import type { Decision, Evidence } from '../resolve/types.ts';
import { keyName } from './session-registry.ts';

/** The session to which a request was forwarded, and the worker that served it. */
type LastOwner = Pick<Extract<Decision, { do: 'forward' }>, 'session' | 'workerId'>;

/** Maximum number of remembered names. A conversation has up to three. */
const REMEMBERED = 30_000;
/** Maximum length of a remembered response id, in characters. */
const LONGEST_ID = 512;

const anchorName = (scope: string, responseId: string) =>
  responseId.length <= LONGEST_ID ? `${scope}\nanchor\n${responseId}` : null;
const sessionName = (scope: string, id: string, epoch: number) => `${scope}\nsession\n${id}\n${epoch}`;

/** Returns the strongest name of a request's conversation. A session header is only a hint, so it is no name. */
function nameOf({ scope, anchor, token, hardKey }: Evidence): string | null {
  if (anchor !== null) return anchorName(scope, anchor);
  if (token.kind === 'ours') return sessionName(scope, token.sessionId, token.epoch);
  return hardKey?.kind === 'thread' ? keyName(scope, hardKey) : null;
}

/**
 * Remembers which worker last served a conversation for this one, so that its next request is forwarded without a look-up: that
 * and the search for repeats cost PostgreSQL more than the turn itself.
 *
 * What is remembered may be outdated. That is safe: a worker serves a forwarded request only while it has the session at
 * exactly that epoch, and it decides with the same rules as for a client's request; otherwise it answers that it is not the owner.
 */
export class LastOwners {
  /** By name, the least recently used first. */
  readonly #owners = new Map<string, LastOwner>();

  /** Returns the worker that last served the request's conversation; null if it is not known. */
  of(evidence: Evidence): LastOwner | null {
    const name = nameOf(evidence);
    const found = name === null ? undefined : this.#owners.get(name);
    if (name === null || found === undefined) return null;
    this.#owners.delete(name);
    this.#owners.set(name, found);
    return found;
  }

  /**
   * Records that a worker served a request.
   *
   * @param responseId id of the response, which the next request may name; null if there is none
   */
  remember(evidence: Evidence, owner: LastOwner, responseId: string | null): void {
    const { scope, anchor, token, hardKey } = evidence;
    const { id, epoch } = owner.session;
    // A thread names a session of its own: where the anchor or the token led elsewhere, it is not this one.
    const byThread = anchor === null && token.kind !== 'ours' && hardKey?.kind === 'thread';
    const names = [
      sessionName(scope, id, epoch),
      byThread ? keyName(scope, hardKey) : null,
      responseId === null ? null : anchorName(scope, responseId),
    ];
    // The next request continues the new response, so the one before is not needed any more.
    if (anchor !== null) this.#drop(nameOf(evidence));
    for (const name of names) {
      if (name === null) continue;
      this.#owners.delete(name);
      this.#owners.set(name, owner);
    }
    for (const oldest of this.#owners.keys()) {
      if (this.#owners.size <= REMEMBERED) break;
      this.#owners.delete(oldest);
    }
  }

  /** Forgets who served the request's conversation. */
  forget(evidence: Evidence): void {
    this.#drop(nameOf(evidence));
  }

  /** Forgets everything about a worker that did not answer. */
  forgetWorker(workerId: string): void {
    for (const [name, owner] of this.#owners) if (owner.workerId === workerId) this.#owners.delete(name);
  }

  #drop(name: string | null): void {
    if (name !== null) this.#owners.delete(name);
  }
}
