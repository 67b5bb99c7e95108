import { ACTOR, type Layout, MAIL_BYTES } from './layout.ts';
import type { EventName } from './local.ts';
import type { Hand } from './rows.ts';

/** Events that can wait in a mailbox, in the order of their codes (from 1). */
const LETTERS = [
  'wanted',
  'cancelled',
  'clientGone',
  'clientBack',
  'lostResendable',
  'lost',
  'notSentLease',
  'notSentSocket',
  'endedRetire',
  'release',
  'draining',
  'workerDead',
  'effectFailed',
] as const satisfies readonly EventName[];
export type Letter = (typeof LETTERS)[number];

/** Thrown when a state does not fit into its bytes. The step is then counted as beyond the bounds. */
export class Beyond extends Error {}

/**
 * Events that wait for each actor while its commit is unanswered. Strictly first in, first out, as in `src/runtime`.
 */
export interface Mailboxes {
  post(actor: number, letter: Letter): void;
  /** Puts an event in front of all waiting ones, as a failed effect does. */
  postFirst(actor: number, letter: Letter): void;
  /** Removes and returns the first event. The mailbox must not be empty. */
  take(actor: number): Letter;
  /** Removes waiting socket losses when another socket is dialed: they concern the old socket and would be ignored. */
  forgetLosses(actor: number): void;
}

/** Creates the mailboxes of all actors over the state in `hand`. */
export function createMailboxes(layout: Layout, hand: Hand): Mailboxes {
  const at = (i: number, k: number) => layout.actor(i) + ACTOR.mail + (k >> 1);

  function read(i: number): number[] {
    const found: number[] = [];
    for (let k = 0; k < MAIL_BYTES * 2; k += 1) {
      const code = (hand.s[at(i, k)]! >> ((k & 1) * 4)) & 15;
      if (code !== 0) found.push(code);
    }
    return found;
  }

  function write(i: number, codes: readonly number[]): void {
    if (codes.length > MAIL_BYTES * 2) throw new Beyond();
    for (let k = 0; k < MAIL_BYTES; k += 1) {
      hand.s[at(i, 2 * k)] = (codes[2 * k] ?? 0) | ((codes[2 * k + 1] ?? 0) << 4);
    }
  }

  return {
    post: (i, letter) => write(i, [...read(i), LETTERS.indexOf(letter) + 1]),
    postFirst: (i, letter) => write(i, [LETTERS.indexOf(letter) + 1, ...read(i)]),
    take(i) {
      const [first, ...rest] = read(i);
      write(i, rest);
      return LETTERS[first! - 1]!;
    },
    forgetLosses(i) {
      const codes = read(i);
      if (codes.length > 0)
        write(
          i,
          codes.filter((code) => !LETTERS[code - 1]!.startsWith('lost')),
        );
    },
  };
}
