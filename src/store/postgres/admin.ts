import type {
  ForkedTurn,
  OperatorVerdict,
  OwnedSessions,
  Purged,
  SessionSummary,
  StoreAdmin,
  TurnDetail,
} from '../admin-port.ts';
import type { KeyRef, TurnMetrics, TurnState } from '../port.ts';
import { optionalText, text } from './parameters.ts';
import type { Read } from './reads.ts';
import { adminCalls, listCalls, purgeCalls } from './sql/admin.ts';

interface Answer {
  answer: string;
}

/** Summary as returned by the statement. */
type Listed = Omit<SessionSummary, 'lastTurn'> & { lastTurn: { state: TurnState; facts: string | null } | null };

const parsedOrNull = (json: string | null): unknown => (json === null ? null : JSON.parse(json));

/** Parses stored facts. Null where another release, or damage, left a different value. */
function factsOf(json: string | null): TurnMetrics | null {
  const facts = parsedOrNull(json);
  return typeof facts === 'object' && !Array.isArray(facts) ? (facts as TurnMetrics | null) : null;
}

function summaryOf({ lastTurn, ...row }: Listed): SessionSummary {
  if (lastTurn === null) return { ...row, lastTurn };
  const facts = factsOf(lastTurn.facts);
  return { ...row, lastTurn: { state: lastTurn.state, outcome: facts?.outcome ?? null, form: facts?.form ?? null } };
}

/** Creates the operations of operators and the janitor over PostgreSQL, one statement each. */
export function createAdmin(read: Read): StoreAdmin {
  const verdict = async (statement: (typeof adminCalls)[keyof typeof adminCalls], sessionId: string) =>
    (await read<Answer>(statement, [text(sessionId)]))[0]!.answer as OperatorVerdict;

  return {
    async listSessions({ limit, before, state, search, ownerWorkerId, busy }) {
      const way = search !== undefined ? 'found' : busy ? 'busy' : ownerWorkerId !== undefined ? 'owned' : 'all';
      const [row] = await read<Answer>(listCalls[way], [
        state ?? null,
        optionalText(ownerWorkerId ?? null),
        busy ?? null,
        before?.updatedAt ?? null,
        optionalText(before?.id ?? null),
        limit + 1,
        ...(search === undefined ? [] : [text(search)]),
      ]);
      const { rows, total } = JSON.parse(row!.answer) as { rows: Listed[]; total: number };
      return { rows: rows.slice(0, limit).map(summaryOf), more: rows.length > limit, total };
    },
    async turnDetails(sessionId, limit) {
      const rows = await read<Answer & Record<'usage' | 'error' | 'facts', string | null>>(adminCalls.turnDetails, [
        text(sessionId),
        limit,
      ]);
      return rows.map(({ answer, usage, error, facts }) => ({
        ...(JSON.parse(answer) as TurnDetail),
        usage: parsedOrNull(usage),
        error: parsedOrNull(error),
        facts: factsOf(facts),
      }));
    },
    async keysOf(sessionId) {
      const rows = await read<Answer>(adminCalls.keysOf, [text(sessionId)]);
      return rows.map(({ answer }) => JSON.parse(answer) as KeyRef);
    },
    async ownedSessions() {
      return (await read<Answer>(adminCalls.ownedSessions, [])).map(
        ({ answer }) => JSON.parse(answer) as OwnedSessions,
      );
    },
    async forksOf(sessionId, limit) {
      const rows = await read<Answer>(adminCalls.forksOf, [text(sessionId), limit]);
      return rows.map(({ answer }) => JSON.parse(answer) as ForkedTurn);
    },
    operatorRelease: (sessionId) => verdict(adminCalls.operatorRelease, sessionId),
    operatorClose: (sessionId) => verdict(adminCalls.operatorClose, sessionId),
    dropAnchor: (sessionId) => verdict(adminCalls.dropAnchor, sessionId),
    async purge({ kind, olderThanHours, limit, after }) {
      const [row] = await read<Answer>(purgeCalls[kind], [olderThanHours, after, limit]);
      return JSON.parse(row!.answer) as Purged;
    },
    async keepStory(sessionId, turnId, record) {
      await read<Answer>(adminCalls.keepStory, [text(turnId), text(sessionId), JSON.stringify(record)]);
    },
    async story(sessionId) {
      const [row] = await read<Answer>(adminCalls.story, [text(sessionId)]);
      return row ? (JSON.parse(row.answer) as unknown) : null;
    },
    async eraseResponse(scope, responseId) {
      const [row] = await read<{ answer: string | null }>(adminCalls.eraseResponse, [text(scope), text(responseId)]);
      return row!.answer !== null;
    },
  };
}
