import { arrayText } from '../../json.ts';
import { usableItemIds } from '../item-ids.ts';
import type { SettleCall, SettleVerdict, TurnMetrics } from '../port.ts';
import { asStored, forgetIndex, indexTurn, type MemoryDatabase, scoped } from './database.ts';
import { holds, write } from './fence.ts';

/**
 * Records the end of a turn: the row is always completed, the head moves only under the fence.
 *
 * @param now milliseconds of the store's clock
 * @throws Error when another turn of the scope has the same response id; nothing is written then
 */
export function settle(db: MemoryDatabase, call: SettleCall, now: number): SettleVerdict {
  const { result } = call;
  const session = db.sessions.get(call.sessionId);
  const turn = db.turns.get(call.turnId);
  if (!session || turn?.sessionId !== call.sessionId) return { verdict: 'branch' };
  if (turn.authorWorkerId !== call.me || turn.epoch !== call.epoch) return { verdict: 'branch' };
  if (turn.state !== 'active' && (turn.state !== 'lost' || result.state === 'lost')) {
    return { verdict: turn.branched ? 'branch' : 'already' };
  }

  if (result.responseId !== null) {
    const key = scoped(turn.scope, result.responseId);
    const holder = db.responses.get(key);
    if (holder !== undefined && holder !== turn.id) throw new Error(`response id ${result.responseId} is taken`);
    db.responses.set(key, turn.id);
  }
  if (turn.responseId !== null && turn.responseId !== result.responseId) {
    db.responses.delete(scoped(turn.scope, turn.responseId));
  }
  const underFence = holds(session, call, call.epoch) && session.activeTurnId === turn.id;
  forgetIndex(db, turn);
  turn.state = result.state;
  turn.branched = !underFence;
  turn.endedAt = now;
  turn.responseId = result.responseId;
  turn.transcriptFp = result.transcriptFp;
  turn.clientFp = result.clientFp;
  turn.secondFp = result.secondFp;
  turn.thirdFp = result.thirdFp;
  turn.forms = result.forms;
  turn.itemIds = usableItemIds(result.itemIds);
  indexTurn(db, turn);
  turn.itemCount = result.itemCount;
  turn.replay = result.replay;
  turn.usage = asStored(result.usage);
  turn.error = asStored(result.error);
  turn.facts ??= asStored(result.facts) as TurnMetrics | null;
  // The items of a replaced end are removed with it.
  db.items.delete(turn.id);
  if (result.items) {
    const { input, output } = result.items;
    db.items.set(turn.id, { input: arrayText(input), output: arrayText(output) });
  }
  if (!underFence) return { verdict: 'branch' };

  const movesHead = result.state === 'completed' || result.state === 'incomplete';
  session.activeTurnId = null;
  session.anchorLost = (result.anchorLost ?? false) || (session.anchorLost && !movesHead);
  if (movesHead) session.headTurnId = turn.id;
  write(session, call.saved, now);
  return { verdict: 'ok', revision: session.revision };
}
