import type { Fault } from './bounds.ts';

/**
 * All actions of the model, each with its kind.
 *
 * - `own`: done by the bridge, its store, its clock or its clients' next request without outside help, so progress may
 *   rely on it.
 * - `world`: may happen at any time; progress must not rely on it.
 * - the name of a fault: happens as often as the bounds allow.
 */
export const ACTIONS = {
  asks: 'own',
  resolves: 'own',
  clearsOrphan: 'own',
  claims: 'own',
  claimUnheard: 'lostAnswer',
  claimGivenUp: 'own',
  looksAgain: 'own',
  ownerWaitOver: 'own',
  hopArrives: 'own',
  hopFails: 'own',
  hopLost: 'lostHop',
  hopCut: 'lostHop',
  hopBreaks: 'own',
  strayArrives: 'world',
  queueWaitOver: 'own',
  answered: 'own',
  unheard: 'lostAnswer',
  unheardByPaused: 'world',
  rejected: 'rejection',
  commitThrows: 'throw',
  throws: 'throw',
  copied: 'lateCopy',
  copyArrives: 'world',
  deadline: 'own',
  opens: 'world',
  dialFails: 'world',
  refuses: 'world',
  historyMissing: 'own',
  begins: 'world',
  shows: 'world',
  completes: 'world',
  fails: 'world',
  refusesAnchor: 'refusedAnchor',
  socketLost: 'socketLoss',
  departs: 'departure',
  crashes: 'crash',
  pauses: 'pause',
  resumes: 'own',
  lapses: 'lapse',
  beats: 'own',
  declaredDead: 'own',
  learnsDeath: 'own',
  drains: 'drain',
  stops: 'own',
  evicts: 'eviction',
  failsOver: 'failover',
  losesRow: 'rowLoss',
} as const satisfies Record<string, 'own' | 'world' | Fault>;
export type ActionName = keyof typeof ACTIONS;

/**
 * One action. `a` and `b` are its operands: the request, worker, actor or copy it concerns (counted from 0), and its
 * variant.
 */
export interface Action {
  name: ActionName;
  a: number;
  b: number;
}
