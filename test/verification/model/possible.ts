import type { ActionName } from './actions.ts';
import type { Fault } from './bounds.ts';
import { ACTOR, BIT, COMMIT, FLAG, type Layout, REQUEST, ROW, STAGE, TOLD, WORKER } from './layout.ts';
import { EVENT, type LocalMachine } from './local.ts';

type Attempt = (name: ActionName, a: number, b?: number) => void;

export interface PossibleOptions {
  layout: Layout;
  machine: LocalMachine;
  /** Bits of a worker that, besides its stored death, make a hop to it fail. */
  givesUp: number;
  canCopy(s: Uint8Array, actor: number): boolean;
  /** Returns the actor that runs the request (`current`) or has it in its queue (`waiting`), or -1. */
  runsAt(s: Uint8Array, request: number, where: 'current' | 'waiting'): number;
  onBeyond(): void;
}

/** Creates a function that calls `attempt` for every action possible in a state, in a fixed order. */
export function createPossible(options: PossibleOptions): (s: Uint8Array, attempt: Attempt) => void {
  const { layout, machine, givesUp, canCopy, runsAt, onBeyond } = options;
  const { bounds } = layout;
  const { workers, turns } = bounds;
  let attempt: Attempt = () => {};

  const worker = (s: Uint8Array, w: number) => s[layout.worker(w)]!;
  const request = (s: Uint8Array, r: number, field: number) => s[layout.request(r) + field]!;
  const actor = (s: Uint8Array, i: number, field: number) => s[layout.actor(i) + field]!;
  const isUp = (s: Uint8Array, w: number) => (worker(s, w) & (WORKER.crashed | WORKER.paused)) === 0;
  const may = (s: Uint8Array, fault: Fault) => s[layout.budget(fault)]! > 0;
  const each = (count: number, act: (index: number) => void) => {
    for (let index = 0; index < count; index += 1) act(index);
  };

  function requestSteps(s: Uint8Array): void {
    let open = 0;
    let unborn = -1;
    for (let r = turns - 1; r >= 0; r -= 1) {
      const stage = request(s, r, REQUEST.stage);
      if (stage === STAGE.unborn) unborn = r;
      else if (stage !== STAGE.ended && (request(s, r, REQUEST.flags) & FLAG.gone) === 0) open += 1;
    }
    if (unborn >= 0 && open < bounds.concurrent) {
      each(workers, (w) => {
        if (!isUp(s, w) || worker(s, w) & (WORKER.knows | WORKER.draining)) return;
        const fresh = s[TOLD] === 0;
        if (fresh || bounds.naming !== 'anchored') attempt('asks', unborn, w << 1);
        if (!fresh && bounds.naming !== 'keyed') attempt('asks', unborn, (w << 1) | 1);
      });
    }
    each(turns, (r) => {
      const stage = request(s, r, REQUEST.stage);
      if (stage === STAGE.unborn || stage === STAGE.ended) return;
      const holder = request(s, r, REQUEST.holder) - 1;
      const up = isUp(s, holder);
      const gone = (request(s, r, REQUEST.flags) & FLAG.gone) !== 0;
      if (!gone && may(s, 'departure')) attempt('departs', r);
      const target = request(s, r, REQUEST.target) - 1;
      if (stage === STAGE.hopping && gone && isUp(s, target)) attempt('hopArrives', r);
      if (!up) return;
      switch (stage) {
        case STAGE.resolving:
          if (!waitsForCreation(s, r, holder)) attempt('resolves', r);
          return;
        case STAGE.clearing:
          return attempt('clearsOrphan', r);
        case STAGE.claiming:
          if (s[ROW.epoch]! < bounds.epochs) {
            attempt('claims', r);
            if (may(s, 'lostAnswer')) attempt('claimUnheard', r);
          } else onBeyond();
          return attempt('claimGivenUp', r);
        case STAGE.awaiting:
          attempt('looksAgain', r);
          return attempt('ownerWaitOver', r);
        case STAGE.hopping:
          if (isUp(s, target)) {
            if (!gone) attempt('hopArrives', r);
            if (may(s, 'lostHop')) attempt('hopLost', r);
          } else if (worker(s, target) & WORKER.crashed) attempt('hopFails', r, 0);
          // A hop to a paused worker waits until the worker's death is stored.
          else if (worker(s, target) & (WORKER.dead | givesUp)) attempt('hopFails', r, 1);
          return;
        case STAGE.placed: {
          const queued = runsAt(s, r, 'waiting');
          const i = queued >= 0 ? queued : runsAt(s, r, 'current');
          if (i < 0) return;
          const at = actor(s, i, ACTOR.worker) - 1;
          if (queued >= 0 && isUp(s, at)) attempt('queueWaitOver', r);
          const standsStill = (worker(s, at) & WORKER.paused) !== 0;
          if (at !== holder && standsStill && worker(s, at) & (WORKER.dead | givesUp)) attempt('hopBreaks', r);
          if (at !== holder && isUp(s, at) && may(s, 'lostHop')) attempt('hopCut', r);
        }
      }
    });
  }

  /** Returns whether the request must wait because this worker is creating a session under the same key. */
  function waitsForCreation(s: Uint8Array, r: number, w: number): boolean {
    if (request(s, r, REQUEST.flags) & FLAG.anchored) return false;
    for (let i = 0; i < layout.actors; i += 1) {
      if (actor(s, i, ACTOR.worker) !== w + 1 || actor(s, i, ACTOR.epoch) !== 1) continue;
      const { path } = machine.locals[actor(s, i, ACTOR.local)]!;
      if (path.startsWith('connecting') || (actor(s, i, ACTOR.pending) & 15) === COMMIT.create) return true;
    }
    return false;
  }

  function actorSteps(s: Uint8Array, i: number): void {
    const w = actor(s, i, ACTOR.worker) - 1;
    if (w < 0) return;
    const commit = actor(s, i, ACTOR.pending) & 15;
    if (!isUp(s, w)) {
      if (commit !== 0) attempt('unheardByPaused', i);
      return;
    }
    const local = machine.locals[actor(s, i, ACTOR.local)]!;
    const socket = actor(s, i, ACTOR.socket);
    if (socket !== 0 && may(s, 'socketLoss')) attempt('socketLost', i);
    if (may(s, 'eviction') && (local.idle || actor(s, i, ACTOR.epoch) < s[ROW.epoch]!)) attempt('evicts', i);
    if (layout.broken !== null && may(s, 'throw')) {
      attempt('throws', i, 0);
      if (s[layout.broken] === 0) attempt('throws', i, 1);
      if (commit !== 0) {
        attempt('commitThrows', i, 0);
        attempt('commitThrows', i, 1);
      }
    }
    if (commit !== 0) {
      attempt('answered', i);
      if (may(s, 'lostAnswer')) attempt('unheard', i);
      if (may(s, 'rejection')) attempt('rejected', i);
      if (may(s, 'lateCopy') && canCopy(s, i)) attempt('copied', i);
      for (const event of local.deadlines)
        if (event === EVENT.startWait || event === EVENT.settleWait) attempt('deadline', i, event);
      return;
    }
    for (const event of local.deadlines) if (bounds.deadlines || event === EVENT.redial) attempt('deadline', i, event);
    if (local.dialing) {
      const q = layout.request(actor(s, i, ACTOR.current) - 1);
      const anchored = (s[q + REQUEST.flags]! & FLAG.anchored) !== 0;
      if (anchored && !bounds.exact) attempt('historyMissing', i);
      else attempt('opens', i);
      attempt('dialFails', i);
      attempt('refuses', i);
    }
    if (!local.streaming || socket === 0) return;
    const bits = actor(s, i, ACTOR.bits);
    if (local.waiting) {
      attempt('begins', i);
      attempt('fails', i, 2);
      if (bits & BIT.delta && local.creates < 2 && bounds.exact && may(s, 'refusedAnchor')) attempt('refusesAnchor', i);
      return;
    }
    if ((bits & BIT.shown) === 0) attempt('shows', i);
    attempt('completes', i);
    attempt('fails', i, 1);
  }

  function workerSteps(s: Uint8Array, w: number): void {
    const state = worker(s, w);
    const judged = (state & (WORKER.crashed | WORKER.paused | WORKER.lapsed)) !== 0 && (state & WORKER.dead) === 0;
    if (judged && hasJudge(s, w)) attempt('declaredDead', w);
    if (may(s, 'rowLoss') && (state & (WORKER.unrecorded | WORKER.dead)) === 0) attempt('losesRow', w);
    if (state & WORKER.crashed) return;
    if (may(s, 'crash') && hasOther(s, w)) attempt('crashes', w);
    if (state & WORKER.paused) return attempt('resumes', w);
    if (may(s, 'pause')) attempt('pauses', w);
    if (state & (WORKER.lapsed | WORKER.unrecorded) && (state & WORKER.dead) === 0) attempt('beats', w);
    if (may(s, 'lapse') && (state & (WORKER.lapsed | WORKER.dead)) === 0) attempt('lapses', w);
    if (state & WORKER.dead && (state & WORKER.knows) === 0) attempt('learnsDeath', w);
    if (state & WORKER.draining && hasOther(s, w)) attempt('stops', w);
    if (may(s, 'drain') && (state & (WORKER.draining | WORKER.dead)) === 0 && hasOther(s, w)) attempt('drains', w);
  }

  /** Returns whether another worker can record the death: it must be up, with a valid lease and not dead. */
  function hasJudge(s: Uint8Array, w: number): boolean {
    for (let other = 0; other < workers; other += 1) if (other !== w && worker(s, other) === 0) return true;
    return false;
  }

  /**
   * Returns whether another worker can serve. The last one is never taken out, because without any worker no progress
   * can be expected.
   */
  function hasOther(s: Uint8Array, w: number): boolean {
    for (let other = 0; other < workers; other += 1) {
      const out = WORKER.crashed | WORKER.dead | WORKER.draining;
      if (other !== w && (worker(s, other) & out) === 0) return true;
    }
    return false;
  }

  return (s, attempted) => {
    attempt = attempted;
    requestSteps(s);
    each(layout.actors, (i) => actorSteps(s, i));
    each(workers, (w) => workerSteps(s, w));
    each(bounds.copies, (j) => {
      if (s[layout.copy(j)] !== 0) attempt('copyArrives', j);
    });
    if (s[layout.stray] !== 0 && isUp(s, s[layout.stray]! - 1)) attempt('strayArrives', 0);
    if (layout.previous !== null && s[layout.previous] !== 0 && may(s, 'failover')) attempt('failsOver', 0);
  };
}
