import type { Fault } from './bounds.ts';

/**
 * Everything that can happen, in one word each. `own`: the bridge, its store, its clock or its clients' next request do
 * it by themselves, so that progress may count on it. `world`: it may happen at any time, and nobody may count on it.
 * A fault's name: it happens as often as the bounds allow.
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

/** `a`, `b`: whom it concerns (request, worker, actor or copy, counted from 0) and how. */
export interface Action {
  name: ActionName;
  a: number;
  b: number;
}
